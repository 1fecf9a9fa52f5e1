"""A table as text for a terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from got.util.errors import visible
from got.util.tables import escaped, markdown, span
from reports import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reports.tables import Cell, Column, Row, Table


def number(cell: Cell, column: Column, *, reported: bool = False) -> str:
    """A cell without its interval.

    >>> from reports.tables import Cell, Column
    >>> score = Column(key="s", title="score")
    >>> number(Cell(value=0.825), score), number(Cell(), score), number(Cell(text="worse"), score)
    ('0.825', '-', 'worse')
    >>> change = Column(key="d", title="difference", signed=True)
    >>> number(Cell(value=0.5), change), number(Cell(value=0.64, mark="‡"), score, reported=True)
    ('+0.500', '0.64‡')
    """
    if cell.text:
        return visible(cell.text)
    if cell.value is None:
        return f"-{cell.mark}"
    digits = column.reported_digits if reported else column.digits
    return f"{cell.value:{'+' if column.signed else ''}z,.{digits}f}{cell.mark}"


def interval(cell: Cell, column: Column) -> str:
    """The ends of a cell's interval, or nothing.

    >>> from reports.tables import Cell, Column
    >>> interval(Cell(value=0.5, low=0.4, high=0.6), Column(key="s", title="score"))
    '0.400–0.600'
    """
    return span(cell.low, cell.high, column.digits, none="", signed=column.signed)


def to_text(table: Table) -> str:
    """For a terminal of 80 columns: rows that compare under what they show, and the footnotes.

    Intervals stand beside their scores if that fits, else below them, else as two numbers; columns that no row has
    room for go into a second block of the same rows.
    """
    shown = [i for i, column in enumerate(table.columns) if not column.aside]
    for layout in _LAYOUTS:
        body = _grid(table, shown, layout)
        if max(map(len, body)) <= _TERMINAL:
            break
    else:
        body = _blocks(table, shown)
    notes = (paragraph(note) for note in (*table.footnotes, *table.notes))
    return "\n".join([paragraph(table.caption), "", *body, "", *notes]) + "\n"


def paragraph(text: str) -> str:
    """A sentence or more for a terminal of 80 columns, with words from outside made harmless."""
    return textwrap.fill(visible(text), _TERMINAL, break_long_words=False, break_on_hyphens=False)


class _Layout(NamedTuple):
    """How close the columns of a terminal's table stand."""

    gap: int
    title: int
    """Letters of a column's title on one line."""
    ends: str
    """Where an interval stands: ``beside`` its score, ``below`` it, or as two numbers, ``from`` and ``to``."""
    label: int
    """Letters of a row's label that stand beside its cells; a longer one has a line of its own."""


_TERMINAL = 80
"""Columns of a terminal."""
_LAYOUTS = (_Layout(2, 12, "beside", 80), _Layout(2, 12, "below", 80), _Layout(1, 8, "from", 13))
_LONG_WORD = re.compile(r"\w{10}(?=\w{2})")
"""The beginning of a word that is parted in a title."""


def _blocks(table: Table, shown: Sequence[int]) -> list[str]:
    """The closest layout, in as few blocks as hold all columns."""
    lines: list[str] = []
    while shown:
        grids = (_grid(table, shown[:size], _LAYOUTS[-1]) for size in range(len(shown), 0, -1))
        size, body = next((len(shown) - i, grid) for i, grid in enumerate(grids) if max(map(len, grid)) <= _TERMINAL
                          or i == len(shown) - 1)  # fmt: skip
        lines += ["", *body] if lines else body
        shown = shown[size:]
    return lines


