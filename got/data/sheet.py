"""A sheet for people: source, planned boxes, target, prompt and chain of an example, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageDraw

from got.data.records import DataError
from got.plan.chain import Chain
from got.plan.layout import draw_overview
from got.util.images import INK, ImageError, fitted, font, laid_out, open_image, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from got.data.records import Example, Step

_SIDE_PX, _PAD_PX, _LINE_PX, _COLUMNS = 256, 12, 19, 4
_LONGEST = 90  # characters of a word, for not every script has spaces
_WIDTH_PX = _COLUMNS * (_SIDE_PX + _PAD_PX) + _PAD_PX
_FAINT, _RULE = "#6a6a6a", "#d0d0d0"
_TITLES = ("starts from", "boxes of the plan", "drawn on the target", "target")


def sheet(examples: Sequence[Example]) -> Image.Image:
    """Examples one below the other, RGB.

    A row is a step: the image that it starts from (nothing for text-to-image), the layout, the boxes on the target
    with their numbers, the target. Below it stands the chain, with numbers in place of boxes.

    Raises:
        DataError: If an image cannot be opened.
    """
    parts = [part for example in examples for part in _parts(example)]
    return laid_out([*parts, written((_WIDTH_PX, _PAD_PX), ())], 1)


def _parts(example: Example) -> list[Image.Image]:
    """The heading of an example, and its steps."""
    origin = example.provenance
    about = " · ".join(
        part
        for part in (example.id, example.task, origin.dataset, origin.license, origin.origin, origin.made_by)
        if part
    )
    parts = [
        _text([(line, 16, INK) for line in _wrapped(example.prompt.split(), 16)] + [(about, 12, _FAINT)], rule=True)
    ]
    before = None if example.source is None else _image(example, "source", example.source)
    for number, step in enumerate(example.steps):
        target = _image(example, f"steps[{number}].target", step.target)
        if len(example.steps) > 1:
            parts.append(_text([(f"step {number + 1} of {len(example.steps)}: {step.instruction}", 14, INK)]))
        parts += [_row(before, step, target), _words(step)]
        before = target
    return parts


def _row(before: Image.Image | None, step: Step, target: Image.Image) -> Image.Image:
    chain = Chain.parse(step.chain)
    boxes = target.copy()
    pen = ImageDraw.Draw(boxes)
    for number, region in reversed(list(enumerate(chain.regions, 1))):
        x1, y1, x2, y2 = (value * side / 1000 for value, side in zip(region.box_1000, 2 * boxes.size, strict=True))
        corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
        pen.rectangle(corners, outline="black", width=4)
        pen.rectangle([corners[0] + 1, corners[1] + 1, max(corners[2] - 1, corners[0] + 1),
                       max(corners[3] - 1, corners[1] + 1)], outline=region.color, width=2)  # fmt: skip
        small = corners[2] - corners[0] < 2 * _LINE_PX or corners[3] - corners[1] < 2 * _LINE_PX
        place = (corners[2] + 3, corners[1]) if small else (corners[0] + 3, corners[1] + 3)
        _tag(pen, place, str(number), region.color)
    height = max(target.height, 0 if before is None else before.height)
    lefts = [_PAD_PX + column * (_SIDE_PX + _PAD_PX) for column in range(_COLUMNS)]
    images = (before, draw_overview(chain, *target.size), boxes, target)
    titles = (title if image else "starts from nothing" for title, image in zip(_TITLES, images, strict=True))
    lines = [(left, 0, title, _FAINT, 12) for left, title in zip(lefts, titles, strict=True)]
    row = written((_WIDTH_PX, height + _LINE_PX + _PAD_PX), lines)
    for left, image in zip(lefts, images, strict=True):
        if image is None:
            frame = (left, _LINE_PX, left + target.width - 1, _LINE_PX + target.height - 1)
            ImageDraw.Draw(row).rectangle(frame, outline=_RULE)
        else:
            row.paste(image, (left, _LINE_PX))
    return row


def _tag(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: str) -> None:
    left, top, right, bottom = pen.textbbox(place, text, font(13))
    pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=color)
    red, green, blue = ImageColor.getrgb(color)[:3]
    pen.text(place, text, "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 110 else "white", font(13))


def _words(step: Step) -> Image.Image:
    """The chain, with a number for each box and a list of the boxes."""
    chain = Chain.parse(step.chain)
    text, end = "", 0
    for index, (_, _, box_start, box_end) in enumerate(chain.spans, 1):
        text += f"{step.chain[end:box_start]}[{index}]"
        end = box_end
    text += step.chain[end:]
    lines = [(line, 13, INK) for line in _wrapped(text.split(), 13)]
    boxes = [f"[{index}] {region.text} {region.box_1000}" for index, region in enumerate(chain.regions, 1)]
    lines += [(line, 12, _FAINT) for line in _wrapped(boxes, 12, "   ")]
    lines += [(f"warning: {warning}", 12, "#c62828") for warning in chain.warnings]
    return _text(lines)


def _text(lines: Sequence[tuple[str, int, str]], *, rule: bool = False) -> Image.Image:
    top = _PAD_PX if rule else 0
    placed = [(_PAD_PX, top + n * _LINE_PX, text, color, size) for n, (text, size, color) in enumerate(lines)]
    part = written((_WIDTH_PX, len(lines) * _LINE_PX + _PAD_PX + top), placed)
    if rule:
        ImageDraw.Draw(part).line((_PAD_PX, 1, _WIDTH_PX - _PAD_PX, 1), _RULE)
    return part


def _wrapped(words: Sequence[str], size: int, joint: str = " ") -> list[str]:
    """Words in lines that fit the page."""
    lines: list[str] = []
    pieces = (word[start : start + _LONGEST] for word in words for start in range(0, len(word), _LONGEST))
    for word in pieces:
        longer = f"{lines[-1]}{joint}{word}" if lines else word
        if lines and font(size).getlength(longer) <= _WIDTH_PX - 2 * _PAD_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _image(example: Example, field: str, image: bytes | Path) -> Image.Image:
    """The image, as large as fits into a cell."""
    try:
        opened = open_image(image)
    except ImageError as error:
        raise DataError(f"example {example.id}: {field}: {error}") from error
    enlarged = 2 * max(opened.size) <= _SIDE_PX
    return fitted(opened, _SIDE_PX, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
