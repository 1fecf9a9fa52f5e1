"""What a suite is: cases, how an image of a case is observed, scored and summed up; with defaults for all the rest."""

from __future__ import annotations

import abc
import dataclasses
import json
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

    from evals.core.backends import Tools
    from evals.core.records import Case, Drawn, Score, Scored


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """The options of a suite that has no flags of its own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a suite may know of the run that it is part of."""

    model: str
    """The value of ``--model``."""
    checkpoint: str | None
    """GoT's weights; None where something else draws."""
    detector: str
    world: str
    """What the images show, one of `evals.core.backends`."""
    images_per_prompt: int
    seed: int
    drawn: Path | None = None
    """``images/`` of a run of which only later stages are done again."""

    def describe(self) -> dict[str, Any]:
        """The run as scores.json names it."""
        return {name: getattr(self, name) for name in ("model", "checkpoint", "detector", "world")}


Own = TypeVar("Own")
"""A suite's own options."""


class Suite(abc.ABC, Generic[Own]):
    """A benchmark. A subclass names itself, brings `cases`, `observe` and `score`, and changes what it wants to.

    Any other process makes the same suite of its class alone: it keeps nothing between calls.
    """

    name: ClassVar[str]
    """Short name, e.g. ``"geneval"``; part of every sample's seed."""
    version: ClassVar[int] = 1
    """Bumped when scores change."""
    title: ClassVar[str]
    """For tables and reports."""
    options: ClassVar[type] = NoOptions
    """A frozen dataclass whose fields are `evals.core.options.option`."""
    images_per_prompt: ClassVar[int] = 4
    detector: ClassVar[str] = "icon"
    """What looks at images of the icon world where nothing else is said."""
    examples: ClassVar[Mapping[str, str]] = {
        "photographs": " --detector mask2former",
        "stage": "observe --detector mask2former",
    }
    """Words that complete the examples of the help: for models of photographs, and for a stage done again."""

    looks: ClassVar[bool] = True
    """Whether a detector or a CLIP can ever look at its images."""

    # ------------------------------------------------------------------------------------------- what it must bring
    @abc.abstractmethod
    def cases(self, options: Own, context: Context) -> list[Case]:
        """All cases, in the benchmark's order."""

    @abc.abstractmethod
    def observe(self, batch: Sequence[Drawn], tools: Any, options: Own) -> list[dict[str, Any]]:
        """What is seen in each image of a batch, in order: plain JSON, which is logged.

        Args:
            batch: The images.
            tools: What `prepare` gives.
            options: The suite's own.
        """

    @abc.abstractmethod
    def score(self, case: Case, observation: Mapping[str, Any], options: Own) -> Score:
        """What an observation means for its case. Pure: a finished run is scored again from its log."""

    # ------------------------------------------------------------------------------------------- what it may change
    def resolve(self, options: Own, world: str) -> Own:
        """The options, completed by what does not come from the command line; `UserError` where they do not fit."""
        return options

    def detects(self, options: Own) -> bool:
        """Whether a detector looks at the images."""
        return True

    def shows(self, options: Own) -> str | None:
        """What the images show, a world of `evals.core.backends`; None where the detector or the model decides."""
        return None

    def left_out(self, options: Own, context: Context) -> list[str]:
        """What was given and is no case, because nothing tells what it asks for; it is counted beside the score."""
        return []

    def classes(self, case: Case) -> frozenset[str]:
        """The classes that a score of this case asks of the detector: a detector without them is refused. Pure."""
        return frozenset()

    def concurrent_requests(self, options: Own) -> int:
        """How many questions an endpoint is asked at a time; 0 where none is asked."""
        return 0

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """Whether an observation of these cases can ask the CLIP: then it is built before the first image is drawn."""
        return False

    def prepare(self, tools: Tools, options: Own) -> Any:
        """What `observe` is handed as its tools, with all that it needs beside them.

        Called once, before the first batch and before older results are replaced.

        Raises:
            UserError: Something cannot be had.
        """
        return tools

    def check_judge(self, options: Own) -> None:
        """Raises `UserError` where the benchmark asks a judge and none is named that it can ask."""
        return

    def make_judge(self, tools: Tools, options: Own) -> Any:
        """Who is asked in `judge`: with `concurrent_requests`, in one process, without detector and CLIP.

        Raises:
            UserError: The judge cannot be had.
        """
        return None

    def judge(
        self, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]], judge: Any, options: Own
    ) -> Sequence[dict[str, Any]]:
        """What `observe` has seen in each image of a batch, with a judge's answers in it.

        Args:
            batch: The images.
            seen: Their observations.
            judge: What `make_judge` gives.
            options: The suite's own.
        """
        return seen

    def incomplete(self, observation: Mapping[str, Any]) -> bool:
        """Whether an observation lacks what another try may bring. A run that was interrupted makes it again."""
        return False

    def unanswered(self, observation: Mapping[str, Any]) -> str | None:
        """Why a judge that was asked gave no answer at all, in words; None if one came, or nobody was asked.

        Of reasons that lie in the set-up alone, or may: where no image has an answer, the run ends and asks again.
        """
        return None

    def result(self, scored: Scored, filename: str) -> dict[str, Any]:
        """The line of results.jsonl, in the schema of GenEval's public scorer; with measured values, if there are any.

        Args:
            scored: The image.
            filename: Of the image, relative to the run directory.
        """
        case, score = scored.sample.case, scored.score
        details = {name: [[*d.box_xyxy_px, d.score] for d in found] for name, found in score.kept.items()}
        return {
            "filename": filename,
            "tag": case.tag,
            "prompt": case.prompt,
            "correct": score.correct,
            "reason": score.reason,
            "metadata": json.dumps(case.metadata),
            "details": json.dumps(details),
            **({"values": score.values} if score.values else {}),
        }

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: Own,
        context: Context,
    ) -> dict[str, Any]:
        """scores.json: shares of right images and means of measured values, overall and by task. Pure.

        Args:
            cases: All of the run.
            scored: Its images that have a score, sorted by case and index.
            failures: Log lines of those that have none.
            options: The suite's own.
            context: The run.
        """
        from evals.suite import plain

        about = {"suite": self.name, "version": self.version, "title": self.title, **context.describe()}
        return {**about, **plain.summarize(cases, scored, failures, context.images_per_prompt)}

    def tables(self, scores: Mapping[str, Any]) -> list[Table]:
        """Scores as tables for the terminal."""
        from evals.suite import tables

        return [tables.score_table(scores, self.title)]

    def headline(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """The few numbers of the last stdout line."""
        from evals.suite import plain

        return plain.headline(scores)

    def part(self, options: Own) -> Suite[Any]:
        """The benchmark that the options choose, of one that is several."""
        return self

    def layout(self, case: Case, options: Own) -> tuple[str, ...]:
        """Where the benchmark's own scripts look for a case's image in a model's folder; the first found counts.

        Images that lie so are taken from ``--model folder:PATH``; empty: the names that any suite takes.
        """
        return ()

    def costs(self, cases: Sequence[Case], options: Own, images_per_prompt: int) -> dict[str, Any]:
        """How many questions a run will ask of a judge, and what they cost; for ``--dry-run``."""
        return {}

    def nothing_scored(self, scores: Mapping[str, Any]) -> str | None:
        """Why scores hold no headline number at all, in words for a person; None where they hold one. Pure."""
        from evals.suite import plain

        return plain.nothing_scored(scores)

    def sheets(
        self, run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored], options: Own
    ) -> list[Path]:
        """Draws contact sheets of a run from its lines of results.jsonl and the images behind them; names the files."""
        from evals.core import contact_sheets

        return contact_sheets.draw(run, list(results), [dict(one.observation) for one in scored])
