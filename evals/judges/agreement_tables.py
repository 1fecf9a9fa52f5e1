"""Agreement of judges and people as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from got.util.tables import counted, number, span, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

_ASPECTS = {"SC": "consistency", "PQ": "quality", "O": "overall"}


def tables(found: dict[str, Any]) -> list[Table]:
    """The judge against people, if there is one, and people among themselves."""
    return [*([_judge_table(found)] if found["judge"] else []), _human_table(found)]


def between_table(found: dict[str, Any]) -> Table:
    """Two judges on the same images."""
    shift, by_judge = found["shift"], zip(found["judges"], found["means"], strict=True)
    rows = [
        *([f"images' mean by {judge}", number(mean)] for judge, mean in by_judge),
        ["shift, second minus first", f"{number(shift['value'])} ({span(shift['low'], shift['high'])})"],
        ["equal values", number(found["equal"])],
        ["Spearman's correlation", number(found["spearman"])],
        [f"verdict within ± {found['margin']:.3g}", found["verdict"]],
    ]
    note = (
        f"{counted(found['images'], 'images')} that both judged, {found['left_out']} by one alone; the interval draws "
    )
    note += f"{shift['clusters']} cases or source images"
    title = f"{found['metric']}: two judges"
    return terminal(title, ["", "value"], [("", row) for row in rows], caption=note)


def _judge_table(found: dict[str, Any]) -> Table:
    """The judge against the mean of the raters, model by model."""
    judge, aspects = found["judge"], found["judge"]["aspects"]
    repeats = f", mean of {judge['repeats']} repeats" if judge["repeats"] > 1 else ""
    missing = f" Missing, and left out: {counted(judge['missing'], 'cells')} of the judge." if judge["missing"] else ""
    columns = [
        name for aspect in aspects for name in (f"{_ASPECTS[aspect]}\nρ ↑", "95 %\ninterval", "τ ↑")
    ]  # fmt: skip

    def cells(label: str, blocks: Sequence[dict[str, Any]]) -> list[str]:
        row = [label]
        for block in blocks:
            row += [_number(block["spearman"]["value"]), _span(block["spearman"])]
            row.append(_number(block.get("kendall", {}).get("value")))
        return row

    people = [judge["ceiling"][aspect]["mean"] for aspect in aspects]
    ceiling = [cell for one in people for cell in (_number(one["spearman"]), "", _number(one["kendall"]))]
    every = aspects.values()
    return terminal(
        f"Judge {judge['name']}{repeats} against {len(found['raters'])} raters: Spearman, Kendall",
        ["model", *columns],
        [
            *(("", cells(model, [one["models"][j] for one in every])) for j, model in enumerate(found["models"])),
            None,
            ("bold", cells("mean of models", [one["mean"] for one in every])),
            ("", ["  its ceiling", *ceiling]),
            ("", cells("all items pooled", [one["pooled"] for one in every])),
            ("", cells("models by mean score", [one["ranking"] for one in every])),
        ],
        caption=f"95 % intervals: bootstrap over {found['items']} items. Without a number: ratings that do not "
        f"vary.{missing} Ceiling: a rater against the mean of the others, over the same models and cells.",
    )


def _human_table(found: dict[str, Any]) -> Table:
    """Mean scores of each model, and how far people agree on it."""
    human, rows = found["human"], list[tuple[str, list[str]] | None]()
    for j, model in enumerate(found["models"]):
        cells = [model]
        for aspect in _ASPECTS:
            score = found["scores"][aspect][j]
            cells += [_number(score["mean"]), _number(score["sd"]), _number(human[aspect]["pairs"]["models"][j])]
        rows.append(("", cells))
    rows.append(None)
    for words, kind in (("mean of models, pairs", "pairs"), ("  one against the rest", "rest")):
        values = [_number(human[aspect][kind]["mean"]["spearman"]) for aspect in _ASPECTS]
        rows.append(("bold", [words, *(cell for value in values for cell in ("", "", value))]))
    alphas = [human[aspect]["alpha"] for aspect in _ASPECTS]
    rows.append(
        ("", ["Krippendorff's α", *(cell for one in alphas for cell in (_span(one), "", _number(one["value"])))])
    )
    return terminal(
        f"Human ratings: {len(found['raters'])} raters, {found['items']} items",
        ["model", *(name for words in _ASPECTS.values() for name in (f"{words}\nscore", "±", "ρ ↑"))],
        rows,
        caption="Score: mean over items, then raters; ± spread of the raters' means. ρ: mean over pairs of raters.",
    )


def _number(value: float | None) -> str:
    return number(value, none="")


def _span(block: dict[str, Any]) -> str:
    return span(block["low"], block["high"], none="")
