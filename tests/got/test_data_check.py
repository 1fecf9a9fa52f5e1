"""What is wrong with a dataset is said with file, line (or row, or key) and field; statistics and sheets are true."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_kit import contents, make_example, png

from got.data.__main__ import main
from got.data.checking import Findings, check
from got.data.records import DataError, Example, Provenance, Step
from got.data.sheet import sheet
from got.data.statistics import statistics
from got.data.storage import FORMATS, Writer, read
from got.plan.chain import format_box


@pytest.fixture
def folder(tmp_path):
    """Six sound examples."""
    with Writer(tmp_path / "set") as writer:
        for number in range(6):
            writer.add(make_example(number))
    return tmp_path / "set"


def found(place, **options):
    return [str(problem) for problem in check(place, Findings(), **options)]


def edit_line(folder, number, change):
    """Change the row of a line, counted from 1."""
    path = folder / "examples.jsonl"
    lines = path.read_text().split("\n")
    row = json.loads(lines[number - 1])
    change(row)
    lines[number - 1] = json.dumps(row)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_dataset_has_no_problems(tmp_path, form):
    with Writer(tmp_path, form, per_file=4) as writer:
        for number in range(6):
            writer.add(make_example(number))
    findings = Findings()
    assert list(check(tmp_path, findings)) == []
    assert (findings.examples, findings.images) == (6, 2 * (1 + 2 + 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("prompt"), "examples.jsonl:2: prompt: missing"),
        (lambda row: row.update(prompt=3), "examples.jsonl:2: prompt: expected text but got 3"),
        (lambda row: row.update(prompt=" "), "examples.jsonl:2: prompt: empty"),
        (lambda row: row.update(promt="a dog"), "examples.jsonl:2: promt: unknown field"),
        (lambda row: row.update(id="../e"), "examples.jsonl:2: id: expected ASCII letters"),
        (lambda row: row.update(id="e-0000"), "examples.jsonl:2: id: 'e-0000' is at"),
        (lambda row: row.update(steps=[]), "examples.jsonl:2: steps: expected a list of at least one step"),
        (lambda row: row["steps"].append("x"), "examples.jsonl:2: steps[1]: expected an object"),
        (lambda row: row["steps"][0].pop("target"), "examples.jsonl:2: steps[0].target: missing"),
        (lambda row: row["steps"][0].update(chain=""), "examples.jsonl:2: steps[0].chain: empty"),
        (
            lambda row: row["steps"][0].update(chain="a dog <|box_start|>(1,2),(3<|box_end|> (red)"),
            "examples.jsonl:2: steps[0].chain: malformed box left out",
        ),
        (lambda row: row.pop("provenance"), "examples.jsonl:2: provenance: expected an object"),
        (lambda row: row["provenance"].update(license=""), "examples.jsonl:2: provenance.license: empty"),
        (lambda row: row["provenance"].pop("dataset"), "examples.jsonl:2: provenance.dataset: missing"),
        (lambda row: row.update(extra=[1]), "examples.jsonl:2: extra: expected an object but got [1]"),
        (lambda row: row.update(source="../../secret.png"), "examples.jsonl:2: source: expected a path that stays"),
        (lambda row: row.update(source="/etc/passwd"), "examples.jsonl:2: source: expected a path that stays"),
        (lambda row: row.update(source="images/../../x"), "examples.jsonl:2: source: expected a path that stays"),
        (lambda row: row.update(source="a\\..\\..\\x"), "examples.jsonl:2: source: expected a path that stays"),
        (lambda row: row.update(source=7), "examples.jsonl:2: source: expected a path relative to the folder"),
        (lambda row: row.update(source="images/none.png"), "examples.jsonl:2: source: "),
    ],
)
def test_a_broken_row_is_named_with_file_line_and_field(folder, change, message):
    edit_line(folder, 2, change)
    (problem,) = found(folder)
    assert message in problem


def test_every_problem_of_a_row_is_named(folder):
    def change(row):
        row["provenance"] = {}
        del row["prompt"]
        row["steps"][0] = {"target": None, "chian": ""}

    edit_line(folder, 3, change)
    fields = [problem.field for problem in check(folder, Findings())]
    assert sorted(fields) == [
        "prompt", "provenance.dataset", "provenance.license", "steps[0].chain", "steps[0].chian", "steps[0].target",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "x", "pro', "examples.jsonl:7: row: the line is cut off"),
        (b"\n", "examples.jsonl:7: row: expected JSON but"),
        (b"[1, 2]\n", "examples.jsonl:7: row: expected an object with id, prompt"),
        (b"\xff\xfe\n", "examples.jsonl:7: row: expected JSON but"),
        (b"[" * 100_000 + b"\n", "examples.jsonl:7: row: expected JSON but"),
    ],
)
def test_a_line_that_is_no_row_is_named(folder, line, message):
    with (folder / "examples.jsonl").open("ab") as file:
        file.write(line)
    (problem,) = found(folder)
    assert message in problem
    with pytest.raises(DataError, match=r"examples.jsonl:7: row"):
        list(read(folder))


def test_damaged_images_are_found_unless_they_are_not_opened(folder):
    images = sorted(folder.glob("images/*/*"))
    cut, other, gone = [path for path in images if ".source" in path.name][:3]
    cut.write_bytes(cut.read_bytes()[:-30])
    other.write_text("no image")
    gone.unlink()
    problems = found(folder)
    assert len(problems) == 3
    assert any(str(cut) in line and "is damaged" in line for line in problems)
    assert any(str(other) in line and "none that can be read" in line for line in problems)
    assert any("Cannot read" in line and gone.name in line for line in problems)
    assert found(folder, images=False) == []


def test_a_link_may_lead_anywhere_but_a_name_stays_in_the_folder(folder, tmp_path):
    """A hub's cache is made of links to blobs elsewhere."""
    (tmp_path / "blob").write_bytes(png(1))
    (folder / "images" / "link.png").symlink_to(tmp_path / "blob")
    edit_line(folder, 1, lambda row: row["steps"][0].update(target="images/link.png"))
    assert found(folder) == []
    edit_line(folder, 4, lambda row: row["steps"][0].update(target="../blob"))
    (problem,) = found(folder)
    assert "examples.jsonl:4: steps[0].target: expected a path that stays in the folder" in problem


