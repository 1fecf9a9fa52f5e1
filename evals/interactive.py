"""Changed plans: a person changes one thing in a plan; does the image follow, and does the rest stay?

GoT's paper shows interactive generation in images; this suite measures it. 1,500 prompts of the icon world, each with
a flawless plan in which one box got another object (`replace`), moved (`move`) or changed its colour (`recolor`), 500
of each. The model draws the changed plan. A detector looks for the new object in its box (IoU of 0.5 or more for a
moved one), its colour, and every object that was not touched. Floor: an image of the unchanged plan. Ceiling: the icon
world's render of the changed one.

    python -m evals.interactive --model got
    python -m evals.interactive --model oracle
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.editing import icon_cases
from evals.editing.options import EditOptions
from evals.editing.suite import EditingSuite

if TYPE_CHECKING:
    from evals.editing.datasets import EditSet

CASES = 1500


class Interactive(EditingSuite):
    """The benchmark."""

    name = "interactive"
    version = 1
    title = "Interactive generation"
    protocol = "emu-edit"

    def load(self, options: EditOptions) -> EditSet:
        """The changed plans, kinds in turn."""
        return icon_cases.intervention_set(CASES)


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("interactive"))
