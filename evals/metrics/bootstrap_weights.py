"""Random weights of prompts and images, the same for all runs: so intervals of shares are ordered as the runs are."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TAIL = 0.025
"""Probability left out on each side of a 95 % interval."""

LEVELS = (TAIL, 2 * TAIL, 1 - 2 * TAIL, 1 - TAIL)
"""Where distributions are cut: with 2.5 % on either side, and with 5 % on one."""

_FEW = 6
"""Fewer clusters than these cannot tell how alike their images are."""

_DRAWS = 4000
"""Sets of weights; each counts twice."""

_GRID = 8192
"""Cells on which a mean of tasks is summed up."""

_SEED = 2026
"""Of the weights, which are the same in all runs: that orders the intervals as the runs."""


def jeffreys(right: float, images: float) -> NDArray[np.float64]:
    """Where Jeffreys' distribution is cut: a task of single images if infinitely many weights were drawn, ``(4,)``.

    >>> jeffreys(7, 10)[[0, -1]].round(3).tolist()
    [0.394, 0.907]
    """
    from scipy.special import betaincinv

    found: NDArray[np.float64] = betaincinv(right + 0.5, images - right + 0.5, LEVELS)
    return found


def cuts_of_mean(drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Where the distribution of the mean of independent tasks is cut, ``(4,)``: of several tasks by convolution.

    The order of the tasks decides nothing. A number between two cells of the grid is shared by both in proportion, so
    lesser numbers give lesser cuts.

    >>> even = np.linspace(0, 1, 1000)
    >>> cuts_of_mean([even, even]).round(2).tolist()
    [0.11, 0.16, 0.84, 0.89]
    """
    if len(drawn) == 1:
        return np.asarray(np.quantile(drawn[0], LEVELS), dtype=np.float64)
    cells = max(_GRID // len(drawn), 64)
    length = 1 << (len(drawn) * (cells + 1)).bit_length()
    spectrum = np.ones(length // 2 + 1, dtype=np.complex128)
    for shares in drawn:
        cell = np.minimum((shares * cells).astype(np.int64), cells - 1)
        upper = shares * cells - cell
        counts = np.bincount(cell, 1 - upper, cells + 1) + np.bincount(cell + 1, upper, cells + 1)
        spectrum *= np.fft.rfft(counts / len(shares), length)
    below = np.maximum.accumulate(np.cumsum(np.fft.irfft(spectrum, length)[: len(drawn) * cells + 1]))
    cuts = np.interp(LEVELS, np.append(0, below), np.arange(-0.5, len(below))) / (len(below) - 1)
    found: NDArray[np.float64] = np.clip(cuts, 0, 1)
    return found


@functools.lru_cache(maxsize=64)
def highest_low(effective: tuple[float, ...], unseen: float) -> float:
    """Lower end of the mean of tasks that are all right, which no run of the same prompts exceeds.

    Args:
        effective: So many independent images say as much as all of each task.
        unseen: As of `weighed`.

    >>> round(highest_low((100.0, 100.0), 0.25), 3)
    0.988
    """
    right = np.ones(_FEW)
    return float(cuts_of_mean([weighed(right, right, number, unseen) for number in effective])[0])


def weighed(
    right: NDArray[np.float64], images: NDArray[np.float64], effective: float, unseen: float
) -> NDArray[np.float64]:
    """Shares of a task under random weights, ``(draws,)``.

    Args:
        right: ``(clusters,)`` right images of each cluster.
        images: ``(clusters,)`` images of each.
        effective: So many independent images say as much as all of them.
        unseen: Images that nobody saw, right and wrong, so many of either.

    >>> shares = weighed(np.array([4.0] * 9), np.array([4.0] * 9), 19, 0.5)
    >>> shares.shape, bool(shares.max() <= 1), round(float(shares.mean()), 2)
    ((8000,), True, 0.98)
    """
    if len(right) < _FEW:
        share = _share_of_few(float(right.sum()), float(images.sum()), effective)
    else:
        share = _share_of_many(right, images)
    seen, more = _amounts(effective, unseen)
    found: NDArray[np.float64] = ((share * seen + more) / (seen + more.sum(axis=0))).ravel()
    return found


def _share_of_few(right: float, images: float, effective: float) -> NDArray[np.float64]:
    """Shares in which each image has a weight; these differ as much as a correlation of 0.3 wants, ``(2, draws)``.

    The second half has the weights in reverse, so that right and wrong are treated alike.
    """
    count = int(np.ceil(images))
    sums = _sums_of_weights(count, max(effective - 2, effective / 2) / count)
    every = _up_to(sums, images)
    return np.stack([_up_to(sums, right) / every, 1 - _up_to(sums, images - right) / every])


def _share_of_many(right: NDArray[np.float64], images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares in which each cluster has a weight, ``(2, draws)``, as of `_share_of_few`.

    Clusters are sorted, so that their order in the run decides nothing; those that are alike are weighed together.
    """
    order = np.lexsort((right, images))
    right, images = right[order], images[order]
    start = np.flatnonzero((np.diff(right, prepend=-1) != 0) | (np.diff(images, prepend=-1) != 0))
    end = np.append(start[1:], len(images))
    right, size = right[start], images[start]
    both = np.searchsorted(images, size) + np.searchsorted(images, size, "right")  # where those of a size begin and end
    # The variance of what few clusters have, or of what is wrong in few, is too small. By simulation, weights that vary
    # by so much more than the exponential distribution's hold the truth often enough.
    sums = _sums_of_weights(len(images), max(0.88 - 2 / len(images), 0.5))
    weights = np.stack([sums[end] - sums[start], sums[both - start] - sums[both - end]])  # (2, kinds, draws)
    found: NDArray[np.float64] = (right @ weights) / (size @ weights)
    return found


def _up_to(sums: NDArray[np.float64], place: float) -> NDArray[np.float64]:
    """The sum of weights up to a place, which may lie between two."""
    lower = int(place)
    upper = min(lower + 1, len(sums) - 1)
    found: NDArray[np.float64] = sums[lower] + (place - lower) * (sums[upper] - sums[lower])
    return found


@functools.lru_cache(maxsize=16)
def _sums_of_weights(count: int, shape: float) -> NDArray[np.float64]:
    """Random weights of a task's clusters or images, each with those before it, ``(count + 1, draws)``."""
    weights = np.random.default_rng((_SEED, count)).standard_gamma(shape, size=(count, _DRAWS))
    return np.concatenate([np.zeros((1, _DRAWS)), np.cumsum(weights, axis=0)])


@functools.lru_cache(maxsize=64)
def _amounts(seen: float, unseen: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of all effective images, ``(draws,)``, and of unseen ones, ``(2, draws)``: right ones and wrong ones.

    In the second half of what is drawn these two change places.
    """
    rng = np.random.default_rng((_SEED, 0))
    return rng.standard_gamma(seen, size=_DRAWS), rng.standard_gamma(unseen, size=(2, _DRAWS))
