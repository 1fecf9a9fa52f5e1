"""Where icons go: boxes of the right shape that do not overlap, and relations between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from got.iconworld.glyphs import DRAWINGS, aspect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Unit offset of A from B in "A is RELATION B", y pointing down."""
ANGLES = (-10, -5, 0, 5, 10)
"""Rotations of an icon in degrees."""
_ANGLE_SHARES = (0.05, 0.15, 0.6, 0.15, 0.05)
_SMALLEST = 130  # thousandths: below this an icon cannot be told from others
_GRID = 10  # box coordinates are multiples of this, in thousandths: finer than a pixel of a 64 px image
_SIZE = {1: (500, 860), 2: (350, 500), 3: (310, 460), 4: (310, 460), 5: (240, 330), 6: (240, 330)}
_SIZE |= dict.fromkeys((7, 8, 9), (230, 320))
"""Range of an icon's longer side, by the number of icons; of more than nine that of nine."""
_ARRANGEMENTS = {2: ((2, 1), (2, 1), (1, 2)), 3: ((2, 2),), 4: ((2, 2),), 5: ((3, 2), (2, 3)), 6: ((3, 2), (2, 3))}
_ARRANGEMENTS |= dict.fromkeys((7, 8, 9), ((3, 3),))
"""Columns and rows of the loose grids that so many icons are placed on."""


def sample_look(name: str, rng: np.random.Generator) -> tuple[int, int, float]:
    """A drawing, a rotation and their aspect ratio with a little stretch. First drawings and upright ones are usual."""
    variants = len(DRAWINGS[name])
    variant = int(rng.random() > 0.85) if variants > 1 else 0
    angle = int(rng.choice(ANGLES, p=_ANGLE_SHARES))
    return variant, angle, aspect(name, variant, angle) * math.exp(rng.uniform(-0.06, 0.06))


def _extent(longer: float, ratio: float) -> tuple[int, int]:
    """Width and height of a box with the given longer side and width/height, on the coordinate grid."""
    width, height = (longer, longer / ratio) if ratio >= 1 else (longer * ratio, longer)
    return max(60, round(width / _GRID) * _GRID), max(60, round(height / _GRID) * _GRID)


def overlaps(a: Sequence[int], b: Sequence[int], gap: int) -> bool:
    """Whether two boxes come nearer to each other than `gap`."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _spot(
    size: tuple[int, int], rng: np.random.Generator, cell: tuple[int, int, int, int] = (10, 10, 990, 990)
) -> tuple[int, int, int, int]:
    """A box of the given size at a random place of a cell, on the coordinate grid."""
    x, y = (
        int(rng.integers(low // _GRID, max(low // _GRID + 1, (high - side) // _GRID + 1))) * _GRID
        for low, high, side in zip(cell[:2], cell[2:], size, strict=True)
    )
    return x, y, min(x + size[0], 990), min(y + size[1], 990)


def _arrange(
    ratios: Sequence[float], rng: np.random.Generator, columns: int, rows: int
) -> list[tuple[int, int, int, int]]:
    """Boxes for objects of the given aspect ratios, each somewhere in its cell of a grid, in reading order."""
    cells = [(i % columns, i // columns) for i in sorted(rng.permutation(columns * rows)[: len(ratios)])]
    return fill(cells, ratios, rng, columns, rows)


def fill(
    cells: Sequence[tuple[int, int]], ratios: Sequence[float], rng: np.random.Generator, columns: int, rows: int
) -> list[tuple[int, int, int, int]]:
    """Boxes for objects of the given aspect ratios, each somewhere in its own cell (column, row) of a grid."""
    low, high = _SIZE[min(len(ratios), max(_SIZE))]
    boxes = []
    for (column, row), ratio in zip(cells, ratios, strict=True):
        x1, x2, y1, y2 = (
            10 + 980 * at // n for at, n in ((column, columns), (column + 1, columns), (row, rows), (row + 1, rows))
        )
        width, height = _extent(rng.uniform(low, high), ratio)
        shrink = min(1.0, (x2 - x1 - 10) / width, (y2 - y1 - 10) / height)
        size = (int(width * shrink) // _GRID * _GRID, int(height * shrink) // _GRID * _GRID)
        boxes.append(_spot(size, rng, (-(-x1 // _GRID) * _GRID, -(-y1 // _GRID) * _GRID, x2, y2)))
    return boxes


def _scatter(ratios: Sequence[float], rng: np.random.Generator, gap: int) -> list[tuple[int, int, int, int]]:
    """Boxes for objects of the given aspect ratios, at random places, `gap` thousandths apart."""
    low, high = _SIZE[len(ratios)]
    longer = rng.uniform(low, high, len(ratios))
    while True:
        boxes: list[tuple[int, int, int, int]] = []
        for side, ratio in zip(longer, ratios, strict=True):
            size = _extent(side, ratio)
            spots = (_spot(size, rng) for _ in range(40))
            free = next((s for s in spots if not any(overlaps(s, b, gap) for b in boxes)), None)
            if free is None:
                break
            boxes.append(free)
        if len(boxes) == len(ratios):
            return boxes
        longer = longer * 0.95


def place(ratios: Sequence[float], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Boxes for a scene: mostly on a loose grid and in reading order, as people compose; some anywhere."""
    if len(ratios) == 1 or rng.random() < 0.15:
        return _scatter(ratios, rng, gap=int(rng.choice([0, 10, 30])))
    arrangements = _ARRANGEMENTS[len(ratios)]
    return _arrange(ratios, rng, *arrangements[int(rng.integers(len(arrangements)))])


