"""Where groups of icons go that stand in relations to each other, as three dogs left of two cats do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from got.iconworld.placing import RELATIONS, fill, relation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000

_GRIDS = ((2, 2), (3, 2), (2, 3), (3, 3), (4, 3), (3, 4), (4, 4))
"""Columns and rows, from the largest cells to the smallest."""
_TRIES = 60
"""Target points that are tried on one grid, before the next one is."""
_APART = 0.25
"""Share of the summed sides by which the centres of any two boxes of related groups are apart; GenEval asks for 0.1."""

Wanted = tuple[int, str, int]
"""A group, one of `RELATIONS`, and the group that it stands so to."""


def enclosing(boxes: Sequence[Box1000]) -> Box1000:
    """The smallest box around all of them.

    >>> enclosing([(0, 50, 20, 60), (10, 0, 40, 20)])
    (0, 0, 40, 60)
    """
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return int(low[0]), int(low[1]), int(high[2]), int(high[3])


def stands(group: Sequence[Box1000], name: str, other: Sequence[Box1000]) -> bool:
    """Whether a group is clearly on the named side of another one, as a whole and box by box.

    >>> stands([(0, 0, 100, 100), (0, 800, 100, 900)], "left of", [(700, 300, 900, 500)])
    True
    >>> stands([(0, 0, 100, 100), (750, 0, 850, 100)], "left of", [(700, 300, 900, 500)])
    False
    """
    axis = 0 if RELATIONS[name][0] else 1
    apart = all(
        RELATIONS[name][axis] * (a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2
        > _APART * (a[axis + 2] - a[axis] + b[axis + 2] - b[axis])
        for a in group
        for b in other
    )
    return apart and relation(enclosing(group), enclosing(other)) == name


def place_groups(
    ratios: Sequence[float], group_of: Sequence[int], wanted: Sequence[Wanted], rng: np.random.Generator
) -> list[Box1000]:
    """Boxes for icons of the given aspect ratios, so that their groups stand in all wanted relations.

    A target point is drawn for each group, and the cells of a grid go to the objects whose targets they are near.

    Args:
        ratios: Width through height of each icon, at most sixteen.
        group_of: The group of each.
        wanted: Relations between groups.
        rng: Source of everything that they leave open.

    Raises:
        ValueError: No arrangement was found.
    """
    from scipy.optimize import linear_sum_assignment

    of = np.asarray(group_of)
    sizes = [grid for grid in _GRIDS if grid[0] * grid[1] >= len(ratios)]
    for columns, rows in sizes:
        cells = [(i % columns, i // columns) for i in range(columns * rows)]
        middles = (np.array(cells) + 0.5) / (columns, rows)
        for _ in range(_TRIES):
            targets = _targets(int(of.max()) + 1, wanted, rng)
            stretch = rng.uniform(0.2, 1, 2)  # groups that lie flat or stand upright
            cost = np.linalg.norm((targets[of][:, None] - middles[None]) * stretch, axis=-1)
            _, chosen = linear_sum_assignment(cost + rng.uniform(0, 0.03, cost.shape))
            for n in range(len(targets)):  # in reading order inside a group, as chains list them
                chosen[of == n] = np.sort(chosen[of == n])
            boxes = fill([cells[i] for i in chosen], ratios, rng, columns, rows)
            grouped = [[box for box, g in zip(boxes, of, strict=True) if g == n] for n in range(len(targets))]
            if all(stands(grouped[a], name, grouped[b]) for a, name, b in wanted):
                return boxes
    raise ValueError(f"Expected relations that can be drawn but got {list(wanted)} between groups of {len(of)} objects")


def _targets(groups: int, wanted: Sequence[Wanted], rng: np.random.Generator) -> np.ndarray:
    """A point of the unit square for each group, (groups, 2), apart in the directions of the relations."""
    points = rng.uniform(0, 1, (groups, 2))
    for a, name, b in wanted:
        points[a] = points[b] + np.array(RELATIONS[name]) * rng.uniform(0.6, 1) + rng.uniform(-0.25, 0.25, 2)
    points -= points.min(axis=0)
    extent = points.max(axis=0)
    unit: np.ndarray = points / np.maximum(extent, 1) + rng.uniform(0, np.maximum(1 - extent, 1e-9))
    return 0.1 + 0.8 * unit
