"""The released GoT sets, in the form that is known of one of them and in the likely forms of the others."""

import json

import pytest
from edit_kit import encoded, write
from test_data_sources import omniedit_row, seed_folder, write_lines

from got.data.importers.catalog import open_source
from got.data.importers.files import Options
from got.data.importers.got_sets import normal_chain, with_boxes
from got.data.records import DataError
from got.plan.chain import Chain

RED = "<|box_start|>(10,20),(300,400)<|box_end|> (red)"
GREEN = "<|box_start|>(500,20),(900,400)<|box_end|> (green)"


def image_files(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(number))
    return folder


# --------------------------------------------------------------------------------------------------------------- chains
@pytest.mark.parametrize(
    "text",
    [
        "a cat (10,20),(300,400) by a dog (500,20),(900,400)",
        "a cat (10, 20), (300, 400) by a dog ( 500,20),(900,400 )",
        "a cat <|box_start|>(10,20),(300,400)<|box_end|> by a dog <|box_start|>(500,20),(900,400)<|box_end|>",
        "a <|obj_start|>cat<|obj_end|> <|box_start|>(10,20),(300,400)<|box_end|> by "
        "a <|object_ref_start|>dog<|object_ref_end|> (500,20),(900,400)<|im_end|>",
        f"a cat {RED} by a dog {GREEN}<|im_gen_start|><|im_gen_0000|><|im_gen_0001|><|im_gen_end|><|endoftext|>",
        f"a cat {RED} by a dog (500,20),(900,400)",
    ],
)
def test_boxes_in_every_form_become_the_grammar(text):
    assert normal_chain(text) == f"a cat {RED} by a dog {GREEN}"


def test_a_word_in_brackets_that_is_no_colour_stays():
    text = normal_chain("a cat (10,20),(300,400) (asleep) and (500,20),(900,400)(see below)")
    assert text == f"a cat {RED} (asleep) and {GREEN}(see below)"
    assert Chain.parse(text).warnings == ()


def test_a_colour_that_is_named_is_kept():
    assert normal_chain("a cat (10,20),(300,400) (navy)").endswith("<|box_end|> (navy)")


@pytest.mark.parametrize("box", ["(10,20),(300,1400)", "(300,20),(10,400)"])
def test_a_box_outside_the_image_or_swapped_is_refused(box):
    with pytest.raises(ValueError, match="Expected 0 <= x1"):
        normal_chain(f"a cat {box}")


CAT, DOG = [10, 20, 300, 400], [500, 20, 900, 400]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("a cat <box_0> by a dog <box_1>", {"<box_0>": CAT, "<box_1>": DOG}),
        ("a cat [COORD] by a dog [OTHER COORD]", {"[COORD]": CAT, "[OTHER COORD]": DOG}),
        ("a cat box_1 by a dog box_10", {"box_1": CAT, "box_10": DOG}),
        ("a cat by a dog", {"cat": CAT, "dog": DOG}),
        ("a cat by a dog", {"a cat": "(10,20),(300,400)", "dog": [[500, 20], [900, 400]]}),
        ("a cat by a dog", {"cat": "[10, 20, 300, 400]", "dog": [DOG]}),
        ("a cat by a dog", {"cat": "<|box_start|>(10,20),(300,400)<|box_end|>", "dog": ["500, 20, 900, 400"]}),
        ("a cat by a dog", json.dumps({"cat": CAT, "dog": DOG})),
        ("a cat by a dog", [{"cat": CAT, "dog": DOG}]),
        (f"a cat {RED} by a dog {GREEN}", {"cat": CAT}),
        (f"a cat {RED} by a dog {GREEN}", None),
        (f"a cat {RED} by a dog {GREEN}", ""),
    ],
)
def test_boxes_come_to_their_places(text, boxes):
    assert normal_chain(with_boxes([text], boxes)[0]) == f"a cat {RED} by a dog {GREEN}"


