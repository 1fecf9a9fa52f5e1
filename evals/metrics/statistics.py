"""Intervals and comparisons that respect the design: images of one prompt are not independent.

There are two kinds of interval, and a measure has one or the other:

- of a *share* (images that are right, edits that are done): `share`, a closed form that also holds near 0 and 1;
- of a mean of *measurements* (overlap of boxes, distance of pixels): `ratio`, which resamples whole clusters.

A cluster is a prompt with its images, or a source image with its edits. Random numbers come from the caller's
``numpy.random.Generator``; nothing here has state.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.metrics import bootstrap_weights
from evals.metrics.bootstrap_weights import TAIL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

INTERVALS = "Bayesian bootstrap"
"""Name of the method of `share`, as ``scores.json`` gives it."""


def method_of(scores: Mapping[str, Any]) -> str:
    """How the intervals of shares in a ``scores.json`` were made; older ones, which do not say, by bootstrap.

    >>> method_of({})
    'bootstrap'
    """
    return str(scores.get("intervals", "bootstrap"))


RESAMPLES = 4000
"""Bootstrap and permutation draws; a bootstrap interval's own error is then about a hundredth of its width."""

_LIKENESS = 0.3
"""Correlation of two images of one prompt, for what is added to those that were seen."""

_FEW_IMAGES = 4
"""Tasks of fewer independent images say too little, each by itself, of how much their mean varies."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval. ``value`` is None where nothing was scored: a missing score is not 0."""

    value: float | None
    low: float | None
    """Lower end of the 95 % interval; None where too little was scored to know one."""
    high: float | None
    n: int
    """Scored items (images, boxes) the mean is over."""
    clusters: int
    """Prompts they belong to."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


NOTHING = Estimate(value=None, low=None, high=None, n=0, clusters=0)
"""The estimate where nothing was scored."""


def by_cluster(values: Iterable[float | None], clusters: Iterable[str]) -> tuple[list[float], list[int]]:
    """Sum and number of the values in each cluster, clusters in order of their names; None is no value.

    >>> by_cluster([1.0, None, 0.5, 0.25], ["b", "a", "b", "a"])
    ([0.25, 1.5], [1, 2])
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for value, name in zip(values, clusters, strict=True):
        sums[name] = sums.get(name, 0.0) + (0.0 if value is None else value)
        counts[name] = counts.get(name, 0) + (value is not None)
    names = sorted(sums)
    return [sums[name] for name in names], [counts[name] for name in names]


# -------------------------------------------------------------------------------------------------------------- shares
def share(right: ArrayLike, images: ArrayLike, tasks: Sequence[str] | None = None) -> Estimate:
    """Share of right images, and its 95 % interval: the Bayesian bootstrap of prompts (Rubin 1981).

    Images of one prompt are alike and say less than as many of different prompts, so whole clusters are weighed at
    random, 8,000 times, and the interval holds the middle 95 % of the weighted shares. As by Gaffke (2005) and by
    Learned-Miller and Thomas (2019), something right and something wrong that nobody saw is weighed with them: half an
    image each in all, as in Jeffreys' prior, shared by the tasks (the overall prior of Berger, Bernardo and Sun 2015).
    So tasks that are all right or all wrong carry their uncertainty into the mean, too. Of fewer than six clusters each
    image has a weight of its own, as if the correlation were 0.3; one task of single images has Jeffreys' interval.
    Tasks are independent: the distribution of their mean is a convolution. Of fewer than four independent images a task
    (with a correlation of 0.3) tasks say too little by themselves; where they are about equally large, the interval is
    then also that of all images together, whose variance is never less than that of images drawn task by task.

    A score may be so near 1 that no run of these prompts has its lower end above it: then only the upper end can miss,
    and takes all of the 5 %; so does the lower end near 0. In the same way the exact tests of Sterne (1954) and Blaker
    (2000) fill one tail where the other is empty. With 2.5 %, intervals of few prompts would hold such scores in 98 to
    99 % of all runs.

    The weights depend on how many clusters and images each task has, never on what is right. With each of them a run
    that is right in less has the lower share, and so has its mean; so **no end of a worse run of the same prompts is
    higher**.

    Args:
        right: ``(clusters,)`` right images of each cluster.
        images: ``(clusters,)`` scored images of each cluster; clusters without images are left out.
        tasks: ``(clusters,)`` task of each cluster: the value is the unweighted mean of the tasks' shares. By default
            all images weigh the same.

    Returns:
        The share. The interval is never of width 0. How often it holds the truth is in ``docs/protocol.md``.

    >>> estimate = share([4, 0, 2, 2] * 5, [4, 4, 4, 4] * 5)
    >>> estimate.value, round(estimate.low, 1), round(estimate.high, 1), estimate.n, estimate.clusters
    (0.5, 0.3, 0.7, 80, 20)
    >>> share([4] * 12, [4] * 12, ["a", "b"] * 6).low > share([4] * 11 + [3], [4] * 12, ["a", "b"] * 6).low
    True
    >>> share([], []).value is None
    True
    """
    total, size = _counts(right, images)
    labels = np.asarray(tasks if tasks is not None else ["all"] * len(size))
    total, size, labels = total[size > 0], size[size > 0], labels[size > 0]
    if len(size) == 0:
        return NOTHING
    found = _share(total, size, labels)
    return Estimate(
        value=found.value, low=found.low, high=found.high, n=round(float(size.sum())), clusters=len(size)
    )  # fmt: skip


