"""`python -m evals.geneval`."""

from evals.geneval.suite import GenEval
from evals.harness import cli
from got.util.interrupts import leave

if __name__ == "__main__":
    leave(cli.main(GenEval))
