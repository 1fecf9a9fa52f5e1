"""Intervals of shares and of their differences: how often they hold the truth, and what they do at the edges."""

import interval_kit
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.metrics import statistics

RUNS = 400
SLACK = 0.022
"""Two standard errors of a share of 95 % among so many runs."""
TABLE = [(553, 0.64, "paper"), (553, 0.984, "mini"), (553, 0.995, "equal"), (60, 0.64, "equal"), (60, 0.95, "equal"),
         (60, 0.95, "mini"), (60, 0.984, "mini"), (60, 0.995, "mini")]  # fmt: skip


@pytest.mark.parametrize(("prompts", "overall", "kind"), TABLE)
def test_the_interval_of_a_score_holds_the_truth_as_often_as_it_says(prompts, overall, kind):
    found, _ = interval_kit.of_shares(prompts, interval_kit.profile(overall, kind), RUNS, tasks=False)
    # At 0.984 and above with 60 prompts a run that is all right always holds it: only its other end can miss.
    assert 0.93 - SLACK <= found.holds <= 0.975 + SLACK
    assert found.above <= 0.025 + SLACK
    assert found.below <= 0.025 + SLACK


def test_the_intervals_of_tasks_hold_the_truth_as_often_as_they_say():
    _, tasks = interval_kit.of_shares(553, interval_kit.PAPER, RUNS)
    assert all(0.93 - SLACK <= task.holds <= 0.97 + SLACK for task in tasks)


@pytest.mark.parametrize(
    ("prompts", "likeness", "before", "after"),
    [(553, 0.5, 0.64, 0.66), (553, 0.5, 0.984, 0.984), (553, 0.9, 0.984, 0.995), (553, 0.0, 0.995, 0.998),
     (60, 0.5, 0.64, 0.66), (60, 0.5, 0.95, 0.95), (60, 0.9, 0.5, 0.8), (60, 0.0, 0.95, 0.97)],
)  # fmt: skip
def test_the_interval_of_a_difference_holds_it_as_often_as_it_says(prompts, likeness, before, after):
    found, seen = interval_kit.of_difference(prompts, likeness, before, after, RUNS)
    assert 0.93 - SLACK <= found.holds <= 0.975 + SLACK
    assert before != after or seen <= 0.05 + SLACK


@pytest.mark.slow
def test_the_whole_table_of_coverage():
    for prompts, kind, overall in interval_kit.SHARES:
        if prompts > 12:
            found, _ = interval_kit.of_shares(prompts, interval_kit.profile(overall, kind), RUNS, tasks=False)
            assert found.holds >= 0.93 - SLACK, (prompts, kind, overall)
            assert overall > 0.98 or found.holds <= 0.97 + SLACK, (prompts, kind, overall)
    for cell in interval_kit.DIFFERENCES:
        if cell[0] > 12:
            assert interval_kit.of_difference(*cell, RUNS)[0].holds >= 0.93 - SLACK, cell


# --------------------------------------------------------------------------------------------------------------- edges
def twelve(wrong):
    """12 prompts of six tasks, four images each; so many wrong images of each prompt."""
    return statistics.share([4 - w for w in wrong], [4] * 12, [f"task {i // 2}" for i in range(12)])


def test_one_image_wrong_does_not_have_the_higher_lower_end():
    right, one, two = twelve([0] * 12), twelve([1, *[0] * 11]), twelve([1, 0, 1, *[0] * 9])
    assert right.low > 0.88
    assert right.low > one.low > two.low > twelve([4, *[0] * 11]).low > twelve([4, 1, *[0] * 10]).low
    assert right.high == 1 > one.high > two.high
    assert twelve([4] * 12).high == pytest.approx(1 - right.low)


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12), st.data())
def test_a_wrong_image_more_raises_no_end_and_all_right_has_the_highest(wrong, data):
    if min(wrong) < 4:
        at = data.draw(st.sampled_from([i for i, number in enumerate(wrong) if number < 4]))
        worse = [number + (i == at) for i, number in enumerate(wrong)]
        # A task that loses its last right image has one variance less: the others' ends may then move in by so much.
        assert twelve(worse).low <= twelve(wrong).low + 0.005
        assert twelve(worse).high <= twelve(wrong).high + 0.005
    assert twelve(wrong).low <= twelve([0] * 12).low


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_the_value_lies_inside_an_interval_with_a_width(prompts):
    tasks, images, shares = zip(*prompts, strict=True)
    right = [round(number * part) for number, part in zip(images, shares, strict=True)]
    found = statistics.share(right, images, tasks)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    turned = statistics.share([n - r for n, r in zip(images, right, strict=True)], images, tasks)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_one_task_of_single_images_has_jeffreys_interval():
    found = statistics.share([1] * 7 + [0] * 3, [1] * 10)
    assert (found.low, found.high) == pytest.approx(stats.beta(7.5, 3.5).interval(0.95))
    assert statistics.share([1] * 30, [1] * 30).low == pytest.approx(stats.beta(30.5, 0.5).ppf(0.025))


def test_images_that_are_alike_say_less():
    together, apart = statistics.share([4, 0] * 25, [4] * 50), statistics.share([1, 0] * 100, [1] * 200)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(2, rel=0.15)


def test_tasks_all_right_or_all_wrong_carry_their_uncertainty_into_the_mean():
    right, images, tasks = [4] * 10 + [0] * 10, [4] * 20, ["a"] * 10 + ["b"] * 10
    found = statistics.share(right, images, tasks)
    assert (found.value, found.low < 0.49, found.high > 0.51) == (0.5, True, True)
    single = statistics.share([4, 3], [4, 4], ["a", "b"])  # one prompt of each task
    assert single.low < 0.75 < single.high < 1


def test_a_prompt_without_images_is_left_out():
    assert statistics.share([4, 0, 2], [4, 0, 4], ["a", "b", "a"]) == statistics.share([4, 2], [4, 4])
    with pytest.raises(ValueError, match="for each cluster"):
        statistics.share([1, 2], [4])


@pytest.mark.parametrize("before", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("change", [-0.25, 0.0, 0.25, 1.0])
def test_equal_differences_have_an_interval_with_a_width(before, change):
    if not 0 <= before + change <= 1:
        return
    rng = np.random.default_rng(0)
    for images in (1, 4):
        found = statistics.paired_difference([before] * 20, [before + change] * 20, rng, images=images)
        assert found.value == pytest.approx(change)
        assert found.high - found.low > 0.01
        assert -1 <= found.low <= change <= found.high <= 1
        assert change or not found.distinguishable


def test_more_images_make_a_difference_surer():
    a, b = [0.5, 0.75, 1.0, 0.25] * 10, [0.75, 0.75, 0.75, 0.5] * 10
    one, four = (statistics.paired_difference(a, b, np.random.default_rng(0), images=n) for n in (1, 4))
    assert four.high - four.low < one.high - one.low
    mixed = statistics.paired_difference(a, b, np.random.default_rng(0), images=[4] * 39 + [1])
    assert four.high - four.low < mixed.high - mixed.low < one.high - one.low


def test_a_measurement_has_no_interval_of_a_share():
    rng = np.random.default_rng(0)
    for value in (0.0, 1.0):  # a distance of 0, an overlap of 1
        found = statistics.ratio([value] * 30, [1] * 30, rng)
        assert (found.value, found.low, found.high) == (value, None, None)
