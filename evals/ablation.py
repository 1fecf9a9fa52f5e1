"""Ablations: one suite run for every cell of a grid, compared case by case with the first cell.

    python -m evals.ablation --grid components --limit 60
    python -m evals.ablation --suite emu_edit --grid components
    python -m evals.ablation --grid variants --variants runs/variants    # trained by `python -m got.train variants`
    python -m evals.ablation --grid my_grid.toml --images-per-prompt 2
    python -m evals.ablation --axis semantic-scale=1.5,2.5,4 --axis spatial-scale=1,1.5 --limit 60

Every flag that is not listed below goes to the suite, in all cells; with ``--engine ray`` they share its workers. A
cell is an ordinary run in its own folder under ``--output``: it can be resumed, scored again and reported alone. All
cells have the same prompts and the same noise, and the same chains unless the cell changes them, so differences are
paired.

Exit codes: 0 done, 1 a cell scored nothing, 2 a mistake in the command, 130 interrupted.

A grid file names its cells, or the axes whose combinations are the cells; the first one is what the others are compared
with::

    [cells]
    full = ""
    "no boxes" = "--spatial off"

    [axes]
    steps = [20, 10, 5]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import shlex
import sys
import textwrap
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import UserError, alike
from evals.core.run_directory import RunDirectory
from evals.core.vocabulary import task_title
from evals.harness import cli
from evals.harness.engines import ENGINES
from evals.harness.outcomes import Guard
from evals.harness.run_spec import find_suite, suite_names
from evals.harness.runner import run
from evals.harness.worker import Job
from evals.metrics import statements, statistics
from evals.suite import plain
from evals.suite import tables as shared
from evals.suite.case_scores import case_scores
from got.util import tables
from got.util.cli import Parser, console
from got.util.errors import one_line, visible
from got.util.files import write_atomic
from got.util.hashes import HashedFolder
from got.util.interrupts import leave
from got.util.progress import clock
from got.util.workers.options import options_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from evals.harness.engines import Engine
    from evals.harness.plan import Plan
    from evals.suite import Suite

_SEED = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One variant."""

    name: str
    words: tuple[str, ...]
    """Its flags."""


def product(axes: Mapping[str, Sequence[object]]) -> list[Cell]:
    """All combinations of the axes' values; an axis is a flag without its dashes.

    >>> [cell.words for cell in product({"steps": [20, 10], "spatial": ["off"]})]
    [('--steps', '20', '--spatial', 'off'), ('--steps', '10', '--spatial', 'off')]
    """
    combinations = itertools.product(*([(name, value) for value in values] for name, values in axes.items()))
    return [
        Cell(
            name=", ".join(f"{name} {value}" for name, value in pairs),
            words=tuple(word for name, value in pairs for word in (f"--{name}", str(value))),
        )
        for pairs in combinations
    ]


def _named(cells: Mapping[str, str]) -> list[Cell]:
    return [Cell(name=name, words=tuple(_split(name, words))) for name, words in cells.items()]


