"""What a chain dataset looks like in numbers, set by set, beside those that the GoT paper gives for its own."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from got.chain import Chain
from got.data.records import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    """Sums over examples."""

    tasks: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    licenses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    prompt_characters: int = 0
    chains: int = 0
    """Chains, and so pictures that are drawn."""
    chain_characters: int = 0
    prose_characters: int = 0
    """Characters of chains outside their boxes."""
    boxes: int = 0

    def add(self, example: Example) -> None:
        """Count one example."""
        self.tasks[example.task] += 1
        self.licenses[example.provenance.license] += 1
        self.prompt_characters += len(example.prompt)
        for text in example.chains:
            spans = Chain.parse(text).spans
            self.chains += 1
            self.chain_characters += len(text)
            self.prose_characters += len(text) - sum(span[3] - span[2] for span in spans)
            self.boxes += len(spans)

    def means(self) -> dict[str, Any]:
        """Counts and means, JSON-able."""
        examples = self.tasks.total()
        return {
            "examples": examples,
            "tasks": {task: self.tasks[task] for task in TASKS},
            "licenses": dict(self.licenses),
            "targets": self.chains,
            "prompt_characters": self.prompt_characters / examples,
            "chain_characters": self.chain_characters / self.chains,
            "prose_characters": self.prose_characters / self.chains,
            "boxes_per_picture": self.boxes / self.chains,
        }


def statistics(examples: Iterable[Example]) -> dict[str, Any]:
    """Counts and means of each source dataset, of all together if there are several, and the paper's.

    Lengths are in characters; boxes and chains count per picture that is drawn, so a multi-turn example counts once per
    step.
    """
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    for example in examples:
        tallies[example.provenance.dataset].add(example)
    sums = {name: tally.means() for name, tally in sorted(tallies.items())}
    if len(tallies) > 1:
        sums["all"] = _together(tallies.values()).means()
    return {"datasets": sums, "paper": {name: dict(row) for name, row in PAPER.items()}}


def _together(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        for field in dataclasses.fields(Tally):
            setattr(whole, field.name, getattr(whole, field.name) + getattr(tally, field.name))
    return whole


def table(numbers: Mapping[str, Any]) -> Table:
    """The result of `statistics` for people."""
    result = Table(box=box.SIMPLE_HEAD, title="Means per prompt, per chain, per picture drawn", title_justify="left")
    result.add_column("dataset")
    for name in ("examples", *TASKS, "prompt\ncharacters", "chain\ncharacters", "without\nboxes", "boxes per\npicture"):
        result.add_column(name.replace("multi-turn", "multi-\nturn").replace("text-to-image", "text-to-\nimage"),
                          justify="right", no_wrap=True)  # fmt: skip
    for name, row in numbers["datasets"].items():
        result.add_row(name, *_cells(row), end_section=name == [*numbers["datasets"]][-1])
    for name, row in numbers["paper"].items():
        result.add_row(f"{name} (paper)", *_cells({**row, "tasks": {TASKS[0]: row["examples"]}}), style="dim")
    return result


def _cells(row: Mapping[str, Any]) -> list[str]:
    tasks = [f"{row['tasks'].get(task, 0):,}" for task in TASKS]
    lengths = [
        f"{row[name]:.1f}" if name in row else "not given"
        for name in ("prompt_characters", "chain_characters", "prose_characters")
    ]
    return [f"{row['examples']:,}", *tasks, *lengths, f"{row['boxes_per_picture']:.2f}"]
