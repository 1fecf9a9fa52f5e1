"""Instructions of two steps: how they are made, what counts as right, and how the embedded model takes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import icon_edits, measured, multi_turn
from evals.metrics.edits import EditTruth, Thing, check_edit
from evals.records import Detection
from got import checkpoint
from got.iconworld import sample_steps, stable_rng
from got.iconworld.multi_turn import JOINT

DOG = Thing(name="dog", color="red", box_1000=(0, 0, 400, 400))
CAT = Thing(name="cat", color="blue", box_1000=(500, 500, 1000, 1000))
CUP = Thing(name="cup", color="green", box_1000=(500, 500, 1000, 1000))
TRUTH = EditTruth(kind="steps", kept=(DOG,), erased=(CAT,), drawn=(CUP,), wanted="pink")


def seen(thing, **changes):
    box = tuple(value / 10 for value in thing.box_1000)
    return Detection(**{"name": thing.name, "color": thing.color, "score": 0.9, "box_xyxy_px": box} | changes)


@pytest.mark.parametrize(
    ("found", "ground", "wrong"),
    [
        ((seen(DOG), seen(CUP)), "pink", []),
        ((seen(DOG),), "pink", ["green cup is there"]),
        ((seen(DOG), seen(CUP, color="blue")), "pink", ["green cup is there"]),
        ((seen(DOG), seen(CUP, box_xyxy_px=(0, 50, 40, 100))), "pink", ["green cup is there"]),
        ((seen(DOG), seen(CUP), seen(CAT)), "pink", ["blue cat is gone"]),
        ((seen(DOG), seen(CUP)), None, ["ground is pink"]),
        ((seen(DOG, color="white"), seen(CUP)), "pink", ["dog stays"]),
        ((seen(CUP),), "pink", ["dog stays"]),
    ],
)
def test_all_steps_must_have_been_taken_and_the_rest_be_untouched(found, ground, wrong):
    checks = check_edit(TRUTH, found, ground, 100, 100)
    assert [name for name, holds in (checks.edit | checks.rest).items() if not holds] == wrong


def test_a_ground_that_no_step_changes_stays():
    truth = EditTruth(kind="steps", kept=(), erased=(CAT,), drawn=(CUP,))
    assert check_edit(truth, [seen(CUP)], None, 100, 100).untouched
    assert not check_edit(truth, [seen(CUP)], "pink", 100, 100).untouched


def test_another_colour_is_the_old_one_gone_and_the_new_one_there():
    blue, green = CAT, Thing(name="cat", color="green", box_1000=CAT.box_1000)
    truth = EditTruth(kind="steps", kept=(), erased=(blue,), drawn=(green,))
    assert check_edit(truth, [seen(green)], None, 100, 100).done
    as_before = check_edit(truth, [seen(blue)], None, 100, 100)
    assert as_before.edit == {"green cat is there": False, "blue cat is gone": False}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_two_edits_make_one_whose_truth_is_what_differs(seed):
    edit = sample_steps(stable_rng("two", seed))
    assert edit.instruction.count(JOINT) == 1
    assert edit.erased or edit.drawn or edit.wanted
    assert {item.color for item in edit.drawn} <= set(edit.instruction.split())
    assert edit.wanted in ("", edit.target.ground_color)
    assert set(edit.kept) == set(edit.source.objects) & set(edit.target.objects)
    assert EditTruth.from_dict(edit.truth()).kind == "steps"


def test_floor_and_ceiling():
    from evals.detectors import make_detector
    from evals.embedders import make_embedder

    cases = icon_edits.multi_turn_set(24, 4).cases
    targets = [case.target.load() for case in cases]
    found = measured.measure(cases, targets, ["a chain"] * 24, make_detector("icon"), make_embedder("icon"))
    lines = [{"measured": m, "truth": c.extra["truth"], "group": c.id} for m, c in zip(found, cases, strict=True)]
    summed = measured.summarize(lines, np.random.default_rng(0))
    assert summed["plans_right"] is None, "the last of several plans says nothing of the others"
    assert summed["shares"]["both"]["target"] >= 0.9
    assert summed["shares"]["edit done"]["identity"] == 0
    assert summed["shares"]["rest untouched"]["identity"] == 1


@pytest.mark.slow
def test_the_embedded_model_takes_each_step_in_a_picture_of_its_own():
    pipe = checkpoint.load("mini")
    pipe.set_progress_bar_config(disable=True)
    edits = icon_edits.multi_turn_set(8, multi_turn.MOST_TURNS).cases
    options = {"num_inference_steps": 2, "max_turns": multi_turn.MOST_TURNS}
    sources = [edit.source.load() for edit in edits]
    together = pipe([edit.instruction for edit in edits], sources, **options)
    assert [len(turns) for turns in together.turns].count(2) >= 7
    alone = pipe([edit.instruction.split(JOINT)[0] for edit in edits], sources, **options)
    assert [len(turns) for turns in alone.turns].count(1) >= 7