def test_a_name_gets_its_box_once_and_not_inside_other_words():
    text = with_boxes(["cattle and a cat; the cat sleeps"], {"cat": CAT})[0]
    assert normal_chain(text) == f"cattle and a cat {RED}; the cat sleeps"


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ({"horse": CAT}, "expected 'horse' in the chain"),
        ({"cat": [1, 2, 3]}, "expected boxes of four whole numbers"),
        ({"cat": [0.1, 0.2, 0.3, 0.4]}, "expected boxes of four whole numbers"),
        ({"cat": "left"}, "expected boxes of four whole numbers"),
        ({"": CAT}, "one is empty"),
        ("{", "expected JSON"),
        ([1, 2], "expected an object of names and boxes"),
    ],
)
def test_boxes_in_another_form_are_refused(boxes, words):
    with pytest.raises(ValueError, match=words):
        with_boxes(["a cat by a dog"], boxes)


# -------------------------------------------------------------------------------------------------------------- readers
@pytest.mark.parametrize("form", ["json", "jsonl", "parquet", "json lines"])
@pytest.mark.parametrize("name", ["lahr-got", "journeydb-got", "flux-got"])
def test_captions_with_chains(tmp_path, name, form):
    rows = [
        {
            "img_path": f"000/{n}.png",
            "prompt": f"a cat {n}",
            "got": "a cat <box_0>",
            "coord": json.dumps({"<box_0>": CAT}),
        }
        for n in range(3)
    ]
    place = tmp_path / "annotations"
    place.mkdir()
    if form == "parquet":
        write(place / "train.parquet", rows)
    elif form == "json":
        (place / "train.json").write_text(json.dumps(rows))
    else:
        write_lines(place / ("train.jsonl" if form == "jsonl" else "train.json"), rows)
    images = image_files(tmp_path / "images", *(f"000/{n}.png" for n in range(3)))
    examples = list(open_source(name, place, images))
    assert [example.prompt for example in examples] == ["a cat 0", "a cat 1", "a cat 2"]
    assert len({example.id for example in examples}) == 3
    first = examples[0]
    assert (first.task, first.chains, first.annotated) == ("text-to-image", (f"a cat {RED}",), True)
    assert first.steps[0].target == images / "000/0.png"
    assert list(first.problems()) == []
    assert first.provenance.origin.startswith("train.json") or form == "parquet"


def test_edits_with_paths(tmp_path):
    row = {"omni_edit_id": "task_obj_remove_7", "got": "remove the cat", "coord": json.dumps({"cat": CAT})}
    row |= {"edited_prompt_list": ["remove it", "remove the cat"], "src_img_path": "s.png", "edited_img_path": "t.png"}
    write(tmp_path / "a.parquet", [row])
    images = image_files(tmp_path / "images", "s.png", "t.png")
    (example,) = open_source("omniedit-got", tmp_path / "a.parquet", images)
    assert (example.id, example.prompt, example.chains) == (
        "task_obj_remove_7",
        "remove the cat",
        (f"remove the cat {RED}",),
    )
    assert (example.source, example.steps[0].target) == (images / "s.png", images / "t.png")
    assert (example.provenance.dataset, example.provenance.license) == ("OmniEdit-GoT", "MIT")


def test_chains_are_joined_to_omniedits_own_files(tmp_path):
    chains = [
        {"omni_edit_id": name, "got": f"change {name} <box>", "coord": json.dumps({"<box>": CAT})}
        for name in ("b", "a")
    ]
    write(tmp_path / "got" / "a.parquet", chains)
    rows = [omniedit_row(name, seed) for seed, name in enumerate(("a", "c", "b"))]
    write(tmp_path / "omniedit" / "data" / "train-00000-of-00001.parquet", rows)
    write(tmp_path / "omniedit" / "data" / "dev-00000-of-00001.parquet", [omniedit_row("d")])
    a, b = open_source("omniedit-got", tmp_path / "got", tmp_path / "omniedit")
    assert (a.id, a.chains, a.prompt) == ("a", (f"change a {RED}",), "swap the grey cat for a dog")
    assert (b.id, b.source, b.steps[0].target) == ("b", encoded(2), encoded(3))
    with pytest.raises(DataError, match=r"none of its rows has a chain in .*got \(by omni_edit_id\)"):
        list(open_source("omniedit-got", tmp_path / "got", tmp_path / "omniedit", Options(split="dev")))


