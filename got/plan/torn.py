"""What a chain's text has that is no box: torn ones, of tokens or plain, and stray tokens. Strings only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BOX_START = "<|box_start|>"
BOX_END = "<|box_end|>"
BOX_TOKEN = re.compile(r"<\|box_(?:start|end)\|>")
EXCERPT_LENGTH = 60
_TORN_BOX = re.compile(r"<\|box_start\|>[^<]*(?:<\|box_end\|>)?(?: \(\w+\))?|<\|box_end\|>(?: \(\w+\))?")
_TORN_CORNERS = re.compile(r"<\|box_(?:start|end)\|>[-\d(),. ]*(?:<\|box_end\|>)?")
# Numbers and brackets without tokens, up to brackets around words or signs, such as (2 years old) and (50%): prose.
_PROSE = r"\((?=[^()]*\))(?=[^()]*[^\d\s(),.:;-])"
_LOOSE = re.compile(rf"{_PROSE}[^()]*\)|(?P<run>(?:(?!{_PROSE})[\d()][\s,.:;-]*)+)")
_FOUR_NUMBERS = re.compile(r"(?<!\d)\d++(?:\s*+,\s*+\d++){3}")
_NOTHING_IN_BRACKETS = re.compile(r"\[\s*\]")
_BRACKETED_NUMBER = re.compile(r"(?:^|\()\d+(?:[.:-]\d+)?\)")


def torn_boxes(text: str, start: int, end: int) -> list[tuple[int, int, str]]:
    """Warn of what is no box between two well-formed ones: box tokens, and boxes without tokens, whole or torn."""
    found = list(_stray_tokens(text, start, end))
    for match in _LOOSE.finditer(text, start, end):
        run = (match["run"] or "").rstrip(" \t\r\n,.:;-")
        place = match.start()
        is_part = text.endswith(BOX_START, 0, place) or text.startswith(BOX_END, match.end())
        if _is_torn(run, ends=match.end() == len(text)) and not is_part:
            words = f"malformed box left out at character {place}: {run[:EXCERPT_LENGTH]}"
            found.append((place, place + len(run), words))
    return sorted(found)


def _is_torn(run: str, *, ends: bool) -> bool:
    """Whether numbers and brackets have been a box, and are no number in brackets; an open one at the end is.

    >>> [_is_torn(run, ends=True) for run in ("(0,100),(500", "0,100,500,900", "(", "1,000", "(7)", "1)", "2024 (3)")]
    [True, True, True, False, False, False, False]
    """
    if any(map(str.isdecimal, run)) and {"(", ")"} & set(_BRACKETED_NUMBER.sub("", run)):
        return True
    return (ends and run == "(") or _FOUR_NUMBERS.search(run) is not None


def without_torn_boxes(text: str) -> str:
    """The text without what was left of boxes, its blanks made one."""
    bare = _TORN_BOX.sub(" ", text)
    for start, end, _ in reversed(torn_boxes(bare, 0, len(bare))):
        bare = f"{bare[:start]} {bare[end:]}"
    return " ".join(_NOTHING_IN_BRACKETS.sub(" ", bare).split())


def _stray_tokens(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Warn of box tokens between two well-formed boxes; an end token right after a start token is the same box."""
    open_box = False
    for match in BOX_TOKEN.finditer(text, start, end):
        if match[0] == BOX_START or not open_box:
            words = text[match.start() : min(end, match.start() + EXCERPT_LENGTH)]
            place = f"malformed box left out at character {match.start()}: {words}"
            torn = _TORN_CORNERS.match(text, match.start(), end)
            yield match.start(), torn.end() if torn else match.end(), place
        open_box = match[0] == BOX_START
