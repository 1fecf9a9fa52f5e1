"""One look for all figures: sizes of print, colours that colour-blind readers tell apart, no pyplot."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import textwrap
from typing import TYPE_CHECKING, Any

from got.util.errors import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from numpy.typing import NDArray

COLUMN_IN, PAGE_IN = 3.4, 7.0
"""Width in inches of a column and of a page of two columns."""

# Okabe and Ito (2008): told apart with any kind of colour blindness.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
SERIES = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, PAPER, GREY = "#1b1b1c", "#fdfdfe", "#8a8a8f"
"""Text and lines, ground, and what stands back. The first two follow the page's theme when a figure is inlined."""

STAGE_COLORS = {
    "plan_wrong": RED,
    "drawing_wrong": BLUE,
    "detector_doubt": ORANGE,
    "unchecked": SKY,
    "no_plan": GREY,
    "failed": INK,
    "untraced": PINK,
}
SHADES = "cividis"

_SHEET: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.autolayout": False,
    "figure.facecolor": PAPER,
    "grid.color": GREY,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "text.color": INK,
    "text.parse_math": False,  # a prompt may hold a dollar
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "savefig.dpi": 220,
    "svg.fonttype": "path",
    "svg.hashsalt": "got-bench",
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def sheet() -> Iterator[None]:
    """Settings of matplotlib while figures are drawn; the caller's own come back afterwards."""
    import matplotlib

    with matplotlib.rc_context(_SHEET):
        yield


def figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that arranges its axes itself. Draw it, and make its files, inside :func:`sheet`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(made)
    return made


FORMATS: dict[str, dict[str, None] | None] = {
    "png": None,
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None},
}
"""Files of a figure -> what is left out of each, so that the same figure gives the same bytes."""


def files_of(drawn: Figure) -> dict[str, bytes]:
    """A figure as the files of :data:`FORMATS`: suffix -> content."""
    drawn.set_dpi(_SHEET["savefig.dpi"])
    if (engine := drawn.get_layout_engine()) is not None:
        engine.execute(drawn)
    drawn.set_layout_engine(None)  # it is arranged now: with an engine, each file would be drawn twice
    made = {}
    for suffix, metadata in FORMATS.items():
        if suffix != "png":
            for image in (image for axes in drawn.axes for image in axes.images):
                image.set_interpolation("none")  # the image's own pixels: what shows the file makes them larger
        buffer = io.BytesIO()
        drawn.savefig(buffer, format=suffix, metadata=metadata)
        made[suffix] = buffer.getvalue()
    return made


def inline(svg: str, name: str) -> str:
    """An SVG file of :func:`files_of` for the inside of a page: names unlike those of others, ink and paper themed.

    Args:
        svg: The file's text.
        name: The figure's own name.

    >>> inline('<?xml?><svg width="1pt" height="2pt"><path id="p" style="fill: #1b1b1c"/><use href="#p"/></svg>', "f")
    '<svg><path id="f-p" style="fill: var(--ink)"/><use href="#f-p"/></svg>'
    """
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, closing, rest = body.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    body = head + closing + rest
    body = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"image-rendering:[^;\"]*;?", "", body)
    return body.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)").strip()


def few_ticks(*, integer: bool = False) -> MaxNLocator:
    """At most five ticks, whose numbers have room beside each other in a column."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, integer=integer)


def words(text: str, width: int, lines: int = 2) -> str:
    """Text for a label: at most so many lines, what does not fit cut off, letters that the font lacks as boxes.

    >>> words("a photo of a red apple and a blue dog", 14).splitlines()
    ['a photo of a', 'red apple […]']
    """
    return "\n".join(textwrap.wrap(drawable(text), width, max_lines=lines, placeholder=" […]"))


def drawable(text: str) -> str:
    r"""Text on one line, without control characters, and with boxes for letters that the font lacks.

    >>> drawable("a dog\x1b[31m\non 𒀀")
    'a dog[31m on □'
    """
    known = _letters()
    return "".join(letter if ord(letter) in known else "□" for letter in visible(text))


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def readable_on(rgba: Sequence[float] | NDArray[np.float64]) -> str:
    """Black or white, whichever is read more easily on a colour with parts in [0, 1].

    >>> readable_on((0.0, 0.1, 0.3, 1.0)), readable_on((1.0, 0.9, 0.3, 1.0))
    ('#ffffff', '#000000')
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgba[:3]]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if light > 0.179 else "#ffffff"
