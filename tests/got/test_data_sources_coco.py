"""COCO turned into chains, from small files of COCO's schema."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from got.data.importers.catalog import open_source
from got.data.importers.coco import Thing, box_to_1000, write_chain
from got.data.importers.files import Options
from got.data.importers.nouns import _CATEGORY_OF, CATEGORIES, object_nouns
from got.data.records import DataError
from got.iconworld.vocabulary import CLASSES
from got.plan.chain import MASK_COLORS, Chain

NUMBERS = {"person": 1, "bus": 6, "dog": 18, "cup": 47, "couch": 63, "skis": 35, "orange": 55}


def annotation(number, name, box, *, image=139, crowd=0):
    outline = {"counts": [1, 2], "size": [200, 100]} if crowd else [[0.5] * 200]
    ids = {"id": number, "image_id": image, "category_id": NUMBERS[name]}
    return {**ids, "bbox": box, "area": box[2] * box[3] / 2, "iscrowd": crowd, "segmentation": outline}


def instances(annotations, images=(139,)):
    return {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "images": [
            {
                "id": image,
                "file_name": f"{image:012d}.jpg",
                "width": 200,
                "height": 100,
                "license": 4,
                "flickr_url": f"http://farm/{image}.jpg",
                "date_captured": "2013-11-21 01:34:01",
            }
            for image in images
        ],
        "annotations": [dict(item) for item in annotations],
        "categories": [{"supercategory": "x", "id": number, "name": name} for name, number in NUMBERS.items()],
    }


def captions(texts, image=139):
    return {
        "info": {},
        "images": [],
        "annotations": [{"id": 10 + n, "image_id": image, "caption": text} for n, text in enumerate(texts)],
    }


DOG = annotation(1, "dog", [20.0, 10.0, 100.0, 50.5])
COUCH = annotation(2, "couch", [0, 40, 200.0, 60])
CUPS = [annotation(3, "cup", [180, 0, 20, 20]), annotation(4, "cup", [150.4, 0.2, 10, 20])]
TINY = annotation(5, "orange", [0, 0, 2, 2])
CROWD = annotation(6, "person", [0, 0, 200, 100], crowd=1)


def coco(root, data=None, texts=("A dog lying on a sofa.",), split="val2017"):
    folder = root / "annotations"
    folder.mkdir(exist_ok=True)
    data = data or instances([CUPS[1], TINY, DOG, CROWD, COUCH, CUPS[0]])
    (folder / f"instances_{split}.json").write_text(json.dumps(data))
    (folder / f"captions_{split}.json").write_text(json.dumps(captions(texts)))
    (root / split).mkdir(exist_ok=True)
    for image in (139, 140):
        Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(root / split / f"{image:012d}.jpg")
    return folder


def box(corners, color):
    return f"<|box_start|>({corners[0]},{corners[1]}),({corners[2]},{corners[3]})<|box_end|> ({color})"


def test_a_image_becomes_an_example_for_each_caption(tmp_path):
    place = coco(tmp_path, texts=("A dog lying on a sofa", "Somebody's  pet \n at home. "))
    first, second = open_source("coco", place)
    assert (first.id, first.task, first.prompt) == ("coco_139_10", "text-to-image", "A dog lying on a sofa")
    assert first.chains[0] == (
        f"A dog {box((100, 100, 600, 605), 'red')} lying on a sofa {box((0, 400, 999, 999), 'green')}."
        f" There are also a cup {box((900, 0, 999, 200), 'blue')}"
        f" and another cup {box((752, 2, 802, 202), 'yellow')}."
    )
    assert second.prompt == "Somebody's pet at home."
    assert second.chains[0] == (
        f"Somebody's pet at home. There are a couch {box((0, 400, 999, 999), 'red')},"
        f" a dog {box((100, 100, 600, 605), 'green')}, a cup {box((900, 0, 999, 200), 'blue')}"
        f" and another cup {box((752, 2, 802, 202), 'yellow')}."
    )
    assert first.steps[0].target == tmp_path / "val2017" / "000000000139.jpg"
    assert first.provenance.license == "annotations: CC-BY-4.0; photo: Attribution License"
    assert first.provenance.origin == "image 139, caption 10"
    assert first.provenance.made_by.startswith("got.data.importers.coco")
    assert first.extra == {"flickr_url": "http://farm/139.jpg"}
    assert [list(example.problems()) for example in (first, second)] == [[], []]
    names = [region.text for region in Chain.parse(first.chains[0]).regions]
    assert names == ["A dog", "a sofa", "a cup", "another cup"]


def test_categories_are_cocos():
    # GenEval spells two of the classes in its own way.
    theirs = {"computer mouse": "mouse", "computer keyboard": "keyboard", "tv remote": "remote"}
    ours = {theirs.get(name, name) for name in CLASSES}
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 80
    assert ours - set(CATEGORIES) == set()


THINGS = [
    Thing(category="person", box_1000=(0, 0, 500, 999), area=0.5),
    Thing(category="dog", box_1000=(500, 500, 900, 900), area=0.16),
]
ONE_EACH = {"person": 1, "dog": 1}


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("A dog.", ["A dog", "a person"]),
        ("A man walks his dog", ["A man", "walks his dog"]),
        ("A woman and a dog!", ["A woman", "a dog"]),
        ("A puppy sleeping", ["A puppy", "a person"]),
        ("A man parked a car", ["A man", "a dog"]),
        ("The dog's bowl", ["a person", "a dog"]),  # not the dog but its bowl
        ("A dog bowl on the floor", ["a person", "a dog"]),
        ("A dog building", ["a person", "a dog"]),
        ("A hot dog on a plate", ["a person", "a dog"]),
        ("A man and a woman with a dog", ["a dog", "a person"]),  # which of them has the box?
        ("Two big dog are here", ["a person", "a dog"]),
        ("Dogs at play", ["a person", "a dog"]),
        ("A hotdog", ["a person", "a dog"]),
    ],
)
def test_a_noun_gets_the_box_only_if_it_can_mean_nothing_else(caption, named):
    chain = Chain.parse(write_chain(caption, THINGS, ONE_EACH, 10))
    assert [region.text for region in chain.regions] == named
    assert chain.warnings == ()
    bare = "".join(char for char in chain.text if char.isalnum())
    assert bare.startswith("".join(char for char in caption.split()[0] if char.isalnum()))


@pytest.mark.parametrize("counts", [{"person": 1, "dog": 2}, {"person": 1, "dog": 3}])
def test_a_noun_gets_no_box_where_there_are_more_of_its_kind(counts):
    chain = Chain.parse(write_chain("A man with a dog", THINGS, counts, 10))
    assert [region.text for region in chain.regions] == ["A man", "a dog"]
    assert chain.text.index("There is also a dog") > chain.text.index("with a dog.")


def test_caption_words_stay_as_they_are():
    chain = write_chain("A man, a dog; who knows? Yes!", THINGS, ONE_EACH, 10)
    left = chain
    for region in Chain.parse(chain).regions:
        left = left.replace(f" {box(region.box_1000, region.color)}", "")
    assert left == "A man, a dog; who knows? Yes!"


def test_the_largest_objects_are_taken_and_colours_go_round():
    things = [Thing(category="cup", box_1000=(n, n, n + 10, n + 10), area=1 / (n + 1)) for n in range(40)]
    chain = Chain.parse(write_chain("Cups", things, {"cup": 40}, 30))
    assert [region.box_1000[0] for region in chain.regions] == list(range(30))
    assert [region.color for region in chain.regions] == [*MASK_COLORS, *MASK_COLORS][:30]
    assert chain.text.count("another cup") == 29


def test_pairs_and_vowels_have_their_article():
    skis = Thing(category="skis", box_1000=(0, 0, 9, 9), area=0.1)
    orange = Thing(category="orange", box_1000=(0, 0, 9, 9), area=0.1)
    text = write_chain("Snow", [skis, orange], {"skis": 1, "orange": 1}, 10)
    assert [region.text for region in Chain.parse(text).regions] == ["a pair of skis", "an orange"]


@pytest.mark.parametrize(
    ("box_px", "wanted"),
    [
        ((0, 0, 640, 480), (0, 0, 999, 999)),
        ((-5, -5, 69, 53), (0, 0, 100, 100)),
        ((640, 0, 10, 10), None),
        ((5, 5, 0.1, 100), None),
        ((63.9, 48.1, 64.1, 48), (100, 100, 200, 200)),
    ],
)
def test_boxes_are_thousandths_inside_the_image(box_px, wanted):
    assert box_to_1000(box_px, 640, 480) == wanted


def test_crowds_and_small_objects_get_no_box_but_are_counted(tmp_path):
    person = annotation(7, "person", [0, 0, 60, 100])
    place = coco(tmp_path, instances([person, CROWD, TINY]), ["A man with an orange"])
    (example,) = open_source("coco", place)
    assert example.chains[0] == f"A man with an orange. There is a person {box((0, 0, 300, 999), 'red')}."
    (example,) = open_source("coco", place, options=Options(min_area=0))
    assert example.chains[0].startswith("A man with an orange <|box_start|>(0,0),(10,20)<|box_end|> (red).")
    with pytest.raises(DataError, match="no image has both an object large enough and a caption"):
        list(open_source("coco", place, options=Options(min_area=0.9)))


def test_the_order_of_annotations_changes_nothing(tmp_path):
    things = [CUPS[1], TINY, DOG, CROWD, COUCH, CUPS[0]]
    chains = set()
    for order in (things, things[::-1]):
        chains |= {example.chains for example in open_source("coco", coco(tmp_path, instances(order)))}
    assert len(chains) == 1
    backwards = dict(reversed(instances(things).items()))
    assert {example.chains for example in open_source("coco", coco(tmp_path, backwards))} == chains


def test_images_without_captions_and_annotations_without_images_are_passed_over(tmp_path):
    data = instances(
        [DOG, annotation(9, "dog", [0, 0, 50, 50], image=140), annotation(8, "dog", [0, 0, 9, 9], image=7)]
    )
    data["images"] = instances([], (139, 140))["images"]
    assert [example.id for example in open_source("coco", coco(tmp_path, data))] == ["coco_139_10"]


@pytest.mark.parametrize("images", [None, "", "val2017"])
def test_images_are_found_where_coco_has_them(tmp_path, images):
    place = coco(tmp_path)
    (example,) = open_source("coco", place, None if images is None else tmp_path / images)
    assert example.steps[0].target.is_file()


def test_a_folder_with_two_splits_wants_a_choice(tmp_path):
    coco(tmp_path)
    place = coco(tmp_path, instances([DOG]), split="train2017")
    with pytest.raises(
        DataError, match=r"instances_SPLIT.json \(--split\) but got instances_train2017.json, instances_val"
    ):
        list(open_source("coco", place))
    (example,) = open_source("coco", place, options=Options(split="train2017"))
    assert example.steps[0].target.parent.name == "train2017"
    (example,) = open_source("coco", place / "instances_val2017.json")
    assert example.steps[0].target.parent.name == "val2017"
    (place / "captions_val2017.json").unlink()
    with pytest.raises(DataError, match=r"with captions_SPLIT.json beside it"):
        list(open_source("coco", place / "instances_val2017.json"))


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("annotations", {"bbox": [1, 2, 3]}, r"annotations\[0\], field bbox: expected \[x, y, width, height\]"),
        ("annotations", {"bbox": [1, 2, "3", 4]}, r"annotations\[0\], field bbox"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, r"annotations\[0\], field bbox"),
        ("annotations", {"category_id": 999}, r"annotations\[0\], field category_id: expected one of the file's 7"),
        ("annotations", {"image_id": "139"}, r"annotations\[0\], field image_id: expected a whole number"),
        ("images", {"width": 0}, r"images\[0\], field width: expected a whole number from 1 but got 0"),
        ("images", {"file_name": "../a.jpg"}, r"images\[0\], field file_name: expected a path inside"),
        ("images", {"file_name": "none.jpg"}, r"images\[0\], field file_name: no such file"),
        ("images", {"file_name": None}, r"images\[0\], field file_name: expected an image"),
        ("categories", {"name": 3}, r"categories\[0\], field name: expected text but got int 3"),
    ],
)
def test_a_broken_item_is_named_and_can_be_passed_over(tmp_path, key, change, words):
    data = instances([COUCH, DOG])
    data[key][0] |= change
    place = coco(tmp_path, data)
    with pytest.raises(DataError, match=r"instances_val2017.json " + words):
        list(open_source("coco", place))
    failures = []
    options = Options(on_error=failures.append)
    if key == "images":
        with pytest.raises(DataError, match="no image has both"):
            list(open_source("coco", place, options=options))
    else:
        assert len(list(open_source("coco", place, options=options))) == 1
    assert failures


def test_a_caption_with_the_models_tokens_is_refused(tmp_path):
    place = coco(tmp_path, texts=["A <|box_start|> dog"])
    with pytest.raises(DataError, match=r"captions_val2017.json annotations\[0\], field caption: expected plain words"):
        list(open_source("coco", place))


def test_a_number_that_json_does_not_have_is_refused(tmp_path):
    data = instances([COUCH, DOG])
    data["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
    with pytest.raises(DataError, match=r"instances_val2017.json: breaks off or is not JSON .*invalid char"):
        list(open_source("coco", coco(tmp_path, data)))


@pytest.mark.parametrize("name", ["instances", "captions"])
def test_a_file_that_breaks_off_is_named(tmp_path, name):
    place = coco(tmp_path)
    path = place / f"{name}_val2017.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=rf"{name}_val2017.json: breaks off"):
        list(open_source("coco", place))


# --------------------------------------------------------------------------------------------------- nouns of captions
LABELLED = Path(__file__).parents[1] / "data" / "captions"


def labelled(line):
    """A caption whose objects stand in brackets, as ``[dog]`` or ``[puppy|dog]``, and the objects."""
    text, objects, end = "", [], 0
    for match in re.finditer(r"\[([^]|]+)(?:\|([^]]+))?\]", line):
        text += line[end : match.start()] + match[1]
        objects.append((match[2] or _CATEGORY_OF[match[1].lower()], len(text)))
        end = match.end()
    return text + line[end:], objects


@pytest.mark.parametrize(
    ("name", "count", "precision", "recall"), [("nouns.txt", 200, 0.99, 0.97), ("held_out.txt", 50, 0.95, 0.97)]
)
def test_objects_of_captions_are_those_that_were_labelled_by_hand(name, count, precision, recall):
    captions = [labelled(line) for line in (LABELLED / name).read_text().splitlines()]
    assert len(captions) == count
    assert {category for _, objects in captions for category, _ in objects} <= set(CATEGORIES)
    found = [(set(object_nouns(text)), set(objects)) for text, objects in captions]
    right = sum(len(ours & theirs) for ours, theirs in found)
    assert right / sum(len(ours) for ours, _ in found) >= precision
    assert right / sum(len(theirs) for _, theirs in found) >= recall


@pytest.mark.parametrize(
    ("caption", "boxed"),
    [
        ("A man skis down a hill", ["a man"]),
        ("A cat on a record player", ["a cat"]),
        ("A bowl of cake batter", ["a bowl"]),
        ("A boy in an orange shirt", ["a boy"]),
        ("A cat but no dog", ["a cat"]),
        ("", []),
        ("!!! 123 \u00e9\u00e8 'n' ''", []),
    ],
)
def test_words_that_name_no_object_of_the_image_get_no_box(caption, boxed):
    ends = [caption[:end].lower().split()[-2:] for _, end in object_nouns(caption)]
    assert [" ".join(words) for words in ends] == boxed
