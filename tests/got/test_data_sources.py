"""Public data sets read from small files of their schemas: editing sets without chains, and what all sets share."""

import dataclasses
import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from edit_kit import encoded, turn_row, write

from got.data.importers import catalog
from got.data.importers.catalog import SOURCES, open_source
from got.data.importers.files import Options, json_items
from got.data.records import DataError
from got.data.storage import read
from got.util.cli import Parser
from got.util.errors import UserError


def omniedit_row(name="task_obj_swap_1", seed=0):
    return {
        "omni_edit_id": name,
        "task": "swap",
        "src_img": {"bytes": encoded(seed), "path": None},
        "edited_img": {"bytes": encoded(seed + 1), "path": "1.png"},
        "edited_prompt_list": ["swap the cat", "swap the grey cat for a dog"],
        "width": 8,
        "height": 6,
        "sc_score_1": 9,
        "sc_score_2": 8,
        "sc_reasoning": "done",
        "pq_score": 7,
        "pq_reasoning": "fine",
        "o_score": 8.1,
    }


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def seed_folder(root, rounds=None):
    """SEED-Data-Edit's part 3 as the hub has it, unpacked."""
    part = root / "multi_turn_editing"
    for number in range(4):
        image = part / "images" / "batch" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(encoded(number, "JPEG"))
    two = {
        "source_image": "batch/0.jpg",
        "instruction_1": "Add a hat",
        "edit_image_1": "batch/1.jpg",
        "instruction_2": "make it night.",
        "edit_image_2": "batch/2.jpg",
        "instruction_3": "",
        "edit_image_3": None,
    }
    one = {"source_image": "batch/2.jpg", "instruction_1": "remove it", "edit_image_1": "batch/3.jpg"}
    write_lines(part / "annotations" / "split_0001.jsonl", rounds or [two, one])
    return root


# ------------------------------------------------------------------------------------------------------------- OmniEdit
def test_omniedit_is_edits_without_chains(tmp_path):
    rows = [omniedit_row(f"edit_{i}", 2 * i) for i in range(5)]
    write(tmp_path / "data" / "train-00000-of-00002.parquet", rows[:3], group=2)
    write(tmp_path / "data" / "train-00001-of-00002.parquet", rows[3:])
    examples = list(open_source("omniedit", tmp_path))
    assert [example.id for example in examples] == [f"edit_{i}" for i in range(5)]
    example = examples[3]
    assert (example.task, example.prompt) == ("edit", "swap the grey cat for a dog")
    assert (example.source, example.steps[0].target) == (encoded(6), encoded(7))
    assert example.extra["prompts"] == ["swap the cat", "swap the grey cat for a dog"]
    assert (example.extra["o_score"], example.extra["task"]) == (8.1, "swap")
    assert (example.provenance.dataset, example.provenance.license) == ("OmniEdit", "MIT")
    assert example.provenance.origin == "edit_3 (train-00001-of-00002.parquet row 0)"
    assert not example.annotated
    assert list(example.problems()) == [("steps[0].chain", "empty: not annotated yet")]


def test_a_set_with_several_splits_wants_a_choice(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00001.parquet", [omniedit_row("a")])
    write(tmp_path / "data" / "dev-00000-of-00001.parquet", [omniedit_row("b")])
    with pytest.raises(DataError, match=r"expected a choice of one split.* of dev, train"):
        list(open_source("omniedit", tmp_path))
    assert [example.id for example in open_source("omniedit", tmp_path, options=Options(split="dev"))] == ["b"]
    with pytest.raises(DataError, match="files of split test but there are only dev, train"):
        list(open_source("omniedit", tmp_path, options=Options(split="test")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edited_prompt_list": []}, "row 1, field edited_prompt_list: expected at least one text"),
        ({"edited_prompt_list": ["", " "]}, "row 1, field edited_prompt_list: expected at least one text"),
        ({"src_img": {"bytes": None, "path": None}}, "row 1, field src_img: expected an image"),
        ({"edited_img": {"bytes": None, "path": "no.png"}}, "row 1, field edited_img: no such file: .*no.png"),
        (
            {"edited_img": {"bytes": None, "path": "../a.png"}},
            r"field edited_img: expected a path inside .*'\.\./a.png'",
        ),
        ({"edited_img": {"bytes": None, "path": "/etc/passwd"}}, "field edited_img: expected a path inside"),
        ({"omni_edit_id": None}, "row 1, field omni_edit_id: expected omni_edit_id but the row has edited_img, "),
        ({"omni_edit_id": " "}, "row 1, field omni_edit_id: expected text but it is empty"),
    ],
)
def test_a_broken_row_is_named_and_can_be_passed_over(tmp_path, change, words):
    (tmp_path.parent / "a.png").write_bytes(encoded(0))
    rows = [omniedit_row("a"), omniedit_row("b") | change, omniedit_row("c")]
    write(tmp_path / "train-00000-of-00001.parquet", rows)
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet .*" + words):
        list(open_source("omniedit", tmp_path))
    failures = []
    examples = open_source("omniedit", tmp_path, options=Options(on_error=failures.append))
    assert [example.id for example in examples] == ["a", "c"]
    assert len(failures) == 1


def test_a_column_of_another_type_is_named(tmp_path):
    write(tmp_path / "a.parquet", [omniedit_row() | {"omni_edit_id": 7}])
    with pytest.raises(DataError, match=r"a.parquet row 0, field omni_edit_id: expected text but got int 7"):
        list(open_source("omniedit", tmp_path / "a.parquet"))


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, [omniedit_row()])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet file"):
        list(open_source("omniedit", path))


