"""How far does a judge agree with people? Against human ratings in ImagenHub's format.

Source of protocol and format: ImagenHub (arXiv 2310.01596): per rater one TSV, a column of item ids and a column per
model, cells ``[SC, PQ]`` with values 0, 0.5 and 1: semantic consistency and perceptual quality; a cell's overall score
is ``sqrt(SC * PQ)``. The ratings are not part of this project; ImagenHub's repository holds those of three raters.

The judge's scores come in the same format, on any scale, in one TSV per repeat or a single one. A cell with one number
is a judge that gives an overall score only: it is held against SC and against the overall score. Or they come from runs
of an editing suite over each model's results, ``--judge-runs MODEL=DIR ...``.

Judge and people are compared item by item inside a model (Spearman, Kendall tau-b), then averaged over models, and by
the models' means. The ceiling is how well one rater predicts the others: a judge cannot be expected to do better.
Intervals resample items, the same ones for all models and raters. A model whose ratings do not vary has no
correlation: it is left out of the mean, and named.

    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv
    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv --judge judge.tsv
    python -m evals.judge_agreement --ratings rater1.tsv rater2.tsv rater3.tsv --judge-runs MagicBrush=runs/a
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals import cli
from evals.metrics.agreement import krippendorff_alpha, rank_correlations
from evals.records import UserError
from evals.rundir import read_lines, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.table import Table

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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter="\t")]
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
        lines, _ = read_lines(Path(folder) / "observations.jsonl") if equals else ([], 0)
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
def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean without NaN; NaN where nothing is left, without a warning."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _interval(draws: NDArray[np.float64]) -> dict[str, float | None]:
    """Point (first row), and 95 % interval of the others. Resamples without spread are left out."""
    rest = draws[1:][~np.isnan(draws[1:])]
    if np.isnan(draws[0]) or len(rest) == 0:
        return {"value": None if np.isnan(draws[0]) else float(draws[0]), "low": None, "high": None}
    low, high = np.quantile(rest, (0.025, 0.975))
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}


def compare(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Rank correlations of two ``(items, models)`` arrays: per model, their mean, pooled, and by the models' means.

    Args:
        x: Scores of one; NaN is missing.
        y: Scores of the other.
        weights: ``(1 + resamples, items)``, the first row all ones.
    """
    per_model, rhos, taus, counted = [], [], [], []
    for j in range(x.shape[1]):
        both = ~np.isnan(x[:, j]) & ~np.isnan(y[:, j])
        counted.append(int(both.sum()))
        rho, tau = rank_correlations(x[both, j], y[both, j], weights[:, both])
        per_model.append({"n": counted[-1], "spearman": _interval(rho), "kendall": _interval(tau)})
        rhos.append(rho)
        taus.append(tau)
    both = ~np.isnan(x) & ~np.isnan(y)
    pooled = rank_correlations(x[both], y[both], np.repeat(weights, both.sum(1), axis=1))
    means = [_model_means(scores, both, weights) for scores in (x, y)]
    ranking = np.array([rank_correlations(*_both(a, b))[0][0] for a, b in zip(*means, strict=True)])
    return {
        "models": per_model,
        "mean": {"spearman": _interval(_mean(np.array(rhos), 0)), "kendall": _interval(_mean(np.array(taus), 0))},
        "pooled": {"n": int(both.sum()), "spearman": _interval(pooled[0]), "kendall": _interval(pooled[1])},
        "ranking": {"spearman": _interval(ranking)},
    }


