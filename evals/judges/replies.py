r"""What a judge wrote -> two numbers, or why not. Pure and strict: a reply is legal or it is not; nothing is repaired.

Legal forms, each with exactly two finite numbers in [0, 10]:

- a JSON object with a list under ``score``, keys in any order, other keys ignored;
- the same without its braces, as the published GoT prompt asks for;
- a bare list, ``[6, 0]``;
- any of these inside a Markdown fence or between VIEScore's delimiters ``||V^=^V||``;
- an object of the first form with prose around it, if it is the only such object.

Zeros whose reasoning says that nothing can be judged are a refusal, not the lowest score.

Two score objects in one reply are not legal: one of them may be quoted from the image that is being judged.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from got.util.errors import shortened
from got.vlm.json_replies import BadReply, declines, decoded, is_refusal, objects_in, unfenced

if TYPE_CHECKING:
    from collections.abc import Sequence

_DELIMITER = "||V^=^V||"


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
    >>> try: parse_scores('{"score": [0, 0], "reasoning": "I cannot evaluate these images."}')
    ... except BadReply as bad: print(bad.cause)
    refusal
    """
    given = _score_list(text)
    if len(given) != 2:
        raise BadReply("unparsable", f"expected two scores but got {len(given)}")
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in given):
        raise BadReply("unparsable", f"expected two numbers but got {shortened(json.dumps(given))}")
    if any(not math.isfinite(x) or not 0 <= x <= 10 for x in given):
        raise BadReply("out of range", f"expected scores from 0 to 10 but got {shortened(str(given))}")
    if not any(given) and declines(text):
        raise BadReply("refusal", shortened(text))
    return float(given[0]), float(given[1])


def _score_list(text: str) -> Sequence[Any]:
    body = _unwrap(text)
    if not body:
        raise BadReply("unparsable", "the reply is empty")
    for form in (body, "{" + body + "}"):
        read = decoded(form)
        if isinstance(read, list):
            return read
        if isinstance(read, dict) and isinstance(read.get("score"), list):
            return list(read["score"])
    found: list[Sequence[Any]] = [read["score"] for read in objects_in(body) if isinstance(read.get("score"), list)]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise BadReply("unparsable", f"{len(found)} score objects in one reply")
    if is_refusal(body):
        raise BadReply("refusal", shortened(body))
    raise BadReply("unparsable", f"no scores in {shortened(body)}")


def _unwrap(text: str) -> str:
    """The reply without fence and delimiters, where they enclose all of it."""
    body = text.strip()
    if body.startswith(_DELIMITER) and body.endswith(_DELIMITER) and len(body) >= 2 * len(_DELIMITER):
        body = body[len(_DELIMITER) : -len(_DELIMITER)].strip()
    return unfenced(body)
