"""The Generation Chain-of-Thought: plain language with a box after each object.

    ... a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red) to the left of ...

Coordinates are thousandths of the width and height, ``(x1,y1),(x2,y2)``; the bracketed word is the colour of that box
in the layout, not the object's. `Chain.parse` reads whatever a model wrote: what does not follow the grammar stays in
the text, draws nothing and leaves a warning. Needs neither torch nor Pillow.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Box1000 = tuple[int, int, int, int]
"""x1, y1, x2, y2 in thousandths of the image, origin at the top left."""

BOX_START = "<|box_start|>"
BOX_END = "<|box_end|>"

MASK_COLORS = (
    "red", "green", "blue", "yellow", "magenta", "cyan", "orange", "purple", "lime", "pink",
    "brown", "teal", "navy", "olive", "maroon", "gold", "violet", "coral", "turquoise", "indigo",
    "khaki", "orchid", "tan", "salmon", "gray", "white",
)  # fmt: skip
"""Layout colours in the order in which a chain uses them (Pillow's names, all different)."""

_REGION = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|> \((\w+)\)")
_BOX_TOKEN = re.compile(r"<\|box_(?:start|end)\|>")
_MAX_DIGITS = 9
_EXCERPT_LENGTH = 60
# A name begins at the last of the opening words, or behind the last of the joining ones, whichever comes later.
_OPENING = re.compile(r"\b(?:a|an|the|one|another|two|three|four|five|six|some|this|that)\s", re.IGNORECASE)
_JOINING = re.compile(
    r"\b(?:(?:photo|picture|image|painting|drawing) of|and|with|to|by|in|on|at|near|beside|above|below|under|over"
    r"|behind|between|is|are)\s",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.,;:!?\n]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One object of a chain, with its place in the picture."""

    text: str
    """The words just before the box that name the object, e.g. ``"a red apple"``."""
    box_1000: Box1000
    """Corners in thousandths of width and height; the first corner is the top left."""
    color: str
    """Colour word of the box in the layout; always one that can be drawn."""

    def __str__(self) -> str:
        return f"{self.text} {format_box(self.box_1000, self.color)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of thought: its exact text and what the grammar finds in it."""

    text: str
    """The chain as written, to the last character."""
    regions: tuple[Region, ...]
    """The well-formed boxes, left to right."""
    warnings: tuple[str, ...]
    """What the text has that the grammar does not know, in words for a person."""
    spans: tuple[tuple[int, int, int, int], ...] = dataclasses.field(repr=False)
    """Per region: start and end of its name, start and end of its box, as offsets into the text."""

    def __str__(self) -> str:
        return self.text

    def format(self) -> str:
        """The chain's text; `Chain.parse` of it gives an equal chain."""
        return self.text

    @classmethod
    def parse(cls, text: str) -> Chain:
        """Read a chain; never raises, whatever the text is.

        Malformed boxes are left out. Corners in the wrong order are sorted. A colour word that cannot be drawn is
        replaced in the region (not in the text) by the next of `MASK_COLORS`. All of these leave a warning.

        >>> chain = Chain.parse("a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red) on grass")
        >>> chain.regions
        (Region(text='a red apple', box_1000=(120, 300, 480, 660), color='red'),)
        >>> Chain.parse("an apple <|box_start|>(12,30),(48<|box_end|> (red)").warnings
        ('malformed box left out: <|box_start|>(12,30),(48<|box_end|> (red)',)
        """
        regions: list[Region] = []
        spans: list[tuple[int, int, int, int]] = []
        warnings: list[str] = []
        end = 0
        for match in _REGION.finditer(text):
            warnings += _stray_tokens(text, end, match.start())
            if max(len(digits) for digits in match.groups()[:4]) > _MAX_DIGITS:
                warnings.append(f"box with an impossible coordinate left out: {_excerpt(text, match.start())}")
            else:
                name = _name_span(text, end, match.start())
                box_1000, box_warnings = _read_box(match)
                color, color_warnings = _read_color(match[5], len(regions))
                warnings += box_warnings + color_warnings
                regions.append(Region(text=text[slice(*name)], box_1000=box_1000, color=color))
                spans.append((*name, *match.span()))
            end = match.end()
        warnings += _stray_tokens(text, end, len(text))
        return cls(text=text, regions=tuple(regions), warnings=tuple(warnings), spans=tuple(spans))

    @classmethod
    def compose(cls, parts: Sequence[str | Region]) -> Chain:
        """Write a chain from prose (taken as it is) and regions.

        >>> apple = Region(text="an apple", box_1000=(120, 300, 480, 660), color="red")
        >>> str(Chain.compose(["a photo of ", apple, " on grass"]))
        'a photo of an apple <|box_start|>(120,300),(480,660)<|box_end|> (red) on grass'
        """
        return cls.parse("".join(str(part) for part in parts))

    def edit(
        self, index: int, *, text: str | None = None, box_1000: Box1000 | None = None, color: str | None = None
    ) -> Chain:
        """The same chain with one region re-described, moved or recoloured; the rest of the text is untouched.

        >>> chain = Chain.parse("a photo of an apple <|box_start|>(120,300),(480,660)<|box_end|> (red)")
        >>> str(chain.edit(0, text="a blue dog", box_1000=(0, 0, 500, 500)))
        'a photo of a blue dog <|box_start|>(0,0),(500,500)<|box_end|> (red)'

        Raises:
            IndexError: If there is no such region.
            ValueError: If the box or the colour cannot be written.
        """
        region, (name_start, name_end, box_start, box_end) = self.regions[index], self.spans[index]
        name = region.text if text is None else text
        box = format_box(box_1000 or region.box_1000, color or region.color)
        between = self.text[name_end:box_start]
        return self.parse(self.text[:name_start] + name + between + box + self.text[box_end:])


def format_box(box_1000: Box1000, color: str) -> str:
    """Write one box in the chain's grammar.

    >>> format_box((120, 300, 480, 660), "red")
    '<|box_start|>(120,300),(480,660)<|box_end|> (red)'

    Raises:
        ValueError: If a coordinate is outside [0, 1000], the corners are swapped, or the colour is not a known word.
    """
    x1, y1, x2, y2 = box_1000
    if not (0 <= x1 <= x2 <= 1000 and 0 <= y1 <= y2 <= 1000):
        raise ValueError(f"Expected 0 <= x1 <= x2 <= 1000 and 0 <= y1 <= y2 <= 1000 but got {box_1000}")
    if not is_color(color):
        raise ValueError(f"Expected a colour word such as {', '.join(MASK_COLORS[:3])} but got {color!r}")
    return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END} ({color})"


