"""Agreement of judges and people as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

_ASPECTS = {"SC": "consistency", "PQ": "quality", "O": "overall"}


def judge_table(found: dict[str, Any]) -> Table:
    """The judge against the mean of the raters, model by model."""
    judge = found["judge"]
    repeats = f", mean of {judge['repeats']} repeats" if judge["repeats"] > 1 else ""
    missing = f" {judge['missing']} cells of the judge are missing and left out." if judge["missing"] else ""
    table = _table(
        f"Judge {judge['name']}{repeats} against {len(found['raters'])} raters: Spearman, Kendall",
        f"95 % intervals: bootstrap over {found['items']} items. Without a number: ratings that do not vary.{missing} "
        "Ceiling: a rater against the mean of the others, over the same models and cells.",
    )
    aspects = judge["aspects"]
    for aspect in aspects:
        table.add_column(f"{_ASPECTS[aspect]}\nρ ↑", justify="right")
        table.add_column("95 %\ninterval", justify="right")
        table.add_column("τ ↑", justify="right")
    for j, model in enumerate(found["models"]):
        table.add_row(model, *_cells([aspects[aspect]["models"][j] for aspect in aspects]))
    table.add_section()
    table.add_row("mean of models", *_cells([aspects[aspect]["mean"] for aspect in aspects]), style="bold")
    people = [judge["ceiling"][aspect]["mean"] for aspect in aspects]
    ceiling = [cell for one in people for cell in (_number(one["spearman"]), "", _number(one["kendall"]))]
    table.add_row("  its ceiling", *ceiling)
    table.add_row("all items pooled", *_cells([aspects[aspect]["pooled"] for aspect in aspects]))
    table.add_row("models by mean score", *_cells([aspects[aspect]["ranking"] for aspect in aspects]))
    return table


def human_table(found: dict[str, Any]) -> Table:
    """Mean scores of each model, and how far people agree on it."""
    table = _table(
        f"Human ratings: {len(found['raters'])} raters, {found['items']} items",
        "Score: mean over items, then raters; ± spread of the raters' means. ρ: mean over pairs of raters.",
    )
    for words in _ASPECTS.values():
        table.add_column(f"{words}\nscore", justify="right")
        table.add_column("±", justify="right")
        table.add_column("ρ ↑", justify="right")
    for j, model in enumerate(found["models"]):
        cells = []
        for aspect in _ASPECTS:
            score = found["scores"][aspect][j]
            cells += [_number(score["mean"]), _number(score["sd"])]
            cells.append(_number(found["human"][aspect]["pairs"]["models"][j]))
        table.add_row(model, *cells)
    table.add_section()
    for words, kind in (("mean of models, pairs", "pairs"), ("  one against the rest", "rest")):
        values = [_number(found["human"][aspect][kind]["mean"]["spearman"]) for aspect in _ASPECTS]
        table.add_row(words, *[cell for value in values for cell in ("", "", value)], style="bold")
    alphas = [found["human"][aspect]["alpha"] for aspect in _ASPECTS]
    cells = [cell for one in alphas for cell in (_span(one), "", _number(one["value"]))]
    table.add_row("Krippendorff's α", *cells)
    return table


def _cells(blocks: list[dict[str, Any]]) -> list[str]:
    cells = []
    for block in blocks:
        kendall = block.get("kendall", {}).get("value")
        cells += [_number(block["spearman"]["value"]), _span(block["spearman"]), _number(kendall)]
    return cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:z.3f}"


def _span(block: dict[str, Any]) -> str:
    return "" if block["low"] is None else f"{block['low']:z.2f}–{block['high']:z.2f}"


def _table(title: str, caption: str) -> Table:
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("model", no_wrap=True)
    return table
