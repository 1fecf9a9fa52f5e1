"""Reason-Edit: edits whose object is named by side, size, colour or what it is for.

Source: Huang et al., *SmartEdit: Exploring Complex Instruction-based Image Editing with Multimodal Large Language
Models*, arXiv 2312.06739, and its evaluation set of 219 edits in six categories, which a user brings as a folder.
SmartEdit sums up understanding (the first five, over samples, not over categories) apart from reasoning; tables do so
in the line "understanding, pooled" beside the category of reasoning. Without ``--data`` the icon world's edition is
run: 300 edits in the six categories, among them objects described by what they are for, two descriptions of each of
the 80 classes.

    python -m evals.reason_edit --model got
    python -m evals.reason_edit --model folder:results --data ReasonEdit --judge openai
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.editing import icon_cases, published
from evals.editing.options import PublishedOptions
from evals.editing.suite import EditingSuite

if TYPE_CHECKING:
    from evals.editing.datasets import EditSet


def is_understanding(category: str) -> bool:
    """Whether SmartEdit counts a category to "understanding", which it sums up apart from reasoning.

    >>> is_understanding("3-Mirror"), is_understanding("6-Reasoning"), is_understanding("reasoning")
    (True, False, False)
    """
    return "reasoning" not in category.lower()


class ReasonEdit(EditingSuite):
    """The benchmark."""

    name = "reason_edit"
    version = 4
    title = "Reason-Edit"
    protocol = "smartedit"
    options = PublishedOptions
    pools = {"understanding": is_understanding}  # noqa: RUF012

    def load(self, options: PublishedOptions) -> EditSet:
        """The published set, or the icon world's edition."""
        if options.data is None:
            return icon_cases.icon_set(self.name)
        return published.load_reason_edit(options.data)


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("reason_edit"))
