import dataclasses
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from got.iconworld.bank import make_edit_bank
from got.iconworld.edits import KINDS, chained, sample_edit, side_of
from got.iconworld.plans import is_right, read_operation
from got.iconworld.referring import CATEGORIES, sample_reasoning_edit, told_apart
from got.iconworld.render import render
from got.iconworld.scenes import stable_rng
from got.iconworld.vocabulary import BACKGROUND_COLORS, COLORS, DESCRIPTIONS, PLACES, vocabulary
from got.model.tokenizer import UNKNOWN, build_tokenizer
from got.plan.chain import Chain, iou


def edit_of(seed: int, kind: str | None = None):
    return sample_edit(stable_rng("edit", seed), kind)


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS))
def test_an_edit_changes_what_it_says_and_keeps_the_rest(seed, kind):
    edit = edit_of(seed, kind)
    assert edit == edit_of(seed, kind)
    assert set(edit.kept) | set(edit.drawn) == set(edit.target.objects)
    assert set(edit.kept) | set(edit.erased) == set(edit.source.objects)
    counts = (len(edit.erased), len(edit.drawn))
    assert counts in {
        "add": {(0, 1)}, "remove": {(1, 0)}, "replace": {(1, 1)}, "recolor": {(1, 1)}, "move": {(1, 1)},
        "background": {(0, 0)}, "count": {(n, 0) for n in (1, 2, 3)} | {(0, n) for n in (1, 2, 3)},
        "global": {(n, n) for n in (2, 3, 4)},
    }[kind]  # fmt: skip
    words = edit.instruction.split()
    if kind == "background":
        assert edit.target.ground_color == edit.wanted != edit.source.ground_color
        assert edit.wanted in words
        assert edit.wanted in BACKGROUND_COLORS
    else:
        assert edit.source.ground_color == edit.target.ground_color
    if kind == "move":
        (old,), (new,) = edit.erased, edit.drawn
        assert dataclasses.replace(old, box_1000=new.box_1000) == new
        assert all(a in (0, b) for a, b in zip(PLACES[edit.wanted], side_of(new.box_1000), strict=True))
        assert any(a not in (0, b) for a, b in zip(PLACES[edit.wanted], side_of(old.box_1000), strict=True))
    if kind == "recolor":
        assert edit.erased[0].box_1000 == edit.drawn[0].box_1000
        assert edit.drawn[0].color in words
        assert edit.drawn[0].color != edit.erased[0].color
    if kind == "global":
        assert {item.color for item in edit.target.objects} == {edit.wanted}
        assert [item.box_1000 for item in edit.target.objects] == [item.box_1000 for item in edit.source.objects]
        assert edit.wanted in words
        assert edit.kept == ()
    if kind == "count":
        name = (edit.drawn or edit.erased)[0].name
        assert str(sum(item.name == name for item in edit.target.objects)) == edit.wanted


@given(seed=st.integers(0, 10**9))
def test_objects_of_both_images_stay_apart_and_inside(seed):
    edit = edit_of(seed)
    for scene in (edit.source, edit.target):
        boxes = [item.box_1000 for item in scene.objects]
        assert all(0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 for x1, y1, x2, y2 in boxes)
        assert all(iou(a, b) < 0.06 for i, a in enumerate(boxes) for b in boxes[:i])


@given(seed=st.integers(0, 10**9), kind=st.sampled_from([kind for kind in KINDS if kind != "background"]))
def test_pixels_outside_the_changed_boxes_are_the_same(seed, kind):
    edit = edit_of(seed, kind)
    source, target = render(edit.source), render(edit.target)
    differs = (source.image != target.image).any(-1)
    assert differs.any()
    for item in (*edit.erased, *edit.drawn):
        x1, y1, x2, y2 = (round(value * 0.064) for value in item.box_1000)
        differs[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
    assert not differs.any()


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS))
def test_chains_parse_cleanly_in_known_words_and_plan_their_edit(seed, kind):
    edit = edit_of(seed, kind)
    chain = Chain.parse(edit.chain)
    assert chain.warnings == ()
    tokenizer = build_tokenizer(vocabulary(edits=True))
    for text in (edit.chain, edit.instruction):
        assert UNKNOWN not in tokenizer.decode(tokenizer(text)["input_ids"])
    operation = read_operation(edit.chain)
    assert operation is not None
    assert operation.erased == tuple(item.box_1000 for item in edit.erased)
    assert [box for _, _, box in operation.drawn] == [item.box_1000 for item in edit.drawn]
    assert is_right(edit.chain, edit)


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS))
def test_a_chain_of_another_edit_is_not_right(seed, kind):
    edit = edit_of(seed, kind)
    other_kind = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
    assert not is_right(edit_of(seed + 1, other_kind).chain, edit)
    assert not is_right("nonsense", edit)
    assert not is_right("", edit)


