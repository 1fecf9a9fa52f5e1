"""Was an edit done, and was the rest left alone? Measured from detections; for worlds where the truth is known.

Nothing here guesses: an edit's truth lists the objects that stay, go and come, and every check is a comparison of it
with what a detector found in the result.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Detection
from evals.metrics.boxes import iou_matrix, relations, to_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evals.core.records import BoxPx

SAME_PLACE_IOU = 0.5
"""From this overlap on, an object is where it was."""
REPLACED_IOU = 0.25
"""From this overlap on, an object stands in for another one, whose proportions it need not have."""
IN_BOX = "box"
"""The place of a move that is a box and not a side."""
_NEAR_MIDDLE = 0.06
"""Share of the image by which a centre must be off the middle to be on a side."""
_SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
"""Axis and sign of the offset from the middle, y pointing down."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An object of the truth."""

    name: str
    color: str
    box_1000: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EditTruth:
    """What an edit changes."""

    kind: str
    """``add``, ``remove``, ``replace``, ``recolor``, ``move``, ``background``, ``count``, ``global``, or ``steps``:
    several of the others in one, whose objects have a place and a colour."""
    kept: tuple[Thing, ...]
    """Objects before and after. Where an addition is placed beside one of them, that one is `wanted`'s."""
    erased: tuple[Thing, ...]
    drawn: tuple[Thing, ...]
    wanted: str = ""
    """The place of a move (a side, or `IN_BOX`), the relation of an addition and the number of the other object in
    `kept`, the number of a count, the colour of a background."""
    color_named: bool = True
    """Whether the instruction fixes the colour of what is drawn."""
    ground_color: str | None = None
    """Tint of the background before; None for a grey one."""

    @classmethod
    def from_dict(cls, item: dict[str, Any]) -> EditTruth:
        """From its JSON form."""
        things = ("kept", "erased", "drawn")
        fields: dict[str, Any] = {k: tuple(map(_thing, v)) if k in things else v for k, v in item.items()}
        return cls(**fields)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


def _thing(item: dict[str, Any]) -> Thing:
    x1, y1, x2, y2 = item["box_1000"]
    return Thing(name=item["name"], color=item["color"], box_1000=(x1, y1, x2, y2))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EditChecks:
    """Every comparison by name; an edit is done, or the rest untouched, if all of them hold."""

    edit: dict[str, bool]
    rest: dict[str, bool]

    @property
    def done(self) -> bool:
        """Whether the instruction was followed."""
        return all(self.edit.values())

    @property
    def untouched(self) -> bool:
        """Whether everything else is as it was: there, in its place, in its colour."""
        return all(self.rest.values())


def check_edit(
    truth: EditTruth, seen: Sequence[Detection], ground_color: str | None, width_px: int, height_px: int
) -> EditChecks:
    """Hold a result against the truth.

    Args:
        truth: What was to change, and what was not.
        seen: Detections in the result that count, with colours.
        ground_color: Tint of the result's background; None if it is grey.
        width_px: Of the result.
        height_px: Of the result.

    >>> dog = Thing(name="dog", color="red", box_1000=(0, 0, 500, 500))
    >>> cat = Thing(name="cat", color="blue", box_1000=(500, 500, 1000, 1000))
    >>> truth = EditTruth(kind="remove", kept=(dog,), erased=(cat,), drawn=())
    >>> found = [Detection(name="dog", score=0.9, box_xyxy_px=(0, 0, 32, 32), color="red")]
    >>> check_edit(truth, found, None, 64, 64)
    EditChecks(edit={'cat is gone': True}, rest={'dog stays': True, 'ground stays': True})
    """
    matches = _match([_box(thing, width_px, height_px) for thing in truth.kept], truth.kept, seen)
    taken = set(matches.values())
    free = [detection for i, detection in enumerate(seen) if i not in taken]
    rest: dict[str, bool] = {}
    for i, thing in enumerate(truth.kept):
        found = seen[matches[i]] if i in matches else None
        label = _unused(f"{thing.name} stays", rest)
        rest[label] = found is not None and found.color == thing.color
    if truth.kind != "background" and not (truth.kind == "steps" and truth.wanted):
        rest["ground stays"] = ground_color == truth.ground_color
    others = {i: seen[j].box_xyxy_px for i, j in matches.items()}
    return EditChecks(edit=_edit_checks(truth, seen, free, others, ground_color, width_px, height_px), rest=rest)


