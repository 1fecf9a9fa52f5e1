"""The run directory under every fault that a long run meets: kill, interrupt, full disk, damage, other processes."""

import errno
import fcntl
import functools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner_kit import LOGS, contents, lines, make_plan, plan_like_reference, refusing

from evals.core.records import UserError
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from got.util import files

KIT = Path(__file__).parents[1] / "kits" / "runner_kit.py"


def kit(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(KIT.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(KIT), str(folder), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # What a shell starts in the background ignores Ctrl-C, and so would our child.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, text=True, preexec_fn=heed, **pipes)


def wait_for_lines(path, count, process, seconds=120):
    """Waits as long as a busy machine may need; a process that cannot be waited for is not left behind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_bytes().splitlines()) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"{path.name} had fewer than {count} lines after {seconds} s: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(plan_like_reference(folder))
    return folder


# ------------------------------------------------------------------------------------------------- kill and interrupt
@pytest.mark.parametrize("after", [0, 5, 15])
def test_kill_9_then_the_same_command_gives_the_same_bytes(reference, tmp_path, after):
    folder = tmp_path / "run"
    process = kit(folder, "--limit", "12", "--batch-size", "5", "--most", str(after))
    wait_for_lines(folder / "observations.jsonl" if after else folder / "run.json", max(after, 1), process)
    process.kill()
    process.communicate()
    assert not (folder / "scores.json").exists()
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_logged(reference, tmp_path, number):
    folder = tmp_path / "run"
    process = kit(folder, "--limit", "12", "--batch-size", "5", "--most", "5")
    wait_for_lines(folder / "observations.jsonl", 5, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command resumes" in err
    assert out == ""
    kept = len(lines(folder / "observations.jsonl"))
    assert kept == 5
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


@pytest.mark.parametrize("log", ["observations.jsonl", "chains.jsonl"])
@pytest.mark.parametrize("cut", [1, 40, 700])
def test_a_log_cut_anywhere_is_mended(reference, tmp_path, log, cut):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    (folder / "scores.json").unlink()
    whole = (folder / log).read_bytes()
    (folder / log).write_bytes(whole[:-cut])
    run(plan_like_reference(folder))
    wanted = contents(reference, ("results.jsonl", "observations.jsonl"))
    assert contents(folder, ("results.jsonl", "observations.jsonl")) == wanted


def test_a_damaged_line_in_the_middle_is_done_again(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    (folder / "scores.json").unlink()
    log = (folder / "observations.jsonl").read_bytes().splitlines(keepends=True)
    log[7] = b"\0" * 30 + b"\n"
    (folder / "observations.jsonl").write_bytes(b"".join(log))
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


# ------------------------------------------------------------------------------------------------- whose directory?
def test_other_arguments_are_refused_with_the_differences(reference, tmp_path):
    before = contents(reference)
    with pytest.raises(UserError, match=r"seed: 42 -> 43.*choose another --output"):
        run(plan_like_reference(reference, "--seed", "43"))
    with pytest.raises(UserError, match=r"limit: 12 -> 13"):
        run(plan_like_reference(reference, "--limit", "13"))
    with pytest.raises(UserError, match=r"detector: \"hf:arithmetic\" -> \"hf:x\".*--from observe"):
        run(plan_like_reference(reference, "--detector", "hf:x"))
    with pytest.raises(UserError, match=r"threshold: 0.3 -> 0.5.*--from verdict"):
        run(plan_like_reference(reference, "--threshold", "0.5"))
    with pytest.raises(UserError, match=r"detector"):
        run(make_plan(reference, "--from", "verdict", "--detector", "hf:x"))
    assert contents(reference) == before


def test_flags_that_change_no_result_are_free(reference):
    before = contents(reference)
    run(plan_like_reference(reference, "--batch-size", "3", "--device", "cpu"))
    assert contents(reference) == before


def test_a_second_process_is_told_so(tmp_path):
    folder = tmp_path / "run"
    process = kit(folder, "--limit", "12", "--batch-size", "5", "--most", "5")
    try:
        wait_for_lines(folder / "observations.jsonl", 5, process)
        with pytest.raises(UserError, match=rf"in use by another process \(pid {process.pid}\)"):
            run(plan_like_reference(folder))
    finally:
        process.kill()
        process.communicate()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"has files but no run\.json"):
        run(make_plan(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_run_json_is_not_overwritten(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="choose another --output"):
        run(make_plan(tmp_path))
    assert (tmp_path / "run.json").read_text() == text


def test_a_run_json_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*run\.json: Is a directory"):
        run(make_plan(tmp_path))


@pytest.mark.parametrize("words", [(), ("--from", "verdict")])
def test_a_file_in_the_place_of_the_output_is_one_line(tmp_path, capsys, words):
    (tmp_path / "notes.txt").write_text("mine")
    given = ["--model", "oracle", "--output", str(tmp_path / "notes.txt"), *words]
    assert cli.main(suite.SUITE, given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "notes.txt" in line
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_scores_that_cannot_be_read_are_summed_up_again(reference, tmp_path, text):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    (folder / "scores.json").write_text(text)
    run(refusing(plan_like_reference(folder), "generator", "tools"))
    assert contents(folder) == contents(reference)


def test_only_a_lock_that_is_held_is_called_in_use(tmp_path, monkeypatch):
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="cannot be locked: No locks available"):
        run(make_plan(tmp_path / "run"))


def test_redoing_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="needs a run"):
        make_plan(tmp_path / "nothing", "--from", "verdict")


# ---------------------------------------------------------------------------------------------------------- the disk
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(reference, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real, left = os.fsync, [4]  # run.json; of a batch, the hashes and the last log

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match=r"disk full while writing .*\.jsonl; free some space"):
            run(plan_like_reference(folder))
    # What could not be kept for sure was taken back: every line left is whole.
    assert all(not files.read_lines(folder / name)[1] for name in LOGS[1:3])
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["fsync", "write"])
def test_a_disk_that_is_full_from_the_start_bars_no_directory(reference, tmp_path, monkeypatch, place):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(os, place, full)
        with pytest.raises(UserError, match="disk full while writing"):
            run(plan_like_reference(folder))
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


def test_a_file_size_limit_of_the_system_is_met_in_one_line(tmp_path):
    code = f"import runner_kit; raise SystemExit(runner_kit.main([{str(tmp_path / 'run')!r}, '--limit', '12']))"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    environment = {**os.environ, "PYTHONPATH": f"{KIT.parents[2]}:{KIT.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: disk full while writing" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").rglob("*.part"))


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        run(make_plan(tmp_path / "file" / "run"))


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="loop"), files.clear_disk_errors(tmp_path):
        raise OSError(errno.ELOOP, "loop")