def test_a_wrong_place_color_or_object_is_not_right():
    recolor = edit_of(3, "recolor")
    color = recolor.drawn[0].color
    other = next(c for c in COLORS if c not in (color, recolor.erased[0].color))
    operation = recolor.chain.split(" . ")[1]
    assert not is_right(recolor.chain.replace(operation, operation.replace(f") {color}", f") {other}")), recolor)
    move = edit_of(5, "move")
    chain = Chain.parse(move.chain)
    assert not is_right(str(chain.edit(1, box_1000=chain.regions[0].box_1000)), move)
    assert not is_right(str(chain.edit(0, box_1000=chain.regions[1].box_1000)), move)


def test_a_second_edit_starts_where_the_first_ended():
    rng = stable_rng("chained")
    for _ in range(20):
        first = sample_edit(rng, "add")
        second = chained(first, rng)
        assert second is not None
        assert second.source == first.target


def test_a_kind_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="Expected one of add, remove"):
        edit_of(0, "explode")


def test_a_bank_of_edits_is_kept_on_disk_and_grows_at_its_end(tmp_path):
    path = tmp_path / "bank.npz"
    bank = make_edit_bank(6, 1, 128, path)
    again, larger = make_edit_bank(6, 1, 128, path), make_edit_bank(9, 1, 128)
    assert bank.edits == again.edits == larger.edits[:6]
    assert np.array_equal(bank.targets, again.targets)
    assert np.array_equal(bank.sources, larger.sources[:6])
    for i, edit in enumerate(bank.edits):
        assert np.array_equal(bank.sources[i], render(edit.source, 128).image)
        differs = (bank.sources[i] != bank.targets[i]).any(-1)
        outside = (differs & ~bank.changed[i]).sum() / differs.sum()
        assert edit.kind == "background" or outside < 0.25, edit.kind  # edges of thin things blend in


def test_a_bank_of_edits_shows_mirrors_and_grounds_that_change_from_one_tint_to_another():
    edits = make_edit_bank(200, 1, 16).edits
    assert 3 <= sum(edit.source.mirror_1000 is not None for edit in edits) <= 25
    grounds = [edit for edit in edits if edit.kind == "background"]
    assert sum(edit.source.ground_color is not None for edit in grounds) >= 8
    assert {edit.kind for edit in edits} == set(KINDS) - {"global"}


def test_questions_name_objects_plainly_or_in_a_way_that_fits_no_other():
    asked = []
    for seed in range(300):
        rng = stable_rng("questions", seed)
        scene = sample_edit(rng, twins=True).source
        for words, item in told_apart(scene, rng):
            asked.append(words)
            twins = [other for other in scene.objects if other.name == item.name]
            if " left" in words:
                assert len(twins) > 1
                assert item.box_1000[0] + item.box_1000[2] == min(o.box_1000[0] + o.box_1000[2] for o in twins)
            elif words == f"the {item.name}" or words in DESCRIPTIONS[item.name]:
                assert len(twins) == 1
            elif words == f"the {item.color} {item.name}":
                assert [o.color for o in twins].count(item.color) == 1
            elif words in {f"the {item.color} object", f"the {item.color} thing"}:
                assert [o.color for o in scene.objects].count(item.color) == 1
    for part in (" left", " right", "the bigger", "the smaller", " thing"):
        assert any(part in words for words in asked), part
    assert any(words in ways for words in asked for ways in DESCRIPTIONS.values())


