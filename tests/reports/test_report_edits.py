"""Reports over runs of the editing suites: of the icon world, where edits are measured, and of published sets."""

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import runner_kit
from PIL import Image
from report_kit import CHAIN, change_lines, write_json, write_lines
from rich.console import Console
from test_report_page import call, page_data

from evals import emu_edit, imagenhub, interactive
from evals.harness import cli
from evals.suite.case_scores import case_scores
from reports import __main__ as reports_main
from reports import compare, editing, style, tables
from reports.frames import Ablation, Cell, load, load_run
from reports.samples import load_samples


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """Real runs of two editing suites on the icon world's edition: untouched sources, judged by measurement."""
    root = tmp_path_factory.mktemp("edits")
    for suite in (emu_edit.EmuEdit(), imagenhub.ImagenHub(), interactive.Interactive()):
        words = ["--model", "identity", "--limit", "4", "--judge", "measured", "--output", str(root / suite.name)]
        assert cli.main(suite, words) == 0
    return root


def test_editing_runs_stand_below_the_papers_rows_by_encoder_and_judge(edited):
    runs, _ = load([edited / "emu_edit", edited / "imagenhub"])
    table = editing.editing_table(runs)
    ours = {row.label: row for row in table.rows if not row.reported}
    (clip,) = [row for label, row in ours.items() if label.startswith("identity, icon")]
    (judged,) = [row for label, row in ours.items() if label.startswith("identity, got")]
    assert clip.cells[0].value == pytest.approx(1.0, abs=1e-4), "an untouched image is like itself"
    assert clip.cells[1].low <= clip.cells[1].value <= clip.cells[1].high
    assert [cell.value for cell in clip.cells[2:]] == [None] * 3
    assert [column.title for column in table.columns][-1] == "ImagenHub judge (got/measured)"
    assert judged.cells[-1].value == runs[1].scores["overall"]["judge"]["headline"]
    assert judged.cells[2].value is None, "the column of the paper's judge is for its protocol"
    assert {len(row.cells) for row in table.rows} == {len(table.columns)}
    assert {row.source for row in ours.values()} == {"icon world, 4 of 400 edits", "icon world, 4 of 179 edits"}
    notes = " ".join((*table.notes, *table.origins))
    assert "untouched source 1.000" in notes
    assert "bootstrap, clustered by source image" in notes
    assert "n = 4 images of" in notes
    data = runs[0].scores["data"]
    assert f"ids {data['ids_sha256'][:12]}." in notes


def test_no_interval_of_an_editing_suites_tables_is_parted_on_a_terminal_of_80_columns(edited):
    suite, scores = emu_edit.EmuEdit(), load_run(edited / "emu_edit").scores
    found = []
    for width in (80, 160):
        terminal = Console(width=width, file=io.StringIO())
        for table in suite.tables(scores):
            terminal.print(table)
        found.append(re.findall(r"\d+\.\d{3}–\d+\.\d{3}", terminal.file.getvalue()))
    assert len(found[0]) > 10
    assert found[0] == found[1]


def test_a_comparison_knows_which_edits_have_one_source(edited):
    groups = compare.of_run(load_run(edited / "emu_edit")).groups
    assert {*groups} == {line["case"] for line in runner_kit.lines(edited / "emu_edit" / "observations.jsonl")}
    assert case_scores(edited / "emu_edit")[next(iter(groups))].group in groups.values()


def test_a_judge_that_failed_too_often_has_no_score_in_the_table(edited):
    run = load_run(edited / "imagenhub")
    judge = {**run.scores["overall"]["judge"], "headline": None, "failed": {"refusal": 3}, "bounds": [0.1, 0.9]}
    scores = {**run.scores, "overall": {**run.scores["overall"], "judge": judge}}
    run = dataclasses.replace(run, scores=scores)
    assert editing.editing_table([run]) is None
    table = editing.metrics_table([run], "metrics")
    assert "3 judgements failed; with them the score lies between 0.100 and 0.900" in " ".join(table.notes)