@pytest.mark.parametrize(
    "chains",
    [
        {"got": [f"a hat {RED}", f"night {GREEN}"]},
        {"got_1": f"a hat {RED}", "got_2": f"night {GREEN}"},
        {"got": f"a hat {RED}<|im_gen_start|><|im_gen_0000|><|im_gen_end|>night {GREEN}<|im_gen_start|><|im_end|>"},
        {"got": ["a hat <1>", "night <2>"], "coord": [{"<1>": "(10,20),(300,400)"}, {"<2>": DOG}]},
    ],
)
def test_sessions_with_a_chain_for_each_turn(tmp_path, chains):
    row = {"source_image": "batch/0.jpg", "instruction_1": "add a hat", "edit_image_1": "batch/1.jpg"}
    row |= {"instruction_2": "make it night", "edit_image_2": "batch/2.jpg"}
    part = seed_folder(tmp_path, [row | chains]) / "multi_turn_editing"
    (example,) = open_source("seed-edit-multiturn-got", part / "annotations", part / "images")
    assert (example.task, len(example.steps)) == ("multi-turn", 2)
    boxes = [region.box_1000 for chain in example.chains for region in Chain.parse(chain).regions]
    assert boxes == [tuple(CAT), tuple(DOG)]
    assert list(example.problems()) == []


ROW = {"img_path": "0.png", "prompt": "a cat", "got": "a cat <box_0>", "coord": json.dumps({"<box_0>": CAT})}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"got": None}, "item 1, field got: expected got or GoT or .* but the row has coord, got, img_path, prompt"),
        ({"got": 5}, "item 1, field got: expected text but got int 5"),
        ({"got": ["a", "b"]}, "item 1, field got: expected 1 chains"),
        ({"coord": "{"}, "item 1, field coord: expected JSON"),
        ({"coord": '{"<box_0>": [1, 2, 3, 4000]}'}, "item 1, field got: Expected 0 <= x1 <= x2 <= 1000"),
        ({"coord": '{"<box_9>": [1, 2, 3, 4]}'}, "item 1, field coord: expected '<box_9>' in the chain"),
        ({"prompt": ""}, "item 1, field prompt: expected text but it is empty"),
        ({"img_path": "1.png"}, "item 1, field img_path: no such file"),
        ({"img_path": "../0.png"}, "item 1, field img_path: expected a path inside"),
        ({"img_path": "/there/0.png"}, "item 1, field img_path: expected a path inside"),
        ({"id": 1.5}, "item 1, field id: expected an id"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW, ROW | change]))
    examples = open_source("flux-got", path, image_files(tmp_path / "images", "0.png"))
    assert next(examples).prompt == "a cat"
    with pytest.raises(DataError, match=r"a\.json " + words):
        next(examples)


@pytest.mark.parametrize(
    ("text", "words"), [('[{"got": ', "breaks off"), ("[3]", "item 0: expected an object but got int")]
)
def test_a_file_in_another_form_is_named(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json.*" + words):
        list(open_source("flux-got", tmp_path / "a.json"))


def test_paths_of_another_machine_can_be_cut_and_fields_renamed(tmp_path):
    row = {"picture": "/data/x/0.png", "short": "a cat", "thought": "a cat", "place": {"cat": CAT}}
    path = write_lines(tmp_path / "a.jsonl", [row])
    options = Options(
        fields={"image": "picture", "prompt": "short", "chain": "thought", "boxes": "place"}, strip_prefix="/data/x/"
    )
    images = image_files(tmp_path / "images", "0.png")
    (example,) = open_source("flux-got", path, images, options)
    assert (example.chains[0], example.steps[0].target) == (f"a cat {RED}", images / "0.png")
