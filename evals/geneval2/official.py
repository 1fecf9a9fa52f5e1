"""The files that GenEval 2's own scripts read and write, in a run's folder.

``geneval2_images.json`` holds images by prompt, as ``evaluation.py`` takes them, relative to the run;
``--model folder:FILE.json`` reads such a file. Where every question of every prompt has an answer,
``geneval2_soft_tifa.json`` has the probabilities as ``soft_tifa_analysis.py`` takes them: those of the tables, that is
the mean of all repeats, and of an endpoint not below ``--topk-floor``. Of the icon edition,
``geneval2_data.jsonl`` holds the questions, for any judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.geneval2 import icon_cases
from evals.geneval2.published import IMAGES, value_names
from got.util.files import write_json, write_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evals.core.records import Scored

SOFT_TIFA, DATA = "geneval2_soft_tifa.json", "geneval2_data.jsonl"
KEYS = ("prompt", "atom_count", "vqa_list", "skills")
"""Keys of a line of the data, in their order."""


def write(run: Path, results: Sequence[Mapping[str, Any]], scored: Sequence[Scored]) -> list[Path]:
    """Writes the files for which the run has the content, and returns their paths."""
    first = [(one, line) for one, line in zip(scored, results, strict=True) if one.sample.index == 0]
    # By the original prompt, whatever a model was given in its place.
    files: dict[str, Any] = {IMAGES: {one.sample.case.metadata["prompt"]: line["filename"] for one, line in first}}
    if any("include" not in one.sample.case.metadata for one, _ in first):
        lists = [_probabilities(one) for one, _ in first]
        whole = [one.sample.case.id for one, _ in first] == [f"{number:05d}" for number in range(len(first))]
        files |= {SOFT_TIFA: lists} if whole and all(lists) else {}
    else:
        write_lines(run / DATA, [{key: case.metadata[key] for key in KEYS} for case in icon_cases.cases()])
    for name, content in files.items():
        write_json(run / name, content)
    return [run / name for name in files]


def _probabilities(one: Scored) -> list[float]:
    """The probability of each question's right answer about one image; empty where any of them has none."""
    facts, values = one.sample.case.metadata["facts"], one.score.values
    names = value_names(facts["skills"], [answer for _, answer in facts["vqa_list"]])
    return [values[name] for name in names] if all(name in values for name in names) else []
