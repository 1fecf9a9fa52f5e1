"""How far does a judge agree with people? Against human ratings in ImagenHub's format.

Source of protocol and format: ImagenHub (arXiv 2310.01596): per rater one TSV, a column of item ids and a column per
model, cells ``[SC, PQ]`` with values 0, 0.5 and 1: semantic consistency and perceptual quality; a cell's overall score
is ``sqrt(SC * PQ)``. The ratings are not part of this project; ImagenHub's repository holds those of three raters.

The judge's scores come in the same format, on any scale, in one TSV per repeat or a single one. A cell with one number
is a judge that gives an overall score only: it is held against SC and against the overall score. Or they come from runs
of an editing suite over each model's results, ``--judge-runs MODEL=DIR ...``.

Judge and people are compared item by item inside a model (Spearman, Kendall tau-b), then averaged over models, and by
the models' means. The ceiling is how well one rater predicts the others: a judge cannot be expected to do better.
Beside a judge, the ceiling is that of the models in its mean and of the cells it scored. Intervals resample items, the
same ones for all models and raters. A model whose ratings do not vary has no correlation: it is left out of the mean,
and named.

    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv
    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv --judge judge.tsv
    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv --judge-runs MagicBrush=runs/a
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import UserError
from evals.core.run_directory import RunDirectory
from evals.harness import cli
from evals.metrics.agreement import against_the_rest, ceiling, compare, mean
from got.util.cli import Parser, console, number, whole
from got.util.errors import visible
from got.util.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ASPECTS = {"SC": "consistency", "PQ": "quality", "O": "overall"}
LEVELS = (0.0, 0.5, 1.0)
RESAMPLES = 2000
_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ratings:
    """One rater's file, or one judge's."""

    name: str
    items: tuple[str, ...]
    models: tuple[str, ...]
    scores: NDArray[np.float64]
    """``(items, models, 3)``: SC, PQ and overall; NaN is missing."""
    unreadable: tuple[str, ...] = ()
    """Cells that hold something else than scores, ``"uid Model: text"``."""


def parse_cell(text: str) -> tuple[float, float, float] | None:
    """SC, PQ and overall score of a cell; None if it cannot be read. A single number is SC and overall score.

    >>> parse_cell("[0.5 , 0]"), parse_cell("7"), parse_cell("[1]"), parse_cell("")
    ((0.5, 0.0, 0.0), (7.0, nan, 7.0), None, None)
    """
    pair = re.fullmatch(rf"\s*\[{_NUMBER},{_NUMBER}\]\s*", text)
    if pair:
        sc, pq = float(pair[1]), float(pair[2])
        return (sc, pq, float(np.sqrt(sc * pq))) if sc >= 0 and pq >= 0 else None
    single = re.fullmatch(_NUMBER, text)
    return (float(single[1]), float("nan"), float(single[1])) if single else None


def read_ratings(path: Path, *, human: bool) -> Ratings:
    """A TSV of ratings.

    Args:
        path: The file.
        human: Whether only 0, 0.5 and 1 are allowed.

    Raises:
        UserError: It cannot be read, has no models, or an item twice.
    """
    rows = _read_rows(path)
    # The public ratings name files, our cases do not.
    models, items = tuple(rows[0][1:]), tuple(re.sub(r"\.(jpg|png)$", "", row[0]) for row in rows[1:])
    for kind, names in (("model", models), ("item", items)):
        if len(set(names)) < len(names):
            raise UserError(f"{path}: {kind} {next(n for n in names if names.count(n) > 1)} occurs twice")
    scores = np.full((len(items), len(models), 3), np.nan)
    unreadable = []
    for i, row in enumerate(rows[1:]):
        if len(row) > len(models) + 1:
            raise UserError(f"{path}: item {items[i]} has {len(row) - 1} cells for {len(models)} models")
        for j, cell in enumerate(row[1:]):
            parsed = parse_cell(cell)
            if parsed is not None and not (human and not set(parsed[:2]) <= set(LEVELS)):
                scores[i, j] = parsed
            elif cell:
                unreadable.append(f"{items[i]} {models[j]}: {cell[:40]}")
    if np.isnan(scores[..., 0]).all():
        raise UserError(f"{path}: no cell holds scores" + (" of 0, 0.5 and 1" if human else ""))
    return Ratings(name=path.stem, items=items, models=models, scores=scores, unreadable=tuple(unreadable))


def _read_rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.split("\n"), delimiter="\t")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{path}: expected a header with item ids and models, and items below it")
    return rows


def read_runs(specs: Sequence[str]) -> list[Ratings]:
    """A judge's scores from runs of an editing suite, one record per repeat.

    Args:
        specs: ``MODEL=RUN_DIRECTORY`` with the model's name as the people's files have it.

    Raises:
        UserError: A run has no judgements, or not those of the same judge.
    """
    judges: set[str] = set()
    seen: dict[int, dict[tuple[str, str], tuple[float, float, float]]] = {}
    for spec in specs:
        model, equals, folder = spec.partition("=")
        directory = RunDirectory(Path(folder))
        lines = directory.read(directory.observations) if equals else []
        answers = [(line["case"], one) for line in lines for one in line.get("judgements", ())]
        if not answers:
            raise UserError(f"--judge-runs {spec}: expected MODEL=DIR with the judgements of a run")
        judges |= {one["judge"] for _, one in answers}
        for case, one in answers:
            cells = seen.setdefault(one["repeat"], {})
            if one["value"] is not None:
                cells[case, model] = _aspects(one)
    if len(judges) > 1:
        raise UserError(f"--judge-runs: expected runs of one judge but got {', '.join(sorted(judges))}")
    items = tuple(sorted({item for cells in seen.values() for item, _ in cells}))
    models = tuple(dict.fromkeys(spec.partition("=")[0] for spec in specs))
    found = []
    for _, cells in sorted(seen.items()):
        missing = (np.nan,) * 3
        scores = np.array([[cells.get((item, model), missing) for model in models] for item in items])
        found.append(
            Ratings(name=judges.copy().pop(), items=items, models=models, scores=scores.reshape(-1, len(models), 3))
        )
    return found


def _aspects(judgement: dict[str, Any]) -> tuple[float, float, float]:
    """SC and PQ, each the lower of its two scores as VIEScore has it, and the judge's final score."""
    parts = judgement["scores_0_10"]
    lower = [
        min((parts[name] for name in names if name in parts), default=float("nan"))
        for names in (("success", "restraint"), ("naturalness", "cleanness"))
    ]
    return lower[0], lower[1], 10 * judgement["value"]


