"""Do judges and people agree? Rank correlations and Krippendorff's alpha, for many bootstrap resamples at once.

A resample is a row of weights: how often each item was drawn. Spearman's rho and Kendall's tau-b both come from the
signs of all pairwise differences, so one pass over pairs serves every resample, ties included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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
