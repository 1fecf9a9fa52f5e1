"""The keys that the documentation lists, those of the types, and those that runs write are the same."""

import json
import re
from pathlib import Path

import pytest
from runner_kit import lines, make_plan

from evals import emu_edit
from evals.core import log_records
from evals.harness import cli
from evals.harness.runner import run

PAGE = (Path(__file__).parents[2] / "docs" / "run-directory.md").read_text()
RECORDS = {name: kind for name, kind in vars(log_records).items() if hasattr(kind, "__required_keys__")}


def documented():
    rows = dict(re.findall(r"^\| `(\w+)`: [^|]* \| (.*) \|$", PAGE, re.MULTILINE))
    found = {name: dict(re.findall(r"`(\w+)`(\??)", text)) for name, text in rows.items()}
    found["EditObservationLine"] = found["ObservationLine"] | found["EditObservationLine"]
    return found


def test_the_page_lists_the_keys_of_the_types():
    told = {name: {key for key, mark in keys.items() if not mark} for name, keys in documented().items()}
    assert told == {name: set(RECORDS[name].__required_keys__) for name in told}
    every = {name: set(keys) for name, keys in documented().items()}
    assert every == {name: set(RECORDS[name].__annotations__) for name in every}
    assert set(every) == set(RECORDS) - {"TypedDict", "SampleLine"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run(make_plan(root / "geneval", "--limit", "6"))
    words = ["--model", "oracle", "--limit", "2", "--device", "cpu", "--output", str(root / "edits")]
    assert cli.main(emu_edit.EmuEdit(), words) == 0
    return root


@pytest.mark.parametrize(
    ("run_name", "file", "record"),
    [
        ("geneval", "chains.jsonl", "ChainLine"),
        ("geneval", "times.jsonl", "TimesLine"),
        ("geneval", "observations.jsonl", "ObservationLine"),
        ("geneval", "results.jsonl", "ResultLine"),
        ("geneval", "run.json", "RunRecord"),
        ("geneval", "scores.json", "ScoresRecord"),
        ("edits", "observations.jsonl", "EditObservationLine"),
        ("edits", "results.jsonl", "EditResultLine"),
        ("edits", "scores.json", "EditScoresRecord"),
    ],
)
def test_a_run_writes_the_keys_of_the_types(runs, run_name, file, record):
    path, kind = runs / run_name / file, RECORDS[record]
    for content in lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]:
        assert set(kind.__required_keys__) <= set(content) <= set(kind.__annotations__)
