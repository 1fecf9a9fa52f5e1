"""Ctrl-C at any moment of a command's start: one line and exit status 130, whichever library is being loaded."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for package in ("got", "evals", "reports")
    for path in (ROOT / package).rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)
PRESSES = """
import importlib.abc, os, signal, sys

class Presses(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == os.environ["PRESSED_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses())
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs a command that gets Ctrl-C when it comes to load a module; returns it once it has ended."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "sitecustomize.py").write_text(PRESSES)

    def run(words, module):
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PRESSED_AT": module}
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}  # a background job's
        return subprocess.run(
            [sys.executable, "-m", *words],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **heed,
        )

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_a_command_loads_is_one_word(start, command):
    done = start([command], "argparse")
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


DRAWS = ["got", "generate", "a photo of a dog", "--output", "x.png"]
SCORES = ["evals.geneval", "--model", "oracle", "--limit", "1", "--device", "cpu", "--output", "run"]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (SCORES, "numpy"),
        (SCORES, "evals.harness.runner"),
        (SCORES, "PIL.Image"),
        (DRAWS, "got.cli.draw"),
        (DRAWS, "numpy"),
        (DRAWS, "torch"),
    ],
)
def test_ctrl_c_while_a_command_loads_what_it_works_with_is_one_line(start, words, module):
    done = start(words, module)
    assert done.returncode in (130, -signal.SIGINT)  # a shell shows 130 for both
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2  # a note may stand before


def test_a_program_that_imports_the_packages_keeps_its_own_ctrl_c():
    code = (
        "import signal; own = signal.getsignal(signal.SIGINT)\n"  # none, begun by a shell with &
        "import got, evals, reports; assert signal.getsignal(signal.SIGINT) is own"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
