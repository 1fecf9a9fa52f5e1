"""Prompts as folders for other tools, prompts of people's own, and what few of them can say."""

import json
import re
import shlex

import pytest
import runner_kit
from PIL import Image

from evals.geneval import prompts
from evals.geneval.suite import GenEval
from evals.harness import cli
from evals.harness.run_spec import find_suite

LIMIT = ["--limit", "6", "--images-per-prompt", "1"]


@pytest.mark.slow
def test_exported_folders_that_another_tool_fills_are_scored(tmp_path, capsys):
    folder = tmp_path / "prompts"
    assert cli.main(GenEval, ["--export-prompts", str(folder), "--detector", "icon", *LIMIT]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"suite": "geneval", "prompts": 6, "exported": str(folder)}
    said = shlex.split(err.partition("score them with ")[2])
    assert said[:3] == ["python", "-m", "evals.geneval"]
    assert {f"folder:{folder}", "--limit", "6"} < set(said), "the same prompts"
    assert cli.main(GenEval, ["--export-prompts", str(folder), *LIMIT]) == 0, "again, into the same folders"
    metadata = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metadata.jsonl"))]
    assert all(line in prompts.generate() for line in metadata)
    for samples in folder.glob("*/samples"):  # the other tool paints grey
        Image.new("RGB", (64, 64), "grey").save(samples / "0000.png")
    words = [*said[3:], "--output", str(tmp_path / "run")]
    assert cli.main(GenEval, words) == 0
    lines = runner_kit.lines(tmp_path / "run" / "results.jsonl")
    assert [line["prompt"] for line in lines] == [line["prompt"] for line in metadata]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith('{"suite": "geneval"')


@pytest.mark.parametrize("suite", ["geneval", "geneval2"])
def test_the_command_that_an_export_says_is_not_refused(suite, tmp_path, capsys):
    folder = tmp_path / "prompts"
    assert cli.main(find_suite(suite), ["--export-prompts", str(folder), "--limit", "2"]) == 0
    said, other = capsys.readouterr().err.split("score them with ")[1].split(" (or ")
    assert "--detector mask2former" in said
    for path in folder.glob("*/samples"):
        for index in range(find_suite(suite).images_per_prompt):
            Image.new("RGB", (64, 64)).save(path / f"{index:04d}.png")
    command = shlex.split(said)[3:]
    assert cli.main(find_suite(suite), [*command, "--dry-run"]) == 0
    assert cli.main(find_suite(suite), [*command, *shlex.split(other.partition(",")[0]), "--dry-run"]) == 0


def test_an_export_overwrites_nothing_and_takes_no_edits(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert cli.main(GenEval, ["--export-prompts", str(tmp_path), *LIMIT]) == 2
    assert "holds something else; choose another folder" in capsys.readouterr().err
    assert cli.main(find_suite("emu_edit"), ["--export-prompts", str(tmp_path / "new"), "--limit", "2"]) == 2
    assert "an edit needs its source image" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_help_shows_lines_of_a_prompts_file_that_can_be_read(tmp_path):
    text = cli.build_parser(GenEval()).format_help()
    lines = re.findall(r'^  (\{"tag".*\})$', text, re.MULTILINE)
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    read = prompts.read(tmp_path / "own.jsonl", 16)
    assert {line["tag"] for line in read} <= {case.tag for case in prompts.cases(prompts.generate())}
    assert [line["prompt"] for line in read] == ["three dogs", "a red apple", "a cat left of a dog"]


@pytest.mark.slow
def test_a_run_of_few_prompts_says_that_its_interval_is_wide(tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text('{"tag": "t", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}\n')
    words = ["--model", "oracle", "--prompts", str(tmp_path / "own.jsonl"), "--output", str(tmp_path / "run")]
    assert cli.main(GenEval, words) == 0
    assert re.search(r"1 prompt makes an interval of 0\.\d{3}–1\.000: more prompts narrow it", capsys.readouterr().err)
