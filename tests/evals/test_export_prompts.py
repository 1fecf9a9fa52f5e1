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
    assert cli.main(GenEval, ["--export-prompts", str(folder), *LIMIT]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"suite": "geneval", "prompts": 6, "exported": str(folder)}
    said = shlex.split(err.partition("score them with ")[2])
    assert said == ["--model", f"folder:{folder}", "--images-per-prompt", "1", "--limit", "6"], "the same prompts"
    assert cli.main(GenEval, ["--export-prompts", str(folder), *LIMIT]) == 0, "again, into the same folders"
    metadata = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metadata.jsonl"))]
    assert all(line in prompts.generate() for line in metadata)
    for samples in folder.glob("*/samples"):  # the other tool paints grey
        Image.new("RGB", (64, 64), "grey").save(samples / "0000.png")
    words = [*said, "--detector", "icon", "--output", str(tmp_path / "run")]
    assert cli.main(GenEval, words) == 0
    lines = runner_kit.lines(tmp_path / "run" / "results.jsonl")
    assert [line["prompt"] for line in lines] == [line["prompt"] for line in metadata]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith('{"suite": "geneval"')


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
    assert [line["prompt"] for line in read] == ["three dogs", "a red apple", "a cat left of a dog"]


@pytest.mark.slow
def test_a_run_of_few_prompts_says_that_its_interval_is_wide(tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text('{"tag": "t", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}\n')
    words = ["--model", "oracle", "--prompts", str(tmp_path / "own.jsonl"), "--output", str(tmp_path / "run")]
    assert cli.main(GenEval, words) == 0
    assert re.search(r"1 prompt makes an interval of 0\.\d{3}–1\.000: more prompts narrow it", capsys.readouterr().err)
