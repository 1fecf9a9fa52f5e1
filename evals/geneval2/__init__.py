"""GenEval 2: prompts of 3 to 10 atoms and one question for each atom. Knows no back-end: images come in as `Drawn`."""

from evals.geneval2.options import Options
from evals.geneval2.suite import GenEval2

__all__ = ["GenEval2", "Options"]
