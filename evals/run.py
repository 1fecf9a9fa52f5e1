"""Any suite by name: those of this package, and those that installed packages announce.

python -m evals.run geneval --model oracle --limit 12
python -m evals.run their_suite --model got
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.harness import cli
from evals.harness.run_spec import find_suite, suite_names
from got.util.interrupts import leave

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.run`."""
    words = list(sys.argv[1:] if argv is None else argv)
    usage = (
        f"usage: python -m evals.run SUITE [flags]; suites: {', '.join(suite_names())}; SUITE --help tells its flags"
    )
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(f"{usage}\n")
        return 0

    def run() -> int:
        if not words or words[0].startswith("-"):
            raise UserError(usage)
        return cli.main(find_suite(words[0]), words[1:])

    return cli.run_as("run", run)


if __name__ == "__main__":
    leave(main())
