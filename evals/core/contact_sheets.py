"""Images that a run keeps for people: grids, contact sheets with planned and detected boxes, copies of sources."""

from __future__ import annotations

import io
import itertools
import json
import math
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from evals.core.vocabulary import task_title
from got.util.files import write_atomic
from got.util.images import GREY, INK, fitted, font, laid_out, open_if_any, png_bytes, written
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from PIL import Image, ImageDraw

    from evals.core.records import Case, EditCase, EncodedImage

    Point = tuple[float, float]
    Box = tuple[float, float, float, float]

WRONG = "wrong-images.png"
MAX_TILES = 100
"""Images on a contact sheet: the first one of each prompt, up to this many."""

_COLUMNS = 10
_SIDE_PX = 192
_PAD_PX = 8
_LINE_PX = 15
_TEXT_LINES = 5
_TILE_PX = (_SIDE_PX + 2 * _PAD_PX, _SIDE_PX + 2 * _PAD_PX + _TEXT_LINES * _LINE_PX)
_CHARS = 33
_RIGHT, _WRONG = "#1a7f37", "#c62828"
# Bright, told apart from each other and, by a dark rim, from any background.
_BOX_COLORS = ("#ffe119", "#42d4f4", "#f58231", "#f032e6", "#bfef45", "#fabed4", "#dcbeff", "#ffffff")


# --------------------------------------------------------------------------------------------------------------- grids
def write_grids(run: Path, cases: Sequence[Case], images_per_prompt: int) -> None:
    """`grid.png` beside each prompt's samples. An image that is missing or damaged leaves a grey cell."""
    with ThreadPoolExecutor(1) as writer:  # writes a grid while the images of the next one are read
        writing: Future[None] | None = None
        for case in cases:
            folder = run / "images" / case.id
            images = [open_if_any(folder / "samples" / f"{index:04d}.png") for index in range(images_per_prompt)]
            if writing is not None:
                writing.result()
            writing = writer.submit(_write_grid, folder / "grid.png", images)
        if writing is not None:
            writing.result()


def _write_grid(path: Path, images: Sequence[Image.Image | None]) -> None:
    if any(image is not None for image in images):
        grid = laid_out(images, math.ceil(math.sqrt(len(images))), gap_px=2, paper="black")
        write_atomic(path, png_bytes(grid))


# ------------------------------------------------------------------------------------------------------ contact sheets
def draw(run: Path, results: list[dict[str, Any]], observations: list[dict[str, Any]]) -> list[Path]:
    """One sheet per task, `sheets/counting.png` and so on, and one of all that is wrong, `sheets/wrong-images.png`.

    Args:
        run: The run directory.
        results: Lines of results.jsonl.
        observations: The observation of each result.

    Returns:
        The files written.
    """
    every = list(zip(results, observations, strict=True))
    tasks: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for result, observation in every:
        if observation["index"] == 0:
            tasks.setdefault(result["tag"], []).append((result, observation))
    which = "first image of each prompt" if any(observation["index"] for observation in observations) else ""
    written, taken = [], {WRONG.partition(".")[0]}
    for tag, pairs in tasks.items():
        known = [result["correct"] for result, _ in pairs[:MAX_TILES]]
        right = counted(len(known), "images") if None in known else f"{sum(known)} of {len(known)} right"
        path = run / "sheets" / f"{safe(tag, taken)}.png"
        sheet = contact_sheet(run, f"{task_title(tag)}: {right}", which, pairs[:MAX_TILES])
        write_atomic(path, png_bytes(sheet))
        written.append(path)
    wrong = [pair for pair in every if pair[0]["correct"] is False]
    heading = f"wrong: {len(wrong):,} of {len(every):,} images"
    which = f"the first {MAX_TILES}" if len(wrong) > MAX_TILES else ""
    return written + save_wrong(run, contact_sheet(run, heading, which, wrong[:MAX_TILES]) if wrong else None)


def save_wrong(run: Path, sheet: Image.Image | None) -> list[Path]:
    """Writes the sheet of all that is wrong and names it; None takes away that of an earlier verdict."""
    path = run / "sheets" / WRONG
    if sheet is None:
        path.unlink(missing_ok=True)
        return []
    write_atomic(path, png_bytes(sheet))
    return [path]


