"""Paper-style tables: published rows first, then runs; every row says which images it was measured on."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.core.vocabulary import TASKS, task_title
from evals.geneval.prompts import OWN_PROMPTS
from evals.metrics import statements
from evals.metrics.statistics import method_of
from got.util.tables import counted
from reports.frames import provenance
from reports.public_scores import UNKNOWN_IMAGES
from reports.published import Rows, published

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reports.frames import Ablation, Run

PHOTOGRAPHS = "photographs"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number with its interval, words, or nothing."""

    value: float | None = None
    """None where a source does not give the number: a dash, not a zero."""
    low: float | None = None
    high: float | None = None
    text: str = ""
    basis: str = ""
    """What the number rests on, such as cases and encoder: two of the same column compare if this is the same."""
    mark: str = ""
    """Behind the number: signs of footnotes of its table."""
    brief: str = ""
    """Fewer words for a paper, where `text` has more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What the cells below have in common."""

    key: str
    title: str
    best: str | None = "higher"
    """Which way is better, ``higher`` or ``lower``; None where nothing is best."""
    digits: int = 3
    """Behind the point of a measured number."""
    reported_digits: int = 2
    """Of a reported one: as many as its source gives."""
    signed: bool = False
    """Whether to write a plus."""
    aside: bool = False
    """Whether its words stand below the row in a terminal, which has no room for them beside it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A method or a variant."""

    label: str
    images: str
    """Domain of its numbers, ``icon world`` or ``photographs``: rows of two domains do not compare."""
    cells: tuple[Cell, ...]
    reported: bool = False
    """Whether the numbers are somebody's report, not measured here."""
    facts: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    """What footnotes say of it, in numbers by name: further columns for programs."""

    @property
    def source(self) -> str:
        """Domain, and whether it was measured."""
        return f"{self.images}, reported" if self.reported else self.images


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns, with what a reader must know to believe them."""

    name: str
    """For its files and its LaTeX label."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """How to read it."""
    origins: tuple[str, ...] = ()
    """Where its numbers come from: folders, detectors, hashes of weights."""
    footnotes: tuple[str, ...] = ()
    """What a number cannot be read without, each behind the sign of its cells. Terminals show them, too."""

    def groups(self) -> list[tuple[str, list[Row]]]:
        """Rows that compare with each other, in order, under the name of their source."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.source, []).append(row)
        return list(found.items())

    def has_words(self, index: int) -> bool:
        """Whether the cells of a column are words, not numbers."""
        return any(len(row.cells[index].text) > 1 for row in self.rows)

    def best(self, row: Row, index: int) -> bool:
        """Whether a cell is the best one of its column among two or more rows that compare.

        >>> rows = [Row(label="a", images="icon world", cells=(Cell(value=x),)) for x in (0.25, 0.5)]
        >>> table = Table(name="t", caption="", columns=(Column(key="s", title="score"),), rows=tuple(rows))
        >>> [table.best(row, 0) for row in table.rows]
        [False, True]
        """
        column, own = self.columns[index], row.cells[index].value
        basis = row.cells[index].basis
        alike = (r.cells[index] for r in self.rows if r.source == row.source)
        others = [cell.value for cell in alike if cell.basis == basis]
        known = [round(value, column.digits) for value in others if value is not None]
        if column.best is None or own is None or len(known) < 2 or min(known) == max(known):
            return False
        return round(own, column.digits) == (max(known) if column.best == "higher" else min(known))


# ------------------------------------------------------------------------------------------------------------- GenEval
_IMAGES = Column(key="n", title="images", best=None, digits=0)
MISSING, FEWER = "‡", "§"
"""Signs of an overall score whose run has images without a score, and of one that is the mean of fewer tasks."""


