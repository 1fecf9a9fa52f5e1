"""The command line: what it teaches, what it refuses and how, and what it prints last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runner_kit import TOOLS, contents, lines, make_plan

from evals.core import options
from evals.core.records import UserError
from evals.detectors.registry import DETECTORS
from evals.generators import registry as generators
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from got.util import provenance
from got.util.cli import run_command

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ["--model", "oracle", "--images-per-prompt", "2", "--limit", "12", *TOOLS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    run(make_plan(folder, "--limit", "12"))
    return folder


def call(capsys, *words):
    """Exit code, lines of standard output, lines of standard error."""
    code = cli.main(suite.SUITE, [str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def without_torch(*words):
    code = (
        "import sys; from evals.harness import cli; from evals import geneval\n"
        f"code = cli.main(geneval.SUITE, {[str(word) for word in words]!r})\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'open_clip', 'mmdet'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------------------ teaching
def test_help_teaches_in_groups_with_defaults_and_examples():
    text = cli.build_parser(suite.SUITE).format_help()
    for heading in ("what draws:", "GoT's three guidances:", "what looks at the images:", "geneval:", "the run:"):
        assert heading in text
    for word in (
        "got, oracle, identity, target, released, folder:PATH, diffusers:ID|PATH",
        "(default: 42)",
        "examples:",
        "same command resumes",
    ):
        assert word in " ".join(text.split())


def test_the_examples_of_the_help_are_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images").mkdir()
    (tmp_path / "my_images" / "00000.png").touch()
    text = cli.build_parser(suite.SUITE).epilog
    commands = [line.strip() for line in text.splitlines() if line.strip().startswith("python -m evals.geneval")]
    assert len(commands) >= 5
    for command in commands:
        words = command.split("   ")[0].split()[3:]
        if "--from" not in words:  # that one needs the run it speaks of
            cli.make_plan(suite.SUITE, words)


def test_every_flag_has_a_line_of_help():
    parser = cli.build_parser(suite.SUITE)
    assert [action.dest for action in parser._actions if not action.help] == []


def test_the_flags_that_other_tools_rely_on_exist():
    args = cli.parse(suite.SUITE, []).settings
    fixed = "model checkpoint limit images_per_prompt seed steps batch_size output engine semantic spatial reference"
    fixed += " semantic_scale spatial_scale reference_scale detector device dtype start"
    assert set(fixed.split()) <= set(vars(args))
    assert (args.model, args.checkpoint, args.images_per_prompt, args.seed) == ("got", "mini", 4, 42)


def test_an_interval_of_guidance_is_part_of_a_runs_identity():
    plain, given = (cli.parse(suite.SUITE, words).settings for words in ([], ["--guidance-interval", "0", "0.7"]))
    assert options.deciding(given, options.GENERATE) == options.deciding(plain, options.GENERATE) | {
        "guidance_interval": [0.0, 0.7]
    }
    assert options.from_json(type(given), options.as_json(given)) == given


# ----------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "gan"],
            "--model gan is unknown; expected one of got, oracle, identity, target, released, folder:PATH",
        ),
        (["--limit", "0"], "argument --limit: expected a whole number from 1 up but got 0"),
        (["--limit", "many"], "expected a whole number from 1 up but got many"),
        (["--steps", "-3"], "--steps"),
        (["--semantic", "maybe"], "invalid choice: 'maybe'"),
        (["--spatial-scale", "nan"], "expected a number from 0 up but got nan"),
        (["--model", "oracle", "--spatial", "off", "--steps", "3"], "--steps, --spatial has no effect with"),
        (["--guidance-interval", "0.7", "0.2"], "--guidance-interval 0.7 0.2: expected the lesser number first"),
        (["--guidance-interval", "0", "2"], "expected a number from 0 to 1 but got 2"),
        (["--model", "oracle", "--guidance-interval", "0", "1"], "--guidance-interval has no effect with"),
        (["--model", "oracle", "--reference-compat"], "--reference-compat has no effect with --model oracle"),
        (["--model", "got", "--reference-compat", "--scheduler", "unipc"], "samples by DDPM only"),
        (
            ["--model", "folder:nowhere", "--checkpoint", "mini"],
            "--checkpoint has no effect with --model folder",
        ),
        (["--prompts", "nowhere.jsonl"], "Cannot read nowhere.jsonl"),
        (["--threshold", "7"], "--threshold is 7.0; expected a number from"),
        (["--lim", "3"], "unrecognized arguments: --lim 3"),
        (["--engine", "cloud"], "invalid choice: 'cloud'"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *words)
    assert code == 2
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("geneval: error: ")
    assert message in err[0]
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_about_a_run_changes_nothing_in_it(capsys, finished):
    before = contents(finished)
    code, out, err = call(capsys, *ORACLE, "--output", finished, "--seed", "1")
    assert (code, out, len(err)) == (2, [], 1)
    assert "seed: 42 -> 1" in err[0]
    assert contents(finished) == before


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    plan = cli.make_plan(suite.SUITE, [*ORACLE, "--device", "cuda:77", "--output", str(tmp_path / "run")])
    with pytest.raises(UserError, match="--device cuda:77 cannot be used"):
        run(plan)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_there_is_one_line_before_any_model_is_loaded(tmp_path, capsys):
    code, out, err = call(
        capsys, "--model", f"folder:{tmp_path}/nowhere", "--detector", "icon", "--output", tmp_path / "run"
    )
    assert (code, out) == (2, [])
    assert err[-1] == f"geneval: error: --model folder:{tmp_path}/nowhere: no such folder"
    assert not (tmp_path / "run").exists()


def test_a_broken_program_still_shows_where(capsys, monkeypatch):
    def bug(args):
        raise ZeroDivisionError

    monkeypatch.setattr(generators, "parse_model", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(suite.SUITE, [])


# -------------------------------------------------------------------------------------------------------- what it does
def test_a_finished_run_is_printed_again_with_one_json_object_last(finished):
    done = without_torch(*ORACLE, "--output", finished)
    assert done.returncode == 0, done.stderr
    *tables, last = done.stdout.splitlines()
    assert json.loads(last)["run"] == str(finished)
    assert (
        json.loads(last)["overall"] == json.loads((finished / "scores.json").read_text())["overall"]["score"]["value"]
    )
    assert any("single" in line for line in tables)
    assert max(map(len, tables)) <= 120
    assert done.stderr == ""


def test_judging_again_needs_no_torch_and_no_repeated_flags(tmp_path):
    folder = tmp_path / "run"
    run(make_plan(folder, "--limit", "12"))
    done = without_torch("--output", folder, "--from", "verdict", "--threshold", "0.9")
    assert done.returncode == 0, done.stderr
    assert len(lines(folder / "results.jsonl")) == 24
    again = without_torch("--output", folder, "--from", "verdict", "--max-objects", "1")
    assert again.returncode == 0, again.stderr
    verdict = json.loads((folder / "run.json").read_text())["identity"]["verdict"]
    assert (verdict["threshold"], verdict["max_objects"]) == (0.9, 1)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, *ORACLE, "--dry-run")
    plan = json.loads("\n".join(out))
    assert code == 0
    assert plan["images"] == 24
    assert plan["generate"]["seed"] == 42
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("detector", "embedder"),
    [("icon", "icon"), (f"icon:{DETECTORS['icon'].weights('')}", "icon"), ("mask2former", "openclip:ViT-L-14/openai")],
)
def test_a_detector_brings_its_companion(detector, embedder):
    assert cli.parse(suite.SUITE, ["--model", "oracle", "--detector", detector]).settings.embedder == embedder


def test_the_default_directory_is_found_again_and_shared_with_no_other_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00000.png").touch()

    def output(*words):
        return cli.make_plan(suite.SUITE, words).output

    first = output(*ORACLE)
    assert first == output(*ORACLE, "--batch-size", "3", "--device", "cpu", "--threshold", "0.4")
    assert first.parent == Path("runs")
    assert first.name.startswith("geneval-oracle-limit12-")
    others = {output(*ORACLE, "--seed", "1"), output("--model", "oracle"), output("--model", "folder:a", *TOOLS)}
    assert len(others | {first}) == 4


def test_help_of_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "evals.geneval", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m evals.geneval")


# ---------------------------------------------------------------------------------------------------------- provenance
def test_weights_are_hashed_by_content(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"abc")
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "tokens.safetensors").write_bytes(b"of no effect on an image")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert provenance.weights_sha256(tmp_path) == {"unet/a.safetensors": digest}
    assert provenance.weights_sha256(tmp_path / "unet" / "a.safetensors") == {"a.safetensors": digest}
    assert provenance.weights_sha256(tmp_path / "nowhere") == {}


def test_versions_and_commit_are_those_of_this_program():
    import numpy as np

    assert provenance.package_versions()["numpy"] == np.__version__
    known = provenance.commit()
    assert known["commit"] is None or len(known["commit"]) == 40


# -------------------------------------------------------------------------------------------------- names and pipes
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--detector", "nonsense"], "Expected a detector among"),
        (["--detector", "icon:gone.safetensors"], "gone.safetensors does not exist"),
        (["--detector", "mask2former:gone.pth"], "gone.pth does not exist"),
        (["--detector", "gone.safetensors"], "gone.safetensors does not exist"),
        (["--detector", "hf:./gone"], "hf:./gone cannot be loaded: neither a folder here nor the form of a hub id"),
        (["--detector", "hf"], "Expected hf:ID or hf:PATH but got"),
        (["--detector", "icon", "--embedder", "clip"], "Expected an embedder among"),
        (["--detector", "icon", "--embedder", "openclip:./gone"], "openclip:./gone: there is no folder gone"),
        (["--detector", "icon", "--embedder", "openclip:bare"], "openclip:bare: bare has no open_clip_config.json"),
    ],
)
def test_names_that_can_be_nothing_are_refused_before_a_folder_is_listed(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    monkeypatch.setattr("evals.core.folder_listing.list_folder", pytest.fail)
    for dry in ([], ["--dry-run"]):
        assert cli.main(suite.SUITE, ["--model", "folder:images", *words, *dry]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, len(err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    "words",
    [
        ["evals.geneval", "--model", "oracle", "--dry-run"],
        ["evals.ablation", "--help"],
        ["reports", "--help"],
        ["got", "info"],
        ["got.data", "--help"],
        ["got.finetune", "--help"],
        ["got.iconworld", "--help"],
    ],
)
def test_a_command_whose_output_nobody_reads_ends_without_a_traceback(words):
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run([sys.executable, "-m", *words], stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    finally:
        os.close(write)
    assert ended.stderr == b""
    # Of a help that is longer than its buffer, argparse itself takes no notice that nobody reads it.
    assert ended.returncode in ((0, 141) if "--help" in words else (141,))


def test_a_broken_pipe_that_is_not_the_commands_output_is_an_error_as_any_other(capsys):
    def work():
        raise BrokenPipeError("a judge's connection")

    with pytest.raises(BrokenPipeError):
        run_command(work)