def relation(a: Sequence[int], b: Sequence[int], margin: float = 0.6) -> str | None:
    """The clearest relation in which box a stands to box b, by GenEval's rule with a margin; None if unclear.

    >>> relation((0, 400, 200, 600), (700, 400, 900, 600))
    'left of'
    """
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    norm = math.hypot(dx, dy) or 1.0
    reach_x, reach_y = 0.1 * (a[2] - a[0] + b[2] - b[0]), 0.1 * (a[3] - a[1] + b[3] - b[1])
    x = math.copysign(max(abs(dx) - reach_x, 0.0), dx) / norm
    y = math.copysign(max(abs(dy) - reach_y, 0.0), dy) / norm
    strength = {name: ux * x + uy * y for name, (ux, uy) in RELATIONS.items()}
    best = max(strength, key=lambda name: strength[name])
    return best if strength[best] > margin else None


def place_related(ratios: Sequence[float], wanted: str, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Two boxes of which the first stands in the wanted relation to the second."""
    dx, dy = RELATIONS[wanted]
    while True:
        if dx + dy < 0:  # the first is left or above: reading order
            boxes = _arrange(ratios, rng, *((2, 1) if dx else (1, 2)))
        else:
            boxes = _arrange(ratios[::-1], rng, *((2, 1) if dx else (1, 2)))[::-1]
        if relation(boxes[0], boxes[1]) == wanted:
            return boxes


def fit_inside(ratio: float, longer: float, box: Box1000, others: Sequence[Box1000]) -> Box1000:
    """A box around the middle of another one, on the grid and inside the image.

    Args:
        ratio: Its width through its height.
        longer: Its longer side at most; it shrinks until it is clear of the others.
        box: The place.
        others: Boxes that it may not touch.
    """
    while True:
        width, height = _extent(longer, ratio)
        x = min(max(_GRID, round((box[0] + box[2] - width) / 2 / _GRID) * _GRID), 990 - width)
        y = min(max(_GRID, round((box[1] + box[3] - height) / 2 / _GRID) * _GRID), 990 - height)
        placed = (x, y, x + width, y + height)
        if longer < _SMALLEST or not any(overlaps(placed, other, 0) for other in others):
            return placed
        longer *= 0.93


# --------------------------------------------------------------------------------------------------------------- groups
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
