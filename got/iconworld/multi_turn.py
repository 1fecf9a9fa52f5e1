"""Instructions of two steps: an edit, and another upon what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from got.iconworld.edits import Edit, chained, sample_edit

if TYPE_CHECKING:
    import numpy as np

JOINT = " , then "
"""What stands between the steps of an instruction."""
_FIRST = ("remove", "replace", "recolor", "background")


def sample_steps(rng: np.random.Generator) -> Edit:
    """Two edits as one: from the first one's source to the second one's target.

    The second undoes nothing of the first, so each of them shows in the target. Its chain is the first step's. Where an
    object is drawn, its own step names its colour.
    """
    while True:
        first = sample_edit(rng, str(rng.choice(_FIRST)))
        second = chained(first, rng)
        if second is None or set(second.erased) & set(first.drawn) or first.kind == second.kind == "background":
            continue
        if not all(item.color in step.instruction.split() for step in (first, second) for item in step.drawn):
            continue
        grounds = [step.wanted for step in (first, second) if step.kind == "background"]
        return Edit(
            kind="steps",
            source=first.source,
            target=second.target,
            instruction=JOINT.join((first.instruction, second.instruction)),
            chain=first.chain,
            wanted=grounds[0] if grounds else "",
        )
