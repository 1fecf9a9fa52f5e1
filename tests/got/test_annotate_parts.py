"""The pure parts of annotation: what replies may say, what boxes mean, how a chain is put together."""

import re

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from got.data.annotate.annotator import known_kind
from got.data.annotate.boxes import CONVENTIONS, cropped, merged, shown, size_to_send, to_box_1000
from got.data.annotate.replies import boxes_of, chain_of, parsed, phrase_of, places_of, words_of
from got.plan.chain import MASK_COLORS, Chain
from got.vlm.json_replies import BadReply, read_json


def cause(function, *arguments, **options):
    with pytest.raises(BadReply) as caught:
        function(*arguments, **options)
    return caught.value.cause


# ---------------------------------------------------------------------------------------------------------------- boxes
@pytest.mark.parametrize("size", [(128, 128), (640, 480), (27, 400), (3000, 2000), (56, 56), (1, 1)])
def test_pixels_are_those_that_qwen_sees(size):
    """Its processor must leave an image that was sent as it is: else its pixels are not ours."""
    width, height = size_to_send(size, "pixels", 1280 * 28 * 28)
    assert smart_resize(height, width, 28, 56 * 56, 12845056) == (height, width)
    assert width * height <= 1280 * 28 * 28


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(128, 96), (1000, 3000)])
def test_a_box_comes_back_from_every_convention(convention, size):
    sent = shown(Image.new("RGB", size), convention, 200_000)
    assert sent.size_px[0] * sent.size_px[1] <= 210_000
    for box in np.sort(np.random.default_rng(0).integers(0, 999, (50, 2, 2)), 1).reshape(50, 4).tolist():
        if box[0] < box[2] and box[1] < box[3]:
            sides = {"pixels": sent.size_px, "thousandths": (1000, 1000), "unit": (1, 1)}[convention] * 2
            said = [value / 1000 * side for value, side in zip(box, sides, strict=True)]
            assert to_box_1000(said, convention, sent.size_px) == tuple(box)


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([0.1, 0.1, 1.02, 0.5], "box outside"),
        ([-0.2, 0.1, 0.3, 0.5], "box outside"),
        ([10, 20, 300, 400], "box outside"),
        ([0.5, 0.1, 0.5, 0.5], "illegal box"),
        ([0.5, 0.1, 0.4, 0.5], "illegal box"),
        ([0.1, 0.1, 0.5], "illegal box"),
        ([0.1, 0.1, "0.5", 0.5], "illegal box"),
        ([0.1, 0.1, True, 0.5], "illegal box"),
        ([0.1, 0.1, float("nan"), 0.5], "illegal box"),
    ],
)
def test_what_is_no_box_of_the_image(box, why):
    assert cause(to_box_1000, box, "unit", (100, 100)) == why


def test_rounding_at_the_edge_is_no_error():
    assert to_box_1000([0, -1, 140, 141], "pixels", (140, 140)) == (0, 0, 999, 999)


def test_a_crop_shows_the_box_and_a_little_more():
    image = Image.new("RGB", (400, 200))
    image.paste((255, 0, 0), (100, 50, 200, 100))
    crop = cropped(image, (250, 250, 500, 500))
    assert crop.size == (120, 60)
    assert crop.getpixel((12, 7)) == (255, 0, 0)
    assert crop.getpixel((5, 30)) == (0, 0, 0)
    assert cropped(image, (0, 0, 5, 5)).size == (28, 28)  # a speck is shown with what is around it
    assert cropped(image, (998, 998, 999, 999)).size == (28, 28)
    assert cropped(Image.new("RGB", (9, 300)), (0, 0, 999, 5)).size == (9, 28)


@pytest.mark.parametrize(
    ("size", "box_1000"),
    [((6000, 4000), (0, 500, 999, 505)), ((4000, 3000), (0, 0, 999, 3)), ((9000, 600), (0, 960, 999, 999))],
)
def test_a_crop_is_no_strip_that_a_model_refuses(size, box_1000):
    """A horizon, a cable: Qwen's own processor refuses what is 200 times as long as wide."""
    crop = cropped(Image.new("RGB", size), box_1000)
    assert max(crop.size) <= 20 * min(crop.size)
    assert crop.width == size[0]
    smart_resize(crop.height, crop.width)


# -------------------------------------------------------------------------------------------------------------- replies
@pytest.mark.parametrize("text", ['{"a": 1}', '```json\n{"a": 1}\n```', 'Sure! {"a": 1} Anything else?', ' {"a":\n1}'])
def test_forms_that_a_reply_may_have(text):
    assert read_json(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unparsable"),
        ("A dog.", "unparsable"),
        ('{"a": 1', "unparsable"),
        ('{"a": 1} or {"a": 2}', "unparsable"),
        ('{"a": 1, "a": 2}', "unparsable"),
        ("I cannot help with that.", "refusal"),
    ],
)
def test_forms_that_it_may_not(text, why):
    assert cause(read_json, text) == why


