"""Do judges and people agree? Rank correlations and Krippendorff's alpha, for many bootstrap resamples at once.

A resample is a row of weights: how often each item was drawn. Spearman's rho and Kendall's tau-b both come from the
signs of all pairwise differences, so one pass over pairs serves every resample, ties included.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.metrics.statistics import percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def rank_correlations(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spearman's rho and Kendall's tau-b, each in [-1, 1]; NaN where one of the two does not vary.

    Args:
        x: ``(items,)`` scores of one.
        y: ``(items,)`` scores of the other.
        weights: ``(resamples, items)`` how often each item counts; by default once, in a single resample.

    Returns:
        Both as ``(resamples,)``.

    >>> rho, tau = rank_correlations([0, 0.5, 1, 1], [2, 3, 3, 9])
    >>> rho.round(3).tolist(), tau.round(3).tolist()
    ([0.833], [0.8])
    >>> bool(np.isnan(rank_correlations([1, 1], [0, 1])[0][0]))
    True
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"Expected two lists of finite scores of one length but got {a.shape} and {b.shape}")
    drawn = np.ones((1, len(a))) if weights is None else np.asarray(weights, dtype=np.float64)
    # Equal pairs count as one of more weight: ratings have few levels, and the signs grow with the square.
    (a, b), place = np.unique(np.stack([a, b]), axis=1, return_inverse=True)
    drawn = drawn @ (place.reshape(-1, 1) == np.arange(len(a)))  # (resamples, distinct pairs)
    signs_a, signs_b = np.sign(a[:, None] - a[None]), np.sign(b[:, None] - b[None])  # (items, items)
    # An item's rank, up to a constant, is half of how many are below it less how many are above it.
    ranks_a, ranks_b = drawn @ signs_a.T, drawn @ signs_b.T  # (resamples, items)
    rho = _ratio((drawn * ranks_a * ranks_b).sum(1), (drawn * ranks_a**2).sum(1) * (drawn * ranks_b**2).sum(1))
    pairs = [np.einsum("ri,ri->r", drawn @ m, drawn) for m in (signs_a * signs_b, signs_a**2, signs_b**2)]
    return rho, _ratio(pairs[0], pairs[1] * pairs[2])


def _ratio(top: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.divide(top, np.sqrt(square), out=np.full_like(top, np.nan), where=square > 0)
    return found


def krippendorff_alpha(ratings: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Krippendorff's alpha for ordinal ratings, 1 if raters agree, 0 if as by chance; NaN where ratings do not vary.

    Args:
        ratings: ``(raters, items)``; NaN is no rating. Items with fewer than two ratings say nothing.
        weights: ``(resamples, items)`` how often each item counts; by default once, in a single resample.

    Returns:
        ``(resamples,)``.

    >>> krippendorff_alpha([[0, 0.5, 1, 1], [0, 0.5, 1, 1]]).tolist()
    [1.0]
    >>> krippendorff_alpha([[0, 1, 0, 1], [0, 1, 1, 0]]).round(3).tolist()
    [0.125]
    """
    given = np.asarray(ratings, dtype=np.float64)
    if given.ndim != 2:
        raise ValueError(f"Expected ratings (raters, items) but got {given.shape}")
    values = np.unique(given[~np.isnan(given)])
    counts = (given[:, :, None] == values).sum(0).astype(np.float64)  # (items, values)
    raters = counts.sum(1)
    usable = raters >= 2
    counts, raters = counts[usable], raters[usable]
    drawn = np.ones((1, len(usable))) if weights is None else np.asarray(weights, dtype=np.float64)
    drawn = drawn[:, usable]
    # Pairs of ratings inside each item, so that each rating weighs the same.
    pairs = counts[:, :, None] * counts[:, None, :]
    pairs[:, np.arange(len(values)), np.arange(len(values))] -= counts
    coincidences = np.tensordot(drawn, pairs / (raters - 1)[:, None, None], axes=1)  # (resamples, values, values)
    totals = coincidences.sum(2)  # (resamples, values)
    reach = np.cumsum(totals, axis=1)
    # Ranks between two values: all ratings up to the higher one, less half of either end.
    middle = reach - totals / 2
    distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    n = totals.sum(1)
    observed = (coincidences * distance).sum((1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum((1, 2))
    alpha = np.full(len(n), np.nan)
    np.divide((n - 1) * observed, expected, out=alpha, where=expected > 0)
    return 1 - alpha


def mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean without NaN; NaN where nothing is left, without a warning.

    >>> mean(np.array([[1.0, np.nan], [2.0, np.nan]]), 0).tolist()
    [1.5, nan]
    """
    there = ~np.isnan(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    found: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return found


def _interval(draws: NDArray[np.float64]) -> dict[str, float | None]:
    """Point (first row), and 95 % interval of the others. Resamples without a value are left out."""
    if np.isnan(draws[0]):
        return {"value": None, "low": None, "high": None}
    low, high = percentiles(draws[1:][~np.isnan(draws[1:])])
    return {"value": float(draws[0]), "low": low, "high": high}


def compare(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Rank correlations of two ``(items, models)`` arrays: per model, their mean, pooled, and by the models' means.

    Args:
        x: Scores of one; NaN is missing.
        y: Scores of the other.
        weights: ``(1 + resamples, items)``, the first row all ones.

    >>> x = np.array([[0.0, 1.0], [0.5, 0.0], [1.0, np.nan]])
    >>> found = compare(x, 2 * x, np.ones((1, 3)))
    >>> [one["n"] for one in found["models"]], found["mean"]["spearman"]["value"], found["pooled"]["n"]
    ([3, 2], 1.0, 5)
    """
    per_model, rhos, taus, counted = [], [], [], []
    for j in range(x.shape[1]):
        both = ~np.isnan(x[:, j]) & ~np.isnan(y[:, j])
        counted.append(int(both.sum()))
        rho, tau = rank_correlations(x[both, j], y[both, j], weights[:, both])
        per_model.append({"n": counted[-1], "spearman": _interval(rho), "kendall": _interval(tau)})
        rhos.append(rho)
        taus.append(tau)
    both = ~np.isnan(x) & ~np.isnan(y)
    pooled = rank_correlations(x[both], y[both], np.repeat(weights, both.sum(1), axis=1))
    means = [_model_means(scores, both, weights) for scores in (x, y)]
    ranking = np.array([rank_correlations(*_both(a, b))[0][0] for a, b in zip(*means, strict=True)])
    return {
        "models": per_model,
        "mean": {"spearman": _interval(mean(np.array(rhos), 0)), "kendall": _interval(mean(np.array(taus), 0))},
        "pooled": {"n": int(both.sum()), "spearman": _interval(pooled[0]), "kendall": _interval(pooled[1])},
        "ranking": {"spearman": _interval(ranking)},
    }


def _both(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    there = ~np.isnan(a) & ~np.isnan(b)
    return a[there], b[there]


def _model_means(
    scores: NDArray[np.float64], both: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(1 + resamples, models)`` means over the items that both have."""
    count = weights @ both
    means: NDArray[np.float64] = np.divide(
        weights @ np.where(both, scores, 0.0), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return means


def ceiling(raters: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """How well people predict people: ``(raters, items, models)`` of one aspect.

    Returns:
        ``pairs``: mean over pairs of raters; ``rest``: mean over raters, each against the mean of the others, which is
        what a judge is held against; ``alpha``: Krippendorff's, ordinal, over all cells.

    >>> same = np.array([[[0.0], [0.5], [1.0]]] * 3)
    >>> found = ceiling(same, np.ones((1, 3)))
    >>> found["pairs"]["mean"]["spearman"], found["rest"]["models"], found["alpha"]["value"]
    (1.0, [1.0], 1.0)
    """
    point = weights[:1]
    pairs = [compare(a, b, point) for a, b in itertools.combinations(raters, 2)]
    cells = raters.reshape(len(raters), -1)  # (raters, items * models)
    alpha = krippendorff_alpha(cells, np.repeat(weights, raters.shape[2], axis=1))
    return {"pairs": _average(pairs), "rest": against_the_rest(raters), "alpha": _interval(alpha)}


def against_the_rest(raters: NDArray[np.float64]) -> dict[str, Any]:
    """How well one rater predicts the mean of the others: ``(raters, items, models)`` of one aspect.

    >>> people = np.array([[[0.0, 1.0], [0.5, 0.0], [1.0, 0.5]], [[0.0, 0.5], [0.5, 0.0], [1.0, 1.0]]])
    >>> against_the_rest(people)["models"]
    [1.0, 0.5]
    """
    point = np.ones((1, raters.shape[1]))
    return _average([compare(raters[k], mean(np.delete(raters, k, 0), 0), point) for k in range(len(raters))])


def _average(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean of several comparisons. No interval: pairs of three raters are too few to have one worth the name."""
    averages: dict[str, Any] = {}
    for kind in ("mean", "pooled"):
        for name in ("spearman", "kendall"):
            values = [one[kind][name]["value"] for one in found if one[kind][name]["value"] is not None]
            averages.setdefault(kind, {})[name] = float(np.mean(values)) if values else None
    per_model = [[m["spearman"]["value"] for m in one["models"]] for one in found]
    averages["models"] = [
        float(np.mean(seen)) if (seen := [v for v in column if v is not None]) else None
        for column in zip(*per_model, strict=True)
    ]
    return averages
