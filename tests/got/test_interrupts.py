"""How the process of a command ends."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys

argv, sys.argv = sys.argv[1:], ["-m"]  # a command's while its package is imported
from got.util.interrupts import leave

sys.argv = argv
"""
CYCLE = """
import os

class Cycle:
    def __init__(self):
        self.itself, self.write = self, os.write

    def __del__(self):
        self.write(1, b"taken apart\\n")

kept = Cycle()
"""
REST = """
import atexit, tempfile, threading, time

atexit.register(print, "atexit")
folder = tempfile.TemporaryDirectory()
print(folder.name)
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
"""


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-c", COMMAND + code], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("status", [0, 1, 2, 130, 141])
def test_a_command_leaves_with_its_status_and_everything_it_printed(status):
    done = run(f"print('a' * 100_000); leave({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "a" * 100_000 + "\n", "")


def test_a_command_that_leaves_takes_nothing_apart():
    assert run(CYCLE + "leave(0)").stdout == ""
    assert run(CYCLE + "raise SystemExit(0)").stdout == "taken apart\n"


def test_threads_exit_handlers_and_temporary_folders_end_as_ever():
    done = run(REST + "leave(3)")
    folder, *said = done.stdout.splitlines()
    assert (done.returncode, said) == (3, ["thread", "atexit"])
    assert not Path(folder).exists()


def test_an_error_keeps_its_traceback_and_status():
    done = run("raise ValueError('a bug')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: a bug\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no file that is always full")
def test_output_that_cannot_be_written_is_no_success():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        code = COMMAND + "print('lost'); leave(0)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 120, done.stderr
    assert "No space left" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(tmp_path, closed):
    words = [sys.executable, "-m", "evals.geneval", "--export-prompts", str(tmp_path / "asked"), "--limit", "1"]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(words)} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines()) <= 3) == (0, True), done.stderr
    assert (tmp_path / "asked" / "00000" / "metadata.jsonl").exists()


def test_a_program_that_imports_the_packages_ends_in_its_own_way():
    code = COMMAND.replace('["-m"]', '["theirs.py"]') + CYCLE + "leave(4)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "taken apart\n")


@pytest.mark.parametrize("status", [0, 2])
def test_a_whole_command_says_nothing_at_its_end_but_its_own_words(tmp_path, status):
    words = ["a photo of a bus", "--steps", "1", "--output", str(tmp_path / "drawn")]
    wrong = ["--width", "4"] if status else []  # refused when the checkpoint has been loaded
    command = [sys.executable, "-m", "got", "generate", *words, *wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert "leaked" not in done.stderr