def geneval_table(runs: Sequence[Run], reported: Rows = None) -> Table:
    """The paper's Table 1 with runs below.

    Args:
        runs: Finished GenEval runs, in the order of their rows.
        reported: Which of the paper's rows.

    Raises:
        UserError: A run is of another suite.
    """
    for run in runs:
        if run.scores.get("suite") != "geneval":
            raise UserError(f"{run.path} is a run of suite {run.scores.get('suite')!r}; this table shows 'geneval'")
    known = [run for run in runs if run.wording != OWN_PROMPTS]
    columns = _geneval_columns(runs, known)
    keys = [column.key for column in columns]
    paper = published("geneval", reported) if known else {}
    rows = [reported_row(method, line, keys) for method, line in paper.items()]
    rows += [_geneval_row(run, keys) for run in runs]
    own = ", ".join(run.label for run in runs if run not in known)
    return Table(
        name="geneval",
        caption="GenEval: share of images that show what their prompt names. Overall is the mean of the tasks.",
        columns=(*columns, _IMAGES),
        rows=tuple(dataclasses.replace(row, cells=(*row.cells, Cell())) if row.reported else row for row in rows),
        notes=(
            *([f"{own}: own prompts, whose scores do not compare with published ones."] if own else []),
            *marks(rows, "Table 1", measured_note("prompt", [run.scores for run in runs])),
        ),
        origins=tuple(run_notes(runs, missing=False)),
        footnotes=tuple(_by_label({run.label: list(_footnotes(run)) for run in runs})),
    )


def _geneval_columns(runs: Sequence[Run], known: Sequence[Run]) -> tuple[Column, ...]:
    """Overall and every task: the benchmark's six, and those of own prompts."""
    there = {task for run in runs for task in run.scores["tasks"]}
    tasks = [task for task in TASKS if known or task in there] + sorted(there - set(TASKS))
    return tuple(Column(key=name, title=task_title(name)) for name in ("overall", *tasks))


def reported_row(label: str, line: Mapping[str, float], keys: Sequence[str]) -> Row:
    """A published row; a dash where its source has no such number."""
    return Row(label=label, images=PHOTOGRAPHS, cells=tuple(Cell(value=line.get(key)) for key in keys), reported=True)


def _geneval_row(run: Run, keys: Sequence[str]) -> Row:
    blocks = {**run.scores["tasks"], "overall": run.scores["overall"]}
    identity = run.spec.get("identity", {})
    prompts = identity.get("generate", {}).get("prompts_sha256")
    basis = json.dumps([prompts, identity.get("observe"), identity.get("verdict")], sort_keys=True)
    cells = [estimate(blocks.get(key, {}).get("score"), basis) for key in keys]
    signs = "".join(sign for sign, _ in _footnotes(run))
    cells = [dataclasses.replace(cell, mark=signs * (key == "overall")) for key, cell in zip(keys, cells, strict=True)]
    n = run.scores["overall"]["score"]["n"]
    return Row(label=run.label, images=run.images, cells=(*cells, Cell(value=n)), facts=_facts_of_footnotes(run))


def _unscored_tasks(run: Run) -> list[str]:
    """Tasks of the benchmark, or of own prompts, that have no score in a run, so that its overall score lacks them."""
    there = run.scores["tasks"]
    wanted = there if run.wording == OWN_PROMPTS else TASKS
    return [task for task in wanted if there.get(task, {}).get("score", {}).get("value") is None]


def _footnotes(run: Run) -> Iterator[tuple[str, str]]:
    """Sign and sentence of what an overall score cannot be read without."""
    if (missing := [*_missing(run)]) and (run.scores.get("missing") or {}).get("total"):
        yield MISSING, " ".join(missing)
    if run.is_scored and (without := _unscored_tasks(run)):
        scored = [task for task, block in run.scores["tasks"].items() if block["score"]["value"] is not None]
        said = f"overall is the mean of {len(scored)} of {len(scored) + len(without)} tasks, without "
        yield FEWER, f"{said}{', '.join(map(task_title, without))}."


def _facts_of_footnotes(run: Run) -> dict[str, float | None]:
    """The same in numbers."""
    signs = [sign for sign, _ in _footnotes(run)]
    facts: dict[str, float | None] = {}
    if MISSING in signs:
        low, high = run.scores["overall"].get("bounds") or (None, None)
        facts |= {"missing": run.scores["missing"]["total"], "overall_bound_low": low, "overall_bound_high": high}
    if FEWER in signs:
        facts["tasks_without_score"] = len(_unscored_tasks(run))
    return facts


