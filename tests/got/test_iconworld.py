import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.core.vocabulary import COLORS as GENEVAL_COLORS
from got.iconworld import (
    BACKGROUNDS,
    CLASSES,
    COLORS,
    DRAWINGS,
    HELD_OUT_BACKGROUNDS,
    Scene,
    SceneObject,
    bank,
    caption,
    chain_text,
    parse_phrase,
    render,
    sample_scene,
    scene_from_chain,
    scene_from_include,
    vocabulary,
)
from got.iconworld.bank import make_bank
from got.iconworld.placing import relation
from got.iconworld.reader import read_objects
from got.iconworld.scenes import MAX_OBJECTS
from got.plan.chain import Chain

seeds = st.integers(0, 2**40)


def scene_of(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed))


def test_every_class_has_a_drawing_and_the_colours_are_genevals():
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert set(DRAWINGS) == set(CLASSES)
    assert tuple(GENEVAL_COLORS) == COLORS


@given(seeds)
def test_a_scene_is_well_formed(seed):
    scene = scene_of(seed)
    assert 1 <= len(scene.objects) <= MAX_OBJECTS
    for item in scene.objects:
        x1, y1, x2, y2 = item.box_1000
        assert 0 <= x1 < x2 <= 999
        assert 0 <= y1 < y2 <= 999
        assert item.name in CLASSES
        assert item.color in COLORS


@given(seeds)
def test_boxes_do_not_overlap(seed):
    boxes = [item.box_1000 for item in scene_of(seed).objects]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


@given(seeds, st.sampled_from([32, 64, 128, 200]))
def test_masks_lie_in_their_boxes_and_fill_them(seed, size_px):
    scene = scene_of(seed)
    rendered = render(scene, size_px)
    assert rendered.image.shape == (size_px, size_px, 3)
    assert rendered.masks.shape == (len(scene.objects), size_px, size_px)
    for mask, (x1, y1, x2, y2) in zip(rendered.masks, rendered.boxes_xyxy_px.astype(int), strict=True):
        assert mask.sum() == mask[y1:y2, x1:x2].sum() > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        # thin ends of a drawing may cover less than half of the outermost pixels
        slack = 2 + size_px // 20
        assert columns[0] - x1 <= slack
        assert x2 - 1 - columns[-1] <= slack
        assert rows[0] - y1 <= slack
        assert y2 - 1 - rows[-1] <= slack


def test_rendering_is_the_same_everywhere():
    scenes = [scene_of(seed) for seed in range(20)]
    digest = hashlib.sha256(b"".join(render(scene, 64).image.tobytes() for scene in scenes)).hexdigest()
    again = hashlib.sha256(b"".join(render(scene, 64).image.tobytes() for scene in scenes)).hexdigest()
    assert digest == again
    # What is drawn where does not depend on fonts: this holds on any machine with this numpy stream.
    words = "\n".join(chain_text(scene) for scene in scenes)
    assert hashlib.sha256(words.encode()).hexdigest() == WORDS_OF_20_SCENES


WORDS_OF_20_SCENES = "72e5d11cd5a34507e7f5248fd0266c6cc9b48b9c528bd01a046b9cf0b9c589d9"


@given(seeds)
def test_the_chain_says_what_the_scene_holds(seed):
    scene = scene_of(seed)
    chain = Chain.parse(chain_text(scene))
    assert not chain.warnings
    read = [(*parse_phrase(region.text), region.box_1000) for region in chain.regions]
    assert read == [(item.name, item.color, item.box_1000) for item in scene.objects]


@given(seeds)
def test_captions_and_chains_stay_in_the_vocabulary(seed):
    scene, words = scene_of(seed), set(vocabulary())
    text = caption(scene, np.random.default_rng(seed)) + " " + chain_text(scene)
    for mark in ("<|box_start|>", "<|box_end|>"):
        text = text.replace(mark, " ")
    assert set("".join(c if c.isalpha() else " " for c in text).split()) <= words


@given(seeds)
def test_a_caption_tells_the_truth(seed):
    scene = scene_of(seed)
    text = caption(scene, np.random.default_rng(seed))
    for name in ("left of", "right of", "above", "below"):
        if f" {name} " in text:
            assert relation(scene.objects[0].box_1000, scene.objects[1].box_1000) == name
    counts = {name: sum(item.name == name for item in scene.objects) for name in {i.name for i in scene.objects}}
    for name, count in counts.items():
        number = ("", "", "two", "three", "four", "five", "six")[count]
        assert name in text
        assert number in text


@given(seeds, st.sampled_from(["left of", "right of", "above", "below"]))
def test_the_oracle_draws_the_relation_that_was_asked(seed, asked):
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": [asked, 0]}]
    a, b = scene_from_include(include, seed).objects
    assert (a.name, b.name) == ("cat", "dog")
    assert relation(a.box_1000, b.box_1000) == asked


def test_the_oracle_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at most 9"):
        scene_from_include([{"class": "dog", "count": 10}], 0)


def test_a_plan_is_drawn_box_by_box():
    text = (
        "there is a red dog <|box_start|>(100,200),(500,800)<|box_end|> (red)"
        " and a zorp <|box_start|>(0,0),(9,9)<|box_end|> (green)"
    )
    scene = scene_from_chain(text, 3)
    assert [(i.name, i.color, i.box_1000) for i in scene.objects] == [("dog", "red", (100, 200, 500, 800))]


@pytest.mark.parametrize("background", [*BACKGROUNDS, *HELD_OUT_BACKGROUNDS])
def test_all_ten_colours_stand_out_on_every_ground(background):
    scene = Scene(objects=(), background=background, seed=5)
    ground = render(scene, 64).image.reshape(-1, 3).astype(float)
    for color in COLORS:
        item = SceneObject(name="suitcase", color=color, box_1000=(250, 100, 750, 900))
        drawn = render(Scene(objects=(item,), background=background, seed=5), 64)
        inside = drawn.image[drawn.masks[0]].astype(float).mean(0)
        assert np.linalg.norm(inside - ground.mean(0)) > 30


def test_a_foreign_background_is_refused():
    with pytest.raises(ValueError, match="known background but got 'sand'"):
        render(Scene(objects=(), background="sand", seed=0), 64)


def test_real_renders_can_be_read_back():
    scenes = [scene_of(seed) for seed in range(100)]
    read = read_objects(np.stack([render(scene, 64).image for scene in scenes]), scenes)
    assert read["class"] > 0.9
    assert read["color"] > 0.8


def test_a_bank_does_not_depend_on_its_size_and_comes_back_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "_CHUNK", 8)
    large, small = make_bank(12, 3, 32, tmp_path / "bank.npz"), make_bank(8, 3, 32)
    assert large.scenes[:8] == small.scenes
    assert (large.images[:8] == small.images).all()
    written = (tmp_path / "bank.npz").stat().st_mtime_ns
    again = make_bank(12, 3, 32, tmp_path / "bank.npz")
    assert again.scenes == large.scenes
    assert (again.images == large.images).all()
    assert (tmp_path / "bank.npz").stat().st_mtime_ns == written
    other = make_bank(8, 4, 32, tmp_path / "bank.npz")
    assert (other.images[:2] == [render(scene, 32).image for scene in other.scenes[:2]]).all(), "not those of seed 3"
