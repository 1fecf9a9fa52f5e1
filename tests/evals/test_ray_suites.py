"""Each kind of suite on workers of a real Ray, and in shares: the bytes of one process, no question asked twice."""

import judged_kit
import pytest
from judge_kit import says, serve
from runner_kit import LOGS, contents
from vlm_kit import build

from evals import merge
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


@pytest.mark.parametrize("kind", ["edits", "a local judge"])
def test_shares_join_to_the_bytes_of_one_process(plan_of, tmp_path, capsys, kind):
    run(plan_of(kind, "whole"))
    for share in ("1/2", "2/2"):
        run(plan_of(kind, f"parts-{share[0]}", "--shard", share, "--output", str(tmp_path / "run")))
    assert merge.main([str(tmp_path / "run")]) == 0, capsys.readouterr().err
    same(tmp_path / "run", tmp_path / "whole")
