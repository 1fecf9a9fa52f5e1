"""Quality control of annotation: wrong boxes, prompts that the chain does not keep, images that were there before."""

import asyncio
import dataclasses
import io
import json

import pytest
import torch
from annotate_kit import FAST, Truth, annotate, drawn, lines, names_in, png, scenes, stage_of, stored
from judge_kit import says, serve
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTokenizer,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from got.data import storage
from got.data.annotate.quality import Detector, Duplicates, noun_of, signature
from got.iconworld import SceneObject
from got.vlm.clients import SetupError


def shifted(truth, stage, by):
    """The truth, but for boxes of one stage that are too far right and down."""

    def answer(request):
        reply = truth.reply(request)
        if stage_of(request)[0] == stage:
            for box in reply["boxes"]:
                box["bbox_2d"] = box["bbox_2d"] and [min(value + by, 1) for value in box["bbox_2d"]]
        return says(json.dumps(reply))

    return answer


def one_scene(tmp_path, truth, seed=2, **given):
    scene = next(scene for scene in scenes(20, seed) if max(scene.objects[0].box_1000) < 700)
    truth.knows(scene)
    return scene, stored(tmp_path / "in", [drawn(scene, "s", **given)])


# ---------------------------------------------------------------------------------------------------------------- boxes
@pytest.mark.parametrize(("stage", "by", "kept"), [("ground", 0.3, 0), ("reground", 0.3, 0), ("ground", 0.0, 1)])
def test_a_second_look_finds_boxes_that_are_elsewhere(tmp_path, stage, by, kept):
    truth = Truth("unit")
    _, place = one_scene(tmp_path, truth)
    with serve(shifted(truth, stage, by)) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--check", "second-look")
        assert (counts["accepted"], counts["rejected"]) == (kept, {} if kept else {"boxes": 1})
        asked = len(endpoint.requests)
        annotate(place, tmp_path / "out", endpoint, *FAST, "--check", "second-look")
        assert len(endpoint.requests) == asked  # rejected is done
    if not kept:
        (line,) = lines(tmp_path / "out" / "rejected.jsonl")
        assert "is not where it is said to be (overlap 0." in line["reasons"][0]
        assert "<|box_start|>" in line["steps"][0]["chain"]
        assert line["prompt"]
        assert list(storage.read(tmp_path / "out")) == []


def test_an_object_that_the_image_does_not_show_gets_no_box(tmp_path):
    truth = Truth("unit")
    _, place = one_scene(tmp_path, truth)

    def dreaming(request):
        stage, reply = stage_of(request)[0], truth.reply(request)
        if stage == "describe":
            reply["description"] += " Beside it is a red dragon."
        if stage == "extract" and "dragon" in stage_of(request)[1]:
            reply["objects"].append("a red dragon")
        return says(json.dumps(reply))

    with serve(dreaming) as endpoint:
        counts = annotate(place, tmp_path / "strict", endpoint, *FAST)
        assert counts["rejected"] == {"located": 1}
        assert lines(tmp_path / "strict" / "rejected.jsonl")[0]["reasons"] == ["located: no box for 'a red dragon'"]
        annotate(place, tmp_path / "lenient", endpoint, *FAST, "--min-located", "0.4")
    (example,) = storage.read(tmp_path / "lenient")
    assert "a red dragon." in example.chains[0]


def test_the_chain_must_have_what_the_prompt_names(tmp_path):
    truth = Truth("unit")
    scene, place = one_scene(tmp_path, truth, prompt="a zebra")
    assert scene.objects[0].name != "zebra"

    def answer(request):
        stage, text = stage_of(request)
        zebra = stage == "extract" and '"a zebra"' in text
        return says('{"objects": ["a zebra"]}') if zebra else truth(request)

    with serve(answer) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert counts["rejected"] == {"consistency": 1}
    (line,) = lines(tmp_path / "out" / "rejected.jsonl")
    assert line["reasons"] == ["consistency: 'a zebra' is not in the chain"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("two dogs", "a brown dog"), ("the women", "a woman in red"), ("three knives", "a knife"),
     ("a cup of tea", "cups"), ("some berries", "one berry"), ("buses", "a bus"),
     ("a glass", "two glasses"), ("a herd of sheep", "one sheep"), ("boxes", "the box")],
)  # fmt: skip
def test_nouns_are_compared_in_either_number(one, other):
    assert noun_of(one) == noun_of(other)


