"""Metrics against naive loops and scipy, and by property."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.core.records import Detection
from evals.core.vocabulary import CLASSES, COLORS
from evals.metrics import boxes, layout, statistics
from got.plan.chain import Chain

coordinates = st.integers(0, 60)


@st.composite
def box_lists(draw, min_size=0):
    corners = st.tuples(coordinates, coordinates, st.integers(1, 40), st.integers(1, 40))
    return [(x, y, x + w, y + h) for x, y, w, h in draw(st.lists(corners, min_size=min_size, max_size=6))]


# -------------------------------------------------------------------------------------------------------------- boxes
def _pixels(box, inclusive):
    x1, y1, x2, y2 = box
    return set(itertools.product(range(x1, x2 + inclusive), range(y1, y2 + inclusive)))


@given(box_lists(), box_lists(), st.booleans())
def test_iou_counts_pixels(a, b, inclusive):
    expected = np.zeros((len(a), len(b)))
    for (i, box), (j, other) in itertools.product(enumerate(a), enumerate(b)):
        here, there = _pixels(box, inclusive), _pixels(other, inclusive)
        expected[i, j] = len(here & there) / len(here | there)
    np.testing.assert_allclose(boxes.iou_matrix(a, b, pixel_inclusive=inclusive), expected)


_SIDE_PX = st.floats(-1e4, 1e4)


@given(*[st.tuples(_SIDE_PX, _SIDE_PX, _SIDE_PX, _SIDE_PX)] * 2)
def test_the_iou_of_two_boxes_is_that_of_the_matrix_to_the_last_digit(box, other):
    assert boxes.iou(box, other) == boxes.iou_matrix([box], [other])[0, 0]


@given(box_lists(), st.sampled_from((0.2, 0.5, 0.9)))
def test_suppression_keeps_the_best_and_only_drops_what_overlaps(found, max_overlap):
    kept = boxes.suppress(found, max_overlap)
    overlap = boxes.iou_matrix(found, found, pixel_inclusive=True)
    assert all(overlap[i, j] < max_overlap for i, j in itertools.combinations(kept, 2))
    dropped = set(range(len(found))) - set(kept)
    assert all(any(k < i and overlap[i, k] >= max_overlap for k in kept) for i in dropped)
    assert kept[:1] == list(range(len(found)))[:1]


@given(box_lists(min_size=2), st.sampled_from((0.0, 0.1, 0.3)))
def test_relations_are_opposite_seen_from_the_other_box(pair, threshold):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    here, there = boxes.relations(pair[0], pair[1], threshold), boxes.relations(pair[1], pair[0], threshold)
    assert {opposite[name] for name in here} == set(there)


# ------------------------------------------------------------------------------------------------------------- layout
def _chain(phrase, box=(10, 20, 500, 600)):
    return f"a photo of {phrase} <|box_start|>({box[0]},{box[1]}),({box[2]},{box[3]})<|box_end|> (red)"


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_read_with_and_without_a_colour(name):
    article = "an" if name[0] in "aeiou" else "a"
    assert layout.parse_phrase(f"a dog to the left of {article} {name}") == (name, None)
    for color in COLORS:
        assert layout.parse_phrase(f"{article} {color} {name}") == (name, color)
        assert layout.parse_phrase(f"{article} {color} {name},") == (name, color)


def test_words_inside_other_words_are_no_names():
    assert layout.parse_phrase("a scar") == (None, None)
    assert layout.parse_phrase("a colored dog") == ("dog", None)
    assert layout.parse_phrase("a teddy bear") == ("teddy bear", None)
    assert layout.parse_phrase("a dog on grass") == (None, None)
    assert layout.parse_phrase("A Red Dog.") == ("dog", "red")


@given(st.text(alphabet="ab <|>(),0159red_boxstnd", max_size=80) | st.text(max_size=40), st.integers(0, 5))
def test_any_text_around_boxes_is_survived(noise, count):
    text = noise.join([_chain("a red dog")] * count)
    assert len(layout.parse_plan(text)) >= count
    layout.parse_plan(noise)


@given(
    st.lists(st.tuples(*[st.integers(0, 1100)] * 4), max_size=4),
    st.sampled_from(["", "<|box_start|>(1,", " then ", "<|box_end|>", "(9" * 30]),
)
def test_boxes_are_those_of_the_models_own_parser(corners, noise):
    text = noise.join(_chain("a dog", box) for box in corners)
    expected = []
    for region in Chain.parse(text).regions:
        x1, y1, x2, y2 = (min(value, 1000) for value in region.box_1000)
        if x1 < x2 and y1 < y2:
            expected.append((x1, y1, x2, y2))
    assert [item.box_1000 for item in layout.parse_plan(text)] == expected


def test_a_planned_object_survives_json():
    plan = layout.parse_plan(_chain("a red apple") + " and " + _chain("some gadget"))
    assert tuple(layout.PlannedObject.from_dict(item.as_dict()) for item in plan) == plan
    assert [d.name for d in layout.as_detections(plan, 64, 64)] == ["apple"]


def _objects(found):
    return [Detection(name="dog", score=0.9, box_xyxy_px=tuple(map(float, box))) for box in found]


@given(box_lists(min_size=1), box_lists())
def test_matching_is_the_best_of_all_assignments(planned, detected):
    fit = layout.fit(_objects(planned), _objects(detected), 100, 100)
    overlap = boxes.iou_matrix(planned, detected)
    size = min(len(planned), len(detected))
    best = max(
        sum(overlap[row, column] for row, column in zip(rows, columns, strict=True))
        for rows in itertools.combinations(range(len(planned)), size)
        for columns in itertools.permutations(range(len(detected)), size)
    )
    assert math.isclose(sum(fit.ious), best, abs_tol=1e-3)
    assert len(fit.ious) == len(planned)
    assert len(fit.offsets) == size


@given(box_lists(min_size=1))
def test_a_drawing_true_to_its_plan_is_perfect(planned):
    fit = layout.fit(_objects(planned), _objects(reversed(planned)), 100, 100)
    np.testing.assert_allclose(fit.ious, 1.0)
    np.testing.assert_allclose(fit.offsets, 0.0)
    assert all(fit.hits)


def test_a_class_is_never_matched_to_another():
    cat = [Detection(name="cat", score=1.0, box_xyxy_px=(0.0, 0.0, 9.0, 9.0))]
    assert layout.fit(cat, _objects([(0, 0, 9, 9)]), 10, 10) == layout.LayoutFit(ious=(0.0,), offsets=())


# --------------------------------------------------------------------------------------------------------- statistics
def test_the_cluster_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(1)
    right, made = 4 * rng.random(60), np.full(60, 4)
    ours = statistics.ratio(right, made, np.random.default_rng(2), resamples=20_000)
    theirs = stats.bootstrap((right / made,), np.mean, n_resamples=20_000, method="percentile", rng=3)
    assert ours.value == pytest.approx(np.mean(right / made))
    np.testing.assert_allclose((ours.low, ours.high), theirs.confidence_interval, atol=0.006)


def test_nothing_scored_has_no_value():
    rng = np.random.default_rng(0)
    nothing = statistics.ratio([0, 0], [0, 0], rng)
    assert (nothing.value, nothing.low, nothing.n, nothing.clusters) == (None, None, 0, 0)
    assert statistics.share([0, 0], [0, 0]) == nothing
    assert statistics.share([0, 1, 0], [0, 1, 1], ["a", "b", "b"]).value == 0.5
    with pytest.raises(ValueError, match="at least one"):
        statistics.bounds(0, 0, 0)


def test_the_same_generator_gives_the_same_interval():
    first, second = (statistics.ratio([1, 2, 3], [4, 4, 4], np.random.default_rng(7)).as_dict() for _ in range(2))
    assert first == second


def test_the_permutation_test_agrees_with_scipy():
    rng = np.random.default_rng(5)
    a = rng.integers(0, 5, 40) / 4
    b = np.clip(a + rng.choice([-0.25, 0, 0.25, 0.25], 40), 0, 1)
    ours = statistics.paired_difference(a, b, np.random.default_rng(1), resamples=20_000)
    theirs = stats.permutation_test(
        (b, a), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=2
    )
    assert ours.value == pytest.approx(np.mean(b - a))
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize(("cases", "exact"), [(2, 0.5), (6, 2 / 2**6), (12, 2 / 2**12)])
@pytest.mark.parametrize("tasks", [1, 2])
def test_p_of_few_cases_is_exact(cases, exact, tasks):
    """As all cases are lost, only all signs as they are, or all turned, reach as far."""
    strata = [f"task {i % tasks}" for i in range(cases)]
    lost = statistics.paired_difference([1.0] * cases, [0.0] * cases, np.random.default_rng(0), strata=strata)
    assert lost.p_value == exact


def test_p_of_few_cases_agrees_with_scipy_in_tasks_of_several_sizes():
    change, strata = np.array([0.5, -0.25, 1.0, 0.25, 0.75, -0.5, 0.0]), np.array(list("aabbbbb"))
    ours = statistics.paired_difference(np.zeros(7) + 0.5, 0.5 + change / 2, np.random.default_rng(0), strata=strata)
    weights = np.where(strata == "a", 1 / 2, 1 / 5) / 2
    theirs = stats.permutation_test(
        (change * weights, np.zeros(7)), lambda x, y: np.sum(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert ours.p_value == pytest.approx(theirs.pvalue)


def test_edits_of_one_source_count_as_one_case_in_an_exact_p():
    a, b = [1.0] * 9, [0.0] * 9
    lost = statistics.paired_difference(a, b, np.random.default_rng(0), clusters=["x", "y", "z"] * 3)
    assert lost.p_value == 2 / 2**3


def test_strata_weigh_the_same_whatever_their_size():
    a, b = np.zeros(110), np.array([1.0] * 10 + [0.0] * 100)
    tasks = ["small"] * 10 + ["large"] * 100
    compared = statistics.paired_difference(a, b, np.random.default_rng(0), strata=tasks)
    assert compared.value == pytest.approx(0.5)
    assert compared.distinguishable


@given(st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0)), min_size=1, max_size=30))
def test_a_run_is_not_distinguishable_from_itself(scores):
    same = statistics.paired_difference(scores, scores, np.random.default_rng(0), resamples=200)
    assert (same.value, same.p_value, same.distinguishable) == (0.0, 1.0, False)


def test_unpaired_input_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="paired"):
        statistics.paired_difference([], [], rng)
    with pytest.raises(ValueError, match="stratum"):
        statistics.paired_difference([1.0, 0.0], [1.0, 0.0], rng, strata=["one"])
