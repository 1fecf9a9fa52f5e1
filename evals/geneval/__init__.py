"""GenEval: prompts and options in, verdicts and scores out. Knows no back-end: images are observed through `Tools`."""

from evals.geneval.suite import SUITE, Options, keep, verdict

__all__ = ["SUITE", "Options", "keep", "verdict"]
