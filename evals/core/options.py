"""Options as data: one field of a frozen dataclass is a flag, its help, its check, and the stage that it decides.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options:
        threshold: float = option(0.3, "a detection counts above this", stage=VERDICT, low=0, high=1)

Flags, checks, the identity of a run and what `--from` may change are all derived from the fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.records import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GENERATE, OBSERVE, VERDICT = "generate", "observe", "verdict"
STAGES = (GENERATE, OBSERVE, VERDICT)
"""Stages of a run, in order: the words of `--from` and of run.json."""
CASES, RUN = "cases", "run"
"""Two kinds of flags that decide no stage: which cases there are (a run keeps their hash), and how it is run."""

Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What a field says of itself."""

    help: str | Callable[[], str]
    """For people; made when it is shown if it takes a look at what is installed. Empty: there is no flag."""
    stage: str
    name: str | None = None
    """The flag, where it is not the field's name with dashes."""
    group: str | None = None
    """Heading in the help; None takes the suite's name."""
    metavar: str | tuple[str, ...] | None = None
    choices: Sequence[str] | Callable[[], Sequence[str]] | None = None
    parse: Callable[[str], Any] | None = None
    """One word of the command line -> a value; None goes by the default's type."""
    nargs: int | str | None = None
    low: float | None = None
    """Least and largest allowed number."""
    high: float | None = None
    silent: bool = False
    """Whether a run's identity leaves it out while it has its default, because older runs do not know it."""
    heeded_by: str | None = None
    """The role whose back-ends say whether they heed it, such as ``model``; None: it always has an effect."""
    marks: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    """What a value adds to the name of an edition, of an option that makes its numbers others; see `mark_of`."""
    names: str | None = None
    """What may name files by their path that workers read: a back-end's weights, by its role, such as ``embedder``, or
    ``file``; see `evals.harness.weight_places`."""


def option(default: Any, help: str | Callable[[], str], *, stage: str, **told: Any) -> Any:
    """A field that is a flag; `told` are the other fields of `Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help=help, stage=stage, **told)})


def flags_of(options: object) -> Iterator[tuple[dataclasses.Field[Any], Flag]]:
    """The fields of an options class, or of an object of it, with what they say of themselves."""
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        yield field, field.metadata["flag"]


def flag_name(field: dataclasses.Field[Any]) -> str:
    """``--images-per-prompt`` of ``images_per_prompt``."""
    return str(field.metadata["flag"].name or f"--{field.name.replace('_', '-')}")


def add_flags(
    parser: argparse.ArgumentParser, options: type, groups: Mapping[str, Any], other: str, hidden: Sequence[str] = ()
) -> None:
    """A flag for each field, in its group; `other` is the group of those that name none, `hidden` no help shows."""
    for field, flag in flags_of(options):
        if flag.help == "":
            parser.set_defaults(**{field.name: field.default})
            continue
        how: dict[str, Any] = {"dest": field.name, "default": field.default, "help": _said(flag.help)}
        if flag.group in hidden:
            how["help"] = argparse.SUPPRESS
        if isinstance(field.default, bool):
            how["action"] = "store_true"
        else:
            kind = flag.parse or (None if field.default is None else type(field.default))
            found = {"type": kind, "metavar": flag.metavar, "choices": _said(flag.choices), "nargs": flag.nargs}
            how |= {key: value for key, value in found.items() if value is not None}
        groups[flag.group or other].add_argument(flag_name(field), **how)


def _said(value: Any) -> Any:
    return value() if callable(value) else value


def read(options: type[Options], args: argparse.Namespace) -> Options:
    """The options of a command line.

    Raises:
        UserError: A number is out of its range.
    """
    values = {}
    for field, flag in flags_of(options):
        value = getattr(args, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
        low, high = (-math.inf if flag.low is None else flag.low), (math.inf if flag.high is None else flag.high)
        if (flag.low is not None or flag.high is not None) and value is not None and not low <= value <= high:
            allowed = f"from {low} up" if high == math.inf else f"up to {high}" if low == -math.inf else None
            raise UserError(f"{flag_name(field)} is {value}; expected a number {allowed or f'from {low} to {high}'}")
    return options(**values)


def as_json(options: object) -> dict[str, Any]:
    """All options as JSON has them: paths are strings, tuples are lists."""
    return {field.name: _plain(getattr(options, field.name)) for field, _ in flags_of(options)}


def from_json(options: type[Options], values: Mapping[str, Any]) -> Options:
    """The inverse of `as_json`.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Some:
    ...     place: Path | None = option(None, "where", stage=RUN, parse=Path)
    ...     names: tuple[str, ...] = option((), "which", stage=CASES)
    >>> from_json(Some, as_json(Some(place=Path("a/b"), names=("x",))))
    Some(place=PosixPath('a/b'), names=('x',))
    """
    made = {}
    for field, flag in flags_of(options):
        value = values[field.name]
        paths = flag.parse is Path or isinstance(field.default, Path)
        value = Path(value) if paths and value is not None else value
        made[field.name] = tuple(value) if isinstance(value, list) else value
    return options(**made)


def deciding(options: object, stage: str) -> dict[str, Any]:
    """Those options that decide a stage, as JSON: a part of a run's identity."""
    values = as_json(options)
    return {
        field.name: values[field.name]
        for field, flag in flags_of(options)
        if flag.stage == stage and not (flag.silent and values[field.name] == _plain(field.default))
    }


def mark_of(options: object) -> str:
    """What options add to the name of an edition, in the order of their stages; a suite's own before what it shares.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Some:
    ...     rule: str = option("old", "whose", stage=VERDICT, marks={"old": "-old", "new": "-new"})
    ...     whole: bool = option(False, "all", stage=CASES, marks={True: "-whole"})
    >>> mark_of(Some()), mark_of(Some(rule="new", whole=True))
    ('-old', '-whole-new')
    """
    found: dict[str, list[str]] = {stage: [] for stage in (CASES, *STAGES, RUN)}
    for field, flag in flags_of(options):  # those of a base class come first
        found[flag.stage].insert(0, flag.marks.get(getattr(options, field.name), "") if flag.marks else "")
    return "".join(mark for marks in found.values() for mark in marks)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def names(text: str) -> tuple[str, ...]:
    """Names between commas, sorted; or of a JSON list, whose names may have commas.

    >>> names("b, a"), names('["a, b", "c"]')
    (('a', 'b'), ('a, b', 'c'))
    """
    found: list[object] = [name.strip() for name in text.split(",") if name.strip()]
    if text.lstrip().startswith("["):
        try:
            found = list(json.loads(text))
        except (ValueError, RecursionError) as error:
            message = f'expected a JSON list, as ["a, b"], but got {text:.60} ({error})'
            raise argparse.ArgumentTypeError(message) from error
    if not found or not all(isinstance(name, str) for name in found):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, or a JSON list, but got {text!r}")
    return tuple(sorted({str(name) for name in found}))
