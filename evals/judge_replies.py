r"""What a judge wrote -> two numbers, or why not. Pure and strict: a reply is legal or it is not; nothing is repaired.

Legal forms, each with exactly two finite numbers in [0, 10]:

- a JSON object with a list under ``score``, keys in any order, other keys ignored;
- the same without its braces, as the published GoT prompt asks for;
- a bare list, ``[6, 0]``;
- any of these inside a Markdown fence or between VIEScore's delimiters ``||V^=^V||``;
- an object of the first form with prose around it, if it is the only such object.

Two score objects in one reply are not legal: one of them may be quoted from the picture that is being judged.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_DELIMITER = "||V^=^V||"
_REFUSALS = re.compile(
    r"\b(?:i(?:'|’)?m (?:sorry|unable|not able)|i am (?:sorry|unable|not able)|i (?:can(?:'|’)?t|cannot|won(?:'|’)?t)"
    r"|unable to (?:assist|help|comply)|against (?:my|our|the) (?:policy|policies|guidelines))\b",
    re.IGNORECASE,
)


class BadReply(ValueError):
    """A reply without legal scores. `cause` is ``"unparsable"``, ``"out of range"`` or ``"refusal"``."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def parse_scores(text: str) -> tuple[float, float]:
    r"""The two scores of a reply, each in [0, 10].

    Raises:
        BadReply: The reply is not legal.

    >>> parse_scores('{"reasoning": "fine", "score": [7, 9.5]}'), parse_scores('"score": [6, 0], "reasoning": "no"')
    ((7.0, 9.5), (6.0, 0.0))
    >>> parse_scores('```json\n[6, 0]\n```'), parse_scores('So: {"score": [1, 2]} That is all.')
    ((6.0, 0.0), (1.0, 2.0))
    >>> for reply in ('{"score": [6, 11]}', '{"score": [6]}', "I'm sorry, I can't help with that."):
    ...     try: parse_scores(reply)
    ...     except BadReply as bad: print(bad.cause)
    out of range
    unparsable
    refusal
    """
    given = _score_list(text)
    if len(given) != 2:
        raise BadReply("unparsable", f"expected two scores but got {len(given)}")
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in given):
        raise BadReply("unparsable", f"expected two numbers but got {_short(json.dumps(given))}")
    if any(not math.isfinite(x) or not 0 <= x <= 10 for x in given):
        raise BadReply("out of range", f"expected scores from 0 to 10 but got {_short(str(given))}")
    return float(given[0]), float(given[1])


def _score_list(text: str) -> Sequence[Any]:
    body = _unwrap(text)
    if not body:
        raise BadReply("unparsable", "the reply is empty")
    for form in (body, "{" + body + "}"):
        read = _read(form)
        if isinstance(read, list):
            return read
        if isinstance(read, dict) and isinstance(read.get("score"), list):
            return list(read["score"])
    found = _objects_in(body)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise BadReply("unparsable", f"{len(found)} score objects in one reply")
    if _REFUSALS.search(body):
        raise BadReply("refusal", _short(body))
    raise BadReply("unparsable", f"no scores in {_short(body)}")


def _unwrap(text: str) -> str:
    """The reply without fence and delimiters, where they enclose all of it."""
    body = text.strip()
    if body.startswith(_DELIMITER) and body.endswith(_DELIMITER) and len(body) >= 2 * len(_DELIMITER):
        body = body[len(_DELIMITER) : -len(_DELIMITER)].strip()
    fenced = re.fullmatch(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", body, re.DOTALL)
    return fenced[1].strip() if fenced and "```" not in fenced[1] else body


class _Twice(ValueError):
    """A key stands twice in one object: which of the two is meant?"""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise _Twice
    return read


# strict=False allows a line break inside the reasoning, which models write.
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, strict=False)


def _read(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _objects_in(text: str) -> list[Sequence[Any]]:
    """Score lists of the outermost objects that stand in the text."""
    found: list[Sequence[Any]] = []
    start = text.find("{")
    while start >= 0:
        try:
            read, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            read, end = None, start + 1
        if isinstance(read, dict) and isinstance(read.get("score"), list):
            found.append(read["score"])
        start = text.find("{", end)
    return found


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:117] + "..."
