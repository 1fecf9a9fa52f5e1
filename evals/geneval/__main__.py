"""`python -m evals.geneval`."""

from evals.geneval.suite import GenEval
from evals.harness import cli

if __name__ == "__main__":
    raise SystemExit(cli.main(GenEval))
