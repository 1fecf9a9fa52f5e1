"""Instructions of two steps: how they are made, what counts as right, and how the embedded model takes them."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import multi_turn
from evals.core.records import Detection, Sample, UserError
from evals.editing import icon_cases
from evals.editing.suite import as_case
from evals.generators.got import GoTGenerator
from evals.judges import detection_scores
from evals.metrics.edits import EditTruth, Thing, check_edit
from got import checkpoint
from got.iconworld import sample_steps, stable_rng
from got.iconworld.edits import JOINT

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


def test_what_goes_is_not_gone_in_another_colour():
    truth = EditTruth(kind="steps", kept=(DOG,), erased=(CAT,), drawn=())
    assert check_edit(truth, [seen(DOG)], None, 100, 100).done
    assert not check_edit(truth, [seen(DOG), seen(CAT, color="white")], None, 100, 100).done


def test_a_given_plan_is_one_step_and_refused():
    case = icon_cases.multi_turn_set(1, 4).cases[0]
    sample = Sample(case=as_case(case), index=0, seed=0)
    with pytest.raises(UserError, match="--chain oracle has no plan for every step"):
        GoTGenerator(None, SimpleNamespace(chain="oracle", scheduler=None, prompts=()), object()).generate([sample])


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


@given(st.integers(0, 10**6))
def test_two_edits_make_one_whose_truth_is_what_differs(seed):
    edit = sample_steps(stable_rng("two", seed))
    steps = edit.instruction.split(JOINT)
    assert len(steps) == 2
    assert (edit.target.ground_color == edit.wanted) if edit.wanted else "background" not in edit.instruction
    whole = len(edit.erased) + len(edit.drawn) + bool(edit.wanted)
    assert whole >= 2, "each step leaves its mark"
    truth, size = EditTruth.from_dict(edit.truth()), (100, 100)
    before, after = ([seen(thing) for thing in (*truth.kept, *things)] for things in (truth.erased, truth.drawn))
    assert check_edit(truth, after, edit.target.ground_color, *size).done
    assert not check_edit(truth, before, truth.ground_color, *size).done


def test_floor_and_ceiling():
    from evals.detectors.registry import make_detector
    from evals.embedders.registry import make_embedder

    cases = icon_cases.multi_turn_set(24, 4).cases
    targets = [case.target.load() for case in cases]
    found = detection_scores.measure(cases, targets, ["a chain"] * 24, make_detector("icon"), make_embedder("icon"))
    scores = [
        detection_scores.score(detection_scores.truth_of(case), seen) for seen, case in zip(found, cases, strict=True)
    ]
    summed = detection_scores.summarize(scores, [case.id for case in cases])
    assert summed["plans_right"] is None, "the last of several plans says nothing of the others"
    assert summed["shares"]["both"]["target"] >= 0.9
    assert summed["shares"]["edit done"]["identity"] == 0
    assert summed["shares"]["rest untouched"]["identity"] == 1


@pytest.mark.slow
def test_the_embedded_model_takes_each_step_in_a_image_of_its_own():
    pipe = checkpoint.load("mini")
    pipe.set_progress_bar_config(disable=True)
    edits = icon_cases.multi_turn_set(8, multi_turn.MOST_TURNS).cases
    options = {"num_inference_steps": 2, "max_turns": multi_turn.MOST_TURNS}
    sources = [edit.source.load() for edit in edits]
    together = pipe([edit.instruction for edit in edits], sources, **options)
    assert [len(turns) for turns in together.turns].count(2) >= 7
    odd = pipe(f"gently {edits[0].instruction}", sources[0], **options)
    assert len(odd.turns[0]) > 1
    assert any("gently" in warning for warning in odd.warnings[0]), "also what was said before the last image"
    alone = pipe([edit.instruction.split(JOINT)[0] for edit in edits], sources, **options)
    assert [len(turns) for turns in alone.turns].count(1) >= 7
