"""What papers and leaderboards report of the judged benchmarks, and in what a run differs from them. Pure."""

from __future__ import annotations

import collections
import csv
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from evals.judged.records import Reported
from evals.suite import tables as shared
from got.util.errors import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

_SHOWN = 12
ALL_THE_SAME = "--judge-max-failed 1 shows it all the same"
"""What a table says where a run has no headline."""


def no_headline(scores: Mapping[str, Any]) -> str | None:
    """Why a run has no number of all images; None where it has one. An older run does not say of how many."""
    judge = scores["judge"]
    return None if judge["headline"] else judge.get("no_headline") or "too many images without a score"


def reported(
    benchmark: str,
    edition: str = "",
    metric: str = "overall",
    columns: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Reported]:
    """Rows of papers and leaderboards, best first.

    Args:
        benchmark: As in ``reported.csv``.
        edition: What its edition begins with.
        metric: As there.
        columns: Metrics there -> what our tables call them, where that differs.
        weights: Of the parts that the metric is made of, as they are called there: a row that does not follow from its
            parts has a note.

    >>> reported("GenEval++")[0].model
    'BAGEL + R3'
    """
    with files("evals.judged").joinpath("reported.csv").open(encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["benchmark"] == benchmark and row["edition"].startswith(edition)
        ]
    parts: dict[tuple[str, ...], dict[str, str]] = collections.defaultdict(dict)
    for row in rows:
        parts[_row_of(row)][row["metric"]] = row["value"]
    called = columns or {}
    found = [
        Reported(
            **{name: row[name] for name in ("edition", "model", "metric", "value", "judge")},
            cells={called.get(name, name): value for name, value in parts[_row_of(row)].items()},
            note=mismatch(row["value"], parts[_row_of(row)], weights) if weights else "",
        )
        for row in rows
        if row["metric"] == metric
    ]
    return sorted(found, key=lambda row: -float(row.value))


