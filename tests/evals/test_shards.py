"""A run made in shares: each computes its batches alone, and the parts join to what one process would have written."""

import json
import shutil

import pytest
from runner_kit import LOGS, accept, contents, lines, make_plan, plan_like_reference

from evals import merge
from evals.core.records import Generated, UserError
from evals.generators.oracle import OracleGenerator
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from got.util.hashes import HashedFolder

MADE_AT_A_TIME = {"run.json", "times.jsonl", "hashes.txt", ".lock"}


class OftenFails(OracleGenerator):
    """Draws some samples and not others, whoever is asked."""

    def generate(self, samples):
        made = super().generate(samples)
        lost = Generated(image=None, error="out of paint")
        return [lost if sample.seed % 3 == 0 else one for sample, one in zip(samples, made, strict=True)]


def make_parts(folder, count, *words, generator=None):
    for which in range(1, count + 1):
        run(plan_like_reference(folder, "--shard", f"{which}/{count}", *words, generator=generator))
    return sorted((folder / "parts").iterdir())


def files_of(folder):
    """All that a run leaves, but for its parts, its sheets (small in these tests) and what tells when it was made."""
    found = {path: path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    paths = [path for path, top in found.items() if top not in ("parts", "sheets")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name not in MADE_AT_A_TIME}


def said(capsys):
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(plan_like_reference(folder, generator=OftenFails()))
    return folder


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory):
    """Two finished parts; a test that changes them takes a copy."""
    folder = tmp_path_factory.mktemp("parts") / "run"
    make_parts(folder, 2, generator=OftenFails())
    return folder


