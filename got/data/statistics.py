"""What a chain dataset looks like in numbers, set by set, beside those that the GoT paper gives for its own."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

from got.data.records import TASKS
from got.plan.chain import Chain
from got.util.tables import terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.table import Table

    from got.data.records import Example

PAPER: Mapping[str, Mapping[str, float]] = {
    "LAHR-GoT": {"examples": 3_770_000, "prompt_characters": 111, "chain_characters": 812, "boxes_per_picture": 3.78},
    "JourneyDB-GoT": {
        "examples": 4_090_000,
        "prompt_characters": 150,
        "chain_characters": 906,
        "boxes_per_picture": 4.09,
    },
}
"""Means of the paper's text-to-image sets (arXiv 2503.10639); it gives none for its editing sets."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over examples of one kind."""

    examples: int = 0
    prompt_characters: int = 0
    chains: int = 0
    """Chains, and so images that are drawn."""
    chain_characters: int = 0
    prose_characters: int = 0
    """Characters of chains outside their boxes."""
    boxes: int = 0

    def add(self, example: Example) -> None:
        """Count one example."""
        self.examples += 1
        self.prompt_characters += len(example.prompt)
        for text in example.chains:
            spans = Chain.parse(text).spans
            self.chains += 1
            self.chain_characters += len(text)
            self.prose_characters += len(text) - sum(span[3] - span[2] for span in spans)
            self.boxes += len(spans)

    def means(self) -> dict[str, Any]:
        """Counts and means, JSON-able."""
        return {
            "examples": self.examples,
            "targets": self.chains,
            "prompt_characters": self.prompt_characters / self.examples,
            "chain_characters": self.chain_characters / self.chains,
            "prose_characters": self.prose_characters / self.chains,
            "boxes_per_picture": self.boxes / self.chains,
        }


def statistics(examples: Iterable[Example]) -> dict[str, Any]:
    """Counts and means of each source dataset and task, of all together if there are several sets, and the paper's.

    Lengths are in characters; boxes and chains count per image that is drawn, so a multi-turn example counts once per
    step.
    """
    tallies: dict[str, dict[str, Tally]] = {}
    licenses: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for example in examples:
        name = example.provenance.dataset
        tallies.setdefault(name, {}).setdefault(example.task, Tally()).add(example)
        licenses[name][example.provenance.license] += 1
    datasets = {
        name: {**_together(tasks.values()).means(), "licenses": dict(licenses[name]), "tasks": _by_task(tasks)}
        for name, tasks in sorted(tallies.items())
    }
    result: dict[str, Any] = {"datasets": datasets}
    if len(tallies) > 1:
        result["all"] = _together(tally for tasks in tallies.values() for tally in tasks.values()).means()
    return {**result, "paper": {name: dict(row) for name, row in PAPER.items()}}


def _by_task(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    return {task: tallies[task].means() for task in TASKS if task in tallies}


def _together(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        for field in dataclasses.fields(Tally):
            setattr(whole, field.name, getattr(whole, field.name) + getattr(tally, field.name))
    return whole


def table(numbers: Mapping[str, Any]) -> Table:
    """The result of `statistics` for people."""
    rows: list[tuple[str, list[str]] | None] = []
    for name, row in numbers["datasets"].items():
        if len(row["tasks"]) > 1:
            rows += [("", [name, *_cells(row)])]
            rows += [("", [f"  {task}", *_cells(part)]) for task, part in row["tasks"].items()]
        else:
            rows.append(("", [f"{name}, {next(iter(row['tasks']))}", *_cells(row)]))
    if "all" in numbers:
        rows += [None, ("", ["all", *_cells(numbers["all"])])]
    rows.append(None)
    rows += [("dim", [f"{name}, {TASKS[0]} (the paper's)", *_cells(row)]) for name, row in numbers["paper"].items()]
    columns = ["examples", "prompt\ncharacters", "chain\ncharacters", "without\nits boxes", "boxes per\nimage"]
    return terminal("Means per prompt, per chain, per image drawn", ["dataset", *columns], rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    lengths = [
        f"{row[name]:.1f}" if name in row else "not given"
        for name in ("prompt_characters", "chain_characters", "prose_characters")
    ]
    return [f"{row['examples']:,}", *lengths, f"{row['boxes_per_picture']:.2f}"]
