"""Boxes in pixels: overlap, suppression, and where one stands relative to another. Numpy only.

Boxes are ``(x1, y1, x2, y2)``; x grows to the right, y downwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from evals.core.records import BoxPx

_NO_OFFSET = 1e-3
"""Offsets whose shrunk components are both below this (pixels) stand in no relation."""


def iou_matrix(boxes_a: ArrayLike, boxes_b: ArrayLike, *, pixel_inclusive: bool = False) -> NDArray[np.float64]:
    """Intersection over union of every box of one list with every box of another, in [0, 1].

    Args:
        boxes_a: ``(n, 4)`` boxes.
        boxes_b: ``(m, 4)`` boxes in the same frame.
        pixel_inclusive: Take corners as the first and last pixel covered, so that sides are one longer
            (GenEval's suppression); by default they are positions.

    Returns:
        ``(n, m)`` matrix. Two boxes without area have 0.

    >>> iou_matrix([[0, 0, 2, 2]], [[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[0.333, 1.0, 0.0]]
    >>> iou_matrix([[0, 0, 1, 1]], [[1, 0, 2, 1]], pixel_inclusive=True).round(3).tolist()
    [[0.333]]
    """
    a = np.asarray(boxes_a, dtype=np.float64).reshape(-1, 4)[:, None]
    b = np.asarray(boxes_b, dtype=np.float64).reshape(-1, 4)[None]
    extra = 1.0 if pixel_inclusive else 0.0
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    spans = (high - low, a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2])
    sides = (np.maximum(span + extra, 0.0) for span in spans)
    inter, area_a, area_b = (side[..., 0] * side[..., 1] for side in sides)  # `np.prod` takes several times as long
    union = area_a + area_b - inter
    iou: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return iou


def iou(box_a: BoxPx, box_b: BoxPx) -> float:
    """Intersection over union of two boxes, in [0, 1]: to the last digit that of :func:`iou_matrix`, sooner for a few.

    >>> round(iou((0, 0, 2, 2), (1, 0, 3, 2)), 3)
    0.333
    """
    ax1, ay1, ax2, ay2 = box_a
    bx1, by1, bx2, by2 = box_b
    inter = max(min(ax2, bx2) - max(ax1, bx1), 0.0) * max(min(ay2, by2) - max(ay1, by1), 0.0)
    union = max(ax2 - ax1, 0.0) * max(ay2 - ay1, 0.0) + max(bx2 - bx1, 0.0) * max(by2 - by1, 0.0) - inter
    return inter / union if union > 0 else 0.0


def suppress(boxes_xyxy_px: ArrayLike, max_overlap: float) -> list[int]:
    """Greedy suppression: indices of the boxes that overlap no earlier kept box by more than ``max_overlap``.

    Args:
        boxes_xyxy_px: ``(n, 4)`` boxes, best first.
        max_overlap: Largest IoU allowed between two kept boxes, pixel-inclusive; 1 or more switches it off.

    >>> suppress([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], max_overlap=0.5)
    [0, 2]
    """
    boxes = np.asarray(boxes_xyxy_px, dtype=np.float64).reshape(-1, 4)
    if max_overlap >= 1.0 or len(boxes) < 2:
        return list(range(len(boxes)))
    overlap = iou_matrix(boxes, boxes, pixel_inclusive=True)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not kept or overlap[index, kept].max() < max_overlap:
            kept.append(index)
    return kept


def enclosing(boxes_xyxy_px: Sequence[BoxPx]) -> BoxPx:
    """The smallest box around all of them.

    >>> enclosing([(0, 5, 2, 6), (1, 0, 4, 2)])
    (0, 0, 4, 6)
    """
    x1, y1, x2, y2 = zip(*boxes_xyxy_px, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def relations(box: BoxPx, target: BoxPx, position_threshold: float = 0.1) -> tuple[str, ...]:
    """Where ``box`` stands as seen from ``target``: none, one or two of left of, right of, above, below.

    The offset of the centres is shrunk towards 0 on each axis by ``position_threshold`` times the summed sides,
    then divided by the norm of the *unshrunk* offset; a component beyond one half is a relation (GenEval).

    >>> relations((0, 0, 10, 10), (50, 0, 60, 10))
    ('left of',)
    >>> relations((0, 0, 10, 10), (50, 50, 60, 60))
    ('left of', 'above')
    >>> relations((0, 0, 10, 10), (1, 0, 11, 10))
    ()
    """
    offset = [(box[axis] + box[axis + 2] - target[axis] - target[axis + 2]) / 2 for axis in (0, 1)]
    # Of a box whose corners are exchanged, as somebody's detector may give it, the sides are as long.
    sides = [abs(box[axis + 2] - box[axis]) + abs(target[axis + 2] - target[axis]) for axis in (0, 1)]
    slack = [position_threshold * side for side in sides]
    shrunk = [math.copysign(max(abs(o) - s, 0.0), o) for o, s in zip(offset, slack, strict=True)]
    if max(map(abs, shrunk)) < _NO_OFFSET:
        return ()
    dx, dy = (value / math.hypot(*offset) for value in shrunk)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return tuple(name for name, true in holds.items() if true)


def to_pixels(box_1000: Sequence[int], width_px: int, height_px: int) -> BoxPx:
    """A box of the chain frame, integers in [0, 1000), in pixels of an image.

    >>> to_pixels((250, 500, 750, 1000), 128, 64)
    (32.0, 32.0, 96.0, 64.0)
    """
    x1, y1, x2, y2 = box_1000
    return (x1 * width_px / 1000, y1 * height_px / 1000, x2 * width_px / 1000, y2 * height_px / 1000)
