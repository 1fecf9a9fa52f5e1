"""GenEval: prompts and options in, scores out. Knows no back-end: images are observed through `Tools`."""

from evals.geneval.suite import SUITE, GenEval, Options, keep, verdict

__all__ = ["SUITE", "GenEval", "Options", "keep", "verdict"]
