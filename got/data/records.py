"""What GoT is trained on: images with the chain of thought that leads to them. Needs neither torch nor a reader.

All three tasks have one form. A text-to-image example has no source and one step; an edit has a source and one step; a
multi-turn edit has several steps, each of which starts from the image before it.

Rows are the one JSON-able form of examples that all three formats on disk share, checked field by field. A row refers
to its images; what a reference is depends on the format: a path, the ending of a tar member, or bytes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.plan.chain import Chain
from got.util.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Image = Callable[[str, Any], bytes | Path]
    """Field and reference -> the image; raises `DataError` that names the field."""

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


# ----------------------------------------------------------------------------------------------------------------- rows
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\x00", ".tif"), (b"MM\x00*", ".tif"),
)  # fmt: skip
_STEP = ("instruction", "chain", "target")
_PROVENANCE = tuple(field.name for field in dataclasses.fields(Provenance))
_ROW = ("id", "prompt", "source", "steps", "provenance", "extra")


def encode(example: Example, references: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an example.

    Args:
        example: Any.
        references: For each name of `Example.images`, what the row shall have in the image's place.

    Raises:
        DataError: If the id cannot name a file, the steps do not fit a task, or the extra fields are not JSON-able.
    """
    if wrong := id_problem(example.id):
        raise DataError(f"id: {wrong}")
    if not example.steps or (example.source is None and len(example.steps) > 1):
        raise DataError(f"example {example.id}: steps: expected one, or several where there is a source")
    targets = [reference for name, reference in references.items() if name != "source"]
    row = {
        "id": example.id,
        "prompt": example.prompt,
        "source": references.get("source"),
        "steps": [
            {"instruction": step.instruction, "chain": step.chain, "target": target}
            for step, target in zip(example.steps, targets, strict=True)
        ],
        "provenance": {name: getattr(example.provenance, name) for name in _PROVENANCE},
        "extra": dict(example.extra),
    }
    try:
        written = json.dumps({**row, "source": None, "steps": [[s.instruction, s.chain] for s in example.steps]},
                             ensure_ascii=False, allow_nan=False)  # fmt: skip
        written.encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError, from halves of surrogate pairs, is a ValueError
        raise DataError(f"example {example.id}: expected text and JSON-able extra fields but {error}") from error
    return row


def decode(row: object, image: Image) -> Example:
    """The example of a row.

    Raises:
        DataError: If the row has another form; the message names the field first.
    """
    for field, problem in problems(row):
        raise DataError(f"{field}: {problem}")
    assert isinstance(row, dict), "problems() has passed it"
    source = row.get("source")
    return Example(
        id=row["id"],
        prompt=row["prompt"],
        source=None if source is None else image("source", source),
        steps=tuple(
            Step(
                instruction=step.get("instruction", ""),
                chain=step["chain"],
                target=image(f"steps[{number}].target", step["target"]),
            )
            for number, step in enumerate(row["steps"])
        ),
        provenance=Provenance(**row["provenance"]),
        extra=row.get("extra", {}),
    )


def problems(row: object) -> Iterator[tuple[str, str]]:
    """Field and problem, of everything that keeps a row from being an example."""
    if not isinstance(row, dict):
        yield "row", f"expected an object with {', '.join(_ROW)} but got {_shown(row)}"
        return
    yield from _fields(row, "", required=("id", "prompt"), others=_ROW[2:])
    extra = row.get("extra", {})
    if not isinstance(extra, dict):
        yield "extra", f"expected an object but got {_shown(extra)}"
    provenance = row.get("provenance")
    if isinstance(provenance, dict):
        yield from _fields(provenance, "provenance.", required=_PROVENANCE[:2], optional=_PROVENANCE[2:])
    else:
        yield "provenance", f"expected an object with {', '.join(_PROVENANCE)} but got {_shown(provenance)}"
    steps = row.get("steps")
    if not isinstance(steps, list) or not steps:
        yield "steps", f"expected a list of at least one step but got {_shown(steps)}"
        return
    for number, step in enumerate(steps):
        if isinstance(step, dict):
            yield from _fields(
                step, f"steps[{number}].", required=("chain",), optional=("instruction",), others=("target",)
            )
            if step.get("target") is None:
                yield f"steps[{number}].target", "missing"
        else:
            yield f"steps[{number}]", f"expected an object with {', '.join(_STEP)} but got {_shown(step)}"


def _fields(
    row: dict[str, Any],
    prefix: str,
    *,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    others: tuple[str, ...] = (),
) -> Iterator[tuple[str, str]]:
    """Texts that are missing or none, and fields that nobody knows."""
    for name in (*required, *optional):
        if name not in row:
            if name in required:
                yield prefix + name, "missing"
        elif not isinstance(row[name], str):
            yield prefix + name, f"expected text but got {_shown(row[name])}"
    for name in row.keys() - {*required, *optional, *others}:
        yield prefix + str(name), "unknown field; what else there is belongs into extra"


def _shown(value: object) -> str:
    return "nothing" if value is None else shortened(repr(value), 60)


def bytes_of(image: bytes | Path) -> bytes:
    """An image's file.

    Raises:
        DataError: If it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {image}: {error.strerror}") from error


def suffix_of(data: bytes) -> str:
    r"""The ending of an image file's name, by its first bytes.

    >>> suffix_of(b"\xff\xd8\xff\xe0"), suffix_of(b"RIFF\x10\x00\x00\x00WEBPVP8 "), suffix_of(b"?")
    ('.jpg', '.webp', '.bin')
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".bin")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is found at one place of a file, before it is known to be an example."""

    number: int
    """Its number in its block, from 0."""
    where: str
    """File and line, row or key."""
    row: object
    image: Image
    """Resolves references of the row."""
    broken: str = ""
    """Field and problem, if there is no row at all."""

    def example(self) -> Example:
        """The example.

        Raises:
            DataError: If there is none; names file, line and field.
        """
        try:
            if self.broken:
                raise DataError(self.broken)
            return decode(self.row, self.image)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
