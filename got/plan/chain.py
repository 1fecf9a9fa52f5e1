"""The Generation Chain-of-Thought: plain language with a box after each object.

    ... a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red) to the left of ...

Coordinates are thousandths of the width and height, ``(x1,y1),(x2,y2)``; the bracketed word is the colour of that box
in the layout, not the object's. `Chain.parse` reads whatever a model wrote: what does not follow the grammar stays in
the text, draws nothing and leaves a warning. `replace`, `move`, `add` and `remove` change a plan box by box: each gives
a new chain whose text and boxes agree. Needs neither torch nor Pillow.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
from typing import TYPE_CHECKING

from got.plan import wording
from got.plan.torn import BOX_END as BOX_END
from got.plan.torn import BOX_START as BOX_START
from got.plan.torn import EXCERPT_LENGTH, torn_boxes, without_torn_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

Box1000 = tuple[int, int, int, int]
"""x1, y1, x2, y2 in thousandths of the image, origin at the top left."""

MASK_COLORS = (
    "red", "green", "blue", "yellow", "magenta", "cyan", "orange", "purple", "lime", "pink",
    "brown", "teal", "navy", "olive", "maroon", "gold", "violet", "coral", "turquoise", "indigo",
    "khaki", "orchid", "tan", "salmon", "gray", "white",
)  # fmt: skip
"""Layout colours in the order in which a chain uses them (Pillow's names, all different)."""

_REGION = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|> \((\w+)\)")
# Or what stands behind a start token, which is no plain box.
_PLAIN_BOX = re.compile(
    r"<\|box_start\|>[-\d(),.\s]*"
    r"|(?<!\s)\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)\s*,\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)"
    r"(?!\s*<\|box_end\|>)(?: \((\w+)\))?"
)
_MAX_DIGITS = 9
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
    """One object of a chain, with its place in the image."""

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
    faults: tuple[tuple[int, int, str], ...] = dataclasses.field(default=(), repr=False)
    """Start, end and words of each warning about the text, to underline it."""
    _added: tuple[int, Chain] | None = dataclasses.field(default=None, repr=False, compare=False)
    """Of what `add` gives: the place of the new region, and the chain without it."""

    def __str__(self) -> str:
        return self.text

    def format(self) -> str:
        """The chain's text. `Chain.parse` finds the same boxes in it; of a name like "a cup with ice" the last part."""
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
        ('malformed box left out at character 9: <|box_start|>(12,30),(48<|box_end|> (red)',)
        """
        regions: list[Region] = []
        spans: list[tuple[int, int, int, int]] = []
        faults: list[tuple[int, int, str]] = []
        end = 0
        for match in _REGION.finditer(text):
            torn = torn_boxes(text, end, match.start())
            faults += torn
            end = max([end, *(fault[1] for fault in torn)])
            if max(len(digits) for digits in match.groups()[:4]) > _MAX_DIGITS:
                place = f"at character {match.start()}: {match[0][:EXCERPT_LENGTH]}"
                words = f"box with an impossible coordinate left out {place}"
                faults.append((*match.span(), words))
            else:
                name = _name_span(text, end, match.start())
                box_1000, box_warnings = _read_box(match)
                color, color_warnings = _read_color(match[5], len(regions))
                faults += [(*match.span(), words) for words in box_warnings]
                faults += [(*match.span(5), words) for words in color_warnings]
                regions.append(Region(text=text[slice(*name)], box_1000=box_1000, color=color))
                spans.append((*name, *match.span()))
            end = match.end()
        faults += torn_boxes(text, end, len(text))
        return cls(
            text=text,
            regions=tuple(regions),
            warnings=tuple(words for _, _, words in faults),
            spans=tuple(spans),
            faults=tuple(faults),
        )

    @classmethod
    def read(cls, text: str) -> Chain:
        """Read a plan that a person wrote: boxes may be plain, with a mask colour or without.

        Boxes of tokens may stand beside them. A plain box that is torn stays in the text and leaves a warning.

        >>> str(Chain.read("a blue dog (0,100),(500,550) and a cat"))
        'a blue dog <|box_start|>(0,100),(500,550)<|box_end|> (red) and a cat'
        >>> Chain.read("a blue dog (0,100),(500 and a cat").warnings
        ('malformed box left out at character 11: (0,100),(500',)
        """
        taken = {match[5] for boxes in (_REGION, _PLAIN_BOX) for match in boxes.finditer(text)}
        free = itertools.cycle([color for color in MASK_COLORS if color not in taken] or MASK_COLORS)

        def written(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0]
            word = match[5] or ""
            color = word if is_color(word) else next(free)
            x1, y1, x2, y2 = match.groups()[:4]
            prose = f" ({word})" if word and word != color else ""
            return f" {BOX_START}({x1},{y1}),({x2},{y2}){BOX_END} ({color}){prose}"

        return cls.parse(_PLAIN_BOX.sub(written, text))

    def named(self, names: Sequence[str]) -> Chain:
        """The chain with its regions called by these names, as far as the text has them.

        >>> chain = Chain.parse("a cup with ice <|box_start|>(0,0),(9,9)<|box_end|> (red)")
        >>> chain.regions[0].text, chain.named(["a cup with ice"]).regions[0].text, chain.named(["tea"]) == chain
        ('ice', 'a cup with ice', True)
        """
        before = [self.text[:end] for _, end, *_ in self.spans]
        if len(names) != len(before) or not all(map(str.endswith, before, names)):
            return self
        spans = tuple((span[1] - len(name), *span[1:]) for name, span in zip(names, self.spans, strict=True))
        regions = tuple(dataclasses.replace(one, text=name) for one, name in zip(self.regions, names, strict=True))
        return dataclasses.replace(self, regions=regions, spans=spans, _added=None)

    def caption(self, opening: str = "a photo of ") -> str:
        """A prompt that asks for just the objects of the plan.

        A changed plan is best drawn with a prompt that agrees with it: the image tokens see both, and a small model
        takes classes rather from the prompt. What has a torn box is named, too. A chain without regions is its own
        caption, but for boxes that are torn.

        >>> chain = Chain.parse("there is a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)")
        >>> chain.add("a cat", (500, 500, 900, 900)).caption()
        'a photo of a dog and a cat'
        >>> Chain.read("a dog (0,0),(500,500 and a cat (500,500),(900,900)").caption()
        'a photo of a dog and a cat'
        """
        if not self.regions:
            return without_torn_boxes(self.text) if self.faults else self.text
        boxes = sorted([(span[2], span[3]) for span in self.spans] + self._left_out())
        given = {span[2]: region.text for span, region in zip(self.spans, self.regions, strict=True)}
        before = [0, *(end for _, end in boxes)]
        named = (
            given.get(start) or self.text[slice(*_name_span(self.text, end, start))]
            for (start, _), end in zip(boxes, before, strict=False)
        )
        names = [name for one in named if (name := one.rstrip(" ([{"))]
        return f"{opening}{' and '.join(filter(None, (', '.join(names[:-1]), *names[-1:])))}".rstrip()

    def edit(
        self, index: int, *, text: str | None = None, box_1000: Box1000 | None = None, color: str | None = None
    ) -> Chain:
        """The same chain with one region re-described, moved or recoloured; what is not given stays to the letter.

        A name that is given is kept as the region's text whatever its words are; read back from plain text, a name
        with "and" or "with" in it begins behind that word.

        >>> chain = Chain.parse("a photo of an apple <|box_start|>(120,300),(480,660)<|box_end|> (red)")
        >>> str(chain.edit(0, text="a blue dog", box_1000=(0, 0, 500, 500)))
        'a photo of a blue dog <|box_start|>(0,0),(500,500)<|box_end|> (red)'

        Raises:
            IndexError: If there is no such region.
            ValueError: If the name, the box or the colour cannot be written.
        """
        index = self._index(index)
        parts, region = self._parts(), self.regions[index]
        if text is not None:
            parts.names[index] = _without_tokens(text)
            if wording.is_plural(text) != wording.is_plural(region.text):
                parts.prose[:] = wording.agree(parts.prose, parts.names, index)
        if box_1000 is not None or color is not None:
            parts.boxes[index] = format_box(
                region.box_1000 if box_1000 is None else box_1000, region.color if color is None else color
            )
        return parts.chain()

    def replace(self, index: int, text: str) -> Chain:
        """The same chain with another object in a region's place.

        >>> chain = Chain.parse("there is a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)")
        >>> str(chain.replace(0, "two blue cats"))
        'there are two blue cats <|box_start|>(0,0),(500,500)<|box_end|> (red)'

        Raises:
            IndexError: If there is no such region.
            ValueError: If the text is empty or contains the model's own tokens.
        """
        return self.edit(index, text=_words_of_a_name(text))

    def move(self, index: int, box_1000: Box1000) -> Chain:
        """The same chain with a region in another place, or of another size.

        Args:
            index: Which region; negative ones count from the end.
            box_1000: x1, y1, x2, y2, whole numbers from 0 to 1000. A box without extent paints a line or a point.

        Raises:
            IndexError: If there is no such region.
            ValueError: If it is no such box.
        """
        return self.edit(index, box_1000=box_1000)

    def add(self, text: str, box_1000: Box1000, index: int | None = None, color: str | None = None) -> Chain:
        """The same chain with one more region.

        It joins the list that the region before it is in, or gets a sentence of its own ("There is ...") behind prose.
        If the mask colours are in their fixed order they still are afterwards; otherwise the first one that is free is
        taken. Between two regions that prose relates, that prose gives way to a list.

        To remove the new region gives this chain back, to the letter. Of the text alone, read anew, it does so where
        objects are listed, or have a sentence each, as models write; odd prose or spacing may stay rewritten.

        Args:
            text: What it is, with its article.
            box_1000: x1, y1, x2, y2, whole numbers from 0 to 1000.
            index: Its place among the regions; at the end if not given.
            color: Its mask colour, to choose it.

        >>> chain = Chain.parse("there is a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)")
        >>> str(chain.add("a cat", (500, 500, 900, 900)))
        'there are a dog <|box_start|>... (red) and a cat <|box_start|>(500,500),(900,900)<|box_end|> (green)'

        Raises:
            IndexError: If the place is not in [0, number of regions].
            ValueError: If the text, the box or the colour cannot be written.
        """
        count = len(self.regions)
        place = count if index is None else _whole(index)
        if not 0 <= place <= count:
            raise IndexError(f"Expected a place from 0 to {count} for the new region but got {place}")
        name = _without_tokens(_words_of_a_name(text))
        parts, ordered = self._parts(), color is None and self._colors_in_order()
        used = {region.color.lower() for region in self.regions}
        free = next((word for word in MASK_COLORS if word not in used), MASK_COLORS[count % len(MASK_COLORS)])
        parts.names.insert(place, name)
        parts.spaces.insert(place, " ")
        parts.boxes.insert(place, format_box(box_1000, free if color is None else color))
        parts.prose[:] = wording.insert(parts.prose, parts.names, place)
        return dataclasses.replace(parts.chain(recolor=ordered), _added=(place, self))

    def remove(self, index: int) -> Chain:
        """The same chain without a region, and without the words that join it to its neighbours.

        A sentence of which it was the only region goes altogether. Mask colours stay in their fixed order if they
        were in it. What `add` has just put in leaves no trace.

        >>> chain = Chain.parse("there is a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)")
        >>> chain.add("a cat", (500, 500, 900, 900)).remove(1) == chain
        True

        Raises:
            IndexError: If there is no such region.
        """
        index = self._index(index)
        if self._added is not None and self._added[0] == index:
            return self._added[1]
        parts, ordered = self._parts(), self._colors_in_order()
        for column in (parts.names, parts.spaces, parts.boxes):
            del column[index]
        parts.prose[:] = wording.remove(parts.prose, parts.names, index)
        return parts.chain(recolor=ordered)

    def _left_out(self) -> list[tuple[int, int]]:
        """Start and end of each box that has no region."""
        kept = [span[2:] for span in self.spans]
        return [(start, end) for start, end, _ in self.faults if not any(first <= start < last for first, last in kept)]

    def _index(self, index: int) -> int:
        count, index = len(self.regions), _whole(index)
        if not -count <= index < count:
            there = f"a region from 0 to {count - 1}" if count else "a chain with regions, but this one has none"
            raise IndexError(f"Expected {there}; got index {index}")
        return index % count

    def _colors_in_order(self) -> bool:
        return all(region.color.lower() == MASK_COLORS[i % len(MASK_COLORS)] for i, region in enumerate(self.regions))

    def _parts(self) -> _Parts:
        parts, end = _Parts(prose=[], names=[], spaces=[], boxes=[]), 0
        for name_start, name_end, box_start, box_end in self.spans:
            parts.prose.append(self.text[end:name_start])
            parts.names.append(self.text[name_start:name_end])
            parts.spaces.append(self.text[name_end:box_start])
            parts.boxes.append(self.text[box_start:box_end])
            end = box_end
        parts.prose.append(self.text[end:])
        return parts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """A chain taken apart: prose[0], names[0], spaces[0], boxes[0], prose[1], ..., prose[n]."""

    prose: list[str]
    names: list[str]
    spaces: list[str]
    boxes: list[str]

    def chain(self, *, recolor: bool = False) -> Chain:
        """Put together, with the mask colours in their fixed order if they are to be renumbered."""
        text, spans = self.prose[0], []
        for i, (name, gap, box, prose) in enumerate(
            zip(self.names, self.spaces, self.boxes, self.prose[1:], strict=True)
        ):
            written = f"{box[: box.rindex('(')]}({MASK_COLORS[i % len(MASK_COLORS)]})" if recolor else box
            at = len(text)
            spans.append((at, at + len(name), at + len(name + gap), at + len(name + gap + written)))
            text += name + gap + written + prose
        chain = Chain.parse(text)
        if [span[2:] for span in chain.spans] != [span[2:] for span in spans]:
            raise ValueError("Expected a chain without torn boxes next to the change, but another box would be read")
        regions = (
            dataclasses.replace(region, text=name) for region, name in zip(chain.regions, self.names, strict=True)
        )
        return dataclasses.replace(chain, regions=tuple(regions), spans=tuple(spans))


def iou(a: Box1000, b: Box1000) -> float:
    """Intersection over union of two boxes.

    >>> iou((0, 0, 200, 100), (100, 0, 300, 100))
    0.3333333333333333
    """
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / max(sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared, 1)


def format_box(box_1000: Box1000, color: str) -> str:
    """Write one box in the chain's grammar.

    >>> format_box((120, 300, 480, 660), "red")
    '<|box_start|>(120,300),(480,660)<|box_end|> (red)'

    Raises:
        ValueError: If a coordinate is no whole number in [0, 1000], the corners are swapped, or the colour is not a
            known word.
    """
    try:
        x1, y1, x2, y2 = map(operator.index, box_1000)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected a box of four whole numbers x1, y1, x2, y2 but got {box_1000!r}") from error
    if not (0 <= x1 <= x2 <= 1000 and 0 <= y1 <= y2 <= 1000):
        raise ValueError(f"Expected 0 <= x1 <= x2 <= 1000 and 0 <= y1 <= y2 <= 1000 but got {box_1000}")
    if not is_color(color):
        raise ValueError(f"Expected a colour word such as {', '.join(MASK_COLORS[:3])} but got {color!r}")
    return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END} ({color})"


def _whole(index: object) -> int:
    try:
        return operator.index(index)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"Expected the number of a region but got {index!r}") from None


def _words_of_a_name(text: str) -> str:
    name = text.strip()
    if not name:
        raise ValueError(f"Expected words that name an object, such as 'a red dog', but got {text!r}")
    return name


def _without_tokens(text: str) -> str:
    if "<|" in text or "|>" in text:
        raise ValueError(f"Expected the name of an object in plain words but got {text!r}")
    return text


def no_boxes(text: str) -> tuple[str, ...]:
    """What to warn of where a plan that was given has no boxes; nothing where it has some, or is empty on purpose.

    >>> no_boxes("a dog (0,100),(500,550)")
    ('no boxes in this plan; --chain and Chain.read understand plain ones, as in: a blue dog (0,100),(500,550)',)
    """
    if not text.strip() or _REGION.search(text):
        return ()
    return ("no boxes in this plan; --chain and Chain.read understand plain ones, as in: a blue dog (0,100),(500,550)",)


def is_color(word: str) -> bool:
    """Whether the layout can be drawn in that colour (Pillow's names, in any case).

    >>> is_color("Red"), is_color("reddish")
    (True, False)
    """
    from PIL import ImageColor  # here, so that reading chains needs no Pillow until a colour is met

    return word.lower() in MASK_COLORS or word.lower() in ImageColor.colormap


def _read_box(match: re.Match[str]) -> tuple[Box1000, list[str]]:
    x1, y1, x2, y2 = (int(digits) for digits in match.groups()[:4])
    warnings = []
    if x1 > x2 or y1 > y2:
        warnings.append(f"corners in the wrong order, sorted: {match[0]}")
    if max(x1, y1, x2, y2) > 1000:
        warnings.append(f"box reaches outside the image: {match[0]}")
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