def is_color(word: str) -> bool:
    """Whether the layout can be drawn in that colour (Pillow's names, in any case).

    >>> is_color("Red"), is_color("reddish")
    (True, False)
    """
    from PIL import ImageColor  # here, so that reading chains needs no Pillow until a colour is met

    return word.lower() in MASK_COLORS or word.lower() in ImageColor.colormap


def _excerpt(text: str, start: int) -> str:
    return text[start : start + _EXCERPT_LENGTH]


def _stray_tokens(text: str, start: int, end: int) -> Iterator[str]:
    """Warn of box tokens between two well-formed boxes; an end token right after a start token is the same box."""
    open_box = False
    for match in _BOX_TOKEN.finditer(text, start, end):
        if match[0] == BOX_START or not open_box:
            yield f"malformed box left out: {_excerpt(text[:end], match.start())}"
        open_box = match[0] == BOX_START


def _read_box(match: re.Match[str]) -> tuple[Box1000, list[str]]:
    x1, y1, x2, y2 = (int(digits) for digits in match.groups()[:4])
    warnings = []
    if x1 > x2 or y1 > y2:
        warnings.append(f"corners in the wrong order, sorted: {match[0]}")
    if max(x1, y1, x2, y2) > 1000:
        warnings.append(f"box reaches outside the picture: {match[0]}")
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), warnings


def _read_color(word: str, index: int) -> tuple[str, list[str]]:
    if is_color(word):
        return word, []
    fallback = MASK_COLORS[index % len(MASK_COLORS)]
    return fallback, [f"unknown mask colour {word!r}, drawn in {fallback}"]


def _name_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Offsets of the words that name the object of a box at ``end``; prose before ``start`` belongs to another box."""
    while end > start and text[end - 1].isspace():
        end -= 1
    for match in _CLAUSE_END.finditer(text, start, end):
        start = match.end()
    openings = [match.start() for match in _OPENING.finditer(text, start, end)]
    joints = [match.end() for match in _JOINING.finditer(text, start, end)]
    start = max([start, *openings, *joints])
    while start < end and text[start].isspace():
        start += 1
    return start, end
