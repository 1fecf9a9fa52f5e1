r"""How official scripts read replies, for editions of their own beside the strict readers of `evals.judges.readers`.

Each function says what its script takes and the strict reader does not, or the other way round. Grades are not held to
their scale here, as they are not there. A reply in which a script finds nothing is a `BadReply`.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from evals.judges.readers import unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.judges.readers import Reader


def any_numbers(text: str) -> dict[str, float]:
    r"""ImgEdit: lines that split at ": " into two parts, the second all digits.

    >>> any_numbers("Fit: 4\n**Look:** 5\nDetail: 3/5\nOdd: 12")
    {'Fit': 4.0, 'Odd': 12.0}
    """
    pairs = [line.strip().split(": ") for line in text.splitlines()]
    found = {one[0]: float(one[1]) for one in pairs if len(one) == 2 and one[1].isdecimal()}
    if not found:
        raise unreadable(text, "no line of a name and a whole number")
    return found


def first_flag(text: str) -> dict[str, float]:
    r"""WISE, Verified: 0 or 1 behind the first label that has one, else the one line that is nothing else.

    >>> first_flag("Score: 1? It may be Score: 0"), first_flag("Hm.\n0")
    ({'score': 1.0}, {'score': 0.0})
    """
    found = re.findall(r"Score\*{0,2}\s*[:：]?\s*([01])\b", text, re.IGNORECASE)
    lines = re.findall(r"^\s*([01])\s*$", text, re.MULTILINE)
    if not found and len(lines) != 1:
        raise unreadable(text, "neither 0 nor 1 behind a label, nor one line of it")
    return {"score": float((found or lines)[0])}


def last_digits(names: Sequence[str]) -> Reader:
    r"""WISE, legacy: the digit behind each label, of a repeated label the last; without labels three lone digits.

    >>> read = last_digits(["Consistency", "Realism", "Aesthetic Quality"])
    >>> read("Consistency: 1, or rather\nConsistency: 2\nrealism 1\nAesthetic Quality: 7")
    {'Consistency': 2.0, 'Realism': 1.0, 'Aesthetic Quality': 7.0}
    >>> read("2\n1\n0")
    {'Consistency': 2.0, 'Realism': 1.0, 'Aesthetic Quality': 0.0}
    """

    def read(text: str) -> dict[str, float]:
        behind = (rf"{re.escape(name)}\*{{0,2}}\s*[:：]?\s*(\d)" for name in names)
        digits = [re.findall(place, text, re.IGNORECASE)[-1:] for place in behind]
        if not any(digits):
            lone = re.findall(r"\b[0-2]\b", text)
            digits = [[one] for one in lone] if len(lone) == len(names) else digits
        if not all(digits):
            raise unreadable(text, "neither a digit behind each label nor three lone digits")
        return {name: float(one[0]) for name, one in zip(names, digits, strict=True)}

    return read


def first_score(name: str) -> Reader:
    r"""RISEBench: the number behind the first "Final Score" that has one, else behind the first "Final Scores".

    Several numbers in one place stop the script; here they cannot be read.

    >>> first_score("reasoning")("**Final Score:** **4/5**, not Final Score: 2")
    {'reasoning': 4.0}
    """

    def read(text: str) -> dict[str, float]:
        for label in ("Final Score", "Final Scores"):
            for behind in re.findall(rf"{label}\*{{0,2}}:?\s*([\d*\s,]*)", text, re.IGNORECASE):
                numbers = re.findall(r"\d+", behind)
                if len(numbers) > 1:
                    raise unreadable(text, f"{len(numbers)} numbers behind {label}")
                if numbers:
                    return {name: float(numbers[0])}
        raise unreadable(text, "no number behind Final Score")

    return read


def any_grade(key: str, colon: str | None) -> Reader:
    r"""KRIS: a flat JSON object, else a number behind a label, else "4/5", "4 out of 5", or the first lone digit.

    Args:
        key: Of the grade.
        colon: What stands behind the label, as a regular expression; None where the script looks for no label.

    >>> read = any_grade("quality_score", ":?")
    >>> read('{"quality_score": "5"}'), read("Quality score 4"), read("Of 3 objects 1 is sharp.")
    ({'quality_score': 5.0}, {'quality_score': 4.0}, {'quality_score': 3.0})
    """
    places = (r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5", r"\b([1-5])\b")
    labels = () if colon is None else (_label(key, colon),)

    def read(text: str) -> dict[str, float]:
        found = [one[1] for place in (*labels, *places) if (one := re.search(place, text, re.IGNORECASE))]
        if not (grades := _in_object(text, [key])) and not found:
            raise unreadable(text, f"no grade for {key}")
        return grades or {key: float(found[0])}

    return read


def either_grade(keys: Sequence[str]) -> Reader:
    """KRIS, of knowledge: a flat JSON object, else numbers behind labels; one grade without the other will do.

    >>> either_grade(["instruction_score", "knowledge_score"])("Instruction score: 2. All 5 facts hold.")
    {'instruction_score': 2.0}
    """

    def read(text: str) -> dict[str, float]:
        found = {key: re.search(_label(key, ":"), text, re.IGNORECASE) for key in keys}
        grades = _in_object(text, keys) or {key: float(one[1]) for key, one in found.items() if one}
        if not grades:
            raise unreadable(text, f"no grades for {' and '.join(keys)}")
        return grades

    return read


def any_list(key: str) -> Reader:
    """T2I-ReasonBench: the list of the first JSON object, which ends at its first brace, whatever the list's length.

    >>> any_list("score")('{"score": [1, 0.5, "1"]} {"score": [0]}')
    {'q1': 1.0, 'q2': 0.5, 'q3': 1.0}
    """

    def read(text: str) -> dict[str, float]:
        try:
            found = [float(one) for one in _json(re.search(r"\{.*?\}", text, re.DOTALL)).get(key, ())]
        except (TypeError, ValueError):
            found = []
        if not found or not all(map(math.isfinite, found)):
            raise unreadable(text, f"no list of numbers under {key} in the first JSON object")
        return {f"q{number}": one for number, one in enumerate(found, 1)}

    return read


def _label(key: str, colon: str) -> str:
    return key.replace("_", r"[_\s]*") + rf"\s*{colon.replace(':', '[:：]')}\s*([1-5])"


def _in_object(text: str, keys: Sequence[str]) -> dict[str, float]:
    """The grades, cut to whole numbers, of the first JSON object without inner ones that names the first key."""
    flat = re.search(rf"\{{[^{{}}]*{re.escape(keys[0])}[^{{}}]*\}}", text)
    content = _json(flat)
    try:
        return {key: float(int(content[key])) for key in keys if content.get(key) is not None}
    except (TypeError, ValueError, OverflowError):
        return {}


def _json(found: re.Match[str] | None) -> dict[str, Any]:
    """What was found, as a JSON object; nothing where it is none. Of a key that occurs twice the last counts."""
    try:
        content = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}