def safe(tag: str, taken: set[str]) -> str:
    """A tag as a file name that differs from all `taken` ones also where capitals do not count; it is added to these.

    >>> taken = set()
    >>> [safe(tag, taken) for tag in ("a/b", "a.b", "A b", "counting")]
    ['a_b', 'a_b-2', 'A_b-3', 'counting']
    """
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in tag)[:60] or "untitled"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name


def contact_sheet(
    run: Path, heading: str, which: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> Image.Image:
    """Images with boxes, verdict, prompt and reason, in rows as full as they can be.

    Args:
        run: The run directory.
        heading: Above them.
        which: Of many images, which ones; empty for all.
        pairs: Line of results.jsonl and observation of each.
    """
    columns = math.ceil(len(pairs) / math.ceil(len(pairs) / _COLUMNS))
    width = columns * _TILE_PX[0]
    legend = "; ".join([*([which] if which else []), "dashed: planned, solid: detected and counted"])
    titles = textwrap.wrap(heading, max(width // 11, 1))
    notes = textwrap.wrap(legend, max(width // 7, 1))
    lines = [(_PAD_PX, 6 + 24 * row, line, INK, 20) for row, line in enumerate(titles)]
    top = 10 + 24 * len(titles)
    lines += [(_PAD_PX, top + 17 * row, line, INK, 13) for row, line in enumerate(notes)]
    head = written((width, top + 17 * len(notes) + 5), lines)
    return laid_out([_tile(run, result, observation) for result, observation in pairs], columns, head=head)


def _tile(run: Path, result: dict[str, Any], observation: dict[str, Any]) -> Image.Image:
    from PIL import ImageDraw

    top = _SIDE_PX + 2 * _PAD_PX
    lines = [(line, INK) for line in wrap(named(observation, result["prompt"]), 3, indent=4)]
    lines += [(line, _WRONG) for line in wrap(result["reason"].replace("\n", "; "), _TEXT_LINES - len(lines))]
    placed = [
        (_PAD_PX + (0 if row else 18), top + row * _LINE_PX, line, color, 12) for row, (line, color) in enumerate(lines)
    ]
    tile = written(_TILE_PX, placed)
    tile.paste(_image(run, result, observation), (_PAD_PX, _PAD_PX))
    if result["correct"] is not None:
        mark(ImageDraw.Draw(tile), (_PAD_PX, top), correct=result["correct"])
    return tile


def named(observation: Mapping[str, Any], words: str) -> str:
    """The words of a tile behind the name of its sample, by which `reports teaser` and the studio take it.

    >>> named({"case": "00042", "index": 1}, "a photo of a dog")
    '00042/1: a photo of a dog'
    """
    return f"{observation['case']}/{observation['index']}: {words}"


def wrap(text: str, lines: int, indent: int = 0, characters: int = _CHARS) -> list[str]:
    """At most so many lines; the first one leaves room for `indent` characters."""
    wrapped = textwrap.wrap(text, characters, max_lines=lines, placeholder=" …", initial_indent=" " * indent)
    return [line.strip() for line in wrapped]


def _image(run: Path, result: dict[str, Any], observation: dict[str, Any]) -> Image.Image:
    """The image at icon-friendly size with its boxes, on a square of `_SIDE_PX`."""
    from PIL import Image, ImageDraw

    square = Image.new("RGB", (_SIDE_PX, _SIDE_PX), GREY)
    image = open_if_any(run / result["filename"])
    if image is None:
        ImageDraw.Draw(square).text((12, 12), "image unreadable", _WRONG, font(13))
        return square
    scale, shown = _SIDE_PX / max(image.size), fitted(image, _SIDE_PX)
    square.paste(shown, (0, 0))
    pen = ImageDraw.Draw(square)
    planned = (observation.get("plan") or {}).get("objects", [])
    kept = json.loads(result["details"])
    names = [item["name"] for item in planned] + list(kept)
    colors = {name: _BOX_COLORS[i % len(_BOX_COLORS)] for i, name in enumerate(dict.fromkeys(names))}
    for item in planned:
        x1, y1, x2, y2 = item["box_1000"]
        wide, high = shown.width / 1000, shown.height / 1000
        corners = (x1 * wide, y1 * high, x2 * wide, y2 * high)
        dashed(pen, corners, colors[item["name"]])
    labels = {tuple(item["box_xyxy_px"]): item["color"] for item in observation.get("detections", ())}
    taken: list[Box] = []
    for name, boxes in kept.items():
        for *box, score in boxes:
            color = labels.get(tuple(box))
            corners = _solid(pen, [value * scale for value in box], colors[name])
            _label(pen, corners, f"{color + ' ' if color else ''}{name} {score:.2f}", colors[name], taken)
    return square


def mark(pen: ImageDraw.ImageDraw, corner: Point, *, correct: bool) -> None:
    """Draws a tick or a cross, which not all fonts have."""
    x, y = corner
    if correct:
        pen.line([(x + 1, y + 8), (x + 5, y + 12), (x + 13, y + 2)], _RIGHT, 3, joint="curve")
    else:
        pen.line([(x + 2, y + 3), (x + 12, y + 13)], _WRONG, 3)
        pen.line([(x + 12, y + 3), (x + 2, y + 13)], _WRONG, 3)


def _solid(pen: ImageDraw.ImageDraw, box: Sequence[float], color: str) -> Box:
    x1, y1, x2, y2 = (min(max(value, 0), _SIDE_PX - 1) for value in box)
    pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline="black", width=3)
    pen.rectangle((x1 + 1, y1 + 1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1)), outline=color)
    return x1, y1, x2, y2


def _label(pen: ImageDraw.ImageDraw, box: Box, text: str, color: str, taken: list[Box]) -> None:
    """Writes a name above its box, or where there is still room: inside, below, at the lower edge."""
    small = font(11)
    left, top, right, bottom = pen.textbbox((0, 0), text, small)
    x1, y1, _, y2 = box
    x = max(min(x1, _SIDE_PX - right - 3), 0)
    places = []
    for wanted in (y1 - bottom - 1, y1 + 3, y2 + 1, y2 - bottom - 3):
        y = max(min(wanted, _SIDE_PX - bottom - 2), 0)
        places.append((x + left, y + top - 1, x + right + 3, y + bottom + 1))
    place = next((place for place in places if not any(_touch(place, other) for other in taken)), places[0])
    taken.append(place)
    pen.rectangle(place, "black")
    pen.text((x + 2, place[1] - top + 1), text, color, small)


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def dashed(pen: ImageDraw.ImageDraw, box: Box, color: str) -> None:
    """A dashed box, as plans are drawn."""
    x1, y1, x2, y2 = box
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        for dash in _dashes(start, end):
            pen.line(dash, "black", 3)
            pen.line(dash, color, 1)


def _dashes(start: Point, end: Point, dash_px: float = 6, gap_px: float = 5) -> Iterator[list[Point]]:
    length = math.dist(start, end)
    step = dash_px + gap_px
    for i in range(math.ceil(length / step) if length else 0):
        a, b = i * step / length, min((i * step + dash_px) / length, 1.0)
        yield [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in (a, b)]


# --------------------------------------------------------------------------------------------------------------- copies
COPY_PX = 256
"""Longer side of the copies; smaller images keep their size."""


def keep_copies(folder: Path, edit: EditCase) -> None:
    """Writes small ``source.webp`` and ``target.webp`` of an edit, so that reports show them without the data set.

    What the data lack is passed over; what is there is not drawn again.
    """
    from PIL import Image

    for name, given in (("source", edit.source), ("target", edit.target)):
        path = folder / f"{name}.webp"
        image = None if path.is_file() else loaded(given)
        if image is not None:
            small, buffer = image.copy(), io.BytesIO()
            small.thumbnail((COPY_PX, COPY_PX), Image.Resampling.LANCZOS)
            small.save(buffer, "WEBP", quality=90)
            write_atomic(path, buffer.getvalue())


def loaded(image: EncodedImage | None) -> Image.Image | None:
    """An image of the data, for people to look at; None where there is none that can be read."""
    try:
        return None if image is None else image.load()
    except ValueError:
        return None
