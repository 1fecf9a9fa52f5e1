"""A run directory as data: what was run, the scores, and a row per image."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.records import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run, as its directory tells it."""

    path: Path
    spec: dict[str, Any]
    """run.json: arguments, seeds, versions, weights."""
    scores: dict[str, Any]
    """scores.json."""


def load_run(path: Path) -> Run:
    """Reads what a run says about itself.

    Raises:
        UserError: The folder is no run directory, or the run is not finished.
    """
    return Run(path=path, spec=_read_json(path / "run.json"), scores=_read_json(path / "scores.json"))


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The records of one of a run's logs (results, observations, chains), in the file's order."""
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the benchmark with --output {path.parent} first") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def load_results(path: Path) -> pd.DataFrame:
    """results.jsonl as a table: a row per image, indexed by filename."""
    import pandas as pd

    return pd.DataFrame(load_lines(path / "results.jsonl")).set_index("filename")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the --output of a finished run?") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return content