@pytest.fixture
def shards(tmp_path):
    with Writer(tmp_path / "tars", "webdataset", per_file=3) as writer:
        for number in range(6):
            writer.add(make_example(number))
    return tmp_path / "tars"


@pytest.mark.parametrize("keep", [0, 100, 512, 1536, -1024, -1])
def test_a_shard_that_breaks_off_is_named_and_hides_no_other(shards, keep):
    path = shards / "data-000000.tar"
    path.write_bytes(path.read_bytes()[:keep])
    problems = found(shards)
    assert any(line.startswith(f"{path}: expected a whole tar file") for line in problems)
    assert not any("data-000001.tar" in line for line in problems)
    with pytest.raises(DataError, match=r"data-000000.tar: expected a whole tar"):
        list(read(shards))


def test_members_that_do_not_fit_are_named(shards):
    path = shards / "data-000000.tar"
    path.write_bytes(path.read_bytes().replace(b"e-0001.target.png", b"e-0001.tarjet.png"))
    problems = found(shards)
    assert len(problems) == 1  # the header's checksum: 'g' and 'j' differ
    assert str(path) in problems[0]


def test_an_id_that_is_not_the_key_is_named(shards):
    path = shards / "data-000001.tar"
    path.write_bytes(path.read_bytes().replace(b'"id": "e-0004"', b'"id": "e-0009"'))
    (problem,) = found(shards)
    assert problem == f"{path}: key e-0004: id: expected the shard's key but got 'e-0009'"


def test_parquet_files_that_break_off_or_lack_a_column_are_named(tmp_path):
    with Writer(tmp_path, "parquet", per_file=3) as writer:
        for number in range(9):
            writer.add(make_example(number))
    first, second, _ = sorted(tmp_path.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-9])
    pq.write_table(pq.read_table(second).drop_columns(["steps"]), second)
    problems = found(tmp_path)
    assert len(problems) == 2
    assert problems[0].startswith(f"{first}: expected a whole Parquet file")
    assert problems[1].startswith(f"{second}: steps: expected columns id, prompt")


