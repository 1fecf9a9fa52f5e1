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
    """Two edits as one: from the first one's source to the second one's target, which differ.

    Its chain is the first step's. All that is drawn has a place and a colour that the instruction fixes.
    """
    while True:
        first = sample_edit(rng, str(rng.choice(_FIRST)))
        second = chained(first, rng)
        if second is None:
            continue
        ground = second.target.ground_color
        edit = Edit(
            kind="steps",
            source=first.source,
            target=second.target,
            instruction=JOINT.join((first.instruction, second.instruction)),
            chain=first.chain,
            wanted="" if ground is None or ground == first.source.ground_color else ground,
        )
        words = edit.instruction.split()
        if (edit.erased or edit.drawn or edit.wanted) and all(item.color in words for item in edit.drawn):
            return edit
