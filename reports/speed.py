"""Benchmark files of pytest-benchmark as a table: one commit, or several side by side."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RATE = "_per_second"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Benchmarks:
    """One file of measurements."""

    label: str
    """Commit and day."""
    machine: str
    """Processor and system: times of two machines do not compare."""
    seconds: dict[str, tuple[float, float]]
    """Name -> mean and standard deviation of a round."""
    extra: dict[str, dict[str, Any]]
    """Name -> what the measurement noted beside its time: rates, speed-ups."""


def load(path: Path) -> Benchmarks:
    """Reads a file that ``pytest benchmarks --benchmark-json=FILE`` wrote.

    Raises:
        UserError: It is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        commit, machine = content["commit_info"], content["machine_info"]
        cpu = machine["cpu"]
        measured = content["benchmarks"]
        return Benchmarks(
            label=f"{str(commit.get('id') or 'no commit')[:8]}{'+' * bool(commit.get('dirty'))}, "
            f"{str(content['datetime'])[:10]}",
            machine=f"{cpu.get('brand_raw') or machine['machine']}, {cpu.get('count', '?')} cores",
            seconds={
                str(one["name"]): (float(one["stats"]["mean"]), float(one["stats"]["stddev"])) for one in measured
            },
            extra={str(one["name"]): dict(one["extra_info"]) for one in measured},
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no file of `pytest benchmarks --benchmark-json`: {error!r}") from None


def speed_table(files: Sequence[Benchmarks]) -> Table:
    """A row per measurement: its time in each file, the last file's against the first's, and what the last one noted.

    Args:
        files: In the order of their columns; of one machine, or no ratio is given.
    """
    names = list(dict.fromkeys(name for file in files for name in file.seconds))
    machines = list(dict.fromkeys(file.machine for file in files))
    compared = len(files) > 1 and len(machines) == 1
    rows = []
    for name in names:
        cells = [_milliseconds(file, name) for file in files]
        if compared:
            cells.append(Cell(value=_ratio(files[0], files[-1], name)))
        noted = files[-1].extra.get(name, {})
        speedup = noted.get("speedup")
        cells += [Cell(value=None if speedup is None else float(speedup)), Cell(text=_rates(noted))]
        rows.append(Row(label=name.removeprefix("bench_"), images=", ".join(machines), cells=tuple(cells)))
    columns = [Column(key=f"ms_{i}", title=f"ms, {file.label}", best=None, digits=1) for i, file in enumerate(files)]
    columns += [Column(key="ratio", title="last / first", best=None, digits=2)] * compared
    columns += [Column(key="speedup", title="against plain", best=None, digits=1)]
    columns += [Column(key="rate", title="rate", best=None)]
    notes = [
        "Mean time of a round; in brackets, one standard deviation below and above. A plus behind a commit: with local "
        "changes. Against plain: how many times as fast as one thing at a time, in the same process."
    ]
    if len(machines) > 1:
        notes.append(f"Measured on {len(machines)} machines, so times do not compare: {'; '.join(machines)}.")
    return Table(
        name="speed", caption="How fast the parts are.", columns=tuple(columns), rows=tuple(rows), notes=tuple(notes)
    )


def _milliseconds(file: Benchmarks, name: str) -> Cell:
    if name not in file.seconds:
        return Cell()
    mean, deviation = (1000 * value for value in file.seconds[name])
    return Cell(value=mean, low=max(mean - deviation, 0.0), high=mean + deviation)


def _ratio(first: Benchmarks, last: Benchmarks, name: str) -> float | None:
    if name not in first.seconds or name not in last.seconds or not first.seconds[name][0]:
        return None
    return last.seconds[name][0] / first.seconds[name][0]


def _rates(noted: dict[str, Any]) -> str:
    """Rates among what a measurement noted.

    >>> _rates({"images_per_second": 350.2, "commit": "a"})
    '350 images/s'
    """
    found = [(key.removesuffix(_RATE), value) for key, value in noted.items() if key.endswith(_RATE)]
    return ", ".join(f"{value:,.3g} {unit}/s" if value < 100 else f"{value:,.0f} {unit}/s" for unit, value in found)