# ----------------------------------------------------------------------------------------------------------- the same
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_join_to_the_bytes_of_one_process(reference, tmp_path, count, capsys):
    folder = tmp_path / "run"
    parts = make_parts(folder, count, generator=OftenFails())
    assert sum(len(lines(part / "times.jsonl")) for part in parts) == 24
    assert not any((part / "scores.json").exists() for part in parts)
    assert merge.main([str(folder)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["missing"] > 0
    assert files_of(folder) == files_of(reference)
    assert len(lines(folder / "times.jsonl")) == 24


def test_a_model_that_fills_in_what_is_not_given_is_joined(tmp_path, capsys):
    """Its sampler and its scales stand in run.json, and not in what the run was asked for."""
    given = [
        "--model",
        "got",
        "--images-per-prompt",
        "1",
        "--limit",
        "2",
        "--batch-size",
        "1",
        "--device",
        "cpu",
        "--steps",
        "1",
    ]
    places = {name: str(tmp_path / name) for name in ("shared", "alone")}
    for which in ("1/2", "2/2"):
        assert cli.main(suite.SUITE, [*given, "--output", places["shared"], "--shard", which]) == 0
    assert cli.main(suite.SUITE, [*given, "--output", places["alone"]]) == 0
    capsys.readouterr()
    assert merge.main([places["shared"]]) == 0, said(capsys)
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    whole, alone = (json.loads((tmp_path / name / "run.json").read_text()) for name in places)
    assert whole["arguments"]["resolved"]["scheduler"] == alone["arguments"]["resolved"]["scheduler"] == "ddim"
    assert (whole["identity"], whole["made_with"]) == (alone["identity"], alone["made_with"])
    capsys.readouterr()


def test_the_joined_run_is_an_ordinary_one(two_parts, reference, tmp_path, capsys):
    elsewhere = [shutil.copytree(part, tmp_path / part.name) for part in (two_parts / "parts").iterdir()]
    whole = tmp_path / "whole"
    assert merge.main([*map(str, elsewhere), "--output", str(whole)]) == 0
    assert files_of(whole) == files_of(reference)
    spec, other = (json.loads((folder / "run.json").read_text()) for folder in (whole, reference))
    assert (spec["identity"], spec["made_with"]) == (other["identity"], other["made_with"])
    assert spec["arguments"]["given"] == other["arguments"]["given"]
    before = contents(whole)
    run(plan_like_reference(whole, generator=OftenFails()))  # finished: nothing to do
    run(make_plan(whole, "--from", "verdict", "--threshold", "0.3"))
    assert contents(whole) == before
    capsys.readouterr()


def test_a_part_that_is_named_twice_is_one(two_parts, reference, tmp_path, capsys):
    one = two_parts / "parts" / "1-of-2"
    assert merge.main([str(two_parts), str(one / ".." / one.name), "--output", str(tmp_path / "run")]) == 0
    assert files_of(tmp_path / "run") == files_of(reference)
    capsys.readouterr()


@pytest.mark.parametrize("named", ["one by one", "by their folder"])
def test_parts_of_one_run_join_where_they_lie(two_parts, reference, tmp_path, named, capsys):
    shutil.copytree(two_parts, tmp_path / "run")
    folder = tmp_path / "run" / "parts"
    places = [folder] if named == "by their folder" else sorted(folder.iterdir())
    assert merge.main([*map(str, places)]) == 0, said(capsys)
    assert files_of(tmp_path / "run") == files_of(reference)


def test_a_merge_that_broke_off_is_done_again(two_parts, reference, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    real = HashedFolder.write_lines

    def broken(self, name, records):
        if name == "failures.jsonl":
            raise KeyboardInterrupt
        real(self, name, records)

    with monkeypatch.context() as patch:
        patch.setattr(HashedFolder, "write_lines", broken)
        assert merge.main([str(folder)]) == 130
    for image in folder.glob("images/*/samples/*.png"):  # as a kill leaves them: a second name of the part's file
        image.rename(image.parent / f".{image.name}.part")
        break
    assert not (folder / "scores.json").exists()
    assert merge.main([str(folder)]) == 0
    assert files_of(folder) == files_of(reference)
    assert merge.main([str(folder)]) == 0
    assert files_of(folder) == files_of(reference)
    capsys.readouterr()


def test_a_part_resumes_and_can_be_done_again_from_a_stage(two_parts, tmp_path):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    part = folder / "parts" / "1-of-2"
    before = contents(part, ("chains.jsonl", "observations.jsonl", "part.json"))
    (part / "part.json").unlink()
    log = (part / "observations.jsonl").read_bytes()
    (part / "observations.jsonl").write_bytes(log[:-30])
    run(plan_like_reference(folder, "--shard", "1/2", generator=OftenFails()))
    assert contents(part, before) == before
    run(make_plan(folder, "--shard", "1/2", "--from", "observe"))
    assert contents(part, before) == before


def test_the_default_place_is_that_of_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = cli.make_plan(suite.SUITE, ["--model", "oracle"]).output
    part = cli.make_plan(suite.SUITE, ["--model", "oracle", "--shard", "2/3"]).output
    assert part == whole / "parts" / "2-of-3"


# -------------------------------------------------------------------------------------------------------- not the same
def test_missing_doubled_and_unfinished_parts_are_named(two_parts, tmp_path, capsys):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    one, two = folder / "parts" / "1-of-2", folder / "parts" / "2-of-2"
    assert merge.main([str(one)]) == 2
    assert "no part of 1 of 2 shares: 2/2" in said(capsys)
    twin = shutil.copytree(one, tmp_path / "twin")
    assert merge.main([str(one), str(twin), str(two), "--output", str(tmp_path / "whole")]) == 2
    assert f"share 1/2 is there twice: {one} and {twin}" in said(capsys)
    (two / "part.json").unlink()
    assert merge.main([str(folder)]) == 2
    assert f"{two} is not finished" in said(capsys)
    assert merge.main([str(one), str(twin)]) == 2
    assert "--output is needed" in said(capsys)
    assert merge.main([str(tmp_path / "nothing")]) == 2
    assert "nothing is no part of a run" in said(capsys)
    (tmp_path / "empty" / "parts").mkdir(parents=True)
    assert merge.main([str(tmp_path / "empty"), "--output", str(tmp_path / "whole")]) == 2
    assert f"{tmp_path / 'empty' / 'parts'} holds no part of a run yet" in said(capsys)
    assert not (folder / "run.json").exists()
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("words", "what"), [(("--seed", "43"), "seed: 42 -> 43"), (("--batch-size", "6"), "batch_size: 5 -> 6")]
)
def test_parts_of_two_runs_are_refused(two_parts, tmp_path, capsys, words, what):
    run(plan_like_reference(tmp_path / "other", "--shard", "2/2", *words))
    parts = [two_parts / "parts" / "1-of-2", tmp_path / "other" / "parts" / "2-of-2"]
    assert merge.main([*map(str, parts), "--output", str(tmp_path / "whole")]) == 2
    assert what in said(capsys)


def test_a_part_of_another_batch_size_is_not_gone_on_with(two_parts):
    with pytest.raises(UserError, match="batch_size: 5 -> 6"):
        run(plan_like_reference(two_parts, "--shard", "1/2", "--batch-size", "6"))


def test_a_run_of_other_arguments_is_not_overwritten(two_parts, tmp_path, capsys):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    run(plan_like_reference(folder, "--seed", "7"))
    before = contents(folder)
    assert merge.main([str(folder)]) == 2
    assert "seed: 7 -> 42" in said(capsys)
    assert contents(folder) == before


def test_damaged_and_missing_images_are_named(two_parts, tmp_path, capsys):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    image = next((folder / "parts" / "2-of-2").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:-1])
    assert merge.main([str(folder)]) == 2
    assert f"{image}: damaged" in said(capsys)
    image.unlink()
    assert merge.main([str(folder)]) == 2
    assert f"{image}: No such file" in said(capsys)
    assert not (folder / "scores.json").exists()


def test_parts_of_two_machines_are_told_apart(two_parts, tmp_path, capsys):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    file = folder / "parts" / "2-of-2" / "run.json"
    spec = json.loads(file.read_text())
    file.write_text(json.dumps({**spec, "machine": {"device": "cuda"}}))
    accept(file)
    assert merge.main([str(folder)]) == 0
    assert 'not all parts were made alike (device: "cpu" -> "cuda")' in capsys.readouterr().err
    whole = json.loads((folder / "run.json").read_text())
    assert (whole["machine"], whole["resumed"]) == ({"device": "cpu"}, [{"device": "cuda"}])


def test_a_share_of_a_whole_run_is_not_done_again(reference, tmp_path, capsys):
    folder = shutil.copytree(reference, tmp_path / "run")
    assert cli.main(suite.SUITE, ["--output", str(folder), "--from", "observe", "--shard", "1/2"]) == 2
    part = folder / "parts" / "1-of-2"
    assert f"--from observe --shard: {part} is no part that --shard has made; without --shard" in said(capsys)
    assert files_of(folder) == files_of(reference)
    assert not part.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_one_line(tmp_path, capsys, text):
    assert cli.main(suite.SUITE, ["--model", "oracle", "--output", str(tmp_path / "run"), f"--shard={text}"]) == 2
    assert f"expected I/N, a share from 1 to N as in 3/8, but got {text}" in said(capsys)


def test_more_shares_than_batches_are_refused_before_anything_is_written(tmp_path, capsys):
    words = ["--model", "oracle", "--limit", "6", "--output", str(tmp_path / "run"), "--shard", "1/9"]
    assert cli.main(suite.SUITE, words) == 2
    assert "1 batches of 32 images are too few for 9 shares; expected 1 at most" in said(capsys)
    assert not (tmp_path / "run").exists()
    assert set(LOGS) > {"scores.json"}


@pytest.mark.parametrize("shard", ["x", [1], None, ["1", "2"]])
def test_a_part_whose_share_is_none_is_no_part(two_parts, tmp_path, capsys, shard):
    folder = shutil.copytree(two_parts, tmp_path / "run")
    spec = json.loads((folder / "parts" / "1-of-2" / "run.json").read_text())
    spec["identity"]["generate"]["shard"] = shard
    (folder / "parts" / "1-of-2" / "hashes.txt").unlink()
    (folder / "parts" / "1-of-2" / "run.json").write_text(json.dumps(spec))
    assert merge.main([str(folder)]) == 2
    assert "1-of-2 is no part of a run: expected a folder that --shard I/N has made" in capsys.readouterr().err