def _by_label(said: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """Footnotes of all rows: what several share is said once, behind its sign."""
    labels: dict[tuple[str, str], list[str]] = {}
    for label, footnotes in said.items():
        for footnote in footnotes:
            labels.setdefault(footnote, []).append(label)
    ordered = sorted(labels.items(), key=lambda one: (MISSING, FEWER).index(one[0][0]))
    return [f"{sign} {', '.join(names)}: {words}" for (sign, words), names in ordered]


def estimate(block: dict[str, Any] | None, basis: str = "") -> Cell:
    """The cell of an estimate of scores.json.

    >>> estimate({"value": 0.5, "low": 0.4, "high": 0.6, "n": 8, "clusters": 2}, "CLIP")
    Cell(value=0.5, low=0.4, high=0.6, text='', basis='CLIP', mark='', brief='')
    """
    if not block:
        return Cell()
    return Cell(value=block.get("value"), low=block.get("low"), high=block.get("high"), basis=basis)


def marks(rows: Sequence[Row], table: str, measured: str = "") -> list[str]:
    """What a table with published rows must say of its rows; `measured` of those that were measured here."""
    notes = []
    if any(row.reported for row in rows) or not rows:
        notes.append(f"† as reported in {table} of the GoT paper (arXiv 2503.10639), not measured here.")
    worlds = {row.images.partition(",")[0] for row in rows if not row.reported}
    if drawn := worlds - {PHOTOGRAPHS, UNKNOWN_IMAGES}:
        notes.append(f"{', '.join(sorted(drawn))}: a small drawn domain; its numbers do not compare "
                     "with those of photographs.")  # fmt: skip
    return [*notes, measured] if worlds and measured else notes


def paired(unit: str) -> str:
    """How runs are compared whose cases are prompts, edits, or one of both."""
    one, whole = unit.removesuffix("s"), "source images" if unit == "edits" else unit
    return (
        f"Differences: paired by {one}, intervals by MOVER, p by a permutation test of whole {whole}. "
        "Better and worse need an interval without 0 and p < 0.05."
    )


def measured_note(cluster: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """How intervals were made.

    Args:
        cluster: What images are alike by, such as ``prompt``.
        scores: What says of itself how, as `scores.json` does. None of them: they are means of measurements.
    """
    methods = " and ".join(dict.fromkeys(map(method_of, scores or [{}])))
    return f"95 % intervals: {methods}, clustered by {cluster}."


_CLUSTERS = {"prompts": "prompts", "edits": "source images"}
"""What a judged benchmark's intervals draw, by what it is made of; an older run does not say."""


def run_notes(runs: Sequence[Run], *, missing: bool = True) -> list[str]:
    """What measured rows rest on, said once for all rows that rest on the same.

    Args:
        runs: Behind the rows.
        missing: Whether to say how many images have no score; not where footnotes do.
    """
    notes: dict[str, list[str]] = {}
    for run in runs:
        overall = run.scores["overall"]
        if "metrics" in run.scores:
            first = next(iter(run.scores["metrics"]["all"].values()))
            clusters = counted(first["clusters"], _CLUSTERS.get(str(run.scores.get("unit")), "prompts or sources"))
            size = f"n = {counted(first['n'], 'images')} of {clusters}, "
        elif "score" in overall:
            score = overall["score"]
            size = f"n = {counted(score['n'], 'images')} of {counted(score['clusters'], 'prompts')}, "
        else:
            size = f"n = {counted(overall['images'], 'images')} of {counted(overall['groups'], 'source images')}, "
        facts = [f"{run.images}, {size}{_facts(run)}."]
        reference = run.scores.get("reference")
        if reference:
            ends = (f"{end} {reference[end]['overall']:.3f}: {reference[end]['what']}" for end in ("floor", "ceiling"))
            facts.append(f"with this detector, {'; '.join(ends)}.")
        for fact in [*facts, *_data(run), *(_missing(run) if missing else ())]:
            notes.setdefault(fact, []).append(run.label)
    folders = "; ".join(f"{run.label} is {run.path.name}" for run in runs if run.label != run.path.name)
    facts = [f"{', '.join(labels)}: {fact}" for fact, labels in notes.items()]
    return [f"Folders: {folders}.", *facts] if folders else facts


def _facts(run: Run) -> str:
    return ", ".join(f"{key} {value}" for key, value in provenance(run).items())


def _data(run: Run) -> Iterator[str]:
    """Which cases of which set: two runs with the same ids speak of the same ones."""
    data = run.scores.get("data")
    if data:
        of = f" of {data['of']:,}" if data.get("of") not in (None, data["cases"]) else ""
        revision = f", revision {data['revision'][:12]}" if data.get("revision") else ""
        ids = f"ids {data['ids_sha256'][:12]}{revision}"
        yield f"data {data['name']}, {data['variant']}: {data['cases']:,}{of} cases, {ids}."


def _missing(run: Run) -> Iterator[str]:
    missing, bounds = (run.scores.get("missing") or {}).get("total"), run.scores["overall"].get("bounds")
    if "metrics" in run.scores:  # of a judged benchmark, where an image that is there may have no score, too
        name, how = next(iter(run.scores["metrics"]["names"].items()))
        first = run.scores["metrics"]["all"][name]
        missing, bounds = first["missing"], first["bounds"] and [end * how["times"] for end in first["bounds"]]
    if missing:
        between = f"; with them the score lies between {bounds[0]:.3f} and {bounds[1]:.3f}" if bounds else ""
        yield f"{counted(missing, 'images', 'have')} no score{between}."
        if classes := run.scores["missing"].get("classes"):
            yield f"The detector has no label for {', '.join(map(str, classes))}: cases that need them are missing."


# ------------------------------------------------------------------------------------------------------------ ablation
def ablation_table(ablation: Ablation, name: str = "ablation", reported: Rows = None) -> Table:
    """A row per variant: score, paired difference, what may be said of it; the paper's rows where they are the same."""
    tasks = list(dict.fromkeys(task for cell in ablation.cells for task in cell.row["tasks"]))
    runs = [cell.run for cell in ablation.cells if cell.run is not None]
    world = runs[0].images if runs else UNKNOWN_IMAGES
    title = next((str(run.scores["title"]) for run in runs if run.scores.get("title")), ablation.suite)
    title = {"geneval": "GenEval"}.get(title, title)
    unit, cluster = ("edits", "source image") if ablation.is_of_edits else ("prompts", "prompt")
    each = unit.removesuffix("s")
    what = f"{title}, share of edits done and rest untouched," if ablation.is_of_edits else f"{title} scores"
    rows = _trained_rows(ablation, len(tasks), reported)
    for cell in ablation.cells:
        change = cell.row["difference"]
        middle = (Cell(), Cell(), Cell(text="baseline"))
        if change is not None:
            said = Cell(text=change["verdict"], brief=statements.brief(change["verdict"]))
            middle = (estimate(change), Cell(value=change["p_holm"]), said)
        parts = (estimate(cell.row["tasks"].get(task)) for task in tasks)
        rows.append(Row(label=cell.name, images=world, cells=(estimate(cell.row["overall"]), *middle, *parts)))
    first = ablation.cells[0].row["overall"]
    few = ablation.too_few
    notes = [
        *([f"{few}."] if few else []),
        *(marks(rows, "Table 3") if len(rows) > len(ablation.cells) else []),
        f"{world}; n = {counted(first['n'], 'images')} of {counted(first['clusters'], f'{cluster}s')} in each cell. "
        + measured_note(cluster, [{"intervals": ablation.intervals}]),
        f"{paired(unit)} They are to the first row, and p values are corrected for their number by Holm's method.",
    ]
    return Table(
        name=name,
        caption=f"Ablation {ablation.name}: {what} of variants, compared {each} by {each} with the first one.",
        origins=(f"Command: {ablation.command}.", *_shared_facts(runs)),
        columns=(
            Column(key="overall", title="overall"),
            Column(key="difference", title="difference", best=None, signed=True),
            Column(key="p_holm", title="p (Holm)", best=None),
            Column(key="verdict", title="verdict", best=None),
            *(Column(key=task, title=task_title(task)) for task in tasks),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _trained_rows(ablation: Ablation, tasks: int, reported: Rows) -> list[Row]:
    """The paper's own rows, where the cells are trained variants of the same names and the metric is the same."""
    paper = published("ablation")
    if ablation.suite != "geneval" or not {cell.name for cell in ablation.cells} <= set(paper):
        return []
    paper = published("ablation", reported)
    rows = [reported_row(method, line, ["geneval_overall"]) for method, line in paper.items()]
    blank = (Cell(),) * (3 + tasks)
    return [dataclasses.replace(row, cells=(*row.cells, *blank)) for row in rows]


def _shared_facts(runs: Sequence[Run]) -> list[str]:
    """One note where all cells rest on the same; one for each kind otherwise."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        kinds.setdefault(_facts(run), []).append(run.label)
    if len(kinds) == 1:
        return [f"All cells: {facts}." for facts in kinds]
    return [f"{'; '.join(names)}: {facts}." for facts, names in kinds.items()]
