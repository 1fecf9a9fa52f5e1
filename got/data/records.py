"""What GoT is trained on: images with the chain of thought that leads to them. Needs neither torch nor a reader.

All three tasks have one form. A text-to-image example has no source and one step; an edit has a source and one step; a
multi-turn edit has several steps, each of which starts from the image before it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from got.plan.chain import Chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TASKS = ("text-to-image", "edit", "multi-turn")
_MAX_ID_LENGTH = 200  # it names files, and names of files end at 255 bytes


class DataError(ValueError):
    """Data that cannot be used; the message names file, line or row, and field."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One image that is drawn, and the plan for it."""

    chain: str
    """The plan; empty if nobody has written it yet, as in editing sets that come without chains."""
    target: bytes | Path
    """The image to draw, as a file or its bytes."""
    instruction: str = ""
    """What this step of a multi-turn edit does; empty where the prompt says it all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an example comes from, and what may be done with it."""

    dataset: str
    """Name of the set, e.g. ``"OmniEdit-GoT"``."""
    license: str
    """SPDX identifier or the licence's name; ``"unknown"`` if nobody said."""
    origin: str = ""
    """Id, file or address of the example in that set."""
    made_by: str = ""
    """Program or model that wrote the chain, with its version; empty if the set brought it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example of a chain dataset."""

    id: str
    """Unique in its set; letters, digits, ``-`` and ``_`` alone, for it names files."""
    prompt: str
    """Caption to draw, or the whole instruction of an edit."""
    steps: tuple[Step, ...]
    provenance: Provenance
    source: bytes | Path | None = None
    """The image that an edit starts from."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else the set says of it, JSON-able; kept, never used in training."""

    @property
    def task(self) -> str:
        """One of `TASKS`."""
        if self.source is None:
            return TASKS[0]
        return TASKS[1] if len(self.steps) == 1 else TASKS[2]

    @property
    def annotated(self) -> bool:
        """Whether every step has a chain; an example without is for the annotation pipeline, not for training."""
        return bool(self.steps) and all(step.chain.strip() for step in self.steps)

    @property
    def chains(self) -> tuple[str, ...]:
        """The chain of every step."""
        return tuple(step.chain for step in self.steps)

    def images(self) -> Iterator[tuple[str, bytes | Path]]:
        """Names and files: ``source`` if there is one, then ``target``, or ``target0``, ``target1``, ..."""
        if self.source is not None:
            yield "source", self.source
        for number, step in enumerate(self.steps):
            yield "target" if len(self.steps) == 1 else f"target{number}", step.target

    def problems(self) -> Iterator[tuple[str, str]]:
        """Field and what is wrong with it, of everything that can be said without opening an image."""
        if wrong := id_problem(self.id):
            yield "id", wrong
        if not self.prompt.strip():
            yield "prompt", "empty"
        if not self.steps:
            yield "steps", "expected at least one"
        if self.source is None and len(self.steps) > 1:
            yield "steps", f"expected one step where there is no source but got {len(self.steps)}"
        for name in ("dataset", "license"):
            if not getattr(self.provenance, name).strip():
                yield f"provenance.{name}", "empty"
        for number, step in enumerate(self.steps):
            if not step.chain.strip():
                yield f"steps[{number}].chain", "empty: not annotated yet"
            for warning in Chain.parse(step.chain).warnings:
                yield f"steps[{number}].chain", warning


def id_problem(text: str) -> str | None:
    """What is wrong with an id; None if nothing is.

    >>> id_problem("00042-a"), id_problem("../a")
    (None, "expected ASCII letters, digits, - and _ but got '../a'")
    """
    if not text or not all(c.isascii() and (c.isalnum() or c in "-_") for c in text):
        return f"expected ASCII letters, digits, - and _ but got {text!r}"
    if len(text) > _MAX_ID_LENGTH:
        return f"expected at most {_MAX_ID_LENGTH} characters but got {len(text)}"
    return None
