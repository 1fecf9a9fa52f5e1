"""`python -m evals.geneval2`."""

from evals.geneval2.suite import GenEval2
from evals.harness import cli

if __name__ == "__main__":
    raise SystemExit(cli.main(GenEval2))
