"""Errors of the person at the keyboard, and errors of libraries in one line."""

from __future__ import annotations

import re
import sys

# Unicode's controls, among them those that turn the reading direction around.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_KEPT = 100
"""Lines that `overheard` knows of at most."""


class UserError(Exception):
    """A mistake of the person at the keyboard: one line with the value and what is allowed, shown without traceback."""


def note(text: str) -> None:
    """Tells the person at the keyboard, on stderr, something to know that stops nothing."""
    _say(f"note: {visible(text)}\n")


def warn(text: str) -> None:
    """Tells the person at the keyboard, on stderr, of something that may spoil a result."""
    _say(f"warning: {visible(text)}\n")


_overheard: list[str] = []


def _say(line: str) -> None:
    sys.stderr.write(line)
    _overheard.append(line)
    del _overheard[:-_KEPT]


def overheard() -> list[str]:
    r"""The last lines of `note` and `warn` since this was last called, for a person at another machine.

    >>> _ = overheard()
    >>> note("a"), overheard(), overheard()
    (None, ['note: a\n'], [])
    """
    said = list(_overheard)
    del _overheard[: len(said)]
    return said


def visible(text: str) -> str:
    r"""The text on one line, without control characters.

    >>> visible("a\nb\x00\u202ec")
    'a bc'
    """
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    r"""The text without characters that steer a terminal, but for its ends of lines.

    >>> harmless("a\x1b]0;title\x07\nb")
    'a]0;title\nb'
    """
    return _CONTROLS.sub("", text)


def one_line(error: BaseException, most: int = 200) -> str:
    r"""An error's message in one line of at most `most` characters; its class if it has no message.

    >>> one_line(ValueError("two\nlines")), one_line(KeyError())
    ('two lines', 'KeyError')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def described(error: BaseException, most: int | None = None) -> str:
    r"""An error's class and its message, of at most `most` characters, in one line.

    >>> described(ValueError("two\nlines")), described(KeyError())
    ('ValueError: two lines', 'KeyError')
    """
    words = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def shortened(text: str, most: int = 120) -> str:
    r"""A text as one line of at most `most` characters.

    >>> shortened("a\nb"), shortened("a long text", 8)
    ('a b', 'a lon...')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
