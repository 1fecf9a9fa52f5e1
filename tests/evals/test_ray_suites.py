"""Each kind of suite on workers of a real Ray, and in shares: the bytes of one process, no question asked twice."""

import os
import signal
import threading
import time

import judged_kit
import pytest
import torch
import torchvision
from edit_kit import save_dino, small_clip
from engine_kit import worker_pids
from judge_kit import fails, says, serve
from runner_kit import LOGS, contents, lines
from vlm_kit import build

from evals import merge
from evals.core.records import UserError
from evals.harness import cli
from evals.harness.engines import RayEngine
from evals.harness.run_spec import find_suite
from evals.harness.runner import run

pytest.importorskip("ray", reason="Ray is not installed: pip install 'got-bench[ray]'")
pytestmark = pytest.mark.slow

GRADE = "Score: 1"
KINDS = {
    "edits": ("emu_edit", "--model", "oracle", "--judge", "measured"),
    "edits, an endpoint": ("emu_edit", "--model", "identity", "--judge", "openai:m"),
    "turns": ("multi_turn", "--model", "oracle"),
    "atoms": ("geneval2", "--model", "oracle"),
    "a local judge": ("wise", "--model", "folder:RESULTS", "--data", "DATA", "--judge", "hf:MODEL"),
    "a judge by endpoint": ("wise", "--model", "folder:RESULTS", "--data", "DATA", "--judge", "openai:m"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Of images, questions and a judge on this machine."""
    root = tmp_path_factory.mktemp("places")
    judged_kit.results(root / "results", "wise")
    return {
        "RESULTS": root / "results",
        "DATA": judged_kit.wise(root / "data"),
        "MODEL": build(root / "vl", GRADE),
    }


@pytest.fixture(scope="module")
def engine():
    """Two workers for all tests, as cells of an ablation share them."""
    words = ["--model", "oracle", "--engine", "ray", "--workers", "2"]
    with RayEngine(cli.make_plan(find_suite("geneval"), words).settings) as made:
        yield made


@pytest.fixture
def plan_of(places, tmp_path, monkeypatch):
    """A run's plan in a folder of its own, with a log of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def plan(kind, name, *more):
        suite, *words = KINDS[kind]
        for mark, place in places.items():
            words = [word.replace(mark, str(place)) for word in words]
        words += ["--allow-other-data"] if "--data" in words else []
        words += ["--judge-log", str(tmp_path / f"{name}.jsonl")] if "--judge" in words else []
        words += ["--limit", "5", "--batch-size", "2", "--device", "cpu", "--output", str(tmp_path / name), *more]
        return cli.make_plan(find_suite(suite), words)

    return plan


@pytest.fixture
def endpoint(monkeypatch):
    """Grades whatever it is asked."""

    def answer(request):
        return says(GRADE if GRADE in judged_kit.texts_of(request) else '{"score": [8, 6]}')

    with serve(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def images_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("images/*/samples/*")}


def same(folder, reference):
    assert contents(folder, LOGS) == contents(reference, LOGS)
    assert images_of(folder) == images_of(reference) != {}


@pytest.mark.parametrize("kind", KINDS)
def test_workers_write_the_bytes_of_one_process_and_again_from_observe(engine, plan_of, endpoint, tmp_path, kind):
    scores, asked = run(plan_of(kind, "local")), len(endpoint.requests)
    assert scores
    run(plan_of(kind, "ray"), engine)
    same(tmp_path / "ray", tmp_path / "local")
    assert len(endpoint.requests) == 2 * asked
    assert bool(asked) == ("endpoint" in kind)
    run(plan_of(kind, "local", "--from", "observe"))
    run(plan_of(kind, "ray", "--from", "observe"), engine)
    same(tmp_path / "ray", tmp_path / "local")
    assert len(endpoint.requests) == 2 * asked, "the logs have all replies"


def test_workers_get_what_suite_flags_name_and_this_machine_alone_has(engine, plan_of, places, tmp_path):
    """A path through a file handle of this process leads nowhere in any other."""
    save_dino(tmp_path / "dino", "vit")
    (tmp_path / "clip").mkdir()
    small_clip(tmp_path / "clip")
    (tmp_path / "vl").symlink_to(places["MODEL"])
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "net.pth")
    (tmp_path / "mine.txt").write_text('How well? "{instruction}" Answer {"score": [a, b]}')
    more = ["--dino", "dino:{}/dino", "--clip", "openclip:{}/clip", "icon", "--lpips", "squeeze:{}/net.pth"]
    more += ["--judge", "hf:{}/vl", "--judge-prompt", "{}/mine.txt"]
    run(plan_of("edits", "local", *(word.replace("{}", str(tmp_path)) for word in more)))
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        run(plan_of("edits", "ray", *(word.replace("{}", f"/proc/self/fd/{handle}") for word in more)), engine)
    finally:
        os.close(handle)
    same(tmp_path / "ray", tmp_path / "local")


def test_workers_killed_while_their_judges_answer_leave_calls_and_tokens_as_they_are(engine, plan_of, tmp_path, capsys):
    """Whoever dies has logged nothing; what was asked for nothing is asked again, and counted once."""
    every = ("--limit", "12", "--batch-size", "3")
    run(plan_of("a local judge", "local", *every))
    over = threading.Event()

    def kill():
        log = tmp_path / "ray.jsonl"
        while not over.is_set():
            if log.exists() and log.stat().st_size:  # before there is a line, nobody has answered yet
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run(plan_of("a local judge", "ray", *every), engine)
    finally:
        over.set()
        killer.join()
    same(tmp_path / "ray", tmp_path / "local")
    assert "a worker is lost (killed or crashed)" in capsys.readouterr().err
    seen = lines(tmp_path / "ray" / "observations.jsonl")
    assert all(answer["calls"] > 0 < answer["tokens_in"] for line in seen for answer in line["answers"])
    logs = [sorted(line["key"] for line in lines(tmp_path / f"{name}.jsonl")) for name in ("ray", "local")]
    assert logs[0] == logs[1], "one log, of this process"


def test_a_judge_that_no_worker_has_is_one_line_and_leaves_nothing(engine, plan_of, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--judge hf:.*empty cannot be loaded"):
        run(plan_of("a local judge", "ray", "--judge", f"hf:{tmp_path / 'empty'}"), engine)
    assert not (tmp_path / "ray").exists()


@pytest.mark.parametrize("kind", ["edits, an endpoint", "a judge by endpoint"])
def test_a_budget_holds_over_all_workers(engine, plan_of, endpoint, tmp_path, kind):
    """A request costs 0.002 USD, and may cost 0.0034 before it is answered."""
    bounds = ("--judge-price", "1", "20", "--max-spend", "0.05", "--judge-concurrency", "1", "--batch-size", "1")
    run(plan_of(kind, "local", *bounds))
    asked = len(endpoint.requests)
    run(plan_of(kind, "ray", *bounds), engine)
    same(tmp_path / "ray", tmp_path / "local")
    assert len(endpoint.requests) == 2 * asked


def test_an_endpoint_that_does_not_answer_ends_a_run_of_workers(engine, plan_of, endpoint, tmp_path):
    endpoint.script[:] = [fails(400, "this model sees no images")]
    said = []
    for name, more in (("local", ()), ("ray", (engine,))):
        with pytest.raises(UserError) as found:
            run(plan_of("a judge by endpoint", name, "--judge-concurrency", "1"), *more)
        said.append(str(found.value))
        assert not (tmp_path / name / "scores.json").exists()
    assert said[0] == said[1]
    assert "the judge does not answer" in said[0]
    assert "HTTP 400: this model sees no images" in said[0]


@pytest.mark.parametrize("kind", ["edits", "a local judge"])
def test_workers_compute_a_share(engine, plan_of, tmp_path, capsys, kind):
    run(plan_of(kind, "whole"))
    for share, by in (("1/2", (engine,)), ("2/2", ())):
        run(plan_of(kind, f"parts-{share[0]}", "--shard", share, "--output", str(tmp_path / "run")), *by)
    assert merge.main([str(tmp_path / "run")]) == 0, capsys.readouterr().err
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("kind", ["edits", "a local judge"])
def test_shares_join_to_the_bytes_of_one_process(plan_of, tmp_path, capsys, kind):
    run(plan_of(kind, "whole"))
    for share in ("1/2", "2/2"):
        run(plan_of(kind, f"parts-{share[0]}", "--shard", share, "--output", str(tmp_path / "run")))
    assert merge.main([str(tmp_path / "run")]) == 0, capsys.readouterr().err
    same(tmp_path / "run", tmp_path / "whole")
