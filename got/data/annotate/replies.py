"""The JSON of a reply -> what its stage asked for, or why not. Pure, strict: what is not legal is asked for again."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from got.data.annotate.boxes import to_box_1000
from got.plan.chain import MASK_COLORS, Chain, format_box
from got.util.errors import shortened
from got.vlm.json_replies import BadReply, is_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000

KINDS = ("add", "remove", "swap", "attribute", "environment", "style")
"""What an edit can be: the paper's tasks."""
_SIDES = {"add": (0, 1), "remove": (1, 0), "swap": (1, 1), "attribute": (1, 0), "environment": (0, 0), "style": (0, 0)}
"""Whether objects of the image before, and of that after, belong to a task."""
_MARK = re.compile(r"\[(\d+)\]")
_LONGEST_PHRASE = 30  # words
_APOLOGY = re.compile(r"\s*(?:i\b|sorry|unfortunately|unable|as an\b)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What an instruction changes."""

    kind: str
    """One of `KINDS`."""
    before: tuple[str, ...]
    """Names of what is changed or goes, in the image before the edit."""
    after: tuple[str, ...]
    """Names of what is new in the image after the edit."""


def words_of(reply: Any, key: str) -> str:
    r"""A text of a reply, on one line.

    Raises:
        BadReply: If it is missing, empty, a refusal, or contains tokens of a chain.

    >>> words_of({"description": "A dog\n on grass. "}, "description")
    'A dog on grass.'
    """
    value = reply.get(key) if isinstance(reply, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise BadReply("unparsable", f"expected a text {key!r} in {shortened(str(reply))}")
    if "<|" in value or "|>" in value:
        raise BadReply("illegal words", f"expected plain prose but got {shortened(value)}")
    if _APOLOGY.match(value) and is_refusal(value):  # elsewhere it may be what a sign in the image says
        raise BadReply("refusal", shortened(value))
    return " ".join(value.split())


def names_of(reply: Any, key: str) -> tuple[str, ...]:
    """A list of texts of a reply.

    Raises:
        BadReply: If it is none.
    """
    values = reply.get(key) if isinstance(reply, dict) else None
    if not isinstance(values, list):
        raise BadReply("unparsable", f"expected a list {key!r} in {shortened(str(reply))}")
    return tuple(words_of({key: value}, key) for value in values)


def places_of(reply: Any, text: str) -> tuple[tuple[int, int], ...]:
    """Where the objects of a reply stand in a text, as offsets.

    Raises:
        BadReply: If one is not there to the letter, as whole words, behind the one before it; or there are too many.

    >>> places_of({"objects": ["A dog", "a cat"]}, "A dog and a cat")
    ((0, 5), (10, 15))
    """
    names, places, end = names_of(reply, "objects"), [], 0
    if len(names) > len(MASK_COLORS):
        raise BadReply("too many objects", f"expected at most {len(MASK_COLORS)} but got {len(names)}")
    for name in names:
        # Behind a genitive or inside a compound a box would tear a word apart.
        found = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w'’-])").search(text, end)
        if found is None:
            where = "in the order of the text" if name in text[:end] else "word for word in the text"
            raise BadReply("not verbatim", f"expected {name!r} {where}")
        end = found.end()
        places.append(found.span())
    return tuple(places)


def boxes_of(
    reply: Any, count: int, convention: str, size_px: tuple[int, int], *, required: bool = False
) -> tuple[Box1000 | None, ...]:
    """The boxes of numbered objects; None for those that the image does not show.

    Args:
        reply: An object with a list ``boxes``, or that list.
        count: How many objects there are.
        convention: What the numbers mean, one of `got.data.annotate.boxes.CONVENTIONS`.
        size_px: Width and height of the image that was shown.
        required: Whether each object must have one.

    Raises:
        BadReply: If a number is missing or twice there, or a box is none.

    >>> boxes_of([{"object": 1, "bbox_2d": None}, {"object": 2, "bbox_2d": [0, 0, 0.5, 1]}], 2, "unit", (9, 9))
    (None, (0, 0, 500, 999))
    """
    found: dict[int, Box1000 | None] = {}
    for item in _items(reply):
        number, box = item.get("object"), item.get("bbox_2d")
        if not isinstance(number, int) or isinstance(number, bool) or number in found:
            raise BadReply("unparsable", f"expected every object's number once but got {number!r}")
        found[number] = None if box is None else to_box_1000(_list(box), convention, size_px)
    if sorted(found) != list(range(1, count + 1)):
        raise BadReply("unparsable", f"expected boxes of objects 1 to {count} but got {sorted(found)}")
    boxes = tuple(found[number] for number in range(1, count + 1))
    if required and None in boxes:
        raise BadReply("not found", f"object {boxes.index(None) + 1} is not in the image")
    return boxes


def candidates_of(reply: Any, convention: str, size_px: tuple[int, int]) -> list[Box1000]:
    """All boxes of a reply about one object, in any order.

    Raises:
        BadReply: If one is none.
    """
    return [to_box_1000(_list(item.get("bbox_2d")), convention, size_px) for item in _items(reply)]


def _items(reply: Any) -> list[dict[str, Any]]:
    items = reply.get("boxes") if isinstance(reply, dict) else reply
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadReply("unparsable", f"expected a list of boxes but got {shortened(str(reply))}")
    return items


def _list(box: Any) -> list[Any]:
    if not isinstance(box, list):
        raise BadReply("illegal box", f"expected four numbers but got {shortened(str(box))}")
    return box


def parsed(reply: Any, kind: str | None) -> Parsed:
    """What an edit changes.

    Args:
        reply: An object with ``task``, ``before`` and ``after``.
        kind: What the task is known to be; None if it is not known.

    Raises:
        BadReply: If it is another task, there is no such task, or objects are missing or superfluous.
    """
    task = words_of(reply, "task")
    if task not in KINDS or (kind is not None and task != kind):
        raise BadReply("wrong task", f"expected {kind or ', '.join(KINDS)} but got {task!r}")
    names = names_of(reply, "before"), names_of(reply, "after")
    for side, given, wanted in zip(("before", "after"), names, _SIDES[task], strict=True):
        if bool(given) != bool(wanted):
            raise BadReply("wrong objects", f"expected {'some' if wanted else 'no'} {side!r} of {task} but got {given}")
    if sum(map(len, names)) > len(MASK_COLORS):
        raise BadReply("too many objects", f"expected at most {len(MASK_COLORS)}")
    return Parsed(kind=task, before=names[0], after=names[1])


def phrase_of(reply: Any) -> str:
    """The noun phrase of a cropped object.

    Raises:
        BadReply: If it is none, or too long for one.
    """
    phrase = words_of(reply, "phrase").rstrip(".")
    if len(phrase.split()) > _LONGEST_PHRASE or _MARK.search(phrase):
        raise BadReply("illegal words", f"expected a short noun phrase but got {shortened(phrase)}")
    return phrase


def chain_of(reply: Any, boxes: Sequence[Box1000]) -> str:
    """A composed plan with a box in the place of every mark, mark colours in the order of the text.

    Raises:
        BadReply: If a mark is missing, twice there, unknown, or not behind words.

    >>> chain_of({"chain": "Remove a dog [1]."}, [(100, 200, 500, 800)])
    'Remove a dog <|box_start|>(100,200),(500,800)<|box_end|> (red).'
    """
    text = words_of(reply, "chain")
    marks = list(_MARK.finditer(text))
    if sorted(int(mark[1]) for mark in marks) != list(range(1, len(boxes) + 1)):
        raise BadReply("wrong marks", f"expected each of {len(boxes)} marks once but got {[m[0] for m in marks]}")
    written, end = "", 0
    for mark, color in zip(marks, MASK_COLORS, strict=False):
        written += f"{text[end : mark.start()].rstrip()} {format_box(boxes[int(mark[1]) - 1], color)}"
        end = mark.end()
    written += text[end:]
    if any(not re.search(r"\w", region.text) for region in Chain.parse(written).regions):
        raise BadReply("wrong marks", f"expected each mark behind words but got {shortened(text)}")
    return written