def _grid(table: Table, shown: Sequence[int], layout: _Layout) -> list[str]:
    """Titles and rows of some columns, as lines."""
    titles = [_title(table.columns[i].title, layout.title) for i in shown]
    height = max(map(len, titles))
    header = [["", *column] for column in zip(*([""] * (height - len(words)) + words for words in titles), strict=True)]
    blocks = [(visible(source), [line for row in rows for line in _text_row(table, row, shown, layout)])
              for source, rows in table.groups()]  # fmt: skip
    every = [*header, *(cells for _, block in blocks for cells in block if not isinstance(cells, str))]
    widths = [max(len(cells[i]) for cells in every) for i in range(len(titles) + 1)]
    between = " " * layout.gap

    def line(cells: Sequence[str] | str) -> str:
        if isinstance(cells, str):
            return cells
        label, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return between.join([label, *others]).rstrip()

    lines = [*map(line, header)]
    for source, block in blocks:
        lines += [between.join("-" * width for width in widths), *([f"{source}:"] * bool(source)), *map(line, block)]
    return lines


def _title(text: str, letters: int) -> list[str]:
    """A column's title on lines of so many letters, or of one longer word."""
    words = _LONG_WORD.sub(r"\g<0>- ", visible(text))
    return textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False)


def _text_row(table: Table, row: Row, shown: Sequence[int], layout: _Layout) -> list[list[str] | str]:
    """A row's lines in a terminal. What stands aside is in words below it, with the intervals."""
    label = f"{visible(row.label)}{' †' * row.reported}"
    lines: list[list[str] | str] = [label] if len(label) > layout.label else []
    aside = any(column.aside for column in table.columns)
    values, ends = ["" if lines else label], [""]
    for cell, column in ((row.cells[i], table.columns[i]) for i in shown):
        text, span = number(cell, column, reported=row.reported), interval(cell, column)
        beside = span and layout.ends == "beside" and not aside
        values.append(f"{text} ({span})" if beside else text)
        ends.append("" if beside else span)
    lines.append(values)
    if aside:
        said = [visible(cell.text) for cell, column in zip(row.cells, table.columns, strict=True) if column.aside]
        words = "; ".join(filter(None, (*ends, *said)))
        return [*lines, *textwrap.wrap(words, _TERMINAL, initial_indent="  ", subsequent_indent="    ")]
    if not any(ends):
        return lines
    if layout.ends == "below":
        return [*lines, ends]
    low, high = zip(*(span.replace(" to ", "–").partition("–")[::2] for span in ends[1:]), strict=True)
    return [*lines, ["  95 % from", *low], ["       to", *high]]


def to_markdown(table: Table) -> str:
    """For a README or an issue tracker; the best score of rows that compare is bold."""
    rows, domains = [], any(row.source for row in table.rows)
    for row in table.rows:
        cells = [escaped(row.label) + (" †" if row.reported else ""), *([escaped(row.source)] * domains)]
        for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
            text = escaped(number(cell, column, reported=row.reported))
            ends = interval(cell, column)
            cells.append((f"**{text}**" if table.best(row, i) else text) + (f" ({ends})" if ends else ""))
        rows.append(cells)
    notes = "".join(f"\n- {escaped(note)}" for note in (*table.footnotes, *table.notes, *table.origins))
    header = ["", *(["domain"] * domains), *(escaped(column.title) for column in table.columns)]
    text = markdown(header, rows, words=1 + domains)
    return f"{text}\n{notes}\n" if notes else f"{text}\n"


_PACKAGES = r"\usepackage[T1]{fontenc}, \usepackage{textcomp}, \usepackage{booktabs}"
_FEW_COLUMNS = 5
"""With so many there is room for intervals beside the scores; with more they stand below."""
_MANY_COLUMNS = 8
"""With more they stand closer on a page."""