def _counts(sums: ArrayLike, counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total, size = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if total.shape != size.shape or total.ndim != 1:
        raise ValueError(f"Expected a sum and a number of items for each cluster but got {total.shape}, {size.shape}")
    return total, size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    value: float
    low: float
    high: float
    image: float
    """What one effective image of the heaviest task weighs in the value, in (0, 1]."""


def _share(
    total: NDArray[np.float64], size: NDArray[np.float64], labels: NDArray[np.str_], *, alone: bool = False
) -> _Share:
    """The interval of `share`; all clusters have images.

    Args:
        total: Right images of each cluster.
        size: Images of each.
        labels: Task of each.
        alone: Whether tasks stand by themselves, however few images they have: of two runs of the same tasks these are
            as hard for both.
    """
    _, of = np.unique(labels, return_inverse=True)
    tasks = int(of.max()) + 1
    image, parts, drawn, effective = 0.0, [], [], []
    for task in range(tasks):
        right, images = total[of == task], size[of == task]
        seen = float(images.sum())
        effect = max(1 + (float((images**2).sum()) / seen - 1) * _LIKENESS, 1.0)  # Kish's: so many say as much as one
        parts.append(float(right.sum()) / seen)
        image = max(image, effect / seen / tasks)
        effective.append(seen / effect)
        drawn.append(bootstrap_weights.weighed(right, images, seen / effect, 0.5 / tasks))
    value = float(np.mean(parts))
    if tasks == 1 and size.max() <= 1:
        seen = float(size.sum())
        cuts = bootstrap_weights.jeffreys(float(total.sum()), seen)
        highest_low = float(bootstrap_weights.jeffreys(seen, seen)[0])
    else:
        cuts = bootstrap_weights.cuts_of_mean(drawn)
        highest_low = bootstrap_weights.highest_low(tuple(effective), 0.5 / tasks)
    low, low_alone, high_alone, high = cuts.tolist()
    # Above the highest of all lower ends only the upper end can miss; below the lowest upper end only the lower one.
    if highest_low > 0.5:  # else, of up to three images, scores between these two would have 5 % on either side
        low, high = min(max(low, 1 - highest_low), low_alone), max(min(high, highest_low), high_alone)
    # Of tasks about as large as each other; else the share of all images is another number than the mean of tasks.
    if not alone and tasks > 1 and max(effective) <= 2 * min(effective) and sum(effective) / tasks < _FEW_IMAGES:
        together = _share(total, size, np.full(len(size), "all"))
        low, high = min(low, together.low), max(high, together.high)
    low = 0.0 if not total.any() else min(low, value)
    high = 1.0 if (total == size).all() else max(high, value)
    return _Share(value=value, low=low, high=high, image=image)


# -------------------------------------------------------------------------------------------------------- measurements
def ratio(sums: ArrayLike, counts: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Mean over all items of all clusters, ``sum(sums) / sum(counts)``, with a bootstrap over clusters.

    For measurements; `share` is for what is right or wrong.

    Args:
        sums: ``(clusters,)`` sum of the items' values in each cluster.
        counts: ``(clusters,)`` number of items in each cluster; clusters without items are left out.
        rng: Source of the resamples.
        resamples: How many.

    Returns:
        The mean and its 95 % percentile interval. Where resamples show no spread (one cluster, or all alike), there is
        no interval.

    >>> rng = np.random.default_rng(0)
    >>> estimate = ratio([3.2, 0.4, 2, 2], [4, 4, 4, 4], rng)
    >>> round(estimate.value, 3), estimate.n, estimate.clusters, 0 <= estimate.low < 0.475 < estimate.high <= 1
    (0.475, 16, 4, True)
    >>> ratio([], [], rng).value is None
    True
    >>> ratio([3], [4], rng).value, ratio([3], [4], rng).low
    (0.75, None)
    """
    total, size = _counts(sums, counts)
    total, size = total[size > 0], size[size > 0]
    clusters = len(size)
    if clusters == 0:
        return NOTHING
    times_drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)  # (resamples, clusters)
    low, high = percentiles((times_drawn @ total) / (times_drawn @ size))
    return Estimate(value=float(total.sum() / size.sum()), low=low, high=high, n=int(size.sum()), clusters=clusters)


def macro(
    sums: ArrayLike, counts: ArrayLike, groups: Sequence[str], rng: np.random.Generator, resamples: int = RESAMPLES,
    names: Sequence[str] | None = None,
) -> Estimate:  # fmt: skip
    """Plain mean of several groups' means, with a bootstrap over the clusters inside each group.

    Where a cluster occurs in several groups, whole clusters are drawn across them: an image that is edited in many
    ways comes with all its edits. A draw without any cluster of a group is the mean of the others.

    Args:
        sums: ``(clusters,)`` sum of the items' values in each cluster.
        counts: ``(clusters,)`` number of items in each cluster; clusters without items are left out.
        groups: ``(clusters,)`` group of each cluster.
        rng: Source of the resamples.
        resamples: How many.
        names: ``(clusters,)`` name of each cluster, the same in another group for the same; None if none recurs.

    >>> estimate = macro([1, 0, 1, 1], [1, 1, 2, 2], ["a", "a", "b", "b"], np.random.default_rng(0))
    >>> estimate.value, estimate.n, estimate.low < estimate.value < estimate.high
    (0.5, 6, True)
    >>> macro([], [], [], np.random.default_rng(0)).value is None
    True
    """
    total, size = _counts(sums, counts)
    labels, which = np.asarray(groups)[size > 0], np.asarray(range(len(size)) if names is None else names)[size > 0]
    total, size = total[size > 0], size[size > 0]
    if len(size) == 0:
        return NOTHING
    different, which = np.unique(which, return_inverse=True)
    together = _drawn(len(different), rng, resamples)[:, which] if len(different) < len(size) else None
    means, sums_drawn, groups_drawn = [], np.zeros(resamples), np.zeros(resamples)
    for name in dict.fromkeys(labels):
        own = labels == name
        times_drawn = _drawn(int(own.sum()), rng, resamples) if together is None else together[:, own]
        means.append(float(total[own].sum() / size[own].sum()))
        items = times_drawn @ size[own]
        sums_drawn += (times_drawn @ total[own]) / np.maximum(items, 1)
        groups_drawn += items > 0
    low, high = percentiles(sums_drawn / groups_drawn)
    return Estimate(
        value=float(np.mean(means)), low=low, high=high, n=round(float(size.sum())), clusters=len(different)
    )


def _drawn(clusters: int, rng: np.random.Generator, resamples: int) -> NDArray[np.int64]:
    """How often each cluster is drawn, ``(resamples, clusters)``."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def percentiles(draws: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of bootstrap draws; none where they do not differ: then resampling says nothing.

    >>> percentiles(np.array([0.5, 0.5])), percentiles(np.array([]))
    ((None, None), (None, None))
    """
    if len(draws) == 0 or np.ptp(draws) < 1e-12:
        return None, None
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return float(low), float(high)


def bounds(total: float, scored: int, missing: int) -> tuple[float, float]:
    """Between which values the mean would lie if the missing items, each in [0, 1], were known.

    >>> bounds(total=6, scored=8, missing=2)
    (0.6, 0.8)
    """
    if scored + missing == 0:
        raise ValueError("Expected at least one item, scored or missing, but got none")
    return total / (scored + missing), (total + missing) / (scored + missing)


# ---------------------------------------------------------------------------------------------------------- comparison
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Run B minus run A on the cases both have."""

    value: float
    low: float
    """Lower end of the 95 % interval, at least -1."""
    high: float
    p_value: float
    """Two-sided, from flipping the signs of whole cases: all ways of up to 12 cases, of more at random."""
    cases: int
    distinguishable: bool
    """False where the interval contains 0 or the permutation test does not reject at 5 %."""


def detectable(difference: Difference) -> float | None:
    """The size of a true difference that a comparison finds four times in five, by the width of its interval.

    None where so few cases are compared that no permutation test of them can reject.

    >>> change = Difference(value=0.0, low=-0.02, high=0.02, p_value=1.0, cases=100, distinguishable=False)
    >>> round(detectable(change), 4), detectable(dataclasses.replace(change, cases=5)) is None
    (0.0286, True)
    """
    if least_p(difference.cases) >= 2 * TAIL:
        return None
    z95, z80 = 1.959964, 0.841621
    return (difference.high - difference.low) / 2 * (z95 + z80) / z95


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    rng: np.random.Generator,
    *,
    images: ArrayLike = 1,
    strata: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two runs case by case.

    The interval is made of the two runs' own, as `share` has them, and of the correlation of the runs over the cases:
    the method of variance estimates recovery (MOVER; Zou and Donner 2008, for paired shares Newcombe's method 10).
    The correlation is that of two runs which differ by half an image more each way than they do. So the interval has a
    width where all cases changed alike, or none.

    Args:
        scores_a: ``(cases,)`` share of right images of each case in run A, in [0, 1].
        scores_b: ``(cases,)`` the same cases in run B, in the same order.
        rng: Source of the permutations, where they are too many to count.
        images: Images that a case's score is the mean of, one number or ``(cases,)``.
        strata: Task of each case: the statistic is the unweighted mean of the tasks' mean differences, and
            correlations are those inside a task. By default all cases weigh the same.
        clusters: Of each case, what it shares with others that are therefore alike, such as the source image of
            several edits. By default each case stands alone.
        resamples: Permutation draws.

    >>> rng = np.random.default_rng(0)
    >>> same = paired_difference([0.5, 1.0, 0.0, 0.25] * 9, [0.5, 0.75, 0.25, 0.25] * 9, rng, images=4)
    >>> same.value, same.distinguishable
    (0.0, False)
    >>> paired_difference([0.0] * 40, [0.75, 1.0] * 20, rng, images=4).distinguishable
    True
    >>> equal = paired_difference([1.0] * 20, [1.0] * 20, rng)
    >>> equal.value, round(equal.high, 3), equal.distinguishable
    (0.0, 0.117, False)
    """
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    labels = np.asarray(strata if strata is not None else ["all"] * len(a))
    if a.ndim != 1 or len(a) == 0 or not len(a) == len(b) == len(labels):
        raise ValueError(
            f"Expected one or more paired cases, each with a stratum, but got {a.shape}, {b.shape}, {labels.shape}"
        )
    each = 1 / float(np.mean(1 / np.broadcast_to(np.asarray(images, dtype=np.float64), a.shape)))
    of = _first_come(labels, np.asarray(clusters if clusters is not None else np.arange(len(a))))
    size, task = _sums(of, np.full(len(a), each)), labels[np.unique(of, return_index=True)[1]]
    first, second = (_share(_sums(of, scores * each), size, task, alone=True) for scores in (a, b))
    value = second.value - first.value
    correlation = _correlation(a, b, labels, of, first.image, second.image)
    low = value - _joint(second.value - second.low, first.high - first.value, correlation)
    high = value + _joint(second.high - second.value, first.value - first.low, correlation)
    low, high = max(low, -1.0), min(high, 1.0)
    p_value = _permutation_test(b - a, labels, of, rng, resamples)
    distinguishable = not low <= 0 <= high and p_value < 2 * TAIL
    return Difference(value=value, low=low, high=high, p_value=p_value, cases=len(a), distinguishable=distinguishable)


def _first_come(labels: NDArray[Any], clusters: NDArray[Any]) -> NDArray[np.int_]:
    """Number of each case's cluster inside its task, in order of appearance.

    >>> _first_come(np.array(["b", "a", "b", "b"]), np.array(["x", "x", "y", "x"])).tolist()
    [0, 1, 2, 0]
    """
    pairs = np.unique(labels, return_inverse=True)[1] * len(clusters) + np.unique(clusters, return_inverse=True)[1]
    _, first, of = np.unique(pairs, return_index=True, return_inverse=True)
    numbers: NDArray[np.int_] = np.argsort(np.argsort(first))[of]
    return numbers


def _sums(of: NDArray[np.int_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(of, values).astype(np.float64)


def _joint(one: float, other: float, correlation: float) -> float:
    """How far the interval of a difference reaches to one side, from the reaches of its two parts."""
    return float(np.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0)))


def _correlation(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    labels: NDArray[np.str_],
    of: NDArray[np.int_],
    image_a: float,
    image_b: float,
) -> float:
    """Correlation of two runs' scores, if each varied by half of one of its images more, in (-1, 1)."""
    names, task = np.unique(labels, return_inverse=True)
    cases = np.bincount(task)
    a, b = (_sums(of, scores - (np.bincount(task, scores) / cases)[task]) for scores in (a, b))
    task = task[np.unique(of, return_index=True)[1]]
    clusters = np.bincount(task)
    scale = clusters / np.maximum(clusters - 1, 1) / cases**2 / len(names) ** 2
    together, only_a, only_b = (float(np.bincount(task, product) @ scale) for product in (a * b, a * a, b * b))
    return together / float(np.sqrt((only_a + image_a**2 / 4) * (only_b + image_b**2 / 4)))


def _permutation_test(
    change: NDArray[np.float64],
    labels: NDArray[np.str_],
    of: NDArray[np.int_],
    rng: np.random.Generator,
    resamples: int,
) -> float:
    """How often changes of random sign, one for each cluster, give a mean at least as far from 0.

    All assignments of signs are counted where up to a common sign there are no more than `resamples`: up to 12 clusters
    of 4,000 draws. That p is exact, and never below 2 of all assignments. Of more clusters signs are drawn.
    """
    parts, names = [], np.unique(labels)
    for name in names:
        inside = labels == name
        sums = np.bincount(np.unique(of[inside], return_inverse=True)[1], change[inside])
        parts.append(sums / int(inside.sum()) / len(names))
    least = abs(float(np.concatenate(parts).sum())) - 1e-12
    clusters = sum(map(len, parts))
    if 2 ** (clusters - 1) <= resamples:
        signs = (np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters) & 1) * 2 - 1
        return float(np.mean(np.abs(signs @ np.concatenate(parts)) >= least))
    flipped = np.zeros(resamples)
    for part in parts:
        flipped += (rng.integers(0, 2, size=(resamples, len(part))) * 2 - 1) @ part
    # The observed signs are one of the possible assignments, hence the + 1.
    return (1 + int(np.sum(np.abs(flipped) >= least))) / (1 + resamples)


def least_p(clusters: int, comparisons: int = 1) -> float:
    """The least p value that a permutation test of so many clusters can give, corrected for several comparisons.

    >>> least_p(6), least_p(6, comparisons=4), least_p(1, comparisons=3)
    (0.03125, 0.125, 1.0)
    """
    return min(1.0, comparisons * max(2.0 ** (1 - clusters), 1 / (1 + RESAMPLES)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979).

    If those below alpha are rejected, a true null hypothesis is among them with probability alpha at most.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected
