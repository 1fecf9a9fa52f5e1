"""Reads the JSON in the reply of a language model. Pure and strict: nothing is repaired or guessed."""

from __future__ import annotations

import json
import re
from typing import Any

from got.util.errors import shortened

_REFUSALS = re.compile(
    r"\b(?:i(?:'|’)?m (?:sorry|unable|not able)|i am (?:sorry|unable|not able)|i (?:can(?:'|’)?t|cannot|won(?:'|’)?t)"
    r"|unable to (?:assist|help|comply)|against (?:my|our|the) (?:policy|policies|guidelines))\b",
    re.IGNORECASE,
)

_THOUGHT = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning)"
_OPENS = re.compile(rf"<{_THOUGHT}>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_THOUGHT}>|\[/THINK\]|◁/think▷", re.IGNORECASE)

_IMAGES = r"(?:image|picture|photo)s?"
_GIVEN = r"(?:provided|attached|supplied|given|accessible|available|loaded|received)"
_DECLINES = re.compile(
    r"\b(?:cannot|can not|can['’]t|unable to|not able to|could(?: not|n['’]t)|won['’]t|declin\w+ to|refus\w+ to)"
    r" (?:\w+ly )?(?:(?:evaluat|assess|judge|rate|score|compar|analy[sz]|review)\w*"
    rf"|(?:view|see|access|open|load|process) (?:\w+ ){{0,2}}{_IMAGES})\b"
    rf"|\b{_IMAGES} (?:\w+ ){{0,2}}not (?:been )?{_GIVEN}\b"
    rf"|\bno (?:\w+ )?{_IMAGES} (?:\w+ ){{0,2}}{_GIVEN}\b"
    r"|\b(?:content|usage|safety) (?:polic|guideline)",
    re.IGNORECASE,
)


class BadReply(ValueError):
    """A reply that cannot be used. `cause` is one word or two, e.g. ``"unparsable"`` or ``"refusal"``."""

    def __init__(self, cause: str, detail: str, *, retry: bool = True) -> None:
        super().__init__(detail)
        self.cause, self.retry = cause, retry


class _Twice(ValueError):
    """A key occurs twice in an object."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise _Twice
    return read


# strict=False allows a line break inside a string, which models write.
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, strict=False)


def decoded(text: str) -> Any:
    """The JSON value of a text; None if it is not JSON, or an object has a key twice.

    >>> decoded('{"a": 1}'), decoded('{"a": 1, "a": 2}'), decoded("a")
    ({'a': 1}, None, None)
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def objects_in(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text.

    >>> objects_in('First {"a": {"b": 1}}, then {"c": 2}, then {')
    [{'a': {'b': 1}}, {'c': 2}]
    """
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        try:
            read, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            read, end = None, start + 1
        if isinstance(read, dict):
            found.append(read)
        start = text.find("{", end)
    return found


def without_thoughts(text: str) -> str:
    """A reply without the thoughts before the answer; empty if the thoughts never end.

    A closing tag inside JSON, which may quote an image, does not end the thoughts.

    >>> without_thoughts('<think>{"score": [1, 1]}</think> [8, 6]'), without_thoughts("so: [1, 1]</think>[8, 6]")
    (' [8, 6]', '[8, 6]')
    >>> without_thoughts("<think>so: [1, 1]"), without_thoughts("[8, 6]")
    ('', '[8, 6]')
    """
    ends = [found.end() for found in _CLOSES.finditer(text)]
    if ends and decoded(unfenced(text)) is not None:
        return text
    answer = text[ends[-1] :] if ends else text
    return _OPENS.split(answer, maxsplit=1)[0]


def unfenced(text: str) -> str:
    """A text without the Markdown fence around all of it, if there is one."""
    body = text.strip()
    fenced = re.fullmatch(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", body, re.DOTALL)
    return fenced[1].strip() if fenced and "```" not in fenced[1] else body


def is_refusal(text: str) -> bool:
    """Whether a text declines to answer; only for texts without the wanted content.

    >>> is_refusal("I'm sorry, I can't help with that."), is_refusal("a sorry sight")
    (True, False)
    """
    return _REFUSALS.search(text) is not None


def declines(text: str) -> bool:
    """Whether the words beside the lowest score say that the model cannot, or will not, judge.

    >>> [declines(words) for words in ("Cannot evaluate these.", "No image was provided.", "I can't assist.")]
    [True, True, True]
    >>> [declines(words) for words in ("The hat cannot be seen.", "The model was unable to add it.", "Not even a hat.")]
    [False, False, False]
    """
    return is_refusal(text) or _DECLINES.search(text) is not None


def read_json(text: str) -> Any:
    """The JSON object or list of a reply: on its own, in a Markdown fence, or the only object in prose.

    Raises:
        BadReply: If there is none (``"refusal"`` or ``"unparsable"``), or more than one.

    >>> read_json('Here it is: {"objects": ["a dog"]}')
    {'objects': ['a dog']}
    """
    body = unfenced(text)
    if not body:
        raise BadReply("unparsable", "the reply is empty")
    whole = decoded(body)
    if isinstance(whole, dict | list):
        return whole
    found = objects_in(body)
    if len(found) == 1:
        return found[0]
    if not found and is_refusal(body):
        raise BadReply("refusal", shortened(body))
    raise BadReply("unparsable", f"{len(found) or 'no'} JSON objects in {shortened(body)}")
