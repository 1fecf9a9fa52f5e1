"""How often 95 % intervals hold the truth, over many made-up runs. `python interval_kit.py` prints the table.

Each prompt has a chance of its own, beta-distributed, so that two of its images have correlation 0.3; four images each.
Two runs of the same prompts share their prompts' difficulty by a Gaussian copula.
"""

import dataclasses
import functools
import sys

import numpy as np
from scipy import stats

from evals.metrics import statistics

PROMPTS = {553: (80, 99, 80, 94, 100, 100), 60: (10,) * 6, 12: (2,) * 6}
"""How many prompts a run has -> of each task; 553 as in GenEval."""
IMAGES, CORRELATION = 4, 0.3
PAPER = (0.99, 0.69, 0.67, 0.85, 0.34, 0.27)
"""GoT-6B's row, 0.635 overall."""
MINI_WRONG = (0.006, 0.005, 0.053, 0.029, 0.002, 0.0)
"""Shares of wrong images of mini, 0.984 overall."""


def profile(overall, kind):
    """True shares of the six tasks."""
    if kind == "mini":
        return tuple(1 - wrong * (1 - overall) / np.mean(MINI_WRONG) for wrong in MINI_WRONG)
    if kind == "one task":
        return (1, 1, 1 - 6 * (1 - overall), 1, 1, 1)
    return PAPER if kind == "paper" else (overall,) * 6


SHARES = [
    *((prompts, kind, overall) for prompts in PROMPTS for overall in (0.95, 0.984, 0.995, 0.998)
      for kind in ("equal", "mini", "one task")),
    *((prompts, kind, 0.64) for prompts in PROMPTS for kind in ("equal", "paper")),
]  # fmt: skip
DIFFERENCES = [
    (prompts, likeness, before, after)
    for prompts in PROMPTS
    for likeness in (0.0, 0.5, 0.9)
    for before, after in (
        (0.64, 0.64), (0.64, 0.66), (0.5, 0.8), (0.95, 0.95), (0.95, 0.97), (0.984, 0.984), (0.984, 0.99),
        (0.984, 0.995), (0.995, 0.998), (0.995, 0.9),
    )
]  # fmt: skip


GRID = np.linspace(-6, 6, 2001)


@functools.cache
def quantiles(share):
    """Chances of prompts whose difficulty is at each point of the grid."""
    strength = 1 / CORRELATION - 1
    return stats.beta.ppf(stats.norm.cdf(GRID), share * strength, (1 - share) * strength)


def chances(share, normal):
    """Each prompt's chance from standard normal numbers."""
    return np.full(normal.shape, float(share)) if share in (0, 1) else np.interp(normal, GRID, quantiles(share))


def drawn(rng, shares, prompts, normals):
    """Right images of each prompt, tasks one after the other."""
    parts = np.split(normals, np.cumsum(PROMPTS[prompts])[:-1])
    return np.concatenate([rng.binomial(IMAGES, chances(p, part)) for p, part in zip(shares, parts, strict=True)])


def tasks_of(prompts):
    return np.repeat(np.arange(6), PROMPTS[prompts])


@dataclasses.dataclass
class Coverage:
    """Shares of runs whose interval holds the truth, lies above it, lies below it; mean width."""

    holds: float
    above: float
    below: float
    width: float

    @classmethod
    def of(cls, ends, truth):
        low, high = np.array(ends).T
        above, below = np.mean(low > truth + 1e-12), np.mean(high < truth - 1e-12)
        return cls(1 - above - below, above, below, np.mean(high - low))


def of_shares(prompts, shares, runs, seed=0, *, tasks=True):
    """Coverage of the overall score, and of the six tasks if they are asked for."""
    rng = np.random.default_rng(seed)
    labels, images = tasks_of(prompts), np.full(prompts, IMAGES)
    overall, by_task = [], {name: [] for name in np.unique(labels) if tasks}
    for _ in range(runs):
        right = drawn(rng, shares, prompts, rng.standard_normal(prompts))
        found = statistics.share(right, images, labels)
        overall.append((found.low, found.high))
        for name, ends in by_task.items():
            part = statistics.share(right[labels == name], images[labels == name])
            ends.append((part.low, part.high))
    parts = [Coverage.of(ends, share) for ends, share in zip(by_task.values(), shares, strict=False)]
    return Coverage.of(overall, np.mean(shares)), parts


def of_difference(prompts, likeness, before, after, runs, seed=0, *, resamples=200):
    """Coverage of the paired difference of two runs' overall scores, and how often the verdict sees one.

    With `resamples=0`, which takes half the time, it sees none.
    """
    rng = np.random.default_rng(seed)
    labels = tasks_of(prompts)
    kind = "mini" if min(before, after) > 0.85 else "equal"
    first, second = (profile(overall, kind) for overall in (before, after))
    ends, seen = [], 0
    for _ in range(runs):
        shared, own = rng.standard_normal((2, prompts))
        a = drawn(rng, first, prompts, shared)
        b = drawn(rng, second, prompts, likeness * shared + np.sqrt(1 - likeness**2) * own)
        found = statistics.paired_difference(
            a / IMAGES, b / IMAGES, rng, images=IMAGES, strata=labels, resamples=resamples
        )
        ends.append((found.low, found.high))
        seen += found.distinguishable
    return Coverage.of(ends, np.mean(second) - np.mean(first)), seen / runs


def main(runs):
    write = sys.stdout.write
    write("| prompts | profile | overall | holds | above | below | width | tasks hold |\n| --- " + "| --- " * 7 + "|\n")
    for prompts, kind, overall in SHARES:
        found, tasks = of_shares(prompts, profile(overall, kind), runs)
        part = [task.holds for task in tasks]
        write(f"| {prompts} | {kind} | {overall} | {found.holds:.3f} | {found.above:.3f} | {found.below:.3f} "
              f"| {found.width:.4f} | {min(part):.3f}-{max(part):.3f} |\n")  # fmt: skip
        sys.stdout.flush()
    write("\n| prompts | likeness | before | after | holds | above | below | width | seen |\n| --- " + "| --- " * 8)
    write("|\n")
    for cell in DIFFERENCES:
        found, seen = of_difference(*cell, runs)
        write(f"| {' | '.join(map(str, cell))} | {found.holds:.3f} | {found.above:.3f} | {found.below:.3f} "
              f"| {found.width:.4f} | {seen:.3f} |\n")  # fmt: skip
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
