"""Doing a stage of a run again: nothing is lost before the rest is known to work, nor by a kill at any moment."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from runner_kit import accept, contents, lines, make_plan, refusing

from evals import emu_edit
from evals.core.records import UserError
from evals.core.run_directory import RunDirectory
from evals.geneval import suite as geneval
from evals.harness import cli
from evals.harness.plan import Plan
from evals.harness.runner import run

SMALL = ("--limit", "6", "--batch-size", "5")
ORACLE = ("--model", "oracle", "--limit", "2")


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(make_plan(folder, *SMALL))
    return folder


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited") / "run"
    assert cli.main(emu_edit.EmuEdit(), [*ORACLE, "--device", "cpu", "--output", str(folder)]) == 0
    return folder


def refuse(*_):
    raise UserError("it cannot be had")


# ------------------------------------------------------------------------------------------------ what cannot be used
@pytest.mark.parametrize("start", ["generate", "observe"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--detector", "mask3former"], "Expected a detector among"),
        (["--detector", "icon", "--embedder", "clip"], "Expected an embedder among"),
    ],
)
def test_what_cannot_be_built_costs_no_result(finished, start, words, message):
    before = everything(finished)
    command = ["--device", "cpu", *words, "--from", start, "--output", str(finished)]
    with pytest.raises(UserError, match=message):
        run(cli.make_plan(geneval.SUITE, command))
    assert everything(finished) == before


@pytest.mark.parametrize("start", ["generate", "observe"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "openai"], "set JUDGE_MODEL"),
        (["--clip", "open_clip:ViT-B-32"], "Expected an embedder among"),
        (["--embedder", "clip"], "Expected an embedder among"),
    ],
)
def test_a_suites_own_instruments_are_built_before_a_result_is_lost(edited, start, words, message, monkeypatch, capsys):
    monkeypatch.delenv("JUDGE_MODEL", raising=False)
    before = everything(edited)
    assert cli.main(emu_edit.EmuEdit(), ["--from", start, *words, "--output", str(edited)]) == 2
    assert message in capsys.readouterr().err
    assert everything(edited) == before


def test_a_generator_that_cannot_be_built_costs_no_result(finished):
    before = everything(finished)
    with pytest.raises(UserError, match="it cannot be had"):
        run(refusing(make_plan(finished, "--from", "generate"), "generator", why=refuse))
    assert everything(finished) == before


def test_an_unfinished_run_needs_its_generator_for_observing_again(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "scores.json").unlink()
    (folder / "chains.jsonl").write_bytes((folder / "chains.jsonl").read_bytes()[:-9])
    before = contents(folder, ["observations.jsonl", "run.json"])
    with pytest.raises(UserError, match="it cannot be had"):
        run(refusing(make_plan(folder, "--from", "observe"), "generator", why=refuse))
    assert contents(folder, ["observations.jsonl", "run.json"]) == before


@pytest.mark.parametrize("kept", [True, False], ids=["older run", "run of today"])
def test_workers_are_not_inherited(finished, tmp_path, kept):
    """Who drew says nothing of who shall look: a judge behind an endpoint is asked from one process."""
    folder = shutil.copytree(finished, tmp_path / "run")
    spec = json.loads((folder / "run.json").read_text())
    asked = ("--engine", "ray", "--workers", "2", "--ray-address=auto")
    given = [*spec["arguments"]["given"], *asked] if kept else make_plan(folder, *SMALL, *asked).arguments["given"]
    (folder / "run.json").write_text(json.dumps(spec | {"arguments": {**spec["arguments"], "given": given}}))
    accept(folder / "run.json")
    for words, engine in ([], "local"), (["--engine", "local"], "local"), (["--engine", "ray"], "ray"):
        settings = cli.make_plan(geneval.SUITE, ["--output", str(folder), "--from", "observe", *words]).settings
        assert (settings.engine, settings.workers, settings.ray_address) == (engine, None, None)
        assert settings.limit == 6


def test_a_verdict_that_cannot_be_given_costs_no_score(finished):
    before = everything(finished)

    class Refuses(geneval.GenEval):
        def score(self, case, observation, options):
            refuse()

    with pytest.raises(UserError, match="it cannot be had"):
        run(make_plan(finished, "--from", "verdict", "--threshold", "0.9", suite=Refuses()))
    assert everything(finished) == before


def test_what_was_tried_out_is_what_is_used(tmp_path):
    run(make_plan(tmp_path / "run", *SMALL))
    asked = []

    class Counts(geneval.GenEval):
        def prepare(self, tools, options):
            asked.append("prepare")
            return super().prepare(tools, options)

    class Counting(Plan):
        @functools.cached_property
        def generator(self):
            asked.append("generator")
            return made.generator

        @functools.cached_property
        def tools(self):
            asked.append("tools")
            return made.tools

    made = make_plan(tmp_path / "run", "--from", "generate", suite=Counts())
    plan = Counting(made.spec, made.suite)
    plan.machine = made.machine
    run(plan)
    assert sorted(asked) == ["generator", "prepare", "tools"]


# ---------------------------------------------------------------------------------------------------------------- kill
class Killed(BaseException):
    """Nothing after it is done."""


def run_until(monkeypatch, count, plan):
    """Kills a run at the `count`-th file that is put in place or taken away."""
    left = [count]

    def mortal(real):
        def call(path, *arguments, **options):
            if path.suffix in (".json", ".jsonl", ".part"):
                left[0] -= 1
                if left[0] == -1:
                    raise Killed
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("unlink", "replace"):
            patched.setattr(Path, name, mortal(getattr(Path, name)))
        with pytest.raises(Killed):
            run(plan)


@pytest.mark.parametrize("start", ["generate", "observe", "verdict"])
@pytest.mark.parametrize("count", range(6))
def test_a_kill_while_old_results_are_taken_away_loses_no_more_than_was_to_be_redone(
    finished, tmp_path, monkeypatch, start, count
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run_until(monkeypatch, count, make_plan(folder, "--from", start))
    plan = make_plan(folder, *SMALL)
    if start != "generate":
        plan = refusing(plan, "generator")
    run(plan)
    assert contents(folder) == contents(finished)
    assert "clearing" not in json.loads((folder / "run.json").read_text())


def test_after_a_kill_no_old_observation_goes_by_a_new_name(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    words = ("--detector", "hf:other")
    # The new name is written, nothing is cleared.
    run_until(monkeypatch, 1, make_plan(folder, "--from", "observe", *words))
    with pytest.raises(UserError, match="hf:other"):
        run(make_plan(folder, *SMALL))
    assert not (folder / "observations.jsonl").exists()
    run(make_plan(folder, *SMALL, *words))
    assert contents(folder, ["observations.jsonl"]) == contents(finished, ["observations.jsonl"])


# -------------------------------------------------------------------------------------------------------- other files
def weights_words(tmp_path):
    place = tmp_path / "pipe" / "unet.safetensors"
    place.parent.mkdir()
    place.write_bytes(b"abc")
    return place, (*SMALL, "--model", f"diffusers:{place.parent}")


@pytest.mark.parametrize("start", ["verdict", "observe"])
def test_what_stands_needs_no_weights_and_keeps_their_name(tmp_path, start):
    weights, words = weights_words(tmp_path)
    run(make_plan(tmp_path / "run", *words))
    before = contents(tmp_path / "run")
    weights.unlink()
    run(refusing(make_plan(tmp_path / "run", *words, "--from", start), "generator"))
    assert contents(tmp_path / "run") == before
    identity = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    assert set(identity["generate"]["weights_sha256"]) == {"unet.safetensors"}


def test_what_is_to_be_drawn_needs_the_weights_it_was_begun_with(tmp_path):
    weights, words = weights_words(tmp_path)
    run(make_plan(tmp_path / "run", *words))
    weights.write_bytes(b"abd")
    (tmp_path / "run" / "scores.json").unlink()
    (tmp_path / "run" / "chains.jsonl").unlink()
    for again in ((), ("--from", "observe")):
        with pytest.raises(UserError, match=r"other files \(weights_sha256.*--output or redo this one with --from gen"):
            run(make_plan(tmp_path / "run", *words, *again))
    run(make_plan(tmp_path / "run", *words, "--from", "generate"))
    assert len(lines(tmp_path / "run" / "results.jsonl")) == 12


# ------------------------------------------------------------------------------------ what the generator does by itself
def test_a_run_by_a_version_with_other_defaults_is_not_mixed_with_this_ones(tmp_path, capsys):
    folder, command = tmp_path / "run", ["--limit", "1", "--images-per-prompt", "1", "--device", "cpu"]
    place = ["--output", str(folder)]
    assert cli.main(geneval.SUITE, [*command, "--model", "got", "--steps", "2", *place]) == 0
    directory = RunDirectory(folder)
    spec = directory.read_spec()
    spec["identity"]["generate"]["steps"] = None  # as a version whose default was two steps wrote it
    spec["arguments"]["given"] = [*command, "--model", "got"]
    directory.write(directory.spec, spec)
    (folder / "scores.json").unlink()
    assert cli.main(geneval.SUITE, [*command, "--model", "got", *place]) == 2
    assert "(steps: 2 -> 6)" in capsys.readouterr().err
    assert cli.main(geneval.SUITE, ["--from", "verdict", *place]) == 0
    spec = directory.read_spec()
    assert spec["identity"]["generate"]["steps"] == spec["arguments"]["resolved"]["steps"] == 2
    assert cli.main(geneval.SUITE, ["--from", "generate", *place]) == 2  # not in silence
    assert cli.main(geneval.SUITE, [*command, "--model", "got", "--steps", "2", *place]) == 0


def test_a_default_said_aloud_is_the_same_run(tmp_path):
    place = ["--model", "got", "--output", str(tmp_path / "run")]
    plans = [cli.make_plan(geneval.SUITE, [*place, *words]) for words in ([], ["--steps", "6"])]
    assert plans[0].identity == plans[1].identity