def test_words():
    assert words_of({"x": 'The sign says "I can\'t stop" ' * 3}, "x").startswith("The sign")
    for apology in ("I can't describe it.", "Sorry, but I am unable to see it.", "I’m sorry."):
        assert cause(words_of, {"x": apology}, "x") == "refusal"
    assert cause(words_of, {"x": "a dog <|box_start|>(1,2)"}, "x") == "illegal words"
    for bad in ({}, {"x": " "}, {"x": ["a"]}, ["x"], None):
        assert cause(words_of, bad, "x") == "unparsable"


def test_names_stand_in_the_text_word_for_word_in_order():
    text = "A dog and a dog's bone, a catalog and a cat. A dog"
    assert places_of({"objects": ["A dog", "a cat", "A dog"]}, text) == ((0, 5), (38, 43), (45, 50))
    for names in (["a cow"], ["a cat", "a catalog"], ["a dog"], ["A dog"] * 3, ["a DOG"]):
        assert cause(places_of, {"objects": names}, text) == "not verbatim"
    many = " ".join(f"a thing{n}," for n in range(27))
    assert cause(places_of, {"objects": many.rstrip(",").split(", ")}, many) == "too many objects"


def test_every_object_has_its_number_once():
    boxes = [{"object": 2, "bbox_2d": [0, 0, 0.5, 0.5]}, {"object": 1, "bbox_2d": None}]
    assert boxes_of({"boxes": boxes}, 2, "unit", (9, 9)) == (None, (0, 0, 500, 500))
    assert cause(boxes_of, {"boxes": boxes}, 2, "unit", (9, 9), required=True) == "not found"
    for bad in (boxes[:1], [*boxes, boxes[0]], [{**boxes[0], "object": 3}, boxes[1]], [{"bbox_2d": None}], "x", [1]):
        assert cause(boxes_of, {"boxes": bad}, 2, "unit", (9, 9)) == "unparsable"


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [("add", 0, 1), ("remove", 2, 0), ("swap", 1, 1), ("attribute", 1, 0), ("environment", 0, 0), ("style", 0, 0)],
)
def test_a_task_has_its_objects(task, before, after):
    reply = {"task": task, "before": ["a"] * before, "after": ["b"] * after}
    assert parsed(reply, None).kind == parsed(reply, task).kind == task
    assert cause(parsed, reply, "add" if task != "add" else "swap") == "wrong task"
    wrong = {**reply, "before": [] if before else ["a"]}
    assert cause(parsed, wrong, None) == "wrong objects"
    assert cause(parsed, {**reply, "task": "paint"}, None) == "wrong task"


def test_the_words_of_data_sets_for_tasks():
    said = [
        "object_swap",
        "addition",
        "Removal",
        "attribute_modification",
        "env",
        "style",
        "recolor",
        "Background change",
    ]
    kinds = ["swap", "add", "remove", "attribute", "environment", "style", "attribute", "environment"]
    assert [known_kind({"task": word}) for word in said] == kinds
    assert known_kind({"task": "add or remove"}) is None


def test_a_phrase_is_short():
    assert phrase_of({"phrase": "a small dog."}) == "a small dog"
    assert cause(phrase_of, {"phrase": "dog " * 31}) == "illegal words"
    assert cause(phrase_of, {"phrase": "a dog [1]"}) == "illegal words"


# --------------------------------------------------------------------------------------------------------------- chains
def test_marks_become_boxes_in_the_order_of_the_text():
    boxes = [(1, 2, 3, 4), (5, 6, 7, 8)]
    chain = Chain.parse(chain_of({"chain": "Put a cup [2] on a table[1]. Done."}, boxes))
    assert [(r.text, r.box_1000, r.color) for r in chain.regions] == [
        ("a cup", (5, 6, 7, 8), "red"),
        ("a table", (1, 2, 3, 4), "green"),
    ]
    assert chain.text.endswith("(green). Done.")
    for bad in ("a cup [1]", "a cup [1] [2]", "a [1] b [2] c [2]", "a [1] b [3]", "[1] a [2]"):
        assert cause(chain_of, {"chain": bad}, boxes) == "wrong marks"
    assert chain_of({"chain": "Make it snow."}, []) == "Make it snow."


def test_a_description_with_the_most_boxes_is_a_clean_chain():
    text = "; ".join(f"a thing{n}" for n in range(len(MASK_COLORS)))
    places = [(match.end(), (n, n, n + 9, n + 9)) for n, match in enumerate(re.finditer(r"a thing\d+", text))]
    chain = Chain.parse(merged(text, places))
    assert (len(chain.regions), chain.warnings) == (26, ())
    assert len({region.color for region in chain.regions}) == 26
