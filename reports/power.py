"""How many prompts and images a gate needs, by what a baseline tells of its images."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from evals.core.records import UserError
from got.util.tables import counted
from reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    from reports.compare import Outcomes

IMAGES = (1, 2, 4, 8)
"""Images of each prompt in the table."""
_LIKENESS = 0.3
"""Correlation of what happens to two images of one prompt."""
CERTAINTY = 0.8


def within(baseline: Outcomes) -> float:
    """Variance of an image's verdict among images of one prompt, in [0, 0.25]: what another seed changes.

    Raises:
        UserError: No prompt has two images with a verdict.
    """
    variances = []
    for values in baseline.right.values():
        known = [value for value in values if value is not None]
        if len(known) > 1:
            variances.append(float(np.var(known, ddof=1)))
    if not variances:
        why = "nothing tells how images of a prompt differ"
        raise UserError(
            f"{baseline.name} has no prompt with two images: {why}; make one with --images-per-prompt of 2 or more"
        )
    return float(np.mean(variances))


def prompts_needed(drop: float, noise: float, images: int, alpha: float = 0.05, certainty: float = CERTAINTY) -> int:
    """Prompts with which a gate finds that the score is lower by `drop`.

    The paired difference of a prompt varies by what the drop takes (images of one prompt are lost together, with
    correlation 0.3) and by `noise`, images that change either way by chance. A gate that allows half of the drop then
    says regression with probability `certainty`, where the normal distribution holds.

    Args:
        drop: In (0, 1].
        noise: Variance of an image's change that has nothing to do with the drop.
        images: Of each prompt.
        alpha: Level of the gate's test.
        certainty: In (0.5, 1).

    >>> prompts_needed(0.01, 0.0, 4), prompts_needed(0.02, 0.0, 4), prompts_needed(0.02, 0.02, 4)
    (370, 183, 281)
    """
    taken = drop * (1 - drop) * (1 + (images - 1) * _LIKENESS) / images
    level, sure = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(certainty)
    reach = max(level + sure, 2 * sure)  # what is found must be significant, and more than half of the drop
    least = math.ceil(math.log2(2 / alpha))  # of which a permutation test can reject anything at all
    return max(math.ceil((taken + noise / images) * (reach / drop) ** 2), least)


def table(baseline: Outcomes, drop: float, alpha: float, certainty: float) -> tuple[Table, dict[str, object]]:
    """What a gate for a drop of that size needs, for people and in numbers.

    Args:
        baseline: Of which kind of images.
        drop: What is to be found.
        alpha: Level of the gate's test.
        certainty: How often.
    """
    varies = within(baseline)
    rows, numbers = [], {}
    for images in IMAGES:
        found = [prompts_needed(drop, noise, images, alpha, certainty) for noise in (0.0, 2 * varies)]
        cells = tuple(Cell(text=f"{prompts:,} ({prompts * images:,})") for prompts in found)
        rows.append(Row(label=f"{counted(images, 'images')} per prompt", images="", cells=cells))
        numbers[str(images)] = found
    own = len(baseline.right), max(map(len, baseline.right.values()))
    noise = f"in the baseline the verdicts of images of one prompt have variance {varies:.4f}"
    if not varies:
        noise = "in the baseline no two images of a prompt differ in their verdict, so that both columns are equal"
    made = Table(
        name="power",
        caption=f"Prompts (and images) with which a gate that allows a drop of {drop / 2:g} finds one of {drop:g} in "
        f"{certainty:.0%} of all cases, at level {alpha:g}.",
        columns=(Column(key="same", title="same images"), Column(key="anew", title="drawn anew")),
        rows=tuple(rows),
        notes=(
            "Same images: the change redraws bit by bit what it does not spoil, as a refactoring does.",
            f"Drawn anew: every image may change either way, as with another sampler or precision; {noise}.",
            f"Images of a prompt are lost together, with correlation {_LIKENESS:g}. The baseline has "
            f"{counted(own[0], 'prompts')} with {counted(own[1], 'images')} each.",
            f"The gate: `python -m reports gate --max-drop {drop / 2:g}`.",
        ),
    )
    return made, {"drop": drop, "max_drop": drop / 2, "certainty": certainty, "prompts_by_images": numbers,
                  "baseline_prompts": own[0], "baseline_images_per_prompt": own[1]}  # fmt: skip
