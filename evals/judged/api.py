"""What a judged benchmark is written with: base class, records, flags, questions and how their replies are read.

from evals.judged import api as judged

class Mine(judged.JudgedSuite):
    ...

if __name__ == "__main__":
    judged.main("mine")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from evals.core.records import EncodedImage, UserError
from evals.judged import files, wording
from evals.judged.options import JudgedOptions, ReadingOptions, editions
from evals.judged.records import Item, JudgedSet, Metric, origin_of
from evals.judged.suite import JudgedSuite, question
from evals.judges.calls import Call, Encoding, Sending, Shown, shown
from evals.judges.readers import Reader, any_text, json_list, json_scores, labelled, named_lines
from evals.judges.scripted import any_grade, any_list, any_numbers, either_grade, first_flag, first_score, last_digits
from evals.suite import CASES, OBSERVE, VERDICT, Case, Context, option

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""Of one image: call -> its scores by name; a call without an answer is missing."""

__all__ = [
    "CASES",
    "OBSERVE",
    "VERDICT",
    "Call",
    "Case",
    "Context",
    "EncodedImage",
    "Encoding",
    "Item",
    "JudgedOptions",
    "JudgedSet",
    "JudgedSuite",
    "Metric",
    "Reader",
    "ReadingOptions",
    "Scores",
    "Sending",
    "Shown",
    "UserError",
    "any_grade",
    "any_list",
    "any_numbers",
    "any_text",
    "editions",
    "either_grade",
    "files",
    "first_flag",
    "first_score",
    "json_list",
    "json_scores",
    "labelled",
    "last_digits",
    "main",
    "named_lines",
    "option",
    "origin_of",
    "question",
    "shown",
    "wording",
]


def main(name: str) -> None:
    """What the file of a suite ends with: its command line, by the suite's name."""
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main(name))
