"""Tables for people, in a terminal and as Markdown. Words from outside are made harmless here, once for each form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from got.util.errors import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import rich.table

_MARKDOWN = {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\`*_[]|!#~$"}}


def escaped(text: str) -> str:
    r"""Text for a cell or a paragraph of Markdown.

    >>> print(escaped("a|b <script> [x](y)"))
    a\|b &lt;script&gt; \[x\](y)
    """
    return "".join(_MARKDOWN.get(letter, letter) for letter in visible(text))


def code(text: str) -> str:
    r"""Code in a cell or a paragraph of Markdown: no backtick or bar ends it.

    >>> print(code("a | `b`"))
    `a \| 'b'`
    """
    return "`" + visible(text).replace("`", "'").replace("|", "\\|") + "`"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table in Markdown. Its cells are Markdown: `escaped`, where their words come from outside.

    Args:
        header: Titles of the columns.
        rows: Cells.
        words: Columns of words at the left; the others are numbers, and aligned at the right.

    >>> print(markdown(["what", "number"], [["a", "1"]]))
    | what | number |
    | --- | ---: |
    | a | 1 |
    """
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def terminal(
    title: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]] | None], *, caption: str = ""
) -> rich.table.Table:
    """A table for a terminal.

    Args:
        title: Stands above it.
        columns: Titles; the first column has words, the others numbers.
        rows: The style (``""``, ``"bold"`` or ``"dim"``) and the cells of each; None draws a line.
        caption: Stands below it.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.title_justify = table.caption_justify = "left"
    for place, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=not place)
    for row in rows:
        if row is None:
            table.add_section()
        else:
            # A label may be indented.
            indents = (cell[: len(cell) - len(cell.lstrip(" "))] for cell in row[1])
            cells = (Text(indent + visible(cell)) for indent, cell in zip(indents, row[1], strict=True))
            table.add_row(*cells, style=row[0])
    return table


def number(value: float | None, digits: int = 3, none: str = "–") -> str:
    """A score, never minus zero; a dash where there is none.

    >>> number(0.8249, 2), number(-0.0001), number(None)
    ('0.82', '0.000', '–')
    """
    return none if value is None else f"{value:z.{digits}f}"


_OF_ONE = {"are": "is", "have": "has", "make": "makes", "ask": "asks", "occur": "occurs", "differ": "differs"}
"""Verbs of `counted`."""


def counted(number: int, unit: str, verb: str = "", *, of: int | None = None) -> str:
    """A number of things, with the verb that goes with it.

    Args:
        number: How many.
        unit: What they are, in the plural.
        verb: As of several: are, have, make, ask, occur or differ.
        of: Of how many they are a part.

    >>> counted(1, "prompts"), counted(1200, "edits"), counted(1, "plain boxes")
    ('1 prompt', '1,200 edits', '1 plain box')
    >>> counted(1, "images", "are", of=24), counted(2, "images", "have"), counted(0, "cases", of=1)
    ('1 of 24 images is', '2 images have', '0 of 1 case')
    """
    one = unit.removesuffix("es" if unit.endswith("xes") else "s")
    share, things = (f"{number:,}", number) if of is None else (f"{number:,} of {of:,}", of)
    said = _OF_ONE[verb] if verb and number == 1 else verb
    return f"{share} {one if things == 1 else unit} {said}".rstrip()


def span(low: float | None, high: float | None, digits: int = 3, none: str = "–", *, signed: bool = False) -> str:
    """An interval; a dash where there is none. Between ends that may have a sign stands a word.

    >>> span(0.4, 0.6), span(-0.1, 0.6), span(0.05, 0.1, signed=True)
    ('0.400–0.600', '-0.100 to 0.600', '+0.050 to +0.100')
    """
    if low is None:
        return none
    ends = [none if end is None else f"{end:{'+' if signed else ''}z,.{digits}f}" for end in (low, high)]
    return (" to " if signed or low < 0 else "–").join(ends)
