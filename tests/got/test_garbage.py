"""Nobody looks for garbage among libraries while a command loads them; elsewhere Python collects."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from got.util.garbage import paused

ROOT = Path(__file__).resolve().parents[2]
LOADS = """
import gc, os, sys

sys.argv = sys.argv[1:]  # a command's are ["-m"] while its package is imported
from got.util.garbage import loading

class Cycle:
    def __init__(self, made):
        self.made, self.itself, self.write = made, self, os.write

    def __del__(self):
        self.write(1, f"found what was made {self.made}\\n".encode())

with loading():
    kept = [[number] for number in range(100_000)]
    Cycle("while loading")
Cycle("later")
if "twice" in sys.argv:
    Cycle("between two loads")
    with loading():
        Cycle("while loading again")
more = [[number] for number in range(100_000)]
gc.disable()
Cycle("last")
"""


def found(*argv):
    done = subprocess.run([sys.executable, "-c", LOADS, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("found what was made ") for line in done.stdout.splitlines()]


def test_what_a_command_makes_while_it_loads_is_not_looked_through_before_its_end():
    assert found("-m") == ["later", "while loading", "last"]


def test_what_was_let_go_of_before_a_later_load_is_not_kept():
    assert found("-m", "twice")[:2] == ["later", "between two loads"]


def test_a_program_that_imports_the_packages_is_collected_as_ever():
    assert found("theirs.py") == ["while loading", "later", "last"]


@pytest.mark.parametrize("is_on", [True, False])
def test_a_load_that_fails_leaves_collection_as_it_was(is_on):
    code = (
        "import gc, sys; sys.argv = ['-m']\n"
        "from got.util.garbage import loading\n"
        f"if not {is_on}: gc.disable()\n"
        "try:\n"
        "    with loading(): raise ValueError\n"
        "except ValueError: print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(is_on)]


@pytest.mark.parametrize("is_on", [True, False])
def test_a_pause_leaves_collection_as_it_was(is_on):
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with paused():
            assert not gc.isenabled()
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()