def test_other_names_of_fields_can_be_given(tmp_path):
    row = omniedit_row()
    row["before"], row["order"] = row.pop("src_img"), row.pop("edited_prompt_list")[0]
    write(tmp_path / "a.parquet", [row])
    with pytest.raises(DataError, match=r"field edited_prompt_list: expected .* but the row has .*before.*order"):
        list(open_source("omniedit", tmp_path))
    options = Options(fields={"source": "before", "prompt": "order"})
    assert next(open_source("omniedit", tmp_path, options=options)).prompt == "swap the cat"
    with pytest.raises(DataError, match=r"Expected fields of id, prompt, .* but got 'colour'"):
        open_source("omniedit", tmp_path, options=Options(fields={"colour": "x"}))


# ------------------------------------------------------------------------------------------------------ SEED-Data-Edit
@pytest.mark.parametrize(
    "place", ["", "multi_turn_editing/annotations", "multi_turn_editing/annotations/split_0001.jsonl"]
)
def test_seed_data_edit_is_sessions(tmp_path, place):
    images = None if not place.endswith(".jsonl") else tmp_path / "multi_turn_editing" / "images"
    two, one = open_source("seed-data-edit", seed_folder(tmp_path) / place, images)
    folder = tmp_path / "multi_turn_editing" / "images" / "batch"
    assert (two.task, two.prompt) == ("multi-turn", "Add a hat. make it night.")
    assert two.source == folder / "0.jpg"
    assert [(step.instruction, step.target) for step in two.steps] == [
        ("Add a hat", folder / "1.jpg"),
        ("make it night.", folder / "2.jpg"),
    ]
    assert (one.task, one.prompt, one.id) == ("edit", "remove it", "seed_split_0001_00000002")
    assert two.provenance.license == "CC-BY-NC-4.0"


def test_a_session_can_be_taken_turn_by_turn(tmp_path):
    examples = list(open_source("seed-data-edit", seed_folder(tmp_path), options=Options(single_turn=True)))
    assert [example.id for example in examples] == [
        "seed_split_0001_00000001_1",
        "seed_split_0001_00000001_2",
        "seed_split_0001_00000002",
    ]
    assert {example.task for example in examples} == {"edit"}
    second = examples[1]
    assert second.prompt == "make it night."
    assert (second.source.name, second.steps[0].target.name) == ("1.jpg", "2.jpg")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edit_image_1": None}, "line 1, field edit_image_1: expected an image"),
        ({"instruction_1": ""}, "line 1, field instruction_1: expected text but it is empty"),
        ({"instruction_1": ["a"]}, "line 1, field instruction_1: expected text but got list"),
        ({"edit_image_1": 5}, "line 1, field edit_image_1: expected a path or an image but got int 5"),
        ({"source_image": "batch/../../x.jpg"}, "line 1, field source_image: expected a path inside"),
        ({"source_image": "batch/9.jpg"}, "line 1, field source_image: no such file"),
        ({"source_image": "x" * 5000}, "line 1, field source_image: File name too long"),
        ({"instruction_1": None, "edit_image_1": None}, "line 1, field instruction_1: expected a turn but the row has"),
        ({"instruction_3": "and", "edit_image_3": "batch/3.jpg"}, "field instruction_2: expected instruction_2 but"),
    ],
)
def test_a_broken_session_is_named(tmp_path, change, words):
    row = {"source_image": "batch/2.jpg", "instruction_1": "remove it", "edit_image_1": "batch/3.jpg"}
    with pytest.raises(DataError, match=r"split_0001.jsonl .*" + words):
        list(open_source("seed-data-edit", seed_folder(tmp_path, [row | change])))


