"""The plan inside a chain: which objects a model said it would draw and where, and whether they are there."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Detection
from evals.core.vocabulary import CLASSES, COLORS
from evals.metrics.boxes import iou, to_pixels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from evals.core.records import BoxPx

# The grammar of GoT's chains; more digits than nine are no coordinate (and could be too many to read).
_REGION = re.compile(r"<\|box_start\|>\((\d{1,9}),(\d{1,9})\),\((\d{1,9}),(\d{1,9})\)<\|box_end\|> \(\w+\)")
# Alternatives are tried in order, so the longest name comes first: "hot dog" before "dog".
_PHRASE = re.compile(
    rf"(?:\b(?P<color>{'|'.join(COLORS)})[\s-]+)?"
    rf"\b(?P<name>{'|'.join(re.escape(name) for name in sorted(CLASSES, key=len, reverse=True))})\W*$",
    re.IGNORECASE,
)
_RECALL_IOU = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedObject:
    """One box of a chain and what the words before it say it is."""

    text: str
    """The words between the box before and this one."""
    name: str | None
    """Class in GenEval's spelling; None where the last words name none of the 80."""
    color: str | None
    """Colour word right before the name, one of GenEval's ten; None where there is none."""
    box_1000: tuple[int, int, int, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"text": self.text, "name": self.name, "color": self.color, "box_1000": list(self.box_1000)}

    @classmethod
    def from_dict(cls, item: dict[str, Any]) -> PlannedObject:
        """Back from the JSON form."""
        x1, y1, x2, y2 = item["box_1000"]
        return cls(text=item["text"], name=item["name"], color=item["color"], box_1000=(x1, y1, x2, y2))


def parse_phrase(text: str) -> tuple[str | None, str | None]:
    """Class and colour named by the last words before a box; None for what is not named.

    >>> parse_phrase("a photo of a red hot dog"), parse_phrase("an orange"), parse_phrase("an orange orange")
    (('hot dog', 'red'), ('orange', None), ('orange', 'orange'))
    >>> parse_phrase("a shiny gadget")
    (None, None)
    """
    found = _PHRASE.search(text.strip())
    if found is None:
        return None, None
    color = found["color"]
    return found["name"].lower(), color.lower() if color else None


def parse_plan(chain: str) -> tuple[PlannedObject, ...]:
    """The boxes of a chain with what they hold. Never raises on a model's text.

    Malformed boxes are skipped, swapped corners sorted, boxes cut off at the border; what then has no area is skipped.

    >>> chain = "a photo of a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red) left of a dog"
    >>> [(o.name, o.color, o.box_1000) for o in parse_plan(chain)]
    [('apple', 'red', (120, 300, 480, 660))]
    """
    planned, start = [], 0
    for found in _REGION.finditer(chain):
        text = chain[start : found.start()].strip()
        start = found.end()
        corners = [min(int(number), 1000) for number in found.groups()]
        (x1, x2), (y1, y2) = sorted(corners[::2]), sorted(corners[1::2])
        if x1 < x2 and y1 < y2:
            name, color = parse_phrase(text)
            planned.append(PlannedObject(text=text, name=name, color=color, box_1000=(x1, y1, x2, y2)))
    return tuple(planned)