@example(seed=2095, category="reasoning")  # a car becomes a carrot
@given(seed=st.integers(0, 10**9), category=st.sampled_from(CATEGORIES))
def test_edits_that_take_thought_have_one_answer(seed, category):
    edit = sample_reasoning_edit(stable_rng("reasoning", seed), category)
    assert is_right(edit.chain, edit)
    tokenizer = build_tokenizer(vocabulary(edits=True))
    assert UNKNOWN not in tokenizer.decode(tokenizer(edit.instruction)["input_ids"])
    old = edit.erased[0]
    words = edit.instruction
    twins = [item for item in edit.source.objects if item.name == old.name and item != old]
    if category == "reasoning":
        assert any(text in words for text in DESCRIPTIONS[old.name])
        rest = words.replace(next(text for text in DESCRIPTIONS[old.name] if text in words), "")
        for new in edit.drawn:  # "orange" is a class and a colour, "hot dog" has another class in it
            rest = re.sub(rf"\b({new.color}|{new.name})\b", "", rest)
        assert not re.search(rf"\b{old.name}\b", rest)
        assert not twins
    if category == "left-right":
        sign = -1 if "left" in words else 1
        centres = [sign * (item.box_1000[0] + item.box_1000[2]) for item in (old, *twins)]
        assert len(twins) > 0
        assert centres[0] == max(centres)
    if category == "size":
        assert len(twins) > 0
        area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (item.box_1000 for item in (old, *twins))]
        assert area[0] == (min(area) if "smaller" in words else max(area))
    if category == "color":
        assert [item.color for item in edit.source.objects].count(old.color) == 1
        assert f"the {old.color} " in words
    if category == "mirror":
        assert old.reflected
        assert f"the {old.name} in the mirror" in words
        (thing,) = twins
        assert (thing.color, thing.variant, thing.reflected) == (old.color, old.variant, False)
        assert thing in edit.kept
        assert edit.source.mirror_1000 == edit.target.mirror_1000
    if category == "multiple":
        assert len(edit.erased) == 2
        assert all(item.name in words for item in edit.erased)


def test_every_class_is_described_twice_and_no_description_serves_two_classes():
    texts = [text for pair in DESCRIPTIONS.values() for text in pair]
    assert len(texts) == len(set(texts)) == 160
    for name, pair in DESCRIPTIONS.items():
        assert all(f" {name} " not in f" {text} " for text in pair), name


def test_a_category_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="Expected one of left-right, size"):
        sample_reasoning_edit(stable_rng("x"), "telepathy")


@given(seed=st.integers(0, 10**9))
def test_a_mirror_hangs_behind_its_reflection_and_stays(seed):
    edit = sample_reasoning_edit(stable_rng("mirror", seed), "mirror")
    x1, y1, x2, y2 = edit.source.mirror_1000
    for item in (*edit.source.objects, *edit.target.objects):
        a1, b1, a2, b2 = item.box_1000
        inside = x1 <= a1 and y1 <= b1 and a2 <= x2 and b2 <= y2
        assert inside == item.reflected
    source, target = render(edit.source, 128), render(edit.target, 128)
    differs = (source.image != target.image).any(-1)
    assert differs.any()
    top, bottom, left, right = (round(value * 0.128) for value in (y1, y2, x1, x2))
    differs[top:bottom, left:right] = False
    assert not differs.any()


def test_everything_has_to_be_painted_and_in_the_wanted_color():
    edit = edit_of(11, "global")
    assert read_operation(edit.chain).drawn == tuple((o.name, edit.wanted, o.box_1000) for o in edit.drawn)
    other = next(color for color in COLORS if color not in {edit.wanted, *(o.color for o in edit.source.objects)})
    assert not is_right(edit.chain.replace(f") {edit.wanted} ", f") {other} "), edit)
    start = edit.chain.index("paint the ") + len("paint ")
    shorter = edit.chain[:start] + edit.chain[edit.chain.index("the ", start + 1) :]
    assert len(Chain.parse(shorter).regions) == len(edit.erased) - 1
    assert not is_right(shorter, edit)