def test_a_line_that_breaks_off_is_named(tmp_path):
    path = seed_folder(tmp_path) / "multi_turn_editing" / "annotations" / "split_0001.jsonl"
    path.write_text(path.read_text()[:-30])
    examples = open_source("seed-data-edit", tmp_path)
    assert next(examples).id == "seed_split_0001_00000001"
    with pytest.raises(DataError, match=r"split_0001.jsonl line 2 is not valid JSON"):
        next(examples)


# ---------------------------------------------------------------------------------------------------------- MagicBrush
def test_magicbrush_sessions_are_put_together_from_rows_in_any_order(tmp_path):
    rows = [turn_row("9", 2, 4), turn_row("8", 1, 0), turn_row("9", 1, 2), turn_row("7", 3, 6)]
    write(tmp_path / "data" / "train-00000-of-00002.parquet", rows[:2], group=1)
    write(tmp_path / "data" / "train-00001-of-00002.parquet", rows[2:])
    nine, eight, seven = open_source("magicbrush", tmp_path)
    assert (nine.id, nine.task, nine.prompt) == ("magicbrush_9", "multi-turn", "do 1. do 2.")
    assert nine.source == encoded(2)
    assert [step.target for step in nine.steps] == [encoded(3), encoded(5)]
    assert (eight.task, eight.prompt, eight.steps[0].instruction) == ("edit", "do 1", "do 1")
    assert seven.id == "magicbrush_7_from3", "it starts from an image that is not the session's first"
    assert nine.provenance.license == "CC-BY-4.0"


def test_magicbrush_test_set_is_not_for_training(tmp_path):
    (tmp_path / "edit_sessions.json").write_text("{}")
    with pytest.raises(DataError, match="must not be trained on"):
        list(open_source("magicbrush", tmp_path))


def test_a_turn_that_is_there_twice_is_named(tmp_path):
    write(tmp_path / "dev.parquet", [turn_row("9", 1), turn_row("9", 1), turn_row("8", 0)])
    failures = []
    examples = open_source("magicbrush", tmp_path, options=Options(on_error=failures.append))
    assert [example.id for example in examples] == ["magicbrush_9"]
    assert [str(failure).split("dev.parquet ")[1] for failure in failures] == [
        "row 1, field turn_index: expected a new number from 1 but got 1",
        "row 2, field turn_index: expected a new number from 1 but got 0",
    ]


# ------------------------------------------------------------------------------------------------------- what all share
def test_an_unknown_set_and_a_missing_place_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"Expected one of coco, lahr-got, .* but got 'imagenet'"):
        open_source("imagenet", tmp_path)
    with pytest.raises(DataError, match="no such file or folder; the hub has TIGER-Lab"):
        open_source("omniedit", tmp_path / "nowhere", options=Options(split="dev"))
    with pytest.raises(DataError, match=r"no such file or folder$"):
        open_source("coco", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"COCO: expected a path of its annotations .*cocodataset.org"):
        open_source("coco")
    with pytest.raises(DataError, match="expected a folder of images"):
        open_source("omniedit", tmp_path, tmp_path / "none")
    with pytest.raises(DataError, match=r"expected files that end in \.parquet, \.jsonl, \.json but there are none"):
        list(open_source("omniedit", tmp_path))
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataError, match=r"expected a file that ends in \.parquet"):
        list(open_source("omniedit", tmp_path / "a.csv"))


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"^LucasFang/OmniEdit-GoT: no such file or folder, and it cannot be had from the hub: "
    ):
        open_source("omniedit-got")
    with pytest.raises(DataError, match=r"OmniEdit: expected a split"):
        open_source("omniedit")


