"""The roles that a back-end can play (generator, detector, embedder, judge), and a record of each back-end.

A role is one or two methods; anything with them fits. The record is all that command line, help, doctor and tests know.

Other packages add theirs by an entry point whose object is such a record::

    [project.entry-points."got_evals.generators"]
    mine = "my_package.generator:RECORD"
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from evals.core.records import UserError
from got.util.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.records import Detection, Generated, Judgement, JudgeQuestion, Sample

ICON_WORLD, PHOTOGRAPHS = "icon world", "photographs"
"""What images show."""

Role = TypeVar("Role")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Generic[Role]):
    """What is known of a back-end before it is built."""

    factory: str | Callable[..., Role]
    """``package.module:function``, imported when one is built, and heavy libraries with it; or the function itself."""
    argument: str = ""
    """How what stands behind the colon is written: ``PATH`` is needed, ``[WEIGHTS]`` may be left out, empty is none."""
    world: str | None = None
    """What it draws, or was trained on: `ICON_WORLD` or `PHOTOGRAPHS`; None where nobody knows."""
    embedder: str | None = None
    """Of a detector: the embedder that names the colours of what it finds."""
    batch_size: int = 32
    """Of a generator: images drawn and observed together, unless told otherwise."""
    heeds: tuple[str, ...] = ()
    """Of a generator: the flags, as fields are called, that not all generators heed. Others are refused with it."""
    fault: Callable[[str], str | None] = lambda argument: None
    """Says why an argument cannot be right, None if it may be; loads nothing and asks no hub."""
    place: str | None = None
    """Of a judge that is asked: the function that names who answers, by the argument and without secrets."""
    weights: Callable[[str], Path | None] = lambda argument: None
    """Where its weights lie on this machine, by its argument; None where they lie elsewhere, or it has none."""

    def build(self, *arguments: Any) -> Role:
        """Makes one, as its role's registry says."""
        make = load(self.factory) if isinstance(self.factory, str) else self.factory
        made: Role = make(*arguments)
        return made

    def named(self, argument: str) -> str | None:
        """What `place` says."""
        return None if self.place is None else str(load(self.place)(argument))


class Registry(Generic[Role]):
    """The back-ends of one role: those of this package, and those that other packages announce.

    Args:
        role: Their name in messages: ``"a detector"``.
        group: The group of entry points of other packages.
        records: Those of this package, by name.
    """

    def __init__(self, role: str, group: str, records: Mapping[str, Backend[Role]]) -> None:
        self.role, self.group = role, group
        self.records = dict(records)

    def names(self) -> list[str]:
        """All names, this package's first. Nothing is imported for it."""
        return [*self.records, *(name for name in entry_points(self.group) if name not in self.records)]

    def __getitem__(self, name: str) -> Backend[Role]:
        """The record of a name.

        Raises:
            KeyError: There is none.
            UserError: It is of another package, and cannot be imported.
        """
        if name not in self.records:
            point = entry_points(self.group)[name]
            try:
                found = point.load()
            except Exception as error:  # of somebody else's package
                raise UserError(
                    f"{self.role} {name} of {self.group} cannot be imported: {first_line(error)}"
                ) from error
            if not isinstance(found, Backend):
                raise UserError(f"{self.role} {name} of {self.group} is no evals.core.backends.Backend")
            self.records[name] = found
        return self.records[name]

    def __contains__(self, name: str) -> bool:
        return name in self.records or name in entry_points(self.group)

    def written(
        self, worlds: tuple[str | None, ...] = (ICON_WORLD, PHOTOGRAPHS, None), only: Sequence[str] | None = None
    ) -> str:
        """How the back-ends of these worlds are written on a command line, without those that cannot be imported.

        Args:
            worlds: Of these worlds.
            only: Of these names; None: of all.
        """
        found = {name: self[name] for name in only or self.names() if not self.broken(name)}
        return ", ".join(_written(name, record.argument) for name, record in found.items() if record.world in worlds)

    def broken(self, name: str) -> str | None:
        """Why a record of another package cannot be had."""
        try:
            self[name]
        except UserError as error:
            return str(error)
        return None

    def find(self, spec: str, choices: str = "", *, used: bool = True) -> tuple[Backend[Role], str]:
        """The record that ``NAME`` or ``NAME:ARGUMENT`` names, and the argument.

        Args:
            spec: As on the command line.
            choices: What a message lists, where that is more than `written`.
            used: Whether it will be built: then its argument must stand for something here.

        Raises:
            UserError: There is none of the name, or its argument is missing, too much, or can stand for nothing.
        """
        name, colon, argument = spec.partition(":")
        wanted = self[name].argument if name in self else ""
        if name not in self or (colon and not wanted):
            raise UserError(f"Expected {self.role} among {choices or self.written()} but got {spec!r}")
        if wanted and not wanted.startswith("[") and not argument:
            forms = " or ".join(f"{name}:{form}" for form in wanted.split("|"))
            raise UserError(f"Expected {forms} but got {spec!r}")
        if used and (fault := self[name].fault(argument)):
            raise UserError(fault)
        return self[name], argument


def _written(name: str, argument: str) -> str:
    """How a help text writes a back-end with its argument.

    >>> _written("folder", "PATH"), _written("icon", "[WEIGHTS]"), _written("got", "")
    ('folder:PATH', 'icon[:WEIGHTS]', 'got')
    """
    if argument.startswith("["):
        return f"{name}[:{argument[1:]}"
    return f"{name}:{argument}" if argument else name


def local_place(argument: str) -> Path | None:
    """Where weights lie that an argument may name by their path.

    >>> local_place("")
    """
    return Path(argument) if argument else None


def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages announce under a group, by name, sorted."""
    points = _announced(tuple(sys.path)).select(group=group)
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


@functools.cache
def _announced(path: tuple[str, ...]) -> Any:
    """What all packages on a path announce; kept, because a command asks many times and reading them is slow."""
    return importlib.metadata.entry_points()


def load(reference: str) -> Any:
    """The object that ``package.module:name`` names."""
    module, _, name = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


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
    """What turns images into vectors: a CLIP, or a DINO, which reads no text."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""


class Judge(Protocol):
    """Scores edits: a vision-language model behind a prompt, or a program that measures."""

    name: str
    """Protocol, judge id and hash of its prompts: part of every metric's name, so that judges never share a column."""

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order. A failed one says why; only a mistake in the set-up raises."""


class Tools:
    """The back-ends that a suite may use while it observes, each built when it is first asked for."""

    def __init__(
        self,
        *,
        detector: Callable[[], Detector],
        embedder: Callable[[], Embedder],
        oracle_render: Callable[[str, int], Image.Image] | None = None,
        device: str = "cpu",
        model: Callable[[str, str], Any] | None = None,
    ) -> None:
        """What builds them.

        Args:
            detector: Makes the detector.
            embedder: Makes the CLIP: a suite that asks for no colour never loads one.
            oracle_render: Draws a chain without a model, ``(chain_text, seed) -> RGB image``; None outside the icon
                world.
            device: Where a suite's own encoders are to run.
            model: Makes what answers in place of a vision-language model of transformers, by its place and device; None
                loads the model.
        """
        self._make_detector, self._make_embedder = detector, embedder
        self.oracle_render, self.device, self.model = oracle_render, device, model

    @functools.cached_property
    def detector(self) -> Detector:
        """Finds objects."""
        return self._make_detector()

    @functools.cached_property
    def embedder(self) -> Embedder:
        """Names colours, and compares images with words."""
        return self._make_embedder()
