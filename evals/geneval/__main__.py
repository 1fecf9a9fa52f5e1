"""`python -m evals.geneval`."""

from evals.geneval.suite import SUITE
from evals.harness import cli

if __name__ == "__main__":
    raise SystemExit(cli.main(SUITE))
