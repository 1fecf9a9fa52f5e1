r"""How replies are read: a text -> scores by name, or `BadReply`. Pure. Nothing is repaired, nothing is guessed.

Each function here makes a reader for a `Call`. The scales are the protocol's; a score outside its scale is an error,
never clipped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from got.util.errors import shortened
from got.vlm.json_replies import BadReply, decoded, is_refusal, objects_in, unfenced

if TYPE_CHECKING:
    from collections.abc import Sequence

Reader: TypeAlias = Callable[[str], Mapping[str, float]]
"""A reply -> its scores by name."""
Scale: TypeAlias = "tuple[float, float]"
"""The least and the largest score."""


def json_scores(scales: Mapping[str, Scale]) -> Reader:
    """Named scores in the one JSON object of a reply that has all of them; other keys are ignored.

    >>> json_scores({"quality": (1, 5)})('Sharp. {"quality": 4, "why": "sharp"}')
    {'quality': 4.0}
    """

    def read(text: str) -> dict[str, float]:
        whole = decoded(unfenced(text))
        found = [whole] if isinstance(whole, dict) else objects_in(text)
        fitting = [one for one in found if scales.keys() <= one.keys()]
        if len(fitting) != 1:
            raise unreadable(text, f"{len(fitting) or 'no'} JSON objects with {', '.join(scales)}")
        return {name: in_scale(fitting[0][name], scale) for name, scale in scales.items()}

    return read


def json_list(key: str, names: Sequence[str], scale: Scale) -> Reader:
    """A list of scores under a key of the one JSON object of a reply; exactly as many as there are names.

    >>> json_list("score", ["a", "b"], (0, 10))('{"score": [7, 9.5]}')
    {'a': 7.0, 'b': 9.5}
    """

    def read(text: str) -> dict[str, float]:
        whole = decoded(unfenced(text))
        found = [whole] if isinstance(whole, dict) else objects_in(text)
        fitting = [one[key] for one in found if isinstance(one.get(key), list)]
        if len(fitting) != 1:
            raise unreadable(text, f"{len(fitting) or 'no'} lists under {key}")
        if len(fitting[0]) != len(names):
            raise BadReply("unparsable", f"expected {len(names)} scores but got {len(fitting[0])}")
        return {name: in_scale(one, scale) for name, one in zip(names, fitting[0], strict=True)}

    return read


def named_lines(names: Sequence[str], scale: Scale) -> Reader:
    r"""A line ``Name: n`` for each name, in any case, bold or not; ``4/5`` is 4 where 5 is the largest score.

    >>> named_lines(["Fit", "Look"], (1, 5))("Good.\n**Fit:** 4\nlook: 5/5")
    {'Fit': 4.0, 'Look': 5.0}
    """
    top = f"{scale[1]:g}"

    def read(text: str) -> dict[str, float]:
        scores = {}
        for name in names:
            label = re.escape(name)
            found = re.findall(
                rf"^[\s\-*#>]*{label}[\s*]*:[\s*]*(-?\d+(?:\.\d+)?)[\s*]*(?:/\s*{re.escape(top)})?[\s*.]*$",
                text,
                re.IGNORECASE | re.MULTILINE,
            )
            if len(set(found)) != 1:
                raise unreadable(text, f"{'several values' if found else 'no line'} for {name}")
            scores[name] = in_scale(float(found[0]), scale)
        return scores

    return read


def labelled(label: str, names: Sequence[str], scale: Scale, *, bare: bool = False) -> Reader:
    r"""One or more numbers behind the last label, such as ``Final Score: 4,5``; as many as there are names.

    Args:
        label: In any case; stars around it and a colon behind it do not count.
        names: Of the numbers, in order.
        scale: Of each.
        bare: Whether a single line that is nothing but the number will do.

    >>> labelled("Final Score", ["c"], (1, 5))("Well done.\n**Final Score:** 4/5"), labelled("Score", ["s"], (0, 1),
    ... bare=True)("1")
    ({'c': 4.0}, {'s': 1.0})
    """
    pattern = re.compile(
        rf"\b{re.escape(label)}s?\b[\s*]*[:：]?[\s*]*((?:\d+(?:\.\d+)?)(?:\s*[,;]\s*\d+(?:\.\d+)?)*)", re.I
    )

    def read(text: str) -> dict[str, float]:
        found = [re.findall(r"\d+(?:\.\d+)?", numbers) for numbers in pattern.findall(text)]
        if not found and bare:
            found = [[line.strip()] for line in text.splitlines() if re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", line)]
            found = found if len(found) == 1 else []
        if not found:
            raise unreadable(text, f"no number behind {label}")
        if len(found[-1]) != len(names):
            raise BadReply("unparsable", f"expected {len(names)} numbers behind {label} but got {len(found[-1])}")
        return {name: in_scale(float(one), scale) for name, one in zip(names, found[-1], strict=True)}

    return read


def any_text(text: str) -> dict[str, float]:
    """A reply that is only context for what is asked next: any but an empty one.

    >>> any_text("A cat on a mat.")
    {}
    """
    if not text.strip():
        raise BadReply("unparsable", "the reply is empty")
    return {}


def in_scale(value: Any, scale: Scale) -> float:
    """A score as a number, if it is one of its scale.

    Raises:
        BadReply: It is no number, or out of range.

    >>> in_scale("4", (1, 5))
    4.0
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadReply("unparsable", f"expected a number but got {shortened(json.dumps(value))}")
    if not math.isfinite(value) or not scale[0] <= value <= scale[1]:
        raise BadReply("out of range", f"expected a score from {scale[0]:g} to {scale[1]:g} but got {value:g}")
    return float(value)


def unreadable(text: str, why: str) -> BadReply:
    """Why a reply has no scores: it refuses, or is of another form."""
    if is_refusal(text):
        return BadReply("refusal", shortened(text))
    return BadReply("unparsable", f"{why} in {shortened(text)!r}" if text.strip() else "the reply is empty")
