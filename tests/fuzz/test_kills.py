"""kill -9 at random moments of a run: whatever is left, the same command ends with the bytes of a run left alone.

20 kills in a test run; ``KILLS=1000 pytest tests/fuzz/test_kills.py -m slow`` for a night.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner_kit import contents, plan_like_reference, small_environment

from evals.harness.runner import run

KILLS = int(os.environ.get("KILLS", "20"))
KIT = Path(__file__).parents[1] / "kits" / "runner_kit.py"
WORDS = ("--limit", "12", "--batch-size", "5", "--seconds", "0.05")


def killed_after(folder, seconds):
    """Starts or resumes a run and kills it so long after it holds its folder; whether there was something to kill."""
    command = [sys.executable, str(KIT), str(folder), *WORDS]
    with subprocess.Popen(command, env=small_environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not held(folder, process.pid):
            time.sleep(0.002)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        said = process.communicate()[1]
    assert process.returncode in (0, -9), said
    return process.returncode == -9


def held(folder, number):
    lock = folder / ".lock"
    return lock.exists() and lock.read_text().strip() == str(number)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    reference = tmp_path / "reference"
    run(plan_like_reference(reference))
    rng, kills, runs = random.Random(KILLS), 0, 0
    while kills < KILLS:
        folder = tmp_path / "run"
        while kills < KILLS and killed_after(folder, rng.uniform(0, 0.6)):
            kills += 1
        run(plan_like_reference(folder))
        runs += 1
        assert contents(folder) == contents(reference), f"after {kills} kills"
        assert not list(folder.rglob("*.part"))
        shutil.rmtree(folder)
    assert runs
