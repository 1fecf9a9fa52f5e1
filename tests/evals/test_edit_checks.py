import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evals.core.records import Detection
from evals.metrics.boxes import to_pixels
from evals.metrics.edits import EditTruth, Thing, check_edit, ground_color, on_side
from got.iconworld.edits import KINDS, Edit, sample_edit
from got.iconworld.render import render
from got.iconworld.scenes import SceneObject, stable_rng
from got.iconworld.vocabulary import BACKGROUND_COLORS

SIDE = 64


def seen(objects: tuple[SceneObject, ...]) -> list[Detection]:
    return [
        Detection(name=o.name, color=o.color, score=0.9, box_xyxy_px=to_pixels(o.box_1000, SIDE, SIDE)) for o in objects
    ]


def truth_of(edit: Edit) -> EditTruth:
    return EditTruth.from_dict(edit.truth())


def edit_of(seed: int, kind: str) -> Edit:
    return sample_edit(stable_rng("checks", seed), kind)


@example(seed=65518855, kind="replace")  # a bottle and a carrot, which hardly overlap at first
@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS))
def test_the_target_passes_and_the_untouched_source_does_not(seed, kind):
    edit = edit_of(seed, kind)
    truth = truth_of(edit)
    assert EditTruth.from_dict(truth.as_dict()) == truth
    target = check_edit(truth, seen(edit.target.objects), edit.target.ground_color, SIDE, SIDE)
    assert target.done
    assert target.untouched
    source = check_edit(truth, seen(edit.source.objects), edit.source.ground_color, SIDE, SIDE)
    assert not source.done
    assert source.untouched


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS), fault=st.sampled_from(("lose", "paint", "shift")))
def test_whatever_happens_to_a_kept_object_counts_as_touched(seed, kind, fault):
    edit = edit_of(seed, kind)
    if not edit.kept:
        return
    found = seen(edit.target.objects)
    index = edit.target.objects.index(edit.kept[0])
    if fault == "lose":
        del found[index]
    elif fault == "paint":
        other = "red" if found[index].color != "red" else "blue"
        found[index] = dataclasses.replace(found[index], color=other)
    else:
        x1, y1, x2, y2 = found[index].box_xyxy_px
        found[index] = dataclasses.replace(found[index], box_xyxy_px=(x1 + 40, y1 + 40, x2 + 40, y2 + 40))
    assert not check_edit(truth_of(edit), found, edit.target.ground_color, SIDE, SIDE).untouched


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(("add", "replace", "recolor", "move", "global")))
def test_without_what_was_to_come_an_edit_is_not_done(seed, kind):
    edit = edit_of(seed, kind)
    found = seen(edit.kept)
    assert not check_edit(truth_of(edit), found, edit.target.ground_color, SIDE, SIDE).done
    assert not check_edit(truth_of(edit), [], edit.target.ground_color, SIDE, SIDE).done


def test_a_tinted_ground_is_touched_unless_it_was_to_change():
    edit = edit_of(1, "remove")
    other = next(color for color in BACKGROUND_COLORS if color != edit.source.ground_color)
    assert not check_edit(truth_of(edit), seen(edit.target.objects), other, SIDE, SIDE).untouched


def test_an_addition_has_to_stand_where_it_was_asked_for():
    cat = Thing(name="cat", color="blue", box_1000=(600, 400, 900, 700))
    dog = Thing(name="dog", color="red", box_1000=(100, 400, 400, 700))
    truth = EditTruth(kind="add", kept=(cat,), erased=(), drawn=(dog,), wanted="left of 0")
    there = Detection(name="cat", color="blue", score=0.9, box_xyxy_px=to_pixels(cat.box_1000, SIDE, SIDE))
    left = Detection(name="dog", color="red", score=0.9, box_xyxy_px=to_pixels(dog.box_1000, SIDE, SIDE))
    above = dataclasses.replace(left, box_xyxy_px=(38.0, 0.0, 58.0, 20.0))
    assert check_edit(truth, [there, left], None, SIDE, SIDE).done
    checks = check_edit(truth, [there, above], None, SIDE, SIDE)
    assert checks.edit == {"dog is there": True, "it is red": True, "it is left of cat": False}


def test_equal_objects_are_told_apart_by_their_places():
    boxes = ((0, 0, 300, 300), (600, 600, 900, 900))
    twins = tuple(Thing(name="dog", color="red", box_1000=box) for box in boxes)
    truth = EditTruth(kind="remove", kept=twins[:1], erased=twins[1:], drawn=())
    both = [Detection(name="dog", color="red", score=0.9, box_xyxy_px=to_pixels(b, SIDE, SIDE)) for b in boxes]
    assert check_edit(truth, both[:1], None, SIDE, SIDE).done
    assert not check_edit(truth, both, None, SIDE, SIDE).done
    wrong_one = check_edit(truth, both[1:], None, SIDE, SIDE)
    assert (wrong_one.done, wrong_one.untouched) == (False, False)


def test_sides_and_kinds():
    assert on_side((40, 2, 60, 12), "top right", SIDE, SIDE)
    assert not on_side((26, 2, 40, 12), "right", SIDE, SIDE)
    truth = EditTruth(
        kind="explode", kept=(), erased=(), drawn=(Thing(name="dog", color="red", box_1000=(0, 0, 9, 9)),)
    )
    with pytest.raises(ValueError, match="known kind of edit"):
        check_edit(truth, [], None, SIDE, SIDE)


@given(seed=st.integers(0, 10**9))
def test_the_ground_of_a_render_is_read_back(seed):
    edit = edit_of(seed, "background")
    for scene in (edit.source, edit.target):
        boxes = [to_pixels(item.box_1000, SIDE, SIDE) for item in scene.objects]
        assert ground_color(render(scene).image, boxes) == scene.ground_color


def test_a_ground_that_is_covered_everywhere_still_has_an_answer():
    assert ground_color(np.full((8, 8, 3), 170, np.uint8), [(0, 0, 8, 8)]) is None
