"""What an edit's chain says is to be done, read back from its words and boxes."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from got.iconworld.edits import Edit, side_of
from got.iconworld.placing import overlaps
from got.iconworld.vocabulary import BACKGROUND_COLORS, COLORS, PLACES, parse_phrase
from got.plan.chain import Chain, iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000

_SAME_PLACE = 0.5  # intersection over union from which two boxes mean the same object


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The plan of one edit."""

    erased: tuple[Box1000, ...] = ()
    """Boxes whose content goes away; a repainted object is erased and drawn."""
    drawn: tuple[tuple[str, str | None, Box1000], ...] = ()
    """Class, colour and box of what appears."""
    ground_color: str | None = None


def read_operation(text: str) -> Operation | None:
    """The operation that a chain plans; None if its words are of another kind.

    >>> read_operation("the image shows nothing . the background becomes green . now there is nothing").ground_color
    'green'
    """
    chain = Chain.parse(text)
    ground = re.search(rf"the background becomes ({'|'.join(BACKGROUND_COLORS)})\b", text)
    if ground and not chain.regions:
        return Operation(ground_color=ground[1])
    verb = re.search(r" \. (add|remove|replace|paint|move) ", text)
    named = [(parse_phrase(region.text), region.box_1000) for region in chain.regions]
    if verb is None or not named or any(name is None for name, _ in named):
        return None
    things = [(name[0], name[1], box) for name, box in named if name is not None]
    if verb[1] == "add":
        return Operation(drawn=tuple(things))
    if verb[1] == "remove":
        return Operation(erased=tuple(box for _, _, box in things))
    if verb[1] == "paint":
        color = re.match(r"\W*(\w+)", text[chain.spans[-1][3] :])
        if color is None or color[1] not in COLORS:
            return None
        painted = tuple((name, color[1], box) for name, _, box in things)
        return Operation(erased=tuple(box for _, _, box in things), drawn=painted)
    if len(things) != 2:
        return None
    return Operation(erased=(things[0][2],), drawn=(things[1],))


def is_right(text: str, edit: Edit) -> bool:
    """Whether a chain plans the edit: the right objects go, the right ones come, to a free and proper place."""
    planned = read_operation(text)
    if planned is None or planned.ground_color != (edit.wanted if edit.kind == "background" else None):
        return False
    if not _matched(planned.erased, [item.box_1000 for item in edit.erased]):
        return False
    if sorted(name for name, _, _ in planned.drawn) != sorted(item.name for item in edit.drawn):
        return False
    wanted = {(item.name, item.color) for item in edit.drawn}
    words = edit.instruction.split()
    if any(
        item.color in words and (item.name, item.color) not in {d[:2] for d in planned.drawn} for item in edit.drawn
    ):
        return False
    if edit.kind in {"recolor", "count", "move", "global"} and any(
        (name, color) not in wanted for name, color, _ in planned.drawn
    ):
        return False
    if any(overlaps(box, kept.box_1000, -40) for _, _, box in planned.drawn for kept in edit.kept):
        return False
    return edit.kind != "move" or _at(planned.drawn[0][2], edit.wanted)


def _at(box: Box1000, place: str) -> bool:
    return all(wanted in (0, there) for wanted, there in zip(PLACES[place], side_of(box), strict=True))


def _matched(boxes: Sequence[Box1000], truths: Sequence[Box1000]) -> bool:
    """Whether each box belongs to another truth, and none is left."""
    left = list(truths)
    for box in boxes:
        best = max(left, key=lambda truth: iou(box, truth), default=None)
        if best is None or iou(box, best) < _SAME_PLACE:
            return False
        left.remove(best)
    return not left