def test_a_set_from_the_hub_is_read_where_the_hubs_client_keeps_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "datasets--TIGER-Lab--OmniEdit-Filtered-1.2M", "0123456789" * 4
    for split in ("dev", "train"):
        name = f"{split}-00000-of-00001.parquet"
        write(folder / "snapshots" / commit / "data" / name, [omniedit_row(split)])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    options = Options(split="dev")
    for place in ("", "TIGER-Lab/OmniEdit-Filtered-1.2M", f"TIGER-Lab/OmniEdit-Filtered-1.2M@{commit}"):
        assert [example.id for example in open_source("omniedit", place, options=options)] == ["dev"]


@pytest.mark.parametrize("text", ["[1, 2", '[{"a": 1}', '[{"a": 1},', '[{"a": "xyz', "[1 2]", "[1]]", "[", '{"a": [1}'])
def test_json_that_breaks_off_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a.json: breaks off or is not JSON at a?\[\d\]: "):
        list(json_items(path, "a" * text.startswith("{")))


def test_long_json_is_read_as_the_library_reads_it(tmp_path):
    value = [{"n": 123456, "t": 'ä "q" \\ [', "l": [1.5e-3, None, True]}, [], {}, -17, "x" * 50, 2**40, 0.25]
    path = tmp_path / "a.json"
    for indent, mark in ((None, ""), (2, "\ufeff")):
        path.write_text(mark + json.dumps(value, indent=indent))
        assert list(json_items(path)) == list(enumerate(value))
    path.write_text(json.dumps({"info": {"a": [1]}, "a": [1, 23], "n": 5, "b": [], "c": [{"d": [2]}]}))
    assert [list(json_items(path, key)) for key in "abcn"] == [[(0, 1), (1, 23)], [], [(0, {"d": [2]})], []]
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(3)))
    assert [item["n"] for _, item in json_items(path)] == [0, 1, 2]


def parse(*words):
    parser = Parser()
    catalog.add_arguments(parser.add_subparsers())
    return parser.parse_args(["import", *map(str, words)])


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_import_writes_a_dataset_that_reads_back_and_goes_on(tmp_path, form, capsys):
    write(tmp_path / "a.parquet", [omniedit_row(f"e{i}", i) for i in range(4)])
    words = ("omniedit", "--annotations", tmp_path / "a.parquet", "--output", tmp_path / "out", "--format", form)
    first = parse(*words, "--limit", 2)
    assert first.run(first)["written"] == 2
    rest = parse(*words)
    result = rest.run(rest)
    assert (result["examples"], result["written"], result["there_before"], result["without_chain"]) == (4, 2, 2, 4)
    assert "4 examples have no chain yet" in capsys.readouterr().err
    written = sorted(read(tmp_path / "out"), key=lambda example: example.id)
    wanted = list(open_source("omniedit", tmp_path / "a.parquet"))
    assert [dataclasses.replace(e, source=None, steps=()) for e in written] == [
        dataclasses.replace(e, source=None, steps=()) for e in wanted
    ]


def test_import_lists_failures_and_goes_on_only_if_told_to(tmp_path, capsys):
    write(
        tmp_path / "a.parquet", [omniedit_row("a"), omniedit_row("b") | {"edited_prompt_list": []}, omniedit_row("c")]
    )
    words = ("omniedit", "--annotations", tmp_path / "a.parquet", "--output", tmp_path / "out")
    strict = parse(*words)
    with pytest.raises(DataError, match="row 1"):
        strict.run(strict)
    assert [example.id for example in read(tmp_path / "out")] == ["a"]
    lenient = parse(*words, "--keep-going")
    assert (lenient.run(lenient)["failed"], lenient.run(lenient)["written"]) == (1, 0)
    assert "row 1, field edited_prompt_list" in (tmp_path / "out" / "failures.txt").read_text()
    assert "1 rows left out" in capsys.readouterr().err


def test_help_names_every_set_and_wrong_fields_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in SOURCES)
    with pytest.raises(UserError, match="expected OURS=THEIRS"):
        parse("coco", "--output", "x", "--field", "colour=x")


def test_reading_sources_imports_no_heavy_library():
    code = "import sys, got.data.importers.catalog; print(*{'torch', 'pyarrow', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_more_is_read_than_is_asked_for(tmp_path):
    """A file that is damaged far behind the first rows gives the first rows."""
    path = tmp_path / "a.parquet"
    write(path, [omniedit_row(f"e{i}", i) for i in range(60)], group=20)
    offset = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    examples = open_source("omniedit", path)
    assert [next(examples).id for _ in range(10)] == [f"e{i}" for i in range(10)]
    with pytest.raises(DataError, match="not a readable Parquet file, from row"):
        list(examples)