def to_latex(table: Table) -> str:
    """For a paper, with caption and label; a comment above it names the packages and where its numbers come from.

    An interval stands below its score; the best score of rows that compare is bold; a dagger marks what is reported.
    """
    columns = "l" + "".join("l" if table.has_words(i) else "r" for i in range(len(table.columns)))
    head = " & ".join(["", *(_stack(column.title, 7, "r") for column in table.columns)])
    body: list[str] = []
    for source, rows in table.groups():
        body += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{escape.latex(source)}}}}} \\"]
        body += [line for row in rows for line in _latex_row(table, row)]
    notes = _latex_signs(" ".join(escape.latex(note) for note in (*table.footnotes, *table.notes)))
    lines = [
        f"% Needs {_PACKAGES}.",
        *(f"% {escape.latex(origin)}" for origin in table.origins),
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escape.latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\footnotesize",
        rf"\setlength{{\tabcolsep}}{{{1.5 if len(table.columns) > _MANY_COLUMNS else 2.5}pt}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        rf"{head} \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {notes}}}"] if notes else []),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _latex_signs(text: str) -> str:
    r"""Signs of footnotes as LaTeX has them.

    >>> print(_latex_signs("0.5‡§"))
    0.5$^\ddagger$$^\S$
    """
    for sign, command in (("†", "dagger"), ("‡", "ddagger"), ("§", "S")):
        text = text.replace(sign, rf"$^\{command}$")
    return text


def _latex_row(table: Table, row: Row) -> list[str]:
    values, ends = (
        [
            _stack(row.label, 18 if len(table.columns) > _FEW_COLUMNS else 40, "l")
            + (r"$^\dagger$" if row.reported else "")
        ],
        [""],
    )
    for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
        words = visible(cell.brief) or number(cell, column, reported=row.reported).removesuffix(cell.mark)
        text = "--" if words == "-" else _stack(words, 16, "l")
        if cell.value is not None and text[0] in "+-":
            text = f"${text}$"
        values.append((rf"\textbf{{{text}}}" if table.best(row, i) else text) + _latex_signs(cell.mark))
        both = re.sub(r"[+-][\d.]+", r"$\g<0>$", interval(cell, column)).replace("–", "--")
        beside = len(table.columns) <= _FEW_COLUMNS
        ends.append(rf"{{\tiny {f'({both})' if beside else both}}}" if both else "")
    if len(table.columns) <= _FEW_COLUMNS:
        return [" & ".join(f"{value} {end}".strip() for value, end in zip(values, ends, strict=True)) + r" \\"]
    lines = [" & ".join(values) + r" \\"]
    if any(ends):
        lines = [" & ".join(values) + r" \\[-2pt]", " & ".join(ends) + r" \\"]
    return lines


def _stack(text: str, width: int, side: str) -> str:
    r"""Words on lines of about that many letters: wide tables fit on a page.

    >>> print(_stack("single object", 8, "r"), _stack("a_b", 8, "r"))
    \shortstack[r]{single\\object} a\_b
    """
    lines = textwrap.wrap(visible(text), width, break_long_words=False, break_on_hyphens=False)
    shown = r"\\".join(escape.latex(line) for line in lines)
    return rf"\shortstack[{side}]{{{shown}}}" if len(lines) > 1 else shown


def to_csv(table: Table) -> str:
    """For a program: every number unrounded; the ends of intervals, and what footnotes say, in columns of their own."""
    spans = [any(row.cells[i].low is not None for row in table.rows) for i in range(len(table.columns))]
    header = ["method", "images", "reported"]
    for column, has_ends in zip(table.columns, spans, strict=True):
        key = escape.csv_text(column.key)  # in an ablation the word of a user's own prompts
        header += [key, f"{key}_low", f"{key}_high"] if has_ends else [key]
    facts = list(dict.fromkeys(name for row in table.rows for name in row.facts))
    header += facts
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        cells: list[object] = [escape.csv_text(row.label), escape.csv_text(row.images), int(row.reported)]
        for cell, has_ends in zip(row.cells, spans, strict=True):
            cells.append(escape.csv_text(cell.text) if cell.text else cell.value)
            cells += [cell.low, cell.high] if has_ends else []
        cells += [row.facts.get(name) for name in facts]
        writer.writerow(cells)
    return file.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}