# ------------------------------------------------------------------------------------------------------------- detector
def constant_detector(folder):
    """A real YOLOS that sees a dog in the middle of everything: its last layers say so whatever comes in."""
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=16, num_detection_tokens=2, id2label={0: "dog", 1: "wine glass"},
        label2id={"dog": 0, "wine glass": 1},
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        for head, bias in ((model.class_labels_classifier, [9.0, 0, 0]), (model.bbox_predictor, [0.0] * 4)):
            head.layers[-1].weight.zero_()
            head.layers[-1].bias.copy_(torch.tensor(bias))
    model.save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_detector_confirms_the_classes_it_knows_and_says_nothing_of_others(tmp_path):
    detector = Detector(str(constant_detector(tmp_path / "yolos")))
    image = Image.new("RGB", (200, 100))
    dogs, glasses, dragons = asyncio.run(detector.find("s", image, ["two brown dogs", "wine glasses", "a dragon"]))
    assert dogs[0] == pytest.approx((250, 250, 750, 750), abs=2)  # sigmoid(0) of centre and size
    assert (glasses, dragons) == ([], None)


def open_detector(folder):
    """A real OWL-ViT with random weights: any words, four places."""
    letters = [*pre_tokenizers.ByteLevel.alphabet()]
    words = [*sorted(letters), *(f"{letter}</w>" for letter in sorted(letters)), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=16)
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**text, **small}, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=16
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)
    images = OwlViTImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    OwlViTProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_detector_of_any_words_is_asked_for_every_name(tmp_path):
    detector = Detector(str(open_detector(tmp_path / "owl")), threshold=0.0)
    found = asyncio.run(detector.find("s", Image.new("RGB", (200, 100)), ["a green dragon", "a cup"]))
    assert [len(boxes) for boxes in found] == [4, 4]


def test_a_detector_rejects_what_is_not_there(tmp_path):
    constant_detector(tmp_path / "yolos")
    truth = Truth("unit")
    (scene,) = scenes(1)
    middle, aside = (
        dataclasses.replace(scene, objects=(SceneObject(name="dog", color="red", box_1000=box),))
        for box in ((240, 240, 760, 760), (10, 10, 300, 300))
    )
    truth.knows(middle, aside)
    place = stored(tmp_path / "in", [drawn(middle, "middle"), drawn(aside, "aside")])
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--check", str(tmp_path / "yolos"))
    assert (counts["accepted"], counts["rejected"]) == (1, {"boxes": 1})
    assert [example.id for example in storage.read(tmp_path / "out")] == ["middle"]


def test_no_detector_is_one_line(tmp_path):
    with pytest.raises(SetupError, match="no detector can be loaded"):
        Detector(str(tmp_path))


# ----------------------------------------------------------------------------------------------------------- duplicates
def again(data, size=None, quality=90):
    """The same image as somebody else saved it."""
    image = Image.open(io.BytesIO(data))
    buffer = io.BytesIO()
    image.resize(size or image.size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def signed(data):
    return signature(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_image_is_known_again_and_no_other_is_taken_for_it():
    different, seen = scenes(60, seed=9), Duplicates()
    for number, scene in enumerate(different):
        assert seen.first_of(f"s{number}", "", [signed(png(scene))]) is None
    known = [
        seen.first_of("new", "", [signed(again(png(scene), size))])
        for scene in different
        for size in (None, (150, 150))
    ]
    assert sum(first == f"s{number // 2}" for number, first in enumerate(known)) >= 110  # of 120
    assert {first for number, first in enumerate(known)} - {f"s{number}" for number in range(60)} <= {None}


def test_another_color_or_another_prompt_is_no_duplicate():
    (scene,) = scenes(1, seed=4)
    first, *rest = scene.objects
    other = dataclasses.replace(scene, objects=(dataclasses.replace(first, color="blue"), *rest))
    red = dataclasses.replace(scene, objects=(dataclasses.replace(first, color="red"), *rest))
    seen = Duplicates()
    assert seen.first_of("a", "A  dog", [signed(png(red))]) is None
    assert seen.first_of("b", "a dog", [signed(png(other))]) is None
    assert seen.first_of("c", "a cat", [signed(png(red))]) is None
    assert seen.first_of("d", "a dog", [signed(png(red))]) == "a"


def test_a_duplicate_is_rejected_unasked_also_after_a_restart(tmp_path):
    truth = Truth("unit")
    (scene,) = scenes(1)
    truth.knows(scene)
    copy = dataclasses.replace(drawn(scene, "b"), steps=(dataclasses.replace(drawn(scene, "b").steps[0]),))
    place = stored(tmp_path / "in", [drawn(scene, "a"), copy])
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
        assert (counts["accepted"], counts["rejected"]) == (1, {"duplicate": 1})
        with storage.Writer(place) as writer:
            writer.add(drawn(scene, "c"))
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
        assert (counts["accepted"], counts["rejected"]) == (1, {"duplicate": 2})
        assert len(endpoint.requests) == 4
    assert [line["reasons"] for line in lines(tmp_path / "out" / "rejected.jsonl")] == [["duplicate: of a"]] * 2
    assert names_in(scene)[0] in next(iter(storage.read(tmp_path / "out"))).prompt
