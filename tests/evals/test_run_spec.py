"""A run as data: its JSON, its way to another process, and what is derived from its options."""

import json
import multiprocessing
import pickle

import pytest
from runner_kit import as_older, contents, make_plan

from evals import emu_edit
from evals.core.options import STAGES, flags_of
from evals.geneval.suite import GenEval
from evals.harness import cli
from evals.harness.plan import Plan
from evals.harness.run_spec import RunSpec, find_suite, suite_names
from evals.harness.runner import run
from evals.harness.settings import Settings
from evals.harness.worker import Job

WORDS = ["--model", "oracle", "--limit", "4", "--tasks", "counting,position", "--output", "some/where", "--seed", "7"]
JUDGED = [
    "--model",
    "target",
    "--judge",
    "measured",
    "--judge-price",
    "1",
    "2",
    "--clip",
    "icon",
    "--judge-prompt",
    "x",
]


@pytest.mark.parametrize(
    ("suite", "words"),
    [(GenEval(), [*WORDS, "--max-objects", "3"]), (emu_edit.EmuEdit(), JUDGED)],
    ids=["geneval", "edits"],
)
def test_a_spec_is_the_same_after_json_and_pickle(suite, words):
    spec = cli.parse(suite, words)
    assert RunSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec.settings) == hash(cli.parse(suite, words).settings)


def test_the_same_spec_is_the_same_run():
    plan = cli.make_plan(GenEval(), WORDS)
    other = pickle.loads(pickle.dumps(plan))
    assert other.identity == plan.identity
    assert other.samples == plan.samples


def _work(job):
    worker = job.worker()
    samples = job.plan.samples
    return [(one.png, one.chain, one.observation) for one in worker(samples)]


def test_a_worker_is_built_from_a_spec_in_another_process():
    words = ["--model", "oracle", "--limit", "2", "--images-per-prompt", "1", "--device", "cpu"]
    job = Job(plan=cli.make_plan(GenEval(), words))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_work, (job,))
    assert there == _work(Job(plan=Plan(RunSpec.from_json(job.plan.spec.as_json()))))
    assert all(observation["detections"] for _, _, observation in there)


@pytest.mark.parametrize("name", suite_names()[:6])
def test_every_option_decides_a_stage_or_none_and_says_so(name):
    for options in (Settings, find_suite(name).options):
        stages = {flag.stage for _, flag in flags_of(options)}
        assert stages <= {*STAGES, "cases", "run"}
        assert all(flag.help == "" or flag.help for _, flag in flags_of(options))


# ------------------------------------------------------------------------------------------------------ older runs
@pytest.mark.parametrize("clearing", [None, "verdict", "observe", "generate"])
def test_a_run_without_hashes_is_taken_by_its_arguments(tmp_path, clearing):
    folder, words = tmp_path / "run", ("--limit", "6", "--batch-size", "5")
    run(make_plan(folder, *words))
    before = contents(folder)
    spec = json.loads((folder / "run.json").read_text())
    assert set(spec.pop("made_with")) == set(STAGES)
    if clearing:  # as a kill has left it, with the scores already taken away
        spec |= {"clearing": clearing, "redo": clearing}
        (folder / "scores.json").unlink()
    (as_older(folder) / "run.json").write_text(json.dumps(spec))
    run(make_plan(folder, *words))
    assert contents(folder) == before
    again = json.loads((folder / "run.json").read_text())
    assert ("made_with" in again, "clearing" in again) == (bool(clearing), False)
    run(make_plan(folder, *words, "--from", "verdict"))
    assert contents(folder) == before
