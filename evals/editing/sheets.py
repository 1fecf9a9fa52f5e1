"""Contact sheets of edits: source with the planned boxes, result, target, the mask's frame and what is wrong.

Small copies of sources and targets are kept beside them, see `evals.core.contact_sheets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core import contact_sheets
from evals.metrics.images import mask_box
from got.util.files import write_atomic
from got.util.images import GREY, INK, fitted, laid_out, open_if_any, png_bytes, written
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image, ImageDraw

    from evals.core.records import EditCase, Scored

MAX_EDITS = 30
"""Edits on a sheet: the first of each category."""

_SIDE_PX, _PAD_PX, _LINE_PX, _HEADER_PX, _ACROSS = 160, 6, 15, 44, 3
_CHARS = 78
_TILE_PX = (3 * (_SIDE_PX + _PAD_PX) + 3 * _PAD_PX, _SIDE_PX + 3 * _LINE_PX + 3 * _PAD_PX)
_PLAN_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231")
_WRONG = "#c62828"


def draw(run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored]) -> list[Path]:
    """One sheet per category, ``sheets/add.png`` and so on, and one of all that is wrong.

    Args:
        run: The run directory.
        results: Lines of results.jsonl.
        scored: The image of each.

    Returns:
        The files written.
    """
    edits = {one.sample.case.id: one.sample.case.edit for one in scored if one.sample.case.edit is not None}
    categories: dict[str, list[tuple[dict[str, Any], Mapping[str, Any]]]] = {}
    for result, one in zip(results, scored, strict=True):
        if one.sample.index == 0:
            categories.setdefault(result["category"], []).append((result, one.observation))
    written, taken = [], set[str]()
    for category, pairs in categories.items():
        for result, _ in pairs:
            contact_sheets.keep_copies(run / "images" / result["case"], edits[result["case"]])
        path = run / "sheets" / f"{contact_sheets.safe(category, taken)}.png"
        write_atomic(path, png_bytes(sheet(run, category, edits, pairs)))
        written.append(path)
    every = zip(results, scored, strict=True)
    wrong = [(result, one.observation) for result, one in every if result["correct"] is False]
    return written + contact_sheets.save_wrong(run, sheet(run, "wrong images", edits, wrong) if wrong else None)


def sheet(
    run: Path,
    category: str,
    edits: Mapping[str, EditCase],
    pairs: Sequence[tuple[dict[str, Any], Mapping[str, Any]]],
) -> Image.Image:
    """The first edits of a category, three across."""
    shown = pairs[:MAX_EDITS]
    across = min(_ACROSS, len(shown))
    about = _about(category, [result for result, _ in shown])
    about += f", {len(pairs)} in all" if len(pairs) > len(shown) else ""
    legend = "source | result | target; dashed: planned, solid: the mask's frame"
    lines = [(_PAD_PX, 4, about, INK, 18), (_PAD_PX, 26, legend, INK, 12)]
    head = written((across * _TILE_PX[0], _HEADER_PX), lines)
    tiles = [_tile(run, edits[result["case"]], result, observation) for result, observation in shown]
    return laid_out(tiles, across, head=head)


def _about(category: str, results: Sequence[dict[str, Any]]) -> str:
    """A sheet's heading, with the number of right edits where the suite tells right from wrong.

    >>> _about("add", [{"correct": True}, {"correct": False}]), _about("add", [{"correct": None}, {"correct": False}])
    ('add: 1 of 2 right', 'add: 2 edits')
    """
    known = [result["correct"] for result in results]
    return (
        f"{category}: {counted(len(known), 'edits')}"
        if None in known
        else f"{category}: {sum(known)} of {len(known)} right"
    )


def _tile(run: Path, edit: EditCase, result: dict[str, Any], observation: Mapping[str, Any]) -> Image.Image:
    from PIL import ImageDraw

    top, wrong = _SIDE_PX + 2 * _PAD_PX, result["correct"] is False
    asked = contact_sheets.wrap(contact_sheets.named(observation, edit.instruction), 2, 4, _CHARS)
    words = [result["reason"]] if wrong else []
    for one in observation["judgements"][:1]:
        words.append(f"judge: {one['failure'] or format(one['value'], '.2f')}")
    last = "".join(contact_sheets.wrap("; ".join(words), 1, 0, _CHARS))
    lines = [(_PAD_PX + (0 if row else 18), top + row * _LINE_PX, line, INK, 12) for row, line in enumerate(asked)]
    lines.append((_PAD_PX, top + 2 * _LINE_PX, last, _WRONG if wrong else INK, 12))
    tile = written(_TILE_PX, lines)
    pen = ImageDraw.Draw(tile)
    frame = _frame(edit)
    images = (
        contact_sheets.loaded(edit.source),
        open_if_any(run / result["filename"]),
        contact_sheets.loaded(edit.target),
    )
    for i, image in enumerate(images):
        _place(tile, pen, image, _PAD_PX + i * (_SIDE_PX + _PAD_PX), frame)
    if images[0] is not None:
        _plan(pen, observation, images[0])
    if result["correct"] is not None:
        contact_sheets.mark(pen, (_PAD_PX, top), correct=result["correct"])
    return tile


def _frame(edit: EditCase) -> tuple[float, float, float, float] | None:
    """The box of the mask as shares of width and height."""
    if edit.mask is None:
        return None
    try:
        mask = edit.mask.load_mask()
    except ValueError:
        return None
    box = mask_box(mask)
    height, width = mask.shape
    return None if box is None else (box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def _plan(pen: ImageDraw.ImageDraw, observation: Mapping[str, Any], source: Image.Image) -> None:
    """The planned boxes over the source."""
    scale = _SIDE_PX / max(source.size) / 1000
    plan = observation.get("plan") or {"objects": []}
    for i, item in enumerate(plan["objects"]):
        x1, y1, x2, y2 = item["box_1000"]
        wide, high = source.width * scale, source.height * scale
        corners = (_PAD_PX + x1 * wide, _PAD_PX + y1 * high, _PAD_PX + x2 * wide, _PAD_PX + y2 * high)
        contact_sheets.dashed(pen, corners, _PLAN_COLORS[i % len(_PLAN_COLORS)])


def _place(
    tile: Image.Image,
    pen: ImageDraw.ImageDraw,
    image: Image.Image | None,
    left: int,
    frame: tuple[float, float, float, float] | None,
) -> None:
    """An image on a grey square, kept in proportion, with the mask's frame in black and white."""
    pen.rectangle((left, _PAD_PX, left + _SIDE_PX - 1, _PAD_PX + _SIDE_PX - 1), GREY)
    if image is None:
        return
    shown = fitted(image, _SIDE_PX)
    size = shown.size
    tile.paste(shown, (left, _PAD_PX))
    if frame is not None:
        x1, y1 = left + frame[0] * size[0], _PAD_PX + frame[1] * size[1]
        x2, y2 = left + frame[2] * size[0] - 1, _PAD_PX + frame[3] * size[1] - 1
        for grow, color in ((2, "black"), (1, "white")):
            pen.rectangle((x1 - grow, y1 - grow, x2 + grow, y2 + grow), outline=color)