def test_a_parquet_file_with_a_name_that_is_no_text_is_named(tmp_path):
    with Writer(tmp_path, "parquet") as writer:
        writer.add(make_example(0))
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(path.read_bytes().replace(b"instruction", b"inst\xe5uction"))
    (problem,) = found(tmp_path)
    assert problem.startswith(f"{path}: expected a whole Parquet file but 'utf-8' codec can't decode byte 0xe5")


def test_parquet_rows_are_named(tmp_path):
    with Writer(tmp_path, "parquet") as writer:
        for number in range(150):
            writer.add(make_example(number % 3 + 3 * (number // 3), task=0))
    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    prompts = table.column("prompt").to_pylist()
    prompts[120] = None
    extras = table.column("extra").to_pylist()
    extras[3] = "{"
    table = table.set_column(1, "prompt", [prompts]).set_column(5, "extra", [extras])
    pq.write_table(table, path, row_group_size=50)
    lines = found(path)
    assert lines[0].startswith(f"{path}: row 3: extra: expected JSON")
    assert lines[1] == f"{path}: row 120: prompt: expected text but got nothing"
    assert len(lines) == 2


# --- the command line ------------------------------------------------------------------------------------------------


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_check_ends_with_json_and_exit_code_1(folder, capsys):
    code, lines, _ = run(capsys, "check", folder)
    assert (code, json.loads(lines[-1])["ok"], len(lines)) == (0, True, 1)
    edit_line(folder, 2, lambda row: row.pop("prompt"))
    edit_line(folder, 3, lambda row: row.pop("prompt"))
    code, lines, _ = run(capsys, "check", folder, "--limit", 1)
    summary = json.loads(lines[-1])
    assert code == 1
    assert (summary["ok"], summary["problems"], summary["examples"]) == (False, 2, 6)
    assert summary["fields"] == {"prompt": 2}
    assert lines[0].endswith("examples.jsonl:2: prompt: missing")
    assert lines[1:-1] == ["... and 1 more; --limit shows them"]


def test_an_empty_dataset_is_a_problem(tmp_path, capsys):
    (tmp_path / "examples.jsonl").touch()
    code, lines, _ = run(capsys, "check", tmp_path)
    assert (code, lines[0]) == (1, f"{tmp_path}: no examples")
    code, _, errors = run(capsys, "stats", tmp_path)
    assert code == 2
    assert "no examples" in errors


def test_mistakes_are_one_line_without_a_traceback(folder, tmp_path, capsys):
    commands = [
        (["check", tmp_path / "nowhere"], "no such file or folder"),
        (["show", folder, "--output", tmp_path / "a.jpg"], "ends in .png"),
        (["show", folder, "--output", tmp_path / "a.png", "--index", "6"], "expected a number below 6 but got 6"),
        (["convert", folder, folder], "is a dataset already"),
        (["convert", folder, tmp_path / "x", "--format", "zip"], "zip"),
        (["make", "--num", "0", "--output", tmp_path / "x"], "from 1 up"),
        (["make", "--num", "1", "--output", folder], "other files"),
        (["make", "--num", "1", "--output", tmp_path / "x", "--tasks", "edit=-1"], "NAME=WEIGHT"),
        (["make", "--num", "1", "--output", tmp_path / "x", "--tasks", "edit", "edit=2"], "twice"),
        ([], "COMMAND"),
    ]
    for words, message in commands:
        code, lines, errors = run(capsys, *words)
        error = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert (code, lines, len(error)) == (2, [], 1), words
        assert message in error[0]


@pytest.mark.parametrize("form", FORMATS)
def test_convert_loses_nothing_and_appends_only_when_asked(folder, tmp_path, capsys, form):
    code, lines, _ = run(capsys, "convert", folder, tmp_path / "other", "--format", form, "--per-file", 4)
    assert (code, json.loads(lines[-1])["written"]) == (0, 6)
    assert [contents(example) for example in read(tmp_path / "other")] == [contents(make_example(n)) for n in range(6)]
    with Writer(folder) as writer:
        writer.add(make_example(6))
    again = ("convert", folder, tmp_path / "other", "--format", form)
    assert run(capsys, *again)[0] == 2
    code, lines, _ = run(capsys, *again, "--append")
    assert code == 0
    assert json.loads(lines[-1]) | {"written": 1, "there_already": 6} == json.loads(lines[-1])
    assert [example.id for example in read(tmp_path / "other")] == [f"e-{n:04d}" for n in range(7)]


# --- statistics and sheets -------------------------------------------------------------------------------------------


def test_statistics_are_those_counted_by_hand(capsys, tmp_path):
    box = format_box((0, 0, 500, 500), "red")
    pair = [
        ("a", "four", [f"a dog {box}"], None, "one"),
        ("b", "sixsix", ["no box here", f"a cat {box} and a dog {box}"], b"source", "two"),
    ]
    examples = [
        Example(
            id=key, prompt=prompt, source=source, steps=tuple(Step(chain=chain, target=b"") for chain in chains),
            provenance=Provenance(dataset=dataset, license="CC0-1.0"),
        )
        for key, prompt, chains, source, dataset in pair
    ]  # fmt: skip
    result = statistics(examples)
    numbers, together = result["datasets"], result["all"]
    assert numbers["one"]["prompt_characters"] == 4
    assert numbers["one"]["chain_characters"] == 6 + len(box)
    assert numbers["one"]["licenses"] == {"CC0-1.0": 1}
    assert list(numbers["two"]["tasks"]) == ["multi-turn"]
    assert numbers["two"]["tasks"]["multi-turn"]["targets"] == 2
    assert numbers["two"]["boxes_per_picture"] == 1
    assert together["examples"] == 2
    assert together["targets"] == 3
    assert together["prompt_characters"] == 5
    assert together["chain_characters"] == pytest.approx((6 + 11 + 17 + 3 * len(box)) / 3)
    assert together["prose_characters"] == pytest.approx((6 + 11 + 17) / 3)
    with Writer(tmp_path) as writer:
        for example in examples:
            writer.add(example)
    code, lines, _ = run(capsys, "stats", tmp_path)
    assert code == 0
    assert json.loads(lines[-1])["datasets"] == numbers
    text = "\n".join(lines)
    for row in ("two, multi-turn", "LAHR-GoT", "111.0", "812.0", "3.78", "JourneyDB-GoT", "150.0", "906.0", "4.09"):
        assert row in text


def test_a_sheet_shows_images_boxes_and_words(tmp_path, capsys):
    green = tmp_path / "green.png"
    from PIL import Image

    Image.new("RGB", (64, 64), (0, 200, 0)).save(green)
    chain = f"a thing {format_box((250, 250, 750, 750), 'red')}"
    example = Example(
        id="a", prompt="a thing", steps=(Step(chain=chain, target=green),),
        provenance=Provenance(dataset="d", license="CC0-1.0"),
    )  # fmt: skip
    pixels = np.asarray(sheet([example]))
    greens = (pixels == (0, 200, 0)).all(-1).sum()
    assert greens > 1.8 * 256 * 256  # the target, and the target behind the box
    assert (pixels == (255, 0, 0)).all(-1).sum() > 128 * 128  # the layout, and the box's frame
    with Writer(tmp_path / "set") as writer:
        for number in range(3):
            writer.add(make_example(number))
    code, lines, _ = run(capsys, "show", tmp_path / "set", "--index", 1, "--num", 2, "--output", tmp_path / "s.png")
    assert code == 0
    assert json.loads(lines[-1])["ids"] == ["e-0001", "e-0002"]
    assert lines[0] == "e-0001: a dog, 1"
    with Image.open(tmp_path / "s.png") as drawn:
        assert drawn.height > 4 * 256  # one step and three
    assert run(capsys, "show", tmp_path / "set", "--output", tmp_path / "s.png")[0] == 2
    shutil.rmtree(tmp_path / "set" / "images")
    assert run(capsys, "show", tmp_path / "set", "--output", tmp_path / "s.png", "--overwrite")[0] == 2
