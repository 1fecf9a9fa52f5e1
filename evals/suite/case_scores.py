"""What a finished run has reached, case by case."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np

from evals.core.records import alike
from evals.core.run_directory import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """What one case of a run has reached."""

    id: str
    """Of the first line of the run's log that asks it."""
    task: str
    right: float
    """Share of its images, in [0, 1]."""
    images: int
    group: str
    """What it shares with cases that are therefore alike, such as the source image of several edits."""


def case_scores(folder: Path) -> dict[str, CaseScore]:
    """The cases of a finished run that have a verdict, by what they ask: equal prompts are one case."""
    directory = RunDirectory(folder)
    results, observations = directory.read(directory.results), directory.read(directory.observations)
    right: dict[str, list[bool]] = {}
    ids, tags, groups = dict[str, str](), dict[str, str](), dict[str, str]()
    for line, seen in zip(results, observations, strict=True):
        # Not the first id of a prompt: its images may be missing in this cell alone.
        case = alike(line["prompt"], json.loads(line["metadata"])) if "prompt" in line else seen["case"]
        ids.setdefault(case, seen["case"])
        if line["correct"] is None:
            continue
        right.setdefault(case, []).append(line["correct"])
        tags[case] = line["tag"] if "tag" in line else line["category"]
        groups[case] = seen.get("group", case)
    return {
        case: CaseScore(id=ids[case], task=tags[case], right=float(np.mean(each)), images=len(each), group=groups[case])
        for case, each in right.items()
    }
