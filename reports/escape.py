"""Words of a run (prompts, labels, names) are not ours: made harmless for each format they are written into."""

from __future__ import annotations

import json
import re
from typing import Any

from got.util.errors import harmless, visible

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def latex(text: str) -> str:
    r"""Text for LaTeX.

    >>> print(latex("50 % of a_b & \\input{x} --limit"))
    50 \% of a\_b \& \textbackslash{}input\{x\} -{}-limit
    """
    return "".join(_LATEX.get(letter, letter) for letter in visible(text)).replace("--", "-{}-")


def csv_text(text: str) -> str:
    """Text for a cell of CSV: a spreadsheet must not take it for a formula.

    >>> csv_text("=1+1"), csv_text("a dog")
    ("'=1+1", 'a dog')
    """
    text = visible(text)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text


def shown(value: Any) -> Any:
    r"""What a template shows, which is escaped after this: words lose the characters that turn text around.

    >>> shown("a\u202eb"), shown(7)
    ('ab', 7)
    """
    return harmless(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def json_in_html(data: Any) -> str:
    r"""JSON for a script element: no character in it can end the element or begin a comment.

    >>> print(json_in_html(["</script>"]))
    ["\u003c/script\u003e"]
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def file_name(text: str, taken: set[str]) -> str:
    """A harmless file name, unlike those taken; the new one is added to them.

    >>> taken = set()
    >>> file_name("../Full run!", taken), file_name("full run", taken), file_name("..", taken)
    ('full-run', 'full-run-2', 'untitled')
    """
    stem = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "untitled"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