def _edit_checks(
    truth: EditTruth,
    seen: Sequence[Detection],
    free: Sequence[Detection],
    others: dict[int, BoxPx],
    ground_color: str | None,
    width_px: int,
    height_px: int,
) -> dict[str, bool]:
    """The checks of the instruction itself. `free` are the detections that are none of the kept objects."""
    if truth.kind == "background":
        return {f"ground is {truth.wanted}": ground_color == truth.wanted}
    if truth.kind == "count":
        name = (truth.drawn or truth.erased)[0].name
        return {f"{truth.wanted} {name}": sum(d.name == name for d in seen) == int(truth.wanted)}
    if truth.kind == "remove":
        return {f"{old.name} is gone": not any(d.name == old.name for d in free) for old in truth.erased}
    if truth.kind == "add":
        return _addition(truth, free, others)
    if truth.kind in {"replace", "recolor", "move"}:
        return _exchange(truth, free, width_px, height_px)
    if truth.kind == "global":
        return _repainted(truth, free, width_px, height_px)
    if truth.kind == "steps":
        return _outcome(truth, free, ground_color, width_px, height_px)
    raise ValueError(f"Expected a known kind of edit but got {truth.kind!r}")


def _addition(truth: EditTruth, free: Sequence[Detection], others: dict[int, BoxPx]) -> dict[str, bool]:
    (new,) = truth.drawn
    named = [d for d in free if d.name == new.name]
    checks = {f"{new.name} is there": bool(named)}
    if truth.color_named:
        checks[f"it is {new.color}"] = any(d.color == new.color for d in named)
    if truth.wanted:
        relation, _, index = truth.wanted.rpartition(" ")
        target = others.get(int(index))
        holds = target is not None and any(relation in relations(d.box_xyxy_px, target) for d in named)
        checks[f"it is {relation} {truth.kept[int(index)].name}"] = holds
    return checks


def _exchange(truth: EditTruth, free: Sequence[Detection], width_px: int, height_px: int) -> dict[str, bool]:
    """The checks of one object in exchange for another: of another class, of another colour, or elsewhere."""
    (old,), (new,) = truth.erased, truth.drawn
    overlaps = iou_matrix([d.box_xyxy_px for d in free], [_box(old, width_px, height_px)])[:, 0]
    least = REPLACED_IOU if truth.kind == "replace" else SAME_PLACE_IOU
    here = [d for d, overlap in zip(free, overlaps, strict=True) if overlap >= least]
    if truth.kind == "move":
        same = [d for d in free if (d.name, d.color) == (new.name, new.color)]
        left = {f"{old.name} left its place": all(d.name != old.name for d in here)}
        if truth.wanted == IN_BOX:
            fits = iou_matrix([d.box_xyxy_px for d in same], [_box(new, width_px, height_px)])
            return {**left, "it is in its new box": bool((fits >= SAME_PLACE_IOU).any())}
        arrived = any(on_side(d.box_xyxy_px, truth.wanted, width_px, height_px) for d in same)
        return {**left, f"it is on the {truth.wanted}": arrived}
    fitting = [d for d in here if d.name == new.name]
    checks = {f"{new.name} is there": bool(fitting)}
    if truth.kind == "replace":
        checks = {f"{old.name} is gone": all(d.name != old.name for d in here), **checks}
    if truth.color_named:
        checks[f"it is {new.color}"] = any(d.color == new.color for d in fitting)
    return checks


def _repainted(truth: EditTruth, free: Sequence[Detection], width_px: int, height_px: int) -> dict[str, bool]:
    """Every object of the source in its place in the new colour."""
    checks: dict[str, bool] = {}
    for new in truth.drawn:
        overlaps = iou_matrix([d.box_xyxy_px for d in free], [_box(new, width_px, height_px)])[:, 0]
        here = [d for d, overlap in zip(free, overlaps, strict=True) if overlap >= SAME_PLACE_IOU]
        checks[_unused(f"{new.name} is {new.color}", checks)] = any(
            (d.name, d.color) == (new.name, new.color) for d in here
        )
    return checks


