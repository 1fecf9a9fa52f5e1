"""The numbers of the GoT paper (arXiv 2503.10639, Tables 1-3), as rows to stand beside ours."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("geneval", "editing", "ablation")
"""Table 1, 2 and 3 of the paper."""

METRICS = {
    ("emu_edit", "clip_i_source"): "emu_edit_clip_i",
    ("emu_edit", "clip_t"): "emu_edit_clip_t",
    ("imagenhub", "judge"): "imagenhub_judge",
    ("reason_edit", "judge"): "reason_edit_judge",
}
"""Which published metric a suite's own metric is. Its encoder or judge still has to be the same to compare."""


def published(table: str) -> pd.DataFrame:
    """One table of the paper: a row per method in the paper's order, a column per metric, NaN where it gives none.

    Example:
        >>> published("geneval").loc["GoT-6B", "overall"].item()
        0.64
    """
    import pandas as pd

    if table not in TABLES:
        raise ValueError(f"expected a table of {', '.join(TABLES)}, got {table!r}")
    with files("reports").joinpath("published.csv").open(encoding="utf-8") as file:
        long = pd.read_csv(file, keep_default_na=False).query("table == @table")
    wide = long.pivot(index="method", columns="metric", values="value")
    return wide.loc[long["method"].unique(), long["metric"].unique()]