def _row_of(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["edition"], row["model"], row["judge"], row["source"]


def mismatch(value: str, parts: Mapping[str, str], weights: Mapping[str, float]) -> str:
    """Why a printed overall does not follow from its printed parts; empty where it does, or a part is not printed.

    >>> mismatch("0.57", {"a": "0.60", "b": "0.50"}, {"a": 0.5, "b": 0.5}), mismatch("0.55", {"a": "0.60"}, {"a": 1})
    ('its parts give 0.550', 'its parts give 0.600')
    >>> mismatch("0.55", {"a": "0.60", "b": "0.50"}, {"a": 0.5, "b": 0.5}), mismatch("0.55", {}, {"a": 1})
    ('', '')
    """
    if not weights.keys() <= parts.keys():
        return ""
    made = sum(weight * float(parts[name]) for name, weight in weights.items()) / sum(weights.values())
    digits = len(value.partition(".")[2])
    # Half a unit for each rounding: of the parts, and of the whole. A little more for binary fractions.
    if abs(made - float(value)) <= 1.001 * 10**-digits:
        return ""
    return f"its parts give {made:.{digits + 1}f}"


def shown(rows: Sequence[Reported]) -> list[Reported]:
    """Those that stand in a table: the best ones, GoT, and those that do not fit."""
    return [row for rank, row in enumerate(rows) if rank < _SHOWN or row.note or row.model.startswith("GoT")]


def left_out(rows: Sequence[Reported]) -> str:
    """What a table of them must say of the others."""
    here = len(shown(rows))
    return f"{here} of {len(rows)}; evals/judged/reported.csv has all" if here < len(rows) else ""


def differs(scores: Mapping[str, Any], rows: Sequence[Reported]) -> list[str]:
    """In what a run's numbers are not those of reported rows, a few words each: nothing where they compare.

    Args:
        scores: The run's ``scores.json``; an older one does not say how many prompts or edits there are.
        rows: Of the same edition.

    >>> scores = {"wording": "ours", "judge": {"name": "w@gpt-4.1#0"}, "cases": {"run": 12, "of": 1000}}
    >>> differs({**scores, "rewritten_from": None}, reported("GenEval++"))
    ['12 of 1,000 prompts', 'asked in our wording']
    >>> differs({**scores, "wording": "published", "rewritten_from": "a.json"}, reported("WISE", "Verified"))
    ['12 of 1,000 prompts', 'judged by gpt-4.1, they by Qwen3.5-35B-A3B', 'prompts rewritten']
    """
    return list(_differences(scores, rows))


def _differences(scores: Mapping[str, Any], rows: Sequence[Reported]) -> Iterator[str]:
    cases = scores.get("cases")
    if cases and cases["run"] != cases["of"]:
        yield f"{cases['run']:,} of {cases['of']:,} {unit_of(scores)}"
    if scores["wording"] != "published":
        yield "asked in our wording"
    own, theirs = judge_of(scores), list(dict.fromkeys(row.judge for row in rows))
    if not any(judge.partition(" ")[0].lower() == own.lower() for judge in theirs):
        yield f"judged by {own}, they by {', '.join(theirs)}"
    if scores["rewritten_from"]:
        yield "prompts rewritten"


def unit_of(scores: Mapping[str, Any]) -> str:
    """What a benchmark is made of, prompts or edits; a run of an older version does not say."""
    return str(scores.get("unit", "prompts"))


def means(scores: Mapping[str, Any]) -> str:
    """How a benchmark's metrics are averaged.

    >>> two = {"overall": {"over": "tasks"}, "over edits": {"over": "cases"}}
    >>> means({"unit": "edits", "metrics": {"names": two}})
    'plain means of the tasks: overall; all others: means of the edits'
    >>> means({"metrics": {"names": {"accuracy": {"over": "tasks"}}}})
    'plain means of the tasks'
    """
    names = scores["metrics"]["names"]
    by_tasks = [name for name, how in names.items() if how["over"] == "tasks"]
    of_all = f"means of the {unit_of(scores)}"
    if not by_tasks:
        return of_all
    others = f": {', '.join(by_tasks)}; all others: {of_all}" if len(by_tasks) < len(names) else ""
    return f"plain means of the tasks{others}"


def judge_of(scores: Mapping[str, Any]) -> str:
    """Who judged a run: a model's own name, without the folder or the hub's account, and without its weights' hash.

    >>> judge_of({"judge": {"name": "wise-ours@Qwen/Qwen3-VL-8B#0123abcd+jpeg75"}})
    'Qwen3-VL-8B'
    >>> judge_of({"judge": {"name": "wise-ours@Qwen3-VL-8B-0123abcd#0123abcd"}})
    'Qwen3-VL-8B'
    """
    named = str(scores["judge"]["name"]).partition("@")[2].partition("#")[0]
    return re.sub(r"-[0-9a-f]{8}$", "", named.rpartition("/")[2])


def tables(scores: Mapping[str, Any], rows: Sequence[Reported]) -> list[Table]:
    """Reported rows for the terminal, those that stand apart in tables of their own."""
    kinds: dict[str, list[Reported]] = {}
    for row in rows:
        kinds.setdefault(row.apart, []).append(row)
    return [_table(scores, some, apart) for apart, some in kinds.items()]


def _table(scores: Mapping[str, Any], rows: Sequence[Reported], apart: str) -> Table:
    others = differs(scores, rows)
    said = [f"this run does not compare with them: {'; '.join(others)}"] if others else []
    made = shared.table(
        f"Reported by others, {f'{apart}: not to be compared with the rest' if apart else 'not measured here'}",
        ["value", "judge", "edition", ""],
        "\n".join(map(visible, [*said, *filter(None, [left_out(rows)])])),
        first=f"model ({rows[0].metric})",
    )
    for row in shown(rows):
        made.add_row(visible(row.model), row.value, row.judge, row.edition, row.note)
    return made
