"""What `python -m evals` alone says: which benchmarks there are, and how one is run."""

from __future__ import annotations

import sys

from evals.core.records import UserError
from evals.harness import cli
from evals.harness.run_spec import SUITES, suite_names

_OTHERS = ("ablation", "merge", "judged", "judge_agreement", "geneval_reference")


def main() -> int:
    """Lists what can be run."""

    def work() -> int:
        if words := [word for word in sys.argv[1:] if word not in ("-h", "--help")]:
            raise UserError(f"python -m evals alone takes no arguments but got {words[0]}; it lists what can be run")
        others = [name for name in suite_names() if name not in SUITES]
        sys.stdout.write("benchmarks, each with --help:\n")
        sys.stdout.writelines(f"  python -m evals.{name}\n" for name in SUITES)
        sys.stdout.writelines(f"  python -m evals.run {name}\n" for name in others)
        sys.stdout.write("what is done with their runs:\n")
        sys.stdout.writelines(f"  python -m evals.{name}\n" for name in _OTHERS)
        return 0

    return cli.run_as("evals", work)


if __name__ == "__main__":
    raise SystemExit(main())
