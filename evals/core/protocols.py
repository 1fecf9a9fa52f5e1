"""The roles a back-end can play, and what a suite is. Each role is one or two methods; anything with them fits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from rich.table import Table

    from evals.core.records import Case, Detection, Generated, Judgement, JudgeQuestion, Sample, Verdict


class Generator(Protocol):
    """Draws images for a batch of samples."""

    name: str

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One result per sample, in order. A sample's result depends on its seed, not on its batch."""


class Detector(Protocol):
    """Finds objects of the 80 GenEval classes."""

    name: str
    min_score: float
    """Detections below this score are not returned."""
    classes: frozenset[str]
    """The GenEval classes that it has a label for: any other is never found."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""


class Embedder(Protocol):
    """A CLIP: images and texts in one space."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""


class ImageEmbedder(Protocol):
    """What turns pictures into vectors: a CLIP, or a DINO, which reads no text."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""


class Judge(Protocol):
    """Scores edits: a vision-language model behind a prompt, or a program that measures."""

    name: str
    """Protocol, judge id and hash of its prompts: part of every metric's name, so that judges never share a column."""

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order. A failed one says why; only a mistake in the set-up raises."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The back-ends a suite may use while it observes."""

    detector: Detector
    embedder: Embedder
    """Built when first used, so a suite that asks for no colour never loads a CLIP."""
    oracle_render: Callable[[str, int], Image.Image] | None
    """Draws a chain without a model: ``(chain_text, seed) -> RGB image``. None outside the icon world."""
    device: str = "cpu"
    """Where a suite's own encoders are to run."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A benchmark: its cases, how an image of a case is observed, judged and summed up."""

    name: str
    """Short name, e.g. ``"geneval"``; part of every sample's seed."""
    version: int
    """Bumped when verdicts change."""
    add_arguments: Callable[[argparse._ArgumentGroup], None]
    """Adds the suite's own flags (prompts, thresholds) to its argument group."""
    load_cases: Callable[[argparse.Namespace], list[Case]]
    """All cases, in the benchmark's order."""
    observe: Callable[
        [list[Sample], list[Image.Image], list[str | None], Tools, argparse.Namespace], list[dict[str, Any]]
    ]
    """Batch of samples, RGB images and chains -> one JSON-able observation per image, in order."""
    verdict: Callable[[Case, dict[str, Any], argparse.Namespace], Verdict]
    """Pure: what an observation means for its case."""
    result: Callable[[Sample, str, dict[str, Any], Verdict], dict[str, Any]]
    """The line of results.jsonl: ``(sample, filename relative to the run directory, observation,
    verdict)``."""
    summarize: Callable[
        [list[Case], list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], argparse.Namespace],
        dict[str, Any],
    ]
    """Pure: ``(cases, results, observations, failures, args) -> scores.json``.

    Results and observations are aligned, sorted by case and index. An observation line carries ``case`` (id) and
    ``index``; a failure line carries ``case``, ``index``, ``stage`` and ``error``."""
    tables: Callable[[dict[str, Any]], list[Table]]
    """Scores as tables for the terminal."""
    headline: Callable[[dict[str, Any]], dict[str, Any]]
    """The few numbers of the last stdout line."""
    nothing_scored: Callable[[dict[str, Any]], str | None]
    """Why scores hold no headline number at all, in words for a person; None where they hold one. Pure."""
    sheets: Callable[[Path, list[dict[str, Any]], list[dict[str, Any]]], list[Path]]
    """``(run directory, results, observations) -> pictures written``."""
    classes: Callable[[Case], frozenset[str]]
    """The GenEval classes that a verdict on this case asks of the detector; empty where it asks none. Pure."""
    needs_embedder: Callable[[Sequence[Case]], bool] = lambda cases: True
    """Whether an observation of these cases can ask the CLIP: then it is built before the first image is drawn."""
    verdict_options: tuple[str, ...] = ()
    """The suite's own arguments that change verdicts only; ``--from verdict`` may change them."""
    observe_options: tuple[str, ...] = ()
    """The suite's own arguments that change observations; ``--from observe`` may change them."""
    prepare: Callable[[Tools, argparse.Namespace], None] | None = None
    """Builds what `observe` needs beside the tools; raises `UserError` where it cannot. Called before the first batch
    and before older results are replaced."""
    incomplete: Callable[[dict[str, Any]], bool] | None = None
    """Whether an observation lacks what another try may bring. A run that was interrupted makes it again; a finished
    one is only read."""
