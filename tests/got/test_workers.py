"""The queue that workers are served from: nothing is lost or doubled, and results come in order, whoever dies."""

import os
import random
import subprocess
import sys
import tempfile
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from got.util.errors import UserError
from got.util.workers.files import _own_folder
from got.util.workers.queue import Queue

BATCHES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=12)


@hypothesis.given(BATCHES, st.integers(1, 6), st.integers(0, 2**32), st.floats(0, 0.9))
def test_every_item_comes_out_once_and_in_order(batches, ahead, seed, mortality):
    rng, out, held = random.Random(seed), [], []
    queue = Queue(batches, ahead, lost=lambda item, why: ("lost", item))
    while not queue.is_over:
        task = queue.take()
        if task is not None:
            held.append(task)
        if held and (task is None or rng.random() < 0.5):
            one = held.pop(rng.randrange(len(held)))
            end = rng.random()
            if end < mortality / 2:
                queue.died(one, "killed")
            elif end < mortality:
                queue.again(one)
            else:
                queue.done(one, [("done", item) for item in one.items])
        out += queue.finished()
    assert [[item for _, item in results] for results in out] == batches
    assert queue.take() is None


@hypothesis.given(BATCHES, st.integers(1, 6))
def test_no_more_batches_are_out_than_may_wait(batches, ahead):
    queue = Queue(batches, ahead, lost=lambda item, why: item)
    taken = []
    while (task := queue.take()) is not None:
        taken.append(task)
    assert len(taken) == min(ahead, len(batches))
    for task in reversed(taken[1:]):
        queue.done(task, list(task.items))
    assert list(queue.finished()) == []  # the first one is not there


def test_only_the_item_that_kills_is_given_up():
    queue = Queue([[1, 2, 3], [4]], 9, lost=lambda item, why: f"{item}: {why}")
    deaths = 0
    while (task := queue.take()) is not None:
        if 2 in task.items:
            deaths += 1
            queue.died(task, "killed")
        else:
            queue.done(task, [str(item) for item in task.items])
    assert list(queue.finished()) == [["1", "2: killed", "3"], ["4"]]
    assert deaths == 5  # three of the batch, two of the item


def test_files_go_to_a_folder_of_ones_own_alone(tmp_path, monkeypatch):
    """Anybody may have made a folder of that name in a temporary folder that all share."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = _own_folder()
    assert (folder, folder.stat().st_mode & 0o777) == (_own_folder(), 0o700)
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(UserError, match="expected a folder of your own"):
            _own_folder()
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    for target in ("theirs", "nothing"):
        folder.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match="expected a folder of your own"):
            _own_folder()
        folder.unlink()
    folder.mkdir(mode=0o700)
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    folder.rename(tmp_path / f"got-bench-{os.getuid()}")
    with pytest.raises(UserError, match="expected a folder of your own"):
        _own_folder()


_HOLDS = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from got.util.workers import files
place = files._own_folder() / "weights"
files._hold(place)
place.mkdir(exist_ok=True)
(place / "w").touch()
print("held", flush=True)
time.sleep(60)
"""


def test_what_was_sent_is_removed_when_the_last_worker_that_uses_it_is_killed(tmp_path):
    words = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE) as first,
        subprocess.Popen(words, stdout=subprocess.PIPE) as second,
    ):
        try:
            assert [one.stdout.readline() for one in (first, second)] == [b"held\n"] * 2
            folder = next(tmp_path.iterdir())
            first.kill()
            time.sleep(1)
            assert sorted(path.name for path in folder.iterdir()) == ["weights", "weights.lock"]
        finally:
            first.kill()
            second.kill()
    deadline = time.monotonic() + 120
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())
