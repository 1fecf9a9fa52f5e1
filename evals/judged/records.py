"""What a judged benchmark is made of: items, sets, where they come from, and metrics."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

from evals.core.records import Case, EditCase, UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from evals.core.records import EncodedImage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a benchmark's data come from, and on what terms."""

    name: str
    page: str
    """Repository or data set."""
    size: str
    """How much there is to fetch, for people."""
    licence: str
    """As the publisher states it, or that there is none."""
    judge: str
    """The official judge."""
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of published files by name, as far as they are known."""
    wording: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digests of published wordings -> where each was read."""
    script: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Where a script of texts lies that make up its own wording, see `evals.judged.wording.declared`."""
    questions: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """Words that may hold for a case -> the wordings that it is asked, with the images of each; see `asked`."""
    levels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Tasks that are summed up together, by what they are called."""
    cases: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """Published numbers of cases by group and part, of a set that is known by them."""
    reported: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """An edition's name, a regular expression -> which rows of ``reported.csv`` are of it."""

    @property
    def counts(self) -> dict[str, int]:
        """Published numbers of cases by part, of all groups."""
        return {part: number for parts in self.cases.values() for part, number in parts.items()}

    def asked(self, words: Collection[str]) -> Sequence[Any]:
        """The questions of a case for which some words hold: of the first line all of whose words do.

        >>> origin_of("kris").asked(["biology", "natural_science"]), origin_of("kris").asked(["color_change"])
        (['consist', 'dual'], ['consist', 'instruction'])
        """
        return next(line for needed, line in self.questions.items() if all(word in words for word in needed.split()))


@functools.cache
def origin_of(suite: str) -> Origin:
    """What ``published.toml`` says of a suite's data; `KeyError` where it says nothing."""
    text = resources.files("evals.judged").joinpath("published.toml").read_text(encoding="utf-8")
    return Origin(**tomllib.loads(text)[suite])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """One prompt or edit."""

    id: str
    """Unique, safe as a file name."""
    prompt: str
    task: str
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What questions are filled with, by placeholder."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else decides questions or scores, JSON-able."""
    images: Mapping[str, EncodedImage] = dataclasses.field(default_factory=dict)
    """By role; ``"source"`` makes it an edit, of ``"draw_from"`` where a model is given another file than a judge."""
    subtask: str = ""
    group: str = ""
    """What it shares with others that are therefore alike, such as the source image; empty for nothing."""
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files that lie beside the result there -> the role of the image that they hold."""
    where: str = ""
    """File and row that it was read from, for messages."""
    layout: tuple[str, ...] = ()
    """Where the official script looks for its result, relative to the folder of a model; the first is written."""

    def as_case(self) -> Case:
        """The item as the harness wants it."""
        metadata = {
            "tag": self.task,
            "prompt": self.prompt,
            "subtask": self.subtask,
            "group": self.group,
            "texts": dict(self.texts),
            "facts": dict(self.facts),
        }
        source = self.images.get("draw_from", self.images.get("source"))
        edit = source and EditCase(
            id=self.id, instruction=self.prompt, source=source, category=self.task, group=self.group or None
        )
        return Case(id=self.id, prompt=self.prompt, tag=self.task, metadata=metadata, edit=edit or None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedSet:
    """The items of an edition."""

    edition: str
    """As in a metric's name: ``"wise-verified"``; of other data than the published with a part of their hash."""
    items: Sequence[Item]
    notes: tuple[str, ...] = ()
    """What a reader should know of the data, a sentence each."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number of the table."""

    name: str
    of: tuple[str, ...]
    """The values of an image that it is a mean of; several are pooled."""
    parts: tuple[str, ...] = ()
    """What its one value is the mean of, as far as they are there: an image that lacks one is missing all the same."""
    over: str = "cases"
    """``"cases"``: all weigh the same; ``"tasks"``: the plain mean of the tasks' means."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Least and largest value, for bounds."""
    digits: int = 3
    times: float = 1.0
    """What tables multiply it with."""
    share: bool = False
    """Whether its values are right (1) or wrong (0): then the interval is that of a share."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A number that a paper or a leaderboard gives."""

    edition: str
    model: str
    metric: str
    value: str
    """As printed."""
    judge: str
    """As far as it is stated."""
    cells: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """All that its source prints, by the columns of our tables."""
    apart: str = ""
    """Why it stands in a table of its own, such as what the model was trained on."""
    note: str = ""
    """What does not fit, such as an overall that does not follow from its parts."""


def digest(items: Iterable[Item]) -> str:
    """Eight digits of a set that is known by its numbers alone; they change with any id or prompt."""
    lines = sorted(json.dumps([item.id, item.task, item.prompt]) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def check_unique(items: Sequence[Item], what: str) -> None:
    """Raises `UserError` where two items have one id; `what` names the data."""
    seen: dict[str, Item] = {}
    for item in items:
        first = seen.setdefault(item.id, item)
        if first is not item:
            places = f"{first.where} and {item.where}" if first.where != item.where else f"two rows of {item.where}"
            raise UserError(f"{what}: an id must be unique, and {item.id} occurs twice: {places}")
