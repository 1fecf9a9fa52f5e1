"""`python -m evals.geneval2`."""

from evals.geneval2.suite import GenEval2
from evals.harness import cli
from got.util.interrupts import leave

if __name__ == "__main__":
    leave(cli.main(GenEval2))
