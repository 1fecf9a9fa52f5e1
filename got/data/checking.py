"""Is a chain dataset sound? Every problem with its file, line (or row, or key) and field."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from got.data.records import DataError, decode, problems
from got.data.storage import entries_of, files_of
from got.util.images import ImageError, open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from got.data.records import Entry, Example


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong at one place."""

    where: str
    """File, and line, row or key."""
    field: str
    """Empty if the file itself is damaged."""
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.problem) if part)


@dataclasses.dataclass(slots=True, kw_only=True)
class Findings:
    """What a check has found so far."""

    examples: int = 0
    images: int = 0
    """Images opened."""
    problems: int = 0
    fields: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Problems by field, the number of the step left out."""


def check(
    place: str | Path, findings: Findings, *, images: bool = True, step: Callable[[int], None] = lambda done: None
) -> Iterator[Problem]:
    """All problems of a dataset, as they are found; what cannot be read does not hide what comes after it.

    Args:
        place: A folder, or one of its files.
        findings: Filled while the check goes on.
        images: Whether each is opened and decoded to its last pixel, which takes most of the time.
        step: Told how many examples have been looked at.

    Raises:
        DataError: If there is no dataset.
    """
    for problem in _problems(place, findings, images, step):
        findings.problems += 1
        findings.fields[problem.field.replace("[", ".").split(".")[0] or "file"] += 1
        yield problem
    if not findings.examples and not findings.problems:
        findings.problems += 1
        yield Problem(where=str(place), field="", problem="no examples")


def _problems(place: str | Path, findings: Findings, images: bool, step: Callable[[int], None]) -> Iterator[Problem]:
    places: dict[int, str] = {}  # hashes of ids: millions of them fit into memory
    for file in files_of(place):
        try:
            for entry in entries_of(file):
                findings.examples += 1
                step(findings.examples)
                example = yield from _example(entry)
                if example is None:
                    continue
                first = places.setdefault(hash(example.id), entry.where)
                if first != entry.where:
                    yield Problem(where=entry.where, field="id", problem=f"{example.id!r} is at {first} already")
                for field, problem in example.problems():
                    yield Problem(where=entry.where, field=field, problem=problem)
                if images:
                    yield from _images(example, entry.where, findings)
        except DataError as error:
            yield Problem(where=str(file), field="", problem=str(error).removeprefix(f"{file}: "))


def _example(entry: Entry) -> Generator[Problem, None, Example | None]:
    """The problems that keep an entry from being an example; returns the example if there are none."""
    wrong = [tuple(entry.broken.split(": ", 1))] if entry.broken else list(problems(entry.row))
    if not wrong:
        try:
            return decode(entry.row, entry.image)
        except DataError as error:
            wrong = [tuple(str(error).split(": ", 1))]
    for field, problem in wrong:
        yield Problem(where=entry.where, field=field, problem=problem)
    return None


def _images(example: Example, where: str, findings: Findings) -> Iterator[Problem]:
    fields = ["source"] if example.source is not None else []
    fields += [f"steps[{number}].target" for number in range(len(example.steps))]
    for field, (_, image) in zip(fields, example.images(), strict=True):
        try:
            open_image(image, "the file")
            findings.images += 1
        except ImageError as error:
            shown = "" if isinstance(image, bytes) else f"{image}: "
            yield Problem(where=where, field=field, problem=f"{shown}{error}")
