"""Multi-turn editing: one instruction of two steps, of which each is drawn upon the image of the one before.

GoT's paper shows such edits in images and gives no numbers; this suite measures them. 200 sources of the icon world,
each with two edits in one instruction ("remove the dog , then change the background to pink"): removals, replacements,
other colours, other backgrounds. The model may draw up to four images and decides by itself when it is done. A detector
looks at the last one: is all that goes gone, all that comes in its place and colour, and is the rest untouched? A
model that draws once has one image to do both in. No verdict tells plan from drawing: an image has several plans.

    python -m evals.multi_turn --model got
    python -m evals.multi_turn --model oracle
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.editing import icon_cases
from evals.editing.options import EditOptions
from evals.editing.suite import EditingSuite

if TYPE_CHECKING:
    from evals.editing.datasets import EditSet

CASES, MOST_TURNS = 200, 4


class MultiTurn(EditingSuite):
    """The benchmark."""

    name = "multi_turn"
    version = 1
    title = "Multi-turn editing"
    protocol = "emu-edit"

    def load(self, options: EditOptions) -> EditSet:
        """The instructions of two steps."""
        return icon_cases.multi_turn_set(CASES, MOST_TURNS)


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("multi_turn"))
