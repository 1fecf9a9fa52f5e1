"""The numbers of the GoT paper (arXiv 2503.10639, Tables 1-3), as rows to stand beside ours."""

from __future__ import annotations

import argparse
import csv
from importlib.resources import files
from typing import TypeAlias

TABLES = ("geneval", "editing", "ablation")
"""Table 1, 2 and 3 of the paper."""

METRICS = {
    ("emu_edit", "clip_i_source"): "emu_edit_clip_i",
    ("emu_edit", "clip_t"): "emu_edit_clip_t",
    ("imagenhub", "judge"): "imagenhub_judge",
    ("reason_edit", "judge"): "reason_edit_judge",
}
"""Which published metric a suite's own metric is. Its encoder or judge still has to be the same to compare."""


Rows: TypeAlias = "tuple[str, ...] | None"
"""Published rows to show, by method; None shows all."""


def chosen(text: str) -> Rows:
    """What `--published` says.

    Raises:
        ArgumentTypeError: No table has a row of that name.

    >>> chosen("all"), chosen("none"), chosen("GoT-6B, SDXL")
    (None, (), ('GoT-6B', 'SDXL'))
    """
    if text in ("all", "none"):
        return None if text == "all" else ()
    methods = list(dict.fromkeys(method for table in TABLES for method in published(table)))
    found = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in found if name not in methods]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; expected all, none or some of {', '.join(methods)}")
    return found


def published(table: str, rows: Rows = None) -> dict[str, dict[str, float]]:
    """One table of the paper: of each method, in the paper's order, the metrics that it gives.

    Args:
        table: One of `TABLES`.
        rows: Those to give.

    Example:
        >>> published("geneval")["GoT-6B"]["overall"]
        0.64
    """
    if table not in TABLES:
        raise ValueError(f"expected a table of {', '.join(TABLES)}, got {table!r}")
    found: dict[str, dict[str, float]] = {}
    with files("reports").joinpath("published.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["table"] == table and (rows is None or line["method"] in rows):
                found.setdefault(line["method"], {})[line["metric"]] = float(line["value"])
    return found