def _outcome(
    truth: EditTruth, free: Sequence[Detection], ground_color: str | None, width_px: int, height_px: int
) -> dict[str, bool]:
    """The outcome of several steps: what comes is there, what goes is not, and the background is as wanted.

    What goes must not be there in any colour, unless the same is to be there in another one.
    """

    def here(thing: Thing, least: float) -> set[str | None]:
        overlaps = iou_matrix([d.box_xyxy_px for d in free], [_box(thing, width_px, height_px)])[:, 0]
        return {d.color for d, over in zip(free, overlaps, strict=True) if d.name == thing.name and over >= least}

    checks: dict[str, bool] = {}
    for new in truth.drawn:
        checks[_unused(f"{new.color} {new.name} is there", checks)] = new.color in here(new, REPLACED_IOU)
    for old in truth.erased:
        recolored = {new.color for new in truth.drawn if (new.name, new.box_1000) == (old.name, old.box_1000)}
        left = here(old, SAME_PLACE_IOU) - recolored
        checks[_unused(f"{old.color} {old.name} is gone", checks)] = not left
    if truth.wanted:
        checks[f"ground is {truth.wanted}"] = ground_color == truth.wanted
    return checks


def on_side(box: Sequence[float], side: str, width_px: int, height_px: int) -> bool:
    """Whether a box has its centre on a side of the image, ``"left"`` or ``"top right"``.

    >>> on_side((0, 0, 20, 20), "top left", 64, 64), on_side((0, 0, 20, 20), "right", 64, 64)
    (True, False)
    """
    offsets = ((box[0] + box[2]) / 2 / width_px - 0.5, (box[1] + box[3]) / 2 / height_px - 0.5)
    return all(sign * offsets[axis] >= _NEAR_MIDDLE for axis, sign in (_SIDES[word] for word in side.split()))


def _box(thing: Thing, width_px: int, height_px: int) -> BoxPx:
    return to_pixels(thing.box_1000, width_px, height_px)


def _match(boxes: Sequence[Sequence[float]], things: Sequence[Thing], seen: Sequence[Detection]) -> dict[int, int]:
    """Which detection is which kept object: same class, overlapping enough, the best assignment."""
    from scipy.optimize import linear_sum_assignment

    if not things or not seen:
        return {}
    overlap = iou_matrix(boxes, [d.box_xyxy_px for d in seen])
    same = np.array([[thing.name == d.name for d in seen] for thing in things])
    overlap = np.where(same & (overlap >= SAME_PLACE_IOU), overlap, 0)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if overlap[i, j] > 0}


def _unused(label: str, used: dict[str, bool]) -> str:
    """A label that is not used yet: numbered if there is one like it."""
    number, candidate = 2, label
    while candidate in used:
        candidate, number = f"{label} ({number})", number + 1
    return candidate


# ---------------------------------------------------------------------------------------------------------- background
_TINTS = {"yellow": (248, 218, 44), "green": (44, 158, 64), "blue": (40, 84, 222), "purple": (138, 54, 186),
          "pink": (250, 150, 198)}  # fmt: skip
_TINTED = 25.0
"""Grey levels of colourfulness from which a background counts as tinted."""


def ground_color(pixels: NDArray[np.uint8], covered: Sequence[Sequence[float]]) -> str | None:
    """Tint of the background: the nearest in hue; None if it is nearly grey.

    Args:
        pixels: uint8 (height, width, 3).
        covered: Boxes in pixels that do not belong to the background.

    >>> ground_color(np.full((8, 8, 3), (124, 170, 132), np.uint8), [])
    'green'
    >>> ground_color(np.full((8, 8, 3), 170, np.uint8), []) is None
    True
    """
    free = np.ones(pixels.shape[:2], bool)
    for x1, y1, x2, y2 in covered:
        free[max(int(y1), 0) : int(np.ceil(y2)), max(int(x1), 0) : int(np.ceil(x2))] = False
    shown = pixels[free] if free.any() else pixels.reshape(-1, 3)
    tint = _chroma(np.median(shown, axis=0))
    if np.linalg.norm(tint) < _TINTED:
        return None
    names = list(_TINTS)
    hues = np.stack([_chroma(np.array(color, float)) for color in _TINTS.values()])
    hues /= np.linalg.norm(hues, axis=1, keepdims=True)
    return names[int((hues @ tint).argmax())]


def _chroma(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour without its brightness."""
    offset: NDArray[np.float64] = color - color.mean()
    return offset
