"""Contact sheets of editing runs: source with the planned boxes, result, target, instruction and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals import sheets
from evals.metrics.boxes import to_pixels
from evals.rundir import png_bytes, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from evals.records import EditCase

MAX_ROWS = 48
_SIDE_PX = 160
_GAP_PX = 8
_TEXT_PX = 76
_COLUMNS = 2
_PAPER, _INK, _WRONG = "#fff", "#111", "#b00020"
_PLAN_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231")


def draw(
    run: Path, results: list[dict[str, Any]], observations: list[dict[str, Any]], edits: Mapping[str, EditCase]
) -> list[Path]:
    """One sheet per category: `sheets/add.png` and so on.

    Args:
        run: The run directory.
        results: Lines of results.jsonl.
        observations: The observation of each result.
        edits: The run's cases by id.

    Returns:
        The files written.
    """
    categories: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for result, observation in zip(results, observations, strict=True):
        if observation["index"] == 0 and result["case"] in edits:
            categories.setdefault(result["category"], []).append((result, observation))
    written = []
    for category, pairs in categories.items():
        path = run / "sheets" / f"{sheets.safe(category)}.png"
        write_atomic(path, png_bytes(_sheet(run, category, pairs[:MAX_ROWS], edits)))
        written.append(path)
    return written


def _sheet(
    run: Path, category: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], edits: Mapping[str, EditCase]
) -> Image.Image:
    from PIL import Image, ImageDraw

    width, height = 3 * (_SIDE_PX + _GAP_PX) + 2 * _GAP_PX, _SIDE_PX + _TEXT_PX
    rows = -(-len(pairs) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width, 52 + rows * height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    right = sum(result["correct"] for result, _ in pairs)
    pen.text((_GAP_PX, 6), f"{category}: {right} of {len(pairs)} right", _INK, sheets.font(20))
    pen.text((_GAP_PX, 32), "source with planned boxes | result | target", _INK, sheets.font(13))
    for i, (result, observation) in enumerate(pairs):
        left, top = i % _COLUMNS * width + _GAP_PX, 52 + i // _COLUMNS * height
        for k, picture in enumerate(_pictures(run, result, observation, edits[result["case"]])):
            sheet.paste(picture, (left + k * (_SIDE_PX + _GAP_PX), top))
        sheets.mark(pen, (left, top + _SIDE_PX + 4), correct=result["correct"])
        lines = [(line, _INK) for line in sheets.wrap(result["instruction"], 2, 3, 72)]
        lines += [(line, _WRONG) for line in sheets.wrap(result["reason"], 2, 0, 72)]
        for row, (line, color) in enumerate(lines):
            pen.text((left + (18 if row == 0 else 0), top + _SIDE_PX + 4 + 16 * row), line, color, sheets.font(12))
    return sheet


def _pictures(run: Path, result: dict[str, Any], observation: dict[str, Any], edit: EditCase) -> list[Image.Image]:
    """Source with boxes, result and target; what cannot be read is a grey square."""
    from PIL import ImageDraw

    source = _square(_load(edit.source))
    pen = ImageDraw.Draw(source)
    for i, item in enumerate((observation["plan"] or {"objects": []})["objects"]):
        sheets.dashed(pen, to_pixels(item["box_1000"], _SIDE_PX, _SIDE_PX), _PLAN_COLORS[i % len(_PLAN_COLORS)])
    target = None if edit.target is None else _load(edit.target)
    return [source, _square(sheets.open_picture(run / result["filename"])), _square(target)]


def _load(picture: Any) -> Image.Image | None:
    try:
        loaded: Image.Image = picture.load()
    except ValueError:
        return None
    return loaded


def _square(picture: Image.Image | None) -> Image.Image:
    from PIL import Image

    if picture is None:
        return Image.new("RGB", (_SIDE_PX, _SIDE_PX), "#ddd")
    return picture.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