def align(files: Sequence[Ratings], items: Sequence[str], models: Sequence[str]) -> NDArray[np.float64]:
    """Several files as one array ``(files, items, models, 3)``, by name; NaN where a file has no such cell."""
    aligned = np.full((len(files), len(items), len(models), 3), np.nan)
    for k, file in enumerate(files):
        rows = {name: i for i, name in enumerate(file.items)}
        columns = {name: j for j, name in enumerate(file.models)}
        for i, item in enumerate(items):
            for j, model in enumerate(models):
                if item in rows and model in columns:
                    aligned[k, i, j] = file.scores[rows[item], columns[model]]
    return aligned


def check_raters(raters: Sequence[Ratings]) -> None:
    """Refuses raters who did not rate the same.

    Raises:
        UserError: Fewer than two, or other items or models.
    """
    if len(raters) < 2:
        raise UserError(f"--ratings: expected two raters or more but got {len(raters)}")
    first = raters[0]
    for other in raters[1:]:
        for kind, mine, theirs in (("items", first.items, other.items), ("models", first.models, other.models)):
            odd = sorted(set(mine) ^ set(theirs))
            if odd:
                raise UserError(f"{first.name} and {other.name} differ in {len(odd)} {kind}, the first is {odd[0]}")


# ------------------------------------------------------------------------------------------------------------ agreement
def analyse(
    raters: Sequence[Ratings], judges: Sequence[Ratings], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Agreement among people, and of the judge with them, as JSON.

    Args:
        raters: The people.
        judges: Repeats of one judge, averaged; none gives the human part only.
        seed: Of the bootstrap.
        resamples: How many.
    """
    check_raters(raters)
    items, models = raters[0].items, raters[0].models
    people = align(raters, items, models)
    n = len(items)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = np.concatenate([np.ones((1, n)), drawn])
    found: dict[str, Any] = {
        "items": n,
        "models": list(models),
        "raters": [rater.name for rater in raters],
        "unreadable": [f"{one.name}: {cell}" for one in (*raters, *judges) for cell in one.unreadable],
        "scores": {},
        "human": {},
        "judge": None,
    }
    for k, aspect in enumerate(ASPECTS):
        by_rater = mean(people[..., k], 1)  # (raters, models)
        found["scores"][aspect] = [
            {"mean": float(by_rater[:, j].mean()), "sd": float(by_rater[:, j].std())} for j in range(len(models))
        ]
        found["human"][aspect] = ceiling(people[..., k], weights)
    if judges:
        found["judge"] = _against_judge(judges, items, models, people, weights)
    return found


def _against_judge(
    judges: Sequence[Ratings],
    items: Sequence[str],
    models: Sequence[str],
    people: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    """The judge against the mean of the raters, and the ceiling that these set where the judge has a say."""
    named = {model for one in judges for model in one.models}
    strange = sorted(named - set(models))
    if strange:
        raise UserError(f"--judge: nobody rated {', '.join(strange)}; the ratings are of {', '.join(models)}")
    if not {item for one in judges for item in one.items} & set(items):
        raise UserError(f"--judge: no item of {judges[0].name} is among the human ratings")
    said = mean(align(judges, items, models), 0)
    heard = {k: aspect for k, aspect in enumerate(ASPECTS) if not np.isnan(said[..., k]).all()}
    aspects = {aspect: compare(said[..., k], mean(people[..., k], 0), weights) for k, aspect in heard.items()}
    ceilings = {}
    for k, aspect in heard.items():
        # A model of which the judge has no correlation is not in its mean: the raters' would be of other models.
        counts = [one["spearman"]["value"] is not None for one in aspects[aspect]["models"]]
        there = ~np.isnan(said[..., k]) & np.array(counts)
        ceilings[aspect] = against_the_rest(np.where(there, people[..., k], np.nan))
    return {
        "name": judges[0].name,
        "repeats": len(judges),
        "missing": int(np.isnan(said[:, [model in named for model in models], 0]).sum()),
        "aspects": aspects,
        "ceiling": ceilings,
    }


# --------------------------------------------------------------------------------------------------------------- output
def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m evals.judge_agreement",
        description="Holds a judge against human ratings, and people against each other.",
        epilog="Exit codes: 0 done, 1 no correlation could be computed, 2 a mistake in the command, 130 interrupted.",
    )
    parser.add_argument("--ratings", type=Path, nargs="+", default=[], metavar="TSV", help="one file per rater")
    parser.add_argument("--judge", type=Path, nargs="+", default=[], metavar="TSV", help="one file per repeat")
    parser.add_argument("--judge-runs", nargs="+", default=[], metavar="MODEL=DIR", help="or runs of an editing suite")
    parser.add_argument(
        "--between", type=Path, nargs=2, metavar="RUN", help="two judges, or one at two dates, on the same images"
    )
    parser.add_argument(
        "--margin",
        type=number(0, 1),
        default=0.02,
        metavar="X",
        help="with --between, the largest shift that does not matter, as a share of the scale; to be comparable takes "
        "3 / X cases or source images or more (default: %(default)s)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write everything there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.judge_agreement`."""
    return cli.run_as("judge_agreement", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.between:
        return _between(args)
    if not args.ratings:
        raise UserError("give --ratings, one file per rater, or --between RUN RUN")
    raters = [read_ratings(path, human=True) for path in args.ratings]
    if args.judge and args.judge_runs:
        raise UserError("give --judge or --judge-runs, not both")
    judges = [*(read_ratings(path, human=False) for path in args.judge), *read_runs(args.judge_runs)]
    found = analyse(raters, judges, args.seed)
    if args.output:
        write_json(args.output, found, allow_nan=True)
    if not _show(found):
        sys.stderr.write(f"judge_agreement: {_NO_CORRELATION}\n")
        return cli.NOTHING_SCORED
    return 0


def _between(args: argparse.Namespace) -> int:
    from evals.judges import agreement_tables, comparability

    if len({path.resolve() for path in args.between}) == 1:
        raise UserError(f"--between {args.between[0]} {args.between[1]}: expected two runs but got one twice")
    found = comparability.compare(args.between, args.margin, args.seed)
    if args.output:
        write_json(args.output, found, allow_nan=True)
    console().print(agreement_tables.between_table(found))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


_NO_CORRELATION = (
    "no correlation could be computed: it takes a model of which two items or more have scores of both sides, and "
    "scores that vary"
)


def _show(found: dict[str, Any]) -> bool:
    """Prints tables and the headline; returns whether that holds any number."""
    from evals.judges.agreement_tables import tables

    for table in tables(found):
        console().print(table)
    for cell in found["unreadable"][:5]:
        sys.stderr.write(f"not read, taken as missing: {visible(cell)}\n")
    ceilings = found["judge"]["ceiling"] if found["judge"] else {a: found["human"][a]["rest"] for a in ASPECTS}
    headline = {aspect: one["mean"]["spearman"] for aspect, one in ceilings.items()}
    judge = found["judge"] and {
        aspect: one["mean"]["spearman"]["value"] for aspect, one in found["judge"]["aspects"].items()
    }
    line = {"items": found["items"], "unreadable": len(found["unreadable"]), "spearman": judge, "ceiling": headline}
    sys.stdout.write(json.dumps(line) + "\n")
    values = headline.values() if judge is None else judge.values()
    return any(value is not None for value in values)


if __name__ == "__main__":
    raise SystemExit(main())
