"""How the command lines end: one JSON object as the last line, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def answer(work: Callable[[], dict[str, Any]], interrupted: str = "interrupted") -> int:
    """Do the work, print what it returns, and return the exit status.

    The status is 1 if the result's ``ok`` is false; 2 after a user's mistake (`ValueError`, `OSError`), which ends in
    one line; 130 after Ctrl-C, which ends in the line `interrupted`; and 141 where nobody reads the output on.
    """
    try:
        result = work()
        print(json.dumps(result), flush=True)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Without this, Python complains of it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"error: {' '.join(line.strip() for line in lines)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return int(not result.get("ok", True))


def read_object(path: Path, error: type[ValueError]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: The given kind of it, if the file cannot be read, is damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise error(f"Cannot read {path}: {problem.strerror}") from problem
    except ValueError as problem:
        raise error(f"{path} is damaged, not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise error(f"Expected a JSON object in {path} but got {type(content).__name__}")
    return content
