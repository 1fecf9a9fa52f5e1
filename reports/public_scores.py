"""The scores file of GenEval's public scorer alone: a line per image, and nothing of how the run was made.

It holds verdicts, prompts and what they ask for, so tables and comparisons can be made of it. It has no plans, no
settings and no detector: these are shown as unknown.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from evals.core.folder_listing import indices
from evals.core.records import Case, Sample, Scored, UserError
from evals.geneval import prompts, scores
from evals.suite.plans import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evals.core.run_directory import Key

UNKNOWN = "unknown"
UNKNOWN_IMAGES = "unknown images"
RESULTS = "results.jsonl"
_NAME = re.compile(r"(?:^|[/\\])(\d+)[/\\](?:samples[/\\])?(\d+)\.\w+$")


def place_of(path: Path) -> Path | None:
    """The scores file at a path: the path itself, or the only thing that a folder has of a run; None if there is none.

    >>> from pathlib import Path
    >>> place_of(Path("runs/not-there")) is None
    True
    """
    if path.is_file():
        return path if path.suffix == ".jsonl" else None
    alone = (path / RESULTS).is_file() and not any((path / name).exists() for name in ("run.json", "scores.json"))
    return path / RESULTS if alone else None


def key_of_name(filename: str) -> Key:
    """Case and number of an image by its place in GenEval's layout.

    >>> key_of_name("/data/sdxl/00042/samples/0001.png"), key_of_name("7/samples/2.jpg")
    (('00042', 1), ('00007', 2))
    """
    found = _NAME.search(filename)
    if found is None:
        raise ValueError(f"filename is {filename!r}; expected one that ends as 00042/samples/0001.png does")
    return f"{int(found[1]):05d}", int(found[2])


def checked(lines: Sequence[dict[str, Any]], place: Path) -> list[tuple[Key, dict[str, Any]]]:
    """Each line with its case and index; metadata as a record. Numbers that are no indexes, as seeds, are ranks.

    Images have any numbers, such as their seeds. The index is the number's rank: among all numbers of the file where
    every prompt draws from as many as it has images, otherwise among its own prompt's.

    Raises:
        UserError: A line has not what the public scorer writes, or an image stands in two.
    """
    found: dict[Key, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            key, read = _line(line)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{place}: line {number}: {said}") from None
        if key in found:
            raise UserError(f"{place}: line {number}: image {key[0]}/{key[1]} stands in an earlier line, too")
        found[key] = read
    if not found:
        raise UserError(f"{place} has no lines; expected one per image, as GenEval's public scorer writes them")
    return _indexed(found)


def _indexed(found: dict[Key, dict[str, Any]]) -> list[tuple[Key, dict[str, Any]]]:
    numbers: dict[str, list[int]] = {}
    for case, number in sorted(found):
        numbers.setdefault(case, []).append(number)
    every, most = [number for _, number in found], max(map(len, numbers.values()))
    index = {
        case: dict(zip(each, indices(each, min(every), max(every), most), strict=True))
        for case, each in numbers.items()
    }
    return [((case, index[case][number]), line) for (case, number), line in found.items()]


def _line(line: dict[str, Any]) -> tuple[Key, dict[str, Any]]:
    if not isinstance(line, dict):
        raise ValueError(f"a {type(line).__name__}; expected an object")
    key = key_of_name(line["filename"])
    if not isinstance(line["correct"], bool):
        raise ValueError(f"correct is {line['correct']!r}; expected true or false")
    for name in ("tag", "prompt"):
        if not isinstance(line[name], str):
            raise ValueError(f"{name} is {line[name]!r}; expected words")
    metadata = json.loads(line["metadata"]) if isinstance(line["metadata"], str) else line["metadata"]
    if not isinstance(metadata, dict) or not isinstance(metadata.get("include"), list):
        raise ValueError("metadata has no list of objects called include")
    return key, {**line, "metadata": metadata}


def scores_of(lines: Sequence[tuple[Key, dict[str, Any]]], place: Path) -> dict[str, Any]:
    """What ``scores.json`` would say of them: the same scores and intervals; the rest is unknown.

    Args:
        lines: As `checked` gives them.
        place: The file, which names the model where nothing else does.
    """
    cases: dict[str, Case] = {}
    for (case, _), line in lines:
        told = Case(id=case, prompt=line["prompt"], tag=line["tag"], metadata={**line["metadata"], "tag": line["tag"]})
        if cases.setdefault(case, told).prompt != told.prompt:
            raise UserError(f"{place}: case {case} is {cases[case].prompt!r} and {told.prompt!r}")
    scored = [
        Scored(
            sample=Sample(case=cases[case], index=index, seed=0),
            observation=line,
            score=Outcome(correct=line["correct"]),
        )
        for (case, index), line in lines
    ]
    ordered = [cases[case] for case in sorted(cases)]
    return {
        "suite": "geneval",
        "version": UNKNOWN,
        "model": UNKNOWN,
        "detector": UNKNOWN,
        "world": UNKNOWN_IMAGES,
        "wording": prompts.wording(ordered),
        **scores.summarize(ordered, scored, [], max(index for (_, index), _ in lines) + 1),
        "faults": {f"{case}/{index}": "untraced" for (case, index), line in lines if not line["correct"]},
        "reference": None,
    }
