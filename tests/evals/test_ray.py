"""Workers of a real Ray, of two machines in processes of this one: the bytes of one process, whoever dies."""

import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import engine_kit
import pytest
from engine_kit import (
    client_server,
    geneval,
    is_alive,
    last_line,
    lines_of,
    on,
    pids,
    same_run,
    third_machine,
    wait_until,
    words,
)
from process_kit import Process
from runner_kit import lines

from evals import ablation
from evals.detectors import registry
from got.util.workers import pool

pytest.importorskip("ray", reason="Ray is not installed: pip install 'got-bench[ray]'")
pytestmark = pytest.mark.slow

ROOT = Path(registry.__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    with engine_kit.announced(tmp_path_factory.mktemp("kit")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(path):
    with engine_kit.running(path) as made:
        yield made


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The folder of a generator that nothing disturbs."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def reference(path, paper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert geneval(*words(paper, folder)) == 0
    return folder


# ----------------------------------------------------------------------------------------------------------- the same
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_bytes(cluster, reference, paper, tmp_path, workers, capsys):
    assert geneval(*words(paper, tmp_path / "run", *on(cluster, workers))) == 0
    same_run(tmp_path / "run", reference)
    err = capsys.readouterr().err
    assert f"Ray: {workers} workers of 1 CPU on 2 machines" in err
    machine = json.loads((tmp_path / "run" / "run.json").read_text())["machine"]
    assert (machine["device"], "packages" in machine) == ("cpu", True)
    times = lines(tmp_path / "run" / "times.jsonl")
    assert [line["case"] for line in times] == sorted(line["case"] for line in times), "written in order"


def test_a_command_outside_of_the_cluster_writes_the_same_bytes(cluster, reference, paper, tmp_path, capsys):
    pytest.importorskip("grpc", reason="Ray's client is not installed: pip install 'ray[client]'")
    with client_server(cluster) as address:
        assert geneval(*words(paper, tmp_path / "run", *on(cluster, 2, "--ray-address", address))) == 0
    same_run(tmp_path / "run", reference)
    assert "Ray: 2 workers of 1 CPU on 2 machines" in capsys.readouterr().err


def test_mini_draws_the_same_on_workers(cluster, tmp_path):
    given = ["--model", "got", "--limit", "3", "--images-per-prompt", "2", "--steps", "2", "--batch-size", "2"]
    given += ["--device", "cpu"]
    assert geneval(*given, "--output", str(tmp_path / "local")) == 0
    assert geneval(*given, "--output", str(tmp_path / "ray"), *on(cluster, 2)) == 0
    same_run(tmp_path / "ray", tmp_path / "local")


def test_observing_again_is_shared_without_the_run_directory(cluster, reference, paper, tmp_path, capsys):
    folder = tmp_path / "run"
    assert geneval(*words(paper, folder)) == 0
    (folder / "images" / "00000" / "samples" / "0001.png").write_bytes(b"damaged")
    assert geneval("--output", str(folder), "--from", "observe", *on(cluster, 2)) == 0
    (failure,) = lines(folder / "failures.jsonl")
    assert (failure["case"], failure["index"], failure["stage"]) == ("00000", 1, "observe")
    kept = [line for line in lines(reference / "observations.jsonl") if (line["case"], line["index"]) != ("00000", 1)]
    assert lines(folder / "observations.jsonl") == kept
    capsys.readouterr()


def test_images_made_elsewhere_are_observed_by_workers(cluster, reference, tmp_path):
    given = ["--model", f"folder:{reference / 'images'}", "--detector", "kit", "--limit", "12"]
    given += ["--images-per-prompt", "2", "--batch-size", "3", "--device", "cpu"]
    assert geneval(*given, "--output", str(tmp_path / "local")) == 0
    assert geneval(*given, "--output", str(tmp_path / "ray"), *on(cluster, 2)) == 0
    same_run(tmp_path / "ray", tmp_path / "local")


def test_weights_that_this_machine_alone_has_are_sent(cluster, paper, tmp_path):
    """A path through a file handle of this process leads nowhere in any other."""
    weights = ROOT / "evals" / "assets" / "icon_detector.safetensors"
    shutil.copy(weights, tmp_path / "mine.safetensors")
    before = sent_files()
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        given = ["--model", f"kit:{paper}", "--detector", f"icon:/proc/self/fd/{handle}/./mine.safetensors"]
        given += ["--limit", "3", "--images-per-prompt", "1", "--batch-size", "1", "--device", "cpu"]
        assert geneval(*given, "--output", str(tmp_path / "local")) == 0
        assert geneval(*given, "--output", str(tmp_path / "ray"), *on(cluster, 2)) == 0
    finally:
        os.close(handle)
    same_run(tmp_path / "ray", tmp_path / "local")
    wait_until(lambda: sent_files() <= before, 30, "the removal of what was sent")


def sent_files():
    return set((Path(tempfile.gettempdir()) / f"got-bench-{os.getuid()}").glob("*"))


def test_cells_of_an_ablation_share_the_workers_and_what_they_have_loaded(cluster, reference, paper, tmp_path, capsys):
    before = (paper / "built").read_text().split()
    given = ["--axis", "seed=42,7", "--output", str(tmp_path / "grid"), *words(paper, "unused")[:-2], *on(cluster, 2)]
    assert ablation.main(given) == 0
    assert capsys.readouterr().err.count("Ray: ") == 1
    built = (paper / "built").read_text().split()[len(before) :]
    assert len(built) == len(set(built)) == 2, "each worker loads once, for both cells"
    same_run(tmp_path / "grid" / "seed-42", reference)


# ------------------------------------------------------------------------------------------------------------- deaths
def test_workers_killed_at_20_random_moments(cluster, tmp_path, capsys):
    """Between two kills a line is logged: what is killed again and again is a test of its own."""
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "seconds").write_text("0.25")
    many = ("--limit", "180", "--batch-size", "1")
    over, killed, rng = threading.Event(), [], random.Random(0)

    def kill():
        logged = -1
        while len(killed) < 20 and not over.is_set():
            time.sleep(rng.uniform(0.1, 0.5))
            alive = [pid for pid in pids(folder) if is_alive(pid)]
            now = len(lines_of(tmp_path / "run" / "observations.jsonl"))
            if len(alive) > 1 and now > logged:
                killed.append(rng.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)
                logged = now
        (folder / "seconds").write_text("0")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert geneval(*words(folder, tmp_path / "run", *many, *on(cluster, 4))) == 0
    finally:
        over.set()
        killer.join()
    lost = capsys.readouterr().err.count("a worker is lost (killed or crashed)")
    assert lost >= 15, f"{lost} of {len(killed)}"
    assert geneval(*words(folder, tmp_path / "reference", *many)) == 0
    same_run(tmp_path / "run", tmp_path / "reference")


class Said:
    """What a command has written to standard error, while it runs."""

    def __init__(self, capsys):
        self._capsys, self._text = capsys, ""

    def count(self, words):
        self._text += self._capsys.readouterr().err
        return self._text.count(words)


def test_a_lost_machine_costs_nothing(cluster, reference, tmp_path, capsys):
    folder, said = tmp_path / "paper", Said(capsys)
    folder.mkdir()
    (folder / "seconds").write_text("120")

    def lose(third):
        wait_until(lambda: len(pids(folder)) == 5, 90, "the start of all workers")
        cluster.remove_node(third, allow_graceful=False)
        wait_until(lambda: said.count("a worker is lost"), 90, "the loss")
        (folder / "seconds").write_text("0")

    with third_machine(cluster) as third:
        thief = threading.Thread(target=lose, args=[third])
        thief.start()
        try:
            assert geneval(*words(folder, tmp_path / "run", *on(cluster, 5))) == 0
        finally:
            thief.join()
    same_run(tmp_path / "run", reference)


def test_a_machine_without_memory_costs_nothing(cluster, reference, tmp_path, monkeypatch, capsys):
    """Ray kills each worker there, as it does where memory is short; the others have loaded only after many deaths."""
    monkeypatch.setattr(pool, "_STARTS", 1)
    folder, said = tmp_path / "paper", Said(capsys)
    folder.mkdir()
    (folder / "loading").write_text("120")

    def let():
        wait_until(lambda: said.count("a worker is lost (out of memory)") > 5, 100, "more deaths than workers")
        (folder / "loading").unlink()

    waiting = threading.Thread(target=let)
    with third_machine(cluster, RAY_memory_usage_threshold=0.001, RAY_memory_monitor_refresh_ms=100):
        waiting.start()
        try:
            assert geneval(*words(folder, tmp_path / "run", "--batch-size", "1", *on(cluster, 5))) == 0
        finally:
            waiting.join()
    same_run(tmp_path / "run", reference)


def test_a_sample_that_kills_is_a_failure_and_no_other_is(cluster, reference, tmp_path, capsys):
    folder = tmp_path / "paper"
    folder.mkdir()
    deadly = lines(reference / "observations.jsonl")[7]["case"]
    (folder / "deadly").write_text(deadly)
    assert geneval(*words(folder, tmp_path / "run", *on(cluster, 3))) == 0
    failures = lines(tmp_path / "run" / "failures.jsonl")
    assert [(line["case"], line["index"]) for line in failures] == [(deadly, 0), (deadly, 1)]
    assert {(line["stage"], line["error"], line["raised"]) for line in failures} == {
        ("generate", "its worker died each time (killed or crashed)", True)
    }
    kept = [line for line in lines(reference / "observations.jsonl") if line["case"] != deadly]
    assert lines(tmp_path / "run" / "observations.jsonl") == kept
    (folder / "deadly").unlink()
    assert geneval(*words(folder, tmp_path / "run", *on(cluster, 2))) == 0  # mended: the same command tries again
    same_run(tmp_path / "run", reference)
    capsys.readouterr()


def test_workers_that_die_at_birth_do_not_end_what_another_computes(cluster, reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "_STARTS", 1)
    folder = tmp_path / "paper"
    folder.mkdir()
    (folder / "seconds").write_text("1")
    (folder / "stillborn").touch()

    def relent():
        wait_until(lambda: len(pids(folder)) >= 4, 120, "three deaths")
        (folder / "stillborn").unlink()
        (folder / "seconds").write_text("0")

    midwife = threading.Thread(target=relent)
    midwife.start()
    try:
        assert geneval(*words(folder, tmp_path / "run", "--batch-size", "1", *on(cluster, 2))) == 0
    finally:
        midwife.join()
    same_run(tmp_path / "run", reference)
    assert capsys.readouterr().err.count("a worker is lost") >= 3


@pytest.mark.parametrize("joined", [False, True], ids=["a Ray of its own", "a Ray that it joined"])
def test_a_killed_driver_leaves_nobody_behind_and_resumes(path, reference, tmp_path, joined, request):
    """The Ray that it starts ends with it; of one that it joined, its workers do."""
    folder, run = tmp_path / "paper", tmp_path / "run"
    folder.mkdir()
    (folder / "seconds").write_text("0.5")
    more = on(request.getfixturevalue("cluster"), 2) if joined else ["--engine", "ray", "--workers", "2"]
    given = words(folder, run, *more)
    many = {"PYTHONPATH": os.pathsep.join(path)}
    process = Process(_main, path, given, folder=tmp_path / "log", environment=many)
    wait_until(lambda: len(lines_of(run / "observations.jsonl")) >= 6 or process.poll() is not None, 120, "two batches")
    assert process.poll() is None, process.err
    second = Process(_main, path, given, folder=tmp_path / "second", environment=many)  # of another driver
    assert second.wait(60) == 2
    assert f"in use by another process (pid {process.pid})" in second.err
    family = _descendants(process.pid)
    assert joined or len(family) > 4
    process.kill()
    wait_until(lambda: not any(map(is_alive, [*family, *pids(folder)])), 60, "the end of all processes")
    (folder / "seconds").write_text("0")
    assert not (run / "scores.json").exists()
    assert geneval(*words(folder, run)) == 0  # in this process: engines do not matter
    same_run(run, reference)
    assert len(pids(folder)) >= 2


def _main(path, given):
    sys.path[:0] = path
    return geneval(*given)


def _descendants(pid):
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_an_interrupt_ends_workers_and_keeps_what_is_logged(cluster, reference, tmp_path, path):
    folder, run = tmp_path / "paper", tmp_path / "run"
    folder.mkdir()
    (folder / "seconds").write_text("0.5")
    process = Process(_main, path, words(folder, run, *on(cluster, 2)), folder=tmp_path / "log")
    wait_until(lambda: len(lines_of(run / "observations.jsonl")) >= 3 or process.poll() is not None, 120, "a batch")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, process.err
    assert (process.err.splitlines()[-1], process.out) == ("geneval: interrupted; the same command resumes", "")
    wait_until(lambda: not any(map(is_alive, pids(folder))), 60, "the end of the workers")
    (folder / "seconds").write_text("0")
    assert geneval(*words(folder, run, *on(cluster, 3))) == 0
    same_run(run, reference)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(cluster, reference, paper, tmp_path, monkeypatch, capsys):
    real, left = os.fsync, [5]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert geneval(*words(paper, tmp_path / "run", *on(cluster, 2))) == 2
    assert "disk full while writing" in last_line(capsys)
    assert geneval(*words(paper, tmp_path / "run", *on(cluster, 2))) == 0
    same_run(tmp_path / "run", reference)