def _split(name: str, words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UserError(f"cell {name}: {words!r} cannot be read as flags: {error}") from error


VARIANTS = {"Baseline": "baseline", "+ GoT": "got", "+ SSGM": "ssgm", "GoT Framework": "full"}
"""Rows of the paper's Table 3 -> folders of the models that were trained for them."""


def trained(folder: Path) -> list[Cell]:
    """The cells of the grid ``variants``: each is a model of its own.

    >>> [cell.words for cell in trained(Path("runs/variants"))][0]
    ('--checkpoint', 'runs/variants/baseline')
    """
    return [Cell(name=name, words=("--checkpoint", str(folder / place))) for name, place in VARIANTS.items()]


_VARIANTS_FOLDER = Path("runs/variants")
GRIDS = {
    "variants": trained(_VARIANTS_FOLDER),
    "components": _named({
        "full": "",
        "no semantic guidance": "--semantic off",
        "no spatial guidance": "--spatial off",
        "neither": "--semantic off --spatial off",
        "no reference": "--reference off",
    }),
    "guidance": product({"semantic-scale": [2.5, 1, 1.5, 4, 6], "spatial-scale": [2.5, 1, 1.5, 4]}),
    "chain-quality": _named({
        "own chain": "",
        "oracle chain": "--chain oracle",
        "boxes moved by 0.05": "--chain jitter:0.05",
        "boxes moved by 0.1": "--chain jitter:0.1",
        "boxes moved by 0.2": "--chain jitter:0.2",
        "half of the boxes": "--chain drop:0.5",
        "names exchanged": "--chain swap:1",
        "no chain": "--chain none",
    }),
    "steps": product({"steps": [6, 2, 4, 10, 15, 20]}),
    "seeds": product({"seed": [42, 1, 2, 3, 4]}),
    "samplers": product({"scheduler": ["ddpm", "ddim", "dpm++", "unipc"], "steps": [6, 4, 10, 20]}),
}  # fmt: skip


def read_grid(text: str) -> list[Cell]:
    """A named grid, or a TOML file.

    Raises:
        UserError: There is no such grid, or the file is none.
    """
    if text in GRIDS:
        return GRIDS[text]
    path = Path(text)
    if not path.is_file():
        raise UserError(f"--grid {text} is neither a grid ({', '.join(GRIDS)}) nor a file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also of numbers that are too long
        raise UserError(f"{path} is not TOML: {one_line(error)}") from error
    cells, axes = content.pop("cells", {}), content.pop("axes", {})
    if not isinstance(cells, dict) or not isinstance(axes, dict):
        raise UserError(f"{path}: [cells] and [axes] are tables, as in [axes] and below it steps = [20, 10]")
    if content:
        raise UserError(f"{path} has unknown parts: {', '.join(content)}; a grid has [cells] or [axes]")
    if not all(isinstance(words, str) for words in cells.values()):
        raise UserError(f'{path}: a cell is a string of flags, as in "--spatial off"')
    if not all(isinstance(values, list) and values for values in axes.values()):
        raise UserError(f"{path}: an axis is a list of values, as in steps = [20, 10]")
    return _named(cells) + (product(axes) if axes else [])


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not name or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"expected FLAG=VALUE,VALUE as in steps=20,10 but got {text}")
    return name.removeprefix("--"), values.split(",")


def default_folder(suite: str, grid: str) -> Path:
    """Where an ablation goes: two suites with one grid never share a folder.

    >>> str(default_folder("geneval", "components")), str(default_folder("emu_edit", "components"))
    ('runs/ablation-components', 'runs/ablation-emu_edit-components')
    """
    return Path("runs") / "-".join(["ablation", *([suite] if suite != "geneval" else []), grid])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m evals.ablation", description=__doc__)
    parser.add_argument(
        "--suite",
        choices=suite_names(),
        default="geneval",
        help="whose images are right or wrong, not graded by a judge (default: %(default)s)",
    )
    parser.add_argument("--grid", metavar="NAME|FILE", help=f"one of {', '.join(GRIDS)}, or a TOML file")
    parser.add_argument(
        "--axis", action="append", default=[], type=_axis, metavar="FLAG=A,B", help="cells are all combinations"
    )
    parser.add_argument(
        "--variants",
        type=Path,
        metavar="DIR",
        help=f"where the models of --grid variants are (default: {_VARIANTS_FOLDER})",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="(default: runs/ablation-GRID, or runs/ablation-SUITE-GRID)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the cells, which are done and how long the others will take, and stop",
    )
    return parser


def plan_of(suite: Suite[Any], cell: Cell, shared: Sequence[str], output: Path) -> Plan:
    """The run of one cell.

    Raises:
        UserError: The suite does not know a flag; the message names the cell.
    """
    folder = output / (re.sub(r"[^a-z0-9.]+", "-", cell.name.lower()).strip("-") or "cell")
    try:
        return cli.make_plan(suite, [*shared, *cell.words, "--output", str(folder)])
    except UserError as error:
        raise UserError(f"cell {cell.name}: {error}") from error


def seconds_per_image(folder: Path) -> float | None:
    """Mean time of drawing, of the images that the run's log has a time for; None if it has none."""
    directory = RunDirectory(folder)
    lines = directory.read(directory.times)
    drawn = {(line["case"], line["index"]): line["generate_s"] for line in lines if "generate_s" in line}
    return float(np.mean(list(drawn.values()))) if drawn else None


def estimates(scores: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The share of right images, overall and by task; of an editing suite, of edits done with the rest untouched."""
    if "tasks" in scores:
        return scores["overall"]["score"], {tag: block["score"] for tag, block in scores["tasks"].items()}
    blocks = {tag: block["measured"] for tag, block in [("", scores["overall"]), *scores["categories"].items()]}
    both = {tag: block["shares"]["both"] for tag, block in blocks.items() if block is not None}
    return both.pop("", statistics.NOTHING.as_dict()), both


def unit_of(scores: dict[str, Any]) -> str:
    """What the cases of a suite are: edits, prompts, or what either may be."""
    return "edits" if "categories" in scores else "cases" if plain.weighs_cases(scores) else "prompts"


def compare(cells: Sequence[tuple[Cell, Path, dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per cell: score with interval, and the paired difference to the first cell, corrected for their number."""
    base = case_scores(cells[0][1])
    unit = unit_of(cells[0][2])
    rows, differences = [], []
    for cell, folder, scores in cells:
        own = case_scores(folder)
        # In the order that `reports.compare` has: the weights of an interval are drawn case by case.
        both = sorted(base.keys() & own.keys(), key=lambda case: base[case].id)
        # As the suite sums up: over tasks of one weight, or over edits.
        strata = ["all" if plain.weighs_cases(scores) else base[case].task for case in both]
        change = None
        if both:
            change = statistics.paired_difference(
                [base[case].right for case in both],
                [own[case].right for case in both],
                np.random.default_rng(_SEED),
                images=[min(base[case].images, own[case].images) for case in both],
                strata=strata,
                clusters=[base[case].group for case in both],
            )
        differences.append(change)
        overall, tasks = estimates(scores)
        rows.append({"cell": cell.name, "flags": list(cell.words), "run": folder.name,
                     "overall": overall, "tasks": tasks,
                     "missing": scores["missing"]["total"],
                     "seconds_per_image": seconds_per_image(folder)})  # fmt: skip
    others = [i for i, difference in enumerate(differences) if i and difference is not None]
    corrected = dict(zip(others, statistics.holm([differences[i].p_value for i in others]), strict=True))  # type: ignore[union-attr]
    for i, (row, difference) in enumerate(zip(rows, differences, strict=True)):
        row["difference"] = None
        if i and difference is not None:
            row["difference"] = {**dataclasses.asdict(difference), "p_holm": corrected[i],
                                 "verdict": statements.wording(difference, unit, corrected[i])}  # fmt: skip
    return rows


def markdown(rows: Sequence[dict[str, Any]], note: str) -> str:
    """All cells as a Markdown table, with a title and a note on the method."""
    header, cells = _cells(rows)
    made = [[tables.escaped(row[0]), *row[1:]] for row in cells]
    table = tables.markdown(list(map(tables.escaped, header)), made, words=len(header))
    return "\n".join([table, "", note, ""])


def terminal(rows: Sequence[dict[str, Any]], name: str, note: str) -> Table:
    """The same table for a terminal of 80 columns: intervals and verdicts in second lines, and no columns of tasks."""
    header, cells = _cells(rows)
    made = shared.table(f"Ablation {name}", ["overall", "difference", "p\n(Holm)", "s/\nimage"], note, first=header[0])
    for row in cells:
        cell, overall, ends, difference, span, p_value, verdict, seconds = map(
            visible, row[: header.index("s/image") + 1]
        )
        lines = [*textwrap.wrap(cell, _CELL_LETTERS), f"  {statements.brief(verdict)}".rstrip()]
        made.add_row("\n".join(lines), f"{overall}\n{ends}", f"{difference}\n{span}".rstrip(), p_value, seconds)
    return made


_CELL_LETTERS = 39
"""Of a cell's name on one line of a terminal."""


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles, and the words of each row."""
    tasks = list(rows[0]["tasks"])
    ends = "95 % interval"
    header = ["cell", "overall", ends, "difference", ends, "p (Holm)", "verdict", "s/image"]
    cells = []
    for row in rows:
        score, change = row["overall"], row["difference"]
        middle = ["", "", "", "baseline"]
        if change is not None:
            middle = [f"{change['value']:+z.3f}", tables.span(change["low"], change["high"], signed=True)]
            middle += [f"{change['p_holm']:.3f}", change["verdict"]]
        unknown = statements.why_no_interval(score)
        own = [tables.number(score["value"], none="none"), unknown or tables.span(score["low"], score["high"])]
        parts = [tables.number(row["tasks"][tag]["value"], none="none") if tag in row["tasks"] else "" for tag in tasks]
        time_s = "" if row["seconds_per_image"] is None else f"{row['seconds_per_image']:.3f}"
        cells.append([row["cell"], *own, *middle, time_s, *parts])
    return [*header, *map(task_title, tasks)], cells


def _say(text: str) -> None:
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


def _is_done(plan: Plan) -> bool:
    return (plan.output / "scores.json").exists()


def probe(plan: Plan, engine: Engine) -> float:
    """Seconds per image of a cell: each worker draws, observes and throws away a batch, after an image to warm up."""
    job, batch, guard = Job(plan=plan), plan.samples[: plan.batch_size], Guard(plan)
    for outcomes in engine.run(job, [batch[:1]], guard):
        guard.heed(outcomes)
    start = time.monotonic()
    for outcomes in engine.run(job, [batch] * engine.width, guard):
        guard.heed(outcomes)
    return (time.monotonic() - start) / (engine.width * len(batch))


def _show_plan(cells: Sequence[Cell], plans: Sequence[Plan], engine: Engine) -> None:
    """Prints which cells are done, and how long the others will take, as estimated from the first of them."""
    for cell, plan in zip(cells, plans, strict=True):
        state = "done" if _is_done(plan) else "to do"
        _say(f"{state:6} {len(plan.samples):6} images  {cell.name}  [{shlex.join(cell.words)}]")
    left = [(cell, plan) for cell, plan in zip(cells, plans, strict=True) if not _is_done(plan)]
    if left:
        images, pace = sum(len(plan.samples) for _, plan in left), probe(left[0][1], engine)
        _say(
            f"{tables.counted(images, 'images')} to do, about {clock(images * pace)} "
            f"at the pace of {left[0][0].name} ({pace:.2f} s/image)"
        )


def _check(cells: Sequence[Cell], plans: Sequence[Plan]) -> None:
    """Refuse what would go wrong only after the first cells have been drawn."""
    folders: dict[Path, str] = {}
    for cell, plan in zip(cells, plans, strict=True):
        if plan.output in folders:
            raise UserError(f"cells {folders[plan.output]!r} and {cell.name!r} would share the folder {plan.output}")
        folders[plan.output] = cell.name
    if any(plan.settings.shard is not None for plan in plans):
        raise UserError("--shard: cells are compared as whole runs; --engine ray shares them among workers")
    if len({(plan.settings.engine, options_of(plan.settings, gpus=True)) for plan in plans}) > 1:
        raise UserError("all cells share one --engine and its workers; give these flags once, outside of the cells")
    if any(getattr(plan.options, "data", None) is not None for plan in plans):
        if not plans[0].suite.part(plans[0].options).looks:
            raise UserError(f"{plans[0].suite.name}: a judge grades its images; cells are compared by right and wrong")
        raise UserError("--data: nothing tells a right edit of a published set from a wrong one; cells have no scores")


def _clusters(plan: Plan) -> int:
    """Prompts that differ, or source images."""
    return len({
        case.edit.group or case.edit.source.sha256() if case.edit else alike(case.prompt, case.metadata)
        for case in plan.cases
    })  # fmt: skip


def _run_all(cells: Sequence[Cell], plans: Sequence[Plan], engine: Engine) -> list[tuple[Cell, Path, dict[str, Any]]]:
    """Runs cell after cell; returns each with its folder and its scores."""
    finished, spent, drawn = [], 0.0, 0
    for number, (cell, plan) in enumerate(zip(cells, plans, strict=True), 1):
        left = sum(len(p.samples) for p in plans[number - 1 :] if not _is_done(p))
        expected = f", about {clock(left * spent / drawn)} left in all" if drawn else ""
        _say(f"cell {number} of {len(cells)}: {cell.name}{expected}")
        fresh, start = not _is_done(plan), time.monotonic()
        finished.append((cell, plan.output, run(plan, engine)))
        if fresh:
            spent, drawn = spent + time.monotonic() - start, drawn + len(plan.samples)
    return finished


def _main(words: Sequence[str]) -> int:
    options, shared = _parser().parse_known_args(words)
    if (options.grid is None) == (not options.axis):
        raise UserError("give --grid or --axis (--help explains)")
    if options.variants is not None and options.grid != "variants":
        raise UserError("--variants belongs to --grid variants")
    if options.grid == "variants":
        cells = trained(options.variants or _VARIANTS_FOLDER)
        missing = next((cell.words[1] for cell in cells if not Path(cell.words[1]).is_dir()), None)
        if missing is not None:
            raise UserError(f"no folder {missing}; `python -m got.train variants` trains them")
    else:
        cells = read_grid(options.grid) if options.grid else product(dict(options.axis))
    if len({cell.name for cell in cells}) < max(2, len(cells)):
        raise UserError("a grid needs two or more cells, each with its own name")
    suite = find_suite(options.suite)
    name = re.sub(r"[^\w.-]+", "-", Path(options.grid).stem if options.grid else "-".join(n for n, _ in options.axis))
    output: Path = options.output or default_folder(options.suite, name)
    plans = [plan_of(suite, cell, shared, output) for cell in cells]
    _check(cells, plans)
    alone = "source images" if plans[0].cases[0].edit else "prompts"
    few = statements.too_few(_clusters(plans[0]), len(cells) - 1, alone)
    if few:
        _say(f"ablation: {few}")
    # One engine for all cells: a worker keeps what it has loaded for as long as the next cell needs it, too.
    with ENGINES[plans[0].settings.engine](plans[0].settings) as engine:
        _show_plan(cells, plans, engine)
        if options.dry_run:
            return 0
        finished = _run_all(cells, plans, engine)
    rows = compare(finished)
    unit = unit_of(finished[0][2])
    note = (
        f"{options.suite}, {finished[0][2]['world']}, {tables.counted(len(plans[0].cases), unit)}, "
        f"{tables.counted(len(plans[0].samples), 'images')} a cell. "
        f"{tables.code(f'python -m evals.ablation {shlex.join(words)}')}. "
        f"Differences are paired by {unit.removesuffix('s')}, to the first cell. "
        f"Intervals: {statistics.INTERVALS}; of differences, of the two runs' own by MOVER. "
        f"Better and worse: an interval without 0 and p (Holm) < {statements.LEVEL}."
    )
    if few:
        note = f"{few}.\n{note}"
    content = {"command": list(words), "suite": options.suite, "intervals": statistics.INTERVALS, "cells": rows}
    HashedFolder(output).write_json("ablation.json", content)
    write_atomic(output / "ablation.md", markdown(rows, note))
    scored = [row for row in rows if row["overall"]["value"] is not None]
    top = max((row["overall"]["value"] for row in scored), default=None)
    best = [row["cell"] for row in scored if row["overall"]["value"] == top]
    console().print(terminal(rows, name, note))
    place = shlex.quote(str(output))
    _say(f"tables with LaTeX, figures and a page: python -m reports {place} --output {place}-report")
    headline = {"cells": len(rows), "best": best, "overall": top, "output": str(output)}
    sys.stdout.write(json.dumps(headline) + "\n")
    empty = {cell.name: why for cell, _, scores in finished if (why := suite.nothing_scored(scores)) is not None}
    for name, why in empty.items():
        _say(f"ablation: cell {name}: nothing was scored: {why}")
    return cli.NOTHING_SCORED if empty else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.ablation`."""
    return cli.run_as("ablation", lambda: _main(list(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    leave(main())
