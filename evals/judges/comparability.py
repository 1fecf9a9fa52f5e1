"""Two judges, or one judge at two dates, on the same images: do they agree, and by how much does one give more?

The shift is the mean difference of an image's own headline value, with a bootstrap over cases, of edits over
whole source images. Two judges are comparable if the whole interval of the shift lies within a margin, over so many of
these that a shift of the whole scale in more than the margin's share of them would have shown (the rule of three); that
no difference shows is not enough.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import UserError
from evals.core.run_directory import RunDirectory, key_of
from evals.metrics.agreement import rank_correlations
from evals.metrics.statistics import by_cluster, ratio
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COMPARABLE, NOT, UNKNOWN = "comparable", "not comparable", "not known: too few images for this margin"


def compare(runs: Sequence[Path], margin: float, seed: int) -> dict[str, Any]:
    """Agreement of the judges of two runs over the images that both judged.

    Args:
        runs: Two run directories of one suite with the same images.
        margin: Largest shift that does not matter, as a share of the scale.
        seed: Of the bootstrap.

    Raises:
        UserError: They are of two suites or metrics, share no image, or an image of theirs differs.
    """
    first, second = (_Judged(path) for path in runs)
    if first.metric != second.metric:
        raise UserError(f"--between: {runs[0]} measures {first.metric}, {runs[1]} {second.metric}")
    shared = [key for key in first.values if key in second.values]
    if not shared:
        raise UserError(f"--between: no image has a value in both {runs[0]} and {runs[1]}")
    other = [key for key in shared if first.images.get(key) != second.images.get(key)]
    if other:
        case, index = other[0]
        raise UserError(
            f"--between: {counted(len(other), 'images', 'differ', of=len(shared))}, the first is {case}/{index}"
        )
    a, b = (np.array([run.values[key] for key in shared]) for run in (first, second))
    return {
        "metric": first.metric,
        "judges": [first.judge, second.judge],
        "images": len(shared),
        "left_out": len(first.values.keys() ^ second.values.keys()),
        **agreement(a, b, [first.groups[key] for key in shared], first.scale, margin, np.random.default_rng(seed)),
    }


def agreement(
    a: NDArray[np.float64], b: NDArray[np.float64], clusters: Sequence[str], scale: tuple[float, float], margin: float,
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """What two judges have in common. Pure.

    Args:
        a: ``(images,)`` values of one judge.
        b: ``(images,)`` of the other, in the same order.
        clusters: Source image or case of each.
        scale: Least and largest value.
        margin: Largest shift that does not matter, as a share of the scale.
        rng: Source of the resamples.

    >>> same = np.array([0.0, 1.0] * 75)
    >>> found = agreement(same, same, [str(i) for i in range(150)], (0, 1), 0.02, np.random.default_rng(0))
    >>> found["equal"], found["shift"]["value"], found["verdict"]
    (1.0, 0.0, 'comparable')
    """
    shift = ratio(*by_cluster(list(b - a), list(clusters)), rng).as_dict()
    alike = bool(np.all(a == b))
    spearman = None if len(set(a)) < 2 or len(set(b)) < 2 else float(np.ravel(rank_correlations(a, b)[0])[0])
    reach = margin * (scale[1] - scale[0])
    low, high = (0.0, 0.0) if alike else (shift["low"], shift["high"])
    return {
        "equal": float(np.mean(a == b)),
        "spearman": spearman,
        "means": [float(a.mean()), float(b.mean())],
        "shift": shift,
        "margin": reach,
        "verdict": _verdict(low, high, reach, enough=3 / len(set(clusters)) <= margin),
    }


def _verdict(low: float | None, high: float | None, reach: float, *, enough: bool = True) -> str:
    """The verdict that follows from the interval of the shift.

    >>> _verdict(-0.01, 0.01, 0.02), _verdict(0.03, 0.05, 0.02), _verdict(-0.1, 0.1, 0.02)[:9]
    ('comparable', 'not comparable', 'not known')
    >>> _verdict(0, 0, 0.02, enough=False)
    'not known: too few images for this margin'
    """
    if low is None or high is None:
        return UNKNOWN
    if -reach <= low and high <= reach:
        return COMPARABLE if enough else UNKNOWN
    return NOT if low > reach or high < -reach else UNKNOWN


class _Judged:
    """A run's headline value of each image."""

    def __init__(self, path: Path) -> None:
        run = RunDirectory(path)
        scores = run.read_scores()
        if scores is None:
            raise UserError(f"--between: {path} is no finished run")
        seen = run.read(run.observations)
        keys = [key_of(line) for line in seen]
        self.images = {key_of(line): line["sha256"] for line in run.read(run.chains)}
        self.scale = (0.0, 1.0)
        lines = run.read(run.results)
        if "metrics" in scores:
            name, how = next(iter(scores["metrics"]["names"].items()))
            self.metric, self.scale = f"{scores['edition']}/{name}", (how["scale"][0], how["scale"][1])
            self.judge = str(scores["judge"]["name"])
            found = [line.get("values", {}).get(how["of"][0]) for line in lines]
        elif (scores.get("overall") or {}).get("judge"):
            self.metric, self.judge = f"{scores['suite']}/judge", str(scores["overall"]["judge"]["judge"])
            found = [_mean(line["judge"]) for line in lines]
        else:
            raise UserError(f"--between: no judge was asked in {path}")
        facts = [json.loads(line.get("metadata", "{}")) for line in lines]
        of = [line.get("group") or one.get("group") for line, one in zip(seen, facts, strict=True)]
        self.groups = {key: str(group or key[0]) for key, group in zip(keys, of, strict=True)}
        pairs = zip(keys, found, strict=True)
        self.values: Mapping[tuple[str, int], float] = {key: value for key, value in pairs if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
