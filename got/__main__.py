"""Command line of the model.

    python -m got generate "a photo of a red apple and a blue dog"
    python -m got edit photo.png "make the dog green"
    python -m got chat
    python -m got studio
    python -m got info

The last line of standard output is one JSON object; everything else about progress goes to standard error.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from got.cli.parser import build_parser
from got.util.cli import run_command
from got.util.hub import local_folder, read_index
from got.util.interrupts import leave

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULES = {
    "generate": "got.cli.draw",
    "edit": "got.cli.draw",
    "chat": "got.cli.chat",
    "studio": "got.studio.command",
    "info": "got.cli.info",
    "convert": "got.cli.convert",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one line and exit status 2."""
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> dict[str, Any]:
        arguments = build_parser().parse_args(words)
        if arguments.command not in ("info", "convert") and (folder := local_folder(arguments.checkpoint)) is not None:
            read_index(folder)  # here, because what loads a checkpoint takes seconds to import
        result: dict[str, Any] = importlib.import_module(_MODULES[arguments.command]).run(arguments)
        return result

    return run_command(run)


if __name__ == "__main__":
    leave(main())