def _both(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    there = ~np.isnan(a) & ~np.isnan(b)
    return a[there], b[there]


def _model_means(
    scores: NDArray[np.float64], both: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(1 + resamples, models)`` means over the items that both have."""
    count = weights @ both
    means: NDArray[np.float64] = np.divide(
        weights @ np.where(both, scores, 0.0), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return means


def ceiling(raters: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """How well people predict people: ``(raters, items, models)`` of one aspect.

    Returns:
        ``pairs``: mean over pairs of raters; ``rest``: mean over raters, each against the mean of the others, which is
        what a judge is held against; ``alpha``: Krippendorff's, ordinal, over all cells.
    """
    point = weights[:1]
    pairs = [compare(a, b, point) for a, b in itertools.combinations(raters, 2)]
    rest = [compare(raters[k], _mean(np.delete(raters, k, 0), 0), point) for k in range(len(raters))]
    cells = raters.reshape(len(raters), -1)  # (raters, items * models)
    alpha = krippendorff_alpha(cells, np.repeat(weights, raters.shape[2], axis=1))
    return {"pairs": _average(pairs), "rest": _average(rest), "alpha": _interval(alpha)}


def _average(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean of several comparisons. No interval: pairs of three raters are too few to have one worth the name."""
    averages: dict[str, Any] = {}
    for kind in ("mean", "pooled"):
        for name in ("spearman", "kendall"):
            values = [one[kind][name]["value"] for one in found if one[kind][name]["value"] is not None]
            averages.setdefault(kind, {})[name] = float(np.mean(values)) if values else None
    per_model = [[m["spearman"]["value"] for m in one["models"]] for one in found]
    averages["models"] = [
        float(np.mean(seen)) if (seen := [v for v in column if v is not None]) else None
        for column in zip(*per_model, strict=True)
    ]
    return averages


def analyse(
    raters: Sequence[Ratings], judges: Sequence[Ratings], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Everything, as JSON.

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
        by_rater = _mean(people[..., k], 1)  # (raters, models)
        found["scores"][aspect] = [
            {"mean": float(by_rater[:, j].mean()), "sd": float(by_rater[:, j].std())} for j in range(len(models))
        ]
        found["human"][aspect] = ceiling(people[..., k], weights)
    if judges:
        known = {(item, model) for one in judges for item in one.items for model in one.models}
        wanted = set(itertools.product(items, models))
        if not known & wanted:
            raise UserError(f"--judge: no item and model of {judges[0].name} is among the human ratings")
        said = _mean(align(judges, items, models), 0)
        found["judge"] = {
            "name": judges[0].name,
            "repeats": len(judges),
            "missing": int(np.isnan(said[..., 0]).sum()),
            "aspects": {
                aspect: compare(said[..., k], _mean(people[..., k], 0), weights)
                for k, aspect in enumerate(ASPECTS)
                if not np.isnan(said[..., k]).all()
            },
        }
    return found


# --------------------------------------------------------------------------------------------------------------- output
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evals.judge_agreement",
        description="Holds a judge against human ratings, and people against each other.",
        allow_abbrev=False,
    )
    parser.add_argument("--ratings", type=Path, nargs="+", required=True, metavar="TSV", help="one file per rater")
    parser.add_argument("--judge", type=Path, nargs="+", default=[], metavar="TSV", help="one file per repeat")
    parser.add_argument("--judge-runs", nargs="+", default=[], metavar="MODEL=DIR", help="or runs of an editing suite")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write everything there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.judge_agreement`."""
    with cli.clear_errors("judge_agreement") as end:
        args = _parser().parse_args(argv)
        raters = [read_ratings(path, human=True) for path in args.ratings]
        if args.judge and args.judge_runs:
            raise UserError("give --judge or --judge-runs, not both")
        judges = [*(read_ratings(path, human=False) for path in args.judge), *read_runs(args.judge_runs)]
        found = analyse(raters, judges, args.seed)
        if args.output:
            write_atomic(args.output, (json.dumps(found, indent=2) + "\n").encode())
        _show(found)
    return end.code


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(found):
        console.print(table)
    for cell in found["unreadable"][:5]:
        sys.stderr.write(f"not read, taken as missing: {cell}\n")
    headline = {aspect: found["human"][aspect]["rest"]["mean"]["spearman"] for aspect in ASPECTS}
    judge = found["judge"] and {
        aspect: one["mean"]["spearman"]["value"] for aspect, one in found["judge"]["aspects"].items()
    }
    line = {"items": found["items"], "unreadable": len(found["unreadable"]), "spearman": judge, "ceiling": headline}
    sys.stdout.write(json.dumps(line) + "\n")


def tables(found: dict[str, Any]) -> list[Table]:
    """The judge against people, if there is one, and people among themselves."""
    from evals.judge_agreement_tables import human_table, judge_table

    return [*([judge_table(found)] if found["judge"] else []), human_table(found)]


if __name__ == "__main__":
    raise SystemExit(main())