def as_detections(planned: Sequence[PlannedObject], width_px: int, height_px: int) -> tuple[Detection, ...]:
    """The plan as if a perfect detector had found it in an image of that size: score 1, in the plan's order.

    >>> plan = parse_plan("a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)")
    >>> [(d.name, d.score, d.box_xyxy_px) for d in as_detections(plan, 128, 128)]
    [('dog', 1.0, (0.0, 0.0, 64.0, 64.0))]
    """
    return tuple(
        Detection(
            name=item.name, score=1.0, box_xyxy_px=to_pixels(item.box_1000, width_px, height_px), color=item.color
        )
        for item in planned
        if item.name is not None
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayoutFit:
    """How well one image keeps to its plan."""

    ious: tuple[float, ...]
    """Per planned object, IoU with its detection in [0, 1]; 0 where it has none. Higher is better."""
    offsets: tuple[float, ...]
    """Per planned object with a detection: distance of centres, x in widths, y in heights. Lower is better."""
    matches: tuple[int | None, ...] = dataclasses.field(default=(), repr=False, compare=False)
    """Per planned object, the number of its detection; None where it has none."""

    @property
    def hits(self) -> tuple[bool, ...]:
        """Per planned object, whether its detection overlaps it with IoU >= 0.5. Higher is better."""
        return tuple(iou >= _RECALL_IOU for iou in self.ious)


def fit(planned: Sequence[Detection], detected: Sequence[Detection], width_px: int, height_px: int) -> LayoutFit:
    """Match planned to detected objects of the same class, one to one, so that the total IoU is largest.

    Args:
        planned: From :func:`as_detections`.
        detected: Detections that passed the thresholds; both in pixels of the image.
        width_px: Image width.
        height_px: Image height.

    >>> dog = Detection(name="dog", score=1.0, box_xyxy_px=(0, 0, 10, 10))
    >>> cat = Detection(name="cat", score=1.0, box_xyxy_px=(20, 0, 30, 10))
    >>> near = Detection(name="dog", score=0.8, box_xyxy_px=(0, 5, 10, 15))
    >>> fit([dog, cat], [near], 100, 100)
    LayoutFit(ious=(0.3333333333333333, 0.0), offsets=(0.05,))
    """
    ious, offsets, matches = [0.0] * len(planned), {}, {}
    for name in {item.name for item in planned}:
        rows = [i for i, item in enumerate(planned) if item.name == name]
        others = [i for i, item in enumerate(detected) if item.name == name]
        if not others:
            continue
        pairs = [[(planned[i].box_xyxy_px, detected[k].box_xyxy_px) for k in others] for i in rows]
        overlap = [[iou(*pair) for pair in row] for row in pairs]
        distance = [[_centre_distance(*pair, width_px, height_px) for pair in row] for row in pairs]
        # Distance only breaks ties of IoU, above all between boxes that do not touch.
        for row, column in _cheapest_pairs(1e-4 * np.array(distance) - np.array(overlap)):
            ious[rows[row]] = overlap[row][column]
            offsets[rows[row]] = distance[row][column]
            matches[rows[row]] = others[column]
    return LayoutFit(
        ious=tuple(ious),
        offsets=tuple(offsets[i] for i in sorted(offsets)),
        matches=tuple(matches.get(i) for i in range(len(planned))),
    )


def _cheapest_pairs(cost: NDArray[np.float64]) -> Iterable[tuple[int, int]]:
    """Rows and columns paired one to one, so that the total cost is smallest."""
    if 1 in cost.shape and np.isfinite(cost).all():  # one pair, for which nobody waits a third of a second for scipy
        return [divmod(int(cost.argmin()), cost.shape[1])]
    from scipy.optimize import linear_sum_assignment

    return zip(*linear_sum_assignment(cost), strict=True)


def _centre_distance(box_a: BoxPx, box_b: BoxPx, width_px: int, height_px: int) -> float:
    """Distance of centres, each axis relative to the image's side."""
    across = (box_a[0] + box_a[2]) / 2 / width_px - (box_b[0] + box_b[2]) / 2 / width_px
    down = (box_a[1] + box_a[3]) / 2 / height_px - (box_b[1] + box_b[3]) / 2 / height_px
    return math.sqrt(across * across + down * down)


def plan_mask_iou(planned: Sequence[PlannedObject], mask: NDArray[np.bool_]) -> float:
    """Does a plan work where it should: intersection over union of all its boxes together with a mask, in [0, 1].

    Args:
        planned: Boxes of an edit's chain.
        mask: Bool (height, width), True where the edit belongs.

    >>> half = PlannedObject(text="", name=None, color=None, box_1000=(0, 0, 500, 1000))
    >>> plan_mask_iou([half], np.array([[True, False, False, False]]))
    0.5
    """
    height, width = mask.shape
    covered = np.zeros_like(mask)
    for item in planned:
        x1, y1, x2, y2 = (round(value) for value in to_pixels(item.box_1000, width, height))
        covered[y1:y2, x1:x2] = True
    union = int((covered | mask).sum())
    return float((covered & mask).sum() / union) if union else 0.0
