"""What a benchmark is made of: its base class, options, records, and what benchmarks share. Knows no benchmark.

A suite of another package imports from here and from its modules alone, a judged one from `evals.judged.api`.
"""

from evals.core.backends import Tools
from evals.core.options import CASES, GENERATE, OBSERVE, RUN, VERDICT, option
from evals.core.records import Case, Detection, Drawn, Sample, Score, Scored, UserError
from evals.core.vocabulary import CLASSES, COLORS
from evals.suite.base import Context, NoOptions, Suite

__all__ = [
    "CASES",
    "CLASSES",
    "COLORS",
    "GENERATE",
    "OBSERVE",
    "RUN",
    "VERDICT",
    "Case",
    "Context",
    "Detection",
    "Drawn",
    "NoOptions",
    "Sample",
    "Score",
    "Scored",
    "Suite",
    "Tools",
    "UserError",
    "option",
]