def test_editing_runs_make_a_report_with_their_failures(edited, tmp_path, capsys):
    assert reports_main.main([str(edited / "imagenhub"), "--output", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] == 4, "no edit was made"
    assert "| IP2P † |" in (tmp_path / "r" / "report.md").read_text()
    assert "edits done and rests untouched, icon world" in (tmp_path / "r" / "report.html").read_text()


def test_edits_of_the_icon_world_have_a_table_of_their_own(edited):
    runs, _ = load([edited / "interactive", edited / "emu_edit"])
    table = editing.measured_table(runs)
    assert [row.label.partition(":")[0] for row in table.rows] == ["Interactive generation", "Emu-Edit"]
    for row, run in zip(table.rows, runs, strict=True):
        shares = run.scores["overall"]["measured"]["shares"]
        assert [cell.value for cell in row.cells[:3]] == [
            shares[name]["value"] for name in ("edit done", "rest untouched", "both")
        ]
    assert table.rows[0].cells[0].value == 0, "nothing was done to the images"
    assert "true target edit done 1.000" in " ".join(table.notes)
    with style.sheet():
        drawn = editing.by_category(runs[1])
    kinds = [tag for tag, block in runs[1].scores["categories"].items() if block["measured"]]
    assert {row[1] for row in drawn.rows} == {"all", *kinds}


def test_a_report_shows_what_an_edit_started_from(edited, tmp_path):
    assert (
        reports_main.main([str(edited / "interactive"), "--output", str(tmp_path / "r"), "--pictures", "beside"]) == 0
    )
    page = (tmp_path / "r" / "report.html").read_text()
    beside = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["samples"][0]["views"][0]["beside"]
    assert [name for name, _ in beside] == ["source", "target"]
    files = [tmp_path / "r" / "pictures" / name for _, name in beside]
    images = [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]
    assert np.abs(images[0] - images[1]).max() > 50, "the target is another image"


# ------------------------------------------------------------------------------------------------------- comparability
def copies(run, *changes):
    """The run once more for each change: names, parts of its data, and encoders or judges in place of its own."""
    for number, (data, tools) in enumerate(changes):
        scores = json.loads(json.dumps(run.scores))
        scores["data"] |= data
        overall = scores["overall"]
        for old, (new, value) in tools.items():
            if old == "judge":
                overall["judge"] |= {"judge": new, "headline": value, "score": {"value": value}}
            else:
                overall["metrics"][new] = {**overall["metrics"].pop(old), "value": value}
        yield dataclasses.replace(run, label=f"copy {number}", scores=scores)


def test_the_best_is_bold_only_among_the_same_cases_and_the_same_encoder(edited):
    run = load_run(edited / "emu_edit")
    name, other = "clip_t@icon", {"ids_sha256": "0" * 64}
    changes = [({}, {name: (name, 0.5)}), ({}, {name: (name, 0.6)}), ({}, {name: ("clip_t@ViT", 0.7)})]
    runs = list(copies(run, *changes, (other, {name: (name, 0.8)}), ({"variant": "part"}, {name: (name, 0.9)})))
    table = editing.editing_table(runs)
    bold = [row.label for row in table.rows if not row.reported and table.best(row, 1)]
    assert bold == ["copy 1, icon"]


def test_judges_of_other_protocols_have_columns_of_their_own(edited):
    run = load_run(edited / "imagenhub")
    names = ("got@m#1", "got-verbatim@m#2", "viescore@m#3", "viescore@n#3")
    table = editing.editing_table(list(copies(run, *(({}, {"judge": (name, 0.5)}) for name in names))))
    assert [column.title for column in table.columns[4:]] == ["ImagenHub judge (viescore)"]
    values = {row.label.rpartition(", ")[2]: (row.cells[2].value, row.cells[4].value) for row in table.rows[8:]}
    assert {name: values[name] for name in names} == {
        **dict.fromkeys(names[:2], (0.5, None)),
        **dict.fromkeys(names[2:], (None, 0.5)),
    }
    assert {row.cells[4].value for row in table.rows[:8]} == {None}, "the paper has no such number"


@pytest.mark.parametrize(
    ("data", "said"), [({"of": 179}, "4 of 179 cases"), ({"of": 4}, ": 4 cases"), ({}, ": 4 cases")]
)
def test_a_note_says_which_cases_of_which_data(edited, data, said):
    run = load_run(edited / "imagenhub")
    about = {"name": "ImagenHub", "variant": "dev", "cases": 4, "ids_sha256": "ab" * 32, "revision": "cd" * 20, **data}
    table = editing.metrics_table([dataclasses.replace(run, scores={**run.scores, "data": about})], "metrics")
    notes = " ".join(table.origins)
    assert f"{said}, ids abababababab, revision cdcdcdcdcdcd." in notes
    assert "data ImagenHub, dev" in notes


# ------------------------------------------------------------------------------------------------- comparing and gates
def test_an_editing_run_has_a_baseline_and_a_gate(edited, tmp_path, capsys):
    baseline, run = tmp_path / "b.json", tmp_path / "run"
    assert call(capsys, "baseline", edited / "interactive", "--output", baseline)[0] == 0
    assert set(json.loads(baseline.read_text())["cases"].values()) <= {"move 0", "recolor 0", "replace 0", "add 0"}
    shutil.copytree(edited / "interactive", run)
    change_lines(run / "results.jsonl", correct=True)
    code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", run, "--junit", tmp_path / "j.xml")
    assert (code, out.partition(":")[0]) == (0, "pass")
    assert 'name="interactive gate"' in (tmp_path / "j.xml").read_text()
    code, out, _ = call(capsys, "compare", edited / "interactive", run, "--output", tmp_path / "r")
    assert code == 0
    assert "4 images won" in out
    assert {sample["outcome"] for sample in page_data(tmp_path / "r")["samples"]} == {"won"}


def test_a_failed_edit_keeps_its_kind_and_its_instruction(edited, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(edited / "interactive", run)
    before = load_samples(load_run(run))[-1]
    for name in ("results", "observations"):
        write_lines(run / f"{name}.jsonl", runner_kit.lines(run / f"{name}.jsonl")[:-1])
    failure = {"case": before.case, "index": before.index, "stage": "generate", "error": "out of memory"}
    write_lines(run / "failures.jsonl", [failure])
    after = load_samples(load_run(run))[-1]
    assert (after.key, after.outcome) == (before.key, "missing")
    assert (after.task, after.prompt) == (before.task, before.prompt)


def test_an_edit_makes_a_teaser(edited, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(edited / "interactive", run)
    case = runner_kit.lines(run / "results.jsonl")[0]["case"]
    assert "has no chain for sample" in call(capsys, "teaser", run, case, "--output", tmp_path / "t.png")[2]
    change_lines(run / "chains.jsonl", chain=CHAIN)
    assert call(capsys, "teaser", run, case, "--output", tmp_path / "t.png")[0] == 0
    assert np.asarray(Image.open(tmp_path / "t.png").convert("L")).min() < 128


# ------------------------------------------------------------------------------------------------------- published sets
@pytest.fixture(params=[None, True], ids=["null", "older"])
def unjudged(request, edited, tmp_path):
    """A run as of a published set, which nothing measures; older ones call right what is not black."""
    run = tmp_path / "published"
    shutil.copytree(edited / "imagenhub", run)
    scores = json.loads((run / "scores.json").read_text())
    for block in (scores, *scores["categories"].values()):
        block.get("overall", block)["measured"] = None
    write_json(run / "scores.json", {**scores, "world": "photographs", "faults": {}})
    change_lines(run / "results.jsonl", correct=request.param, reason="")
    lines = runner_kit.lines(run / "results.jsonl")
    for line, given in zip(lines, ([0.5], [0.1, 0.2], [None], [0.9]), strict=True):
        line["judge"] = given
    write_lines(run / "results.jsonl", lines)
    return run


def test_what_nothing_tells_right_from_wrong_is_called_neither(unjudged, tmp_path, capsys):
    assert call(capsys, unjudged, "--output", tmp_path / "r")[0] == 0
    samples = page_data(tmp_path / "r")["samples"]
    assert [sample["outcome"] for sample in samples] == ["not judged"] * 4
    assert [sample["views"][0]["reason"] for sample in samples] == ["judge: 0.150", "judge: 0.500", "judge: 0.900", ""]
    text = (tmp_path / "r" / "report.md").read_text()
    assert "4 of 4 samples of which nothing tells right from wrong here, those that the judge likes least first" in text
    assert "not judged: 4" in text
    table = (tmp_path / "r" / "samples.csv").read_text()
    assert table.count(",not judged,") == 4
    assert ",right," not in table


def test_a_black_image_is_wrong_all_the_same(unjudged, tmp_path, capsys):
    lines = runner_kit.lines(unjudged / "results.jsonl")
    lines[0] |= {"correct": False, "reason": "the picture is black"}
    write_lines(unjudged / "results.jsonl", lines)
    assert call(capsys, unjudged, "--output", tmp_path / "r")[0] == 0
    assert page_data(tmp_path / "r")["samples"][0]["outcome"] == "wrong"
    assert (
        "3 of 4 samples of which nothing tells right from wrong here and 1 that is wrong"
        in (tmp_path / "r" / "report.md").read_text()
    )


def test_without_verdicts_there_is_nothing_to_compare(unjudged, edited, tmp_path, capsys):
    for words in (["compare", unjudged, edited / "imagenhub"], ["baseline", unjudged, "--output", tmp_path / "b.json"]):
        code, _, err = call(capsys, *words)
        assert code == 2
        assert "has no verdicts" in err
        assert len(err.splitlines()) == 1


def test_an_ablation_of_edits_speaks_of_edits():
    """Of source images and edits, where one of prompts speaks of prompts; the suite by its title."""
    score = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 40, "clusters": 40}
    change = {"value": -0.5, "low": -0.75, "high": -0.25, "p_holm": 0.001, "verdict": "worse"}
    rows = [{"overall": score, "tasks": {}, "difference": difference} for difference in (None, change)]
    cells = tuple(Cell(name=str(i), settings={}, row=row, run=None) for i, row in enumerate(rows))

    def notes(suite):
        made = Ablation(path=Path("a"), name="components", suite=suite, command="", cells=cells)
        return " ".join(tables.ablation_table(made).notes)

    assert "n = 40 images of 40 source images in each cell" in notes("emu_edit")
    assert "paired by edit" in notes("emu_edit")
    assert "prompt" not in notes("emu_edit")
    assert "n = 40 images of 40 prompts in each cell" in notes("geneval")
