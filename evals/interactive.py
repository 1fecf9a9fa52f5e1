"""Obedience: a person changes one thing in a plan; does the picture follow, and does the rest stay?

GoT's paper shows interactive generation in pictures; this suite measures it. 1,500 prompts of the icon world, each with
a flawless plan in which one box got another object (`replace`), moved (`move`) or changed its colour (`recolor`), 500
of each. The model draws the changed plan. A detector looks for the new object in its box (IoU of 0.5 or more for a
moved one), its colour, and every object that was not touched. Floor: a picture of the unchanged plan. Ceiling: the icon
world's render of the changed one.

    python -m evals.interactive --model got
    python -m evals.interactive --model oracle
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.editing import icon_cases, suite

if TYPE_CHECKING:
    import argparse

    from evals.editing.datasets import EditSet

CASES = 1500


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """It has none of its own."""
    del group


def load(args: argparse.Namespace) -> EditSet:
    """The changed plans, kinds in turn."""
    del args
    return icon_cases.intervention_set(CASES)


SUITE = suite.make_suite(
    name="interactive",
    version=1,
    protocol="emu-edit",
    title="Interactive generation",
    add_arguments=add_arguments,
    load=load,
)

if __name__ == "__main__":
    from evals.harness import cli

    raise SystemExit(cli.main(SUITE))
