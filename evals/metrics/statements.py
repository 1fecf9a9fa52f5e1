"""What may be said of estimates and differences, in words that agree with their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.metrics.statistics import least_p
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evals.metrics.statistics import Difference

LEVEL = 0.05
"""Below this p value a difference is no chance; the intervals beside it hold 95 %."""


def wording(difference: Difference, unit: str, p_value: float | None = None) -> str:
    """What may be said of a difference.

    Args:
        difference: As `paired_difference` gives it.
        unit: What its cases are: prompts, edits, or cases where they may be either.
        p_value: Its p value after a correction, if there are several comparisons.

    >>> import numpy as np
    >>> from evals.metrics.statistics import paired_difference
    >>> rng = np.random.default_rng(0)
    >>> wording(paired_difference([0.0] * 40, [0.75, 1.0] * 20, rng), "prompts")
    'better'
    >>> wording(paired_difference([0.5, 1.0, 0.0, 0.25] * 9, [0.5, 0.75, 0.25, 0.25] * 9, rng), "prompts")
    'not distinguishable (36 prompts, interval 0.16 wide)'

    Where interval and test disagree, it says which of the two decides:

    >>> from evals.metrics.statistics import Difference
    >>> change = Difference(value=0.2, low=0.01, high=0.4, p_value=0.0625, cases=5, distinguishable=False)
    >>> wording(change, "edits")
    'not distinguishable (5 edits, interval 0.39 wide without 0, but permutation test p = 0.0625)'
    >>> import dataclasses
    >>> wording(dataclasses.replace(change, p_value=0.02, distinguishable=True), "edits", p_value=0.12)
    'not distinguishable (5 edits, interval 0.39 wide without 0, but corrected permutation test p = 0.1200)'
    >>> wording(dataclasses.replace(change, low=-0.01, p_value=0.02), "edits")
    'not distinguishable (5 edits, interval 0.41 wide with 0 in it, though permutation test p = 0.0200)'
    """
    decisive = difference.p_value if p_value is None else p_value
    rejected, excluded = decisive < LEVEL, not difference.low <= 0 <= difference.high
    if difference.distinguishable and rejected:
        return "better" if difference.value > 0 else "worse"
    why = f"{counted(difference.cases, unit)}, interval {difference.high - difference.low:.2f} wide"
    test = f"{'' if p_value is None else 'corrected '}permutation test p = {decisive:.4f}"
    if excluded:
        why += f" without 0, but {test}"
    elif rejected:
        why += f" with 0 in it, though {test}"
    return f"not distinguishable ({why})"


def brief(words: str) -> str:
    """A wording for a narrow column, without its reasons: p and the interval stand beside it.

    >>> brief("not distinguishable (36 prompts, interval 0.16 wide)"), brief("better")
    ('not distinguishable', 'better')
    """
    return words.partition(" (")[0]


def too_few(clusters: int, comparisons: int, unit: str) -> str:
    """What to say where no comparison can come out better or worse, whatever its images show; empty elsewhere.

    Args:
        clusters: Prompts or source images that are compared.
        comparisons: How many p values are corrected for each other.
        unit: What the clusters are, in the plural.

    >>> too_few(6, 4, "prompts")
    '6 prompts cannot tell 4 variants from the first: no corrected p is below 0.125; it takes 8 prompts'
    >>> too_few(8, 4, "prompts"), too_few(0, 4, "prompts")
    ('', '')
    """
    if clusters == 0 or comparisons == 0 or least_p(clusters, comparisons) < LEVEL:
        return ""
    few = f"{counted(clusters, unit)} cannot tell {counted(comparisons, 'variants')} from the first"
    needed = next((n for n in range(clusters, 64) if least_p(n, comparisons) < LEVEL), None)
    takes = f"it takes {needed} {unit}" if needed else "there are too many variants"
    return f"{few}: no corrected p is below {least_p(clusters, comparisons):.3g}; {takes}"


def why_no_interval(estimate: Mapping[str, Any]) -> str | None:
    """Why an estimate, as `Estimate.as_dict` gives it, has no interval; None where it has one.

    >>> from evals.metrics.statistics import NOTHING
    >>> why_no_interval(NOTHING.as_dict())
    'nothing was scored'
    >>> why_no_interval({"value": 0.5, "low": None, "high": None, "n": 4, "clusters": 1})
    'one prompt or source image alone: resampling says nothing'
    >>> why_no_interval({"value": 0.5, "low": None, "high": None, "n": 8, "clusters": 2})
    'all equal, over 2 prompts or source images'
    """
    if estimate.get("low") is not None:
        return None
    if estimate["value"] is None:
        return "nothing was scored"
    if estimate.get("clusters", 0) < 2:  # a run of before does not say
        return "one prompt or source image alone: resampling says nothing"
    return f"all equal, over {estimate['clusters']:,} prompts or source images"


def no_intervals(named: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A sentence for each reason why estimates that have a value have no interval, with the names of these.

    >>> from evals.metrics.statistics import NOTHING
    >>> alone = {"value": 0.5, "low": None, "high": None, "n": 4, "clusters": 1}
    >>> no_intervals([("box IoU", alone), ("offset", alone), ("recall", NOTHING.as_dict())])
    ['no interval of box IoU, offset: one prompt or source image alone: resampling says nothing']
    """
    reasons: dict[str, list[str]] = {}
    for name, estimate in named:
        if estimate["value"] is not None and (why := why_no_interval(estimate)):
            reasons.setdefault(why, []).append(name)
    return [f"no interval of {', '.join(names)}: {why}" for why, names in reasons.items()]
