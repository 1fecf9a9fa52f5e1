"""The folder of a training on disk. What is in it is whole or not there, whenever the program is killed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util.files import read_lines, read_object, replacing, write_json, write_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN, LOG, HELD_OUT, SKIPPED = "run.json", "log.jsonl", "held_out.jsonl", "skipped.jsonl"
TABLE = "log.csv"
MODEL, TRAINING = "model", "training.json"
UNFINISHED = "checkpoint.part"
_COUNTS = "counts.json"


def claim(output: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder this training's, or find that it is.

    Raises:
        ValueError: If it belongs to another training; the message names what differs.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not (output / RUN).exists():
        if any(output.iterdir()):
            raise ValueError(f"Expected a new or empty folder, or that of this training, but got {output}")
        write_json(output / RUN, identity)
        return
    then, now = _flat(read_object(output / RUN, ValueError)), _flat(identity)
    differing = [f"{name} (there {then.get(name)!r}, now {now[name]!r})" for name in now if then.get(name) != now[name]]
    if differing:
        raise ValueError(f"{output} holds another training; different: {', '.join(differing)}")


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    recipe = {f"recipe.{name}": value for name, value in identity["recipe"].items()}
    return recipe | {name: value for name, value in identity.items() if name != "recipe"}


def latest(output: Path) -> Path | None:
    """The newest checkpoint."""
    return max(output.glob("checkpoint-*"), default=None)


def progress(output: Path) -> int:
    """The step of the newest checkpoint; -1 if there is none, -2 if this is not the folder of a training.

    >>> progress(Path("nowhere"))
    -2
    """
    if not (output / RUN).exists():
        return -2
    checkpoint = latest(output)
    return -1 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


def counts(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `finish` was given."""
    content = read_object(checkpoint / _COUNTS, ValueError)
    return content["counts"], content["schedule"]


def finish(output: Path, numbers: Mapping[str, Any], schedule: Mapping[str, Any], keep: int) -> None:
    """Give the unfinished checkpoint its name, and drop all but the last ones."""
    part = output / UNFINISHED
    write_json(part / _COUNTS, {"counts": numbers, "schedule": schedule})
    target = output / f"checkpoint-{numbers['step']:08d}"
    if target.exists():  # of a run that was stopped and went on with nothing left to do
        shutil.rmtree(target)
    part.rename(target)
    for old in sorted(output.glob("checkpoint-*"))[:-keep]:
        shutil.rmtree(old)


def exported(output: Path) -> int | None:
    """The step of which the finished model is, or None if there is no model, or it does not say."""
    note = output / MODEL / TRAINING
    return int(read_object(note, ValueError)["step"]) if note.exists() else None


def write_table(output: Path) -> None:
    """The log as CSV, in one move; a value that a line does not have is empty."""
    logged, _ = read_lines(output / LOG)
    names = list(dict.fromkeys(name for row in logged for name in row))
    with replacing(output / TABLE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(logged)


def cut_logs(output: Path, step: int) -> None:
    """Drop what was logged behind a step: it is about to be done again."""
    for name in (LOG, HELD_OUT, SKIPPED):
        if (output / name).exists():
            rows, _ = read_lines(output / name)
            write_lines(output / name, (row for row in rows if row["step"] <= step), allow_nan=True)
