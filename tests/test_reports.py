"""Reports over a run directory that the suite's own functions wrote."""

import csv
import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from report_kit import BOTH, CHAIN, write_run

from evals import cli, emu_edit, imagenhub, interactive
from reports import __main__ as reports_main
from reports import editing, formats, speed, style, tables
from reports.frames import load, load_results, load_run
from reports.published import published


@pytest.fixture
def run(tmp_path):
    """A finished run of one case with two images: the first right, the second without its dog."""
    return write_run(tmp_path / "run")


def test_the_paper_table_has_its_thirteen_methods_and_no_invented_number():
    table = published("geneval")
    assert table.index[0] == "SDv1.5"
    assert table.index[-1] == "GoT-6B"
    assert len(table) == 13
    # Chameleon's row gives the overall score only.
    assert table.loc["Chameleon"].notna().tolist() == [True, *[False] * 6]
    assert published("editing").loc["IP2P", "emu_edit_clip_i"] == 0.834
    assert len(published("ablation")) == 4


def test_results_load_as_a_row_per_image(run):
    results = load_results(run)
    assert results["correct"].tolist() == [True, False]
    assert results["reason"].tolist()[1] == "expected dog>=1, found 0"


def test_a_run_stands_below_the_published_rows_under_its_own_label(run):
    table = tables.geneval_table([load_run(run)])
    ours = table.rows[-1]
    cells = dict(zip((column.key for column in table.columns), ours.cells, strict=True))
    assert (ours.label, ours.images, ours.reported) == ("got (run)", "icon world", False)
    assert cells["overall"].value == cells["color_attr"].value == 0.5
    assert cells["overall"].low <= 0.5 <= cells["overall"].high
    assert cells["n"].value == 2
    # The run has no counting prompts: a dash, not a zero.
    assert cells["counting"].value is None
    assert {row.source for row in table.rows[:-1]} == {"photographs, reported"}


def test_text_table_separates_icon_world_from_photographs(run):
    lines = formats.to_text(tables.geneval_table([load_run(run)])).splitlines()
    assert lines[-3].startswith("GoT-6B")
    assert set(lines[-2]) == {"-", " "}
    assert lines[-1].split()[:5] == ["got", "(run)", "icon", "world", "0.500"]


def test_markdown_and_latex_have_a_cell_for_every_column(run):
    table = tables.geneval_table([load_run(run)])
    assert len(table.rows) == 14
    rows = [line for line in formats.to_markdown(table).splitlines() if line.startswith("|")]
    assert [line.count("|") for line in rows] == [len(table.columns) + 3] * 16
    assert sum(" † |" in line for line in rows) == 13
    latex = formats.to_latex(table)
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")].splitlines()
    assert {line.count(" & ") for line in body if " & " in line} == {len(table.columns)}
    assert latex.count(r"$^\dagger$") == 14  # the published rows, and the note that explains them
    assert r"\label{tab:geneval}" in latex
    assert r"\caption{GenEval" in latex
    assert "_" not in latex.replace(r"\_", "")


def test_the_best_is_bold_among_rows_that_compare(run, tmp_path):
    better = write_run(tmp_path / "other" / "better", [(CHAIN, BOTH, None)] * 2)
    table = tables.geneval_table([load_run(run), load_run(better)])
    bold = [(row.label, row.source) for row in table.rows if table.best(row, 0)]
    assert bold == [("GoT-6B", "photographs, reported"), ("got (better)", "icon world")]
    assert r"\textbf{1.000}" in formats.to_latex(table)
    alone = tables.geneval_table([load_run(better)])
    assert not alone.best(alone.rows[-1], 0), "one row is not the best of anything"


def test_csv_is_numbers(run, tmp_path, capsys):
    target = tmp_path / "table.csv"
    assert reports_main.main(["table", str(run), "--format", "csv", "--output", str(target)]) == 0
    import pandas as pd

    assert pd.read_csv(target)["overall"].iloc[-1] == 0.5
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 14, "runs": 1, "output": str(target)}


def test_footnotes_say_what_a_number_rests_on(run):
    spec = {
        "machine": {"commit": "0123456789abcdef", "dirty": True},
        "identity": {
            "generate": {"weights_sha256": {"unet": "11" * 32, "vae": "22" * 32}},
            "observe": {
                "detector": "icon",
                "embedder": "openclip:x",
                "weights_sha256": {"detector/a": "aa" * 32, "embedder/b": "bb" * 32},
            },
        },
    }
    (run / "run.json").write_text(json.dumps(spec))
    notes = " ".join(tables.geneval_table([load_run(run)]).notes)
    said = ("n = 2 images of 1 prompts", "detector icon (aaaaaaaaaa)", "encoder openclip:x (bbbbbbbbbb)", "judge none",
            "commit 01234567 with local changes", "not measured here", "icon world")  # fmt: skip
    assert [words for words in said if words not in notes] == []


def test_missing_images_are_in_the_notes_with_bounds(run):
    scores = json.loads((run / "scores.json").read_text())
    scores["missing"]["total"], scores["overall"]["bounds"] = 2, [0.25, 0.75]
    (run / "scores.json").write_text(json.dumps(scores))
    notes = " ".join(tables.geneval_table([load_run(run)]).notes)
    assert "2 images have no score; with them the score lies between 0.250 and 0.750" in notes


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / parent / "run") for parent in "ab"]
    runs, _ = load(paths)
    assert [run.label for run in runs] == ["got (a/run)", "got (b/run)"]


# ------------------------------------------------------------------------------------------------------------- editing
def test_editing_table_has_the_papers_rows_and_only_them_without_runs():
    table = editing.editing_table([])
    assert len(table.rows) == 8
    assert all(row.reported for row in table.rows)
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(table))))
    assert (rows[-1]["method"], rows[-1]["reason_edit_judge"], rows[-2]["emu_edit_clip_i"]) == (
        "GoT-6B",
        "0.561",
        "0.86",
    )
    # The paper gives no ImagenHub score of Emu-Edit.
    assert [row["imagenhub_judge"] for row in rows if row["method"] == "Emu-Edit"] == [""]


# --------------------------------------------------------------------------------------------------------------- speed
def speed_file(path, commit, mean, cpu="Some CPU"):
    """What pytest-benchmark writes, as far as it is read."""
    extra = {"speedup": 4.25, "images_per_second": 120.0}
    one = {"name": "bench_detector", "stats": {"mean": mean, "stddev": 0.01}, "extra_info": extra}
    content = {"datetime": "2026-01-02T03:04:05", "commit_info": {"id": commit, "dirty": False}, "benchmarks": [one],
               "machine_info": {"cpu": {"brand_raw": cpu, "count": 2}, "machine": "x86_64"}}  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def test_benchmark_files_are_compared_commit_by_commit(tmp_path, capsys):
    files = [speed_file(tmp_path / "a.json", "a" * 40, 0.2), speed_file(tmp_path / "b.json", "b" * 40, 0.1)]
    assert reports_main.main(["--benchmarks", *map(str, files), "--output", str(tmp_path / "r")]) == 0
    capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO((tmp_path / "r" / "tables" / "speed.csv").read_text()))
    assert float(row["ms_0"]) == pytest.approx(200)
    assert float(row["ms_1"]) == pytest.approx(100)
    assert float(row["ratio"]) == pytest.approx(0.5)
    assert float(row["speedup"]) == pytest.approx(4.25)
    assert "120 images/s" in (tmp_path / "r" / "report.html").read_text()


def test_times_of_two_machines_are_not_divided(tmp_path):
    files = [speed_file(tmp_path / "a.json", "a", 0.2), speed_file(tmp_path / "b.json", "b", 0.1, cpu="Other CPU")]
    table = speed.speed_table([speed.load(file) for file in files])
    assert "ratio" not in [column.key for column in table.columns]
    assert "2 machines" in " ".join(table.notes)


def test_a_file_that_is_no_benchmark_is_named(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[]")
    assert reports_main.main(["--benchmarks", str(tmp_path / "x.json"), "--output", str(tmp_path / "r")]) == 2
    assert "x.json is no file of" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert reports_main.main(["report", "--output", str(tmp_path / "r")]) == 2


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """Real runs of two editing suites on the icon world's edition: untouched sources, judged by measurement."""
    root = tmp_path_factory.mktemp("edits")
    for suite in (emu_edit.SUITE, imagenhub.SUITE, interactive.SUITE):
        words = ["--model", "identity", "--limit", "4", "--judge", "measured", "--output", str(root / suite.name)]
        assert cli.main(suite, words) == 0
    return root


def test_editing_runs_stand_below_the_papers_rows_by_encoder_and_judge(edited):
    runs, _ = load([edited / "emu_edit", edited / "imagenhub"])
    table = editing.editing_table(runs)
    ours = {row.label: row for row in table.rows if not row.reported}
    (clip,) = [row for label, row in ours.items() if label.startswith("identity (emu_edit), ")]
    (judged,) = [row for label, row in ours.items() if label.startswith("identity (imagenhub), ")]
    assert clip.cells[0].value == pytest.approx(1.0, abs=1e-4), "an untouched picture is like itself"
    assert clip.cells[1].low <= clip.cells[1].value <= clip.cells[1].high
    assert [cell.value for cell in clip.cells[2:]] == [None, None]
    assert judged.cells[2].value == runs[1].scores["overall"]["judge"]["headline"]
    assert {row.source for row in ours.values()} == {"icon world"}
    notes = " ".join(table.notes)
    assert "untouched source 1.000" in notes
    assert "bootstrap over source pictures" in notes
    assert "n = 4 images of" in notes


def test_a_judge_that_failed_too_often_has_no_score_in_the_table(edited):
    run = load_run(edited / "imagenhub")
    judge = {**run.scores["overall"]["judge"], "headline": None, "failed": {"refusal": 3}, "bounds": [0.1, 0.9]}
    scores = {**run.scores, "overall": {**run.scores["overall"], "judge": judge}}
    table = editing.editing_table([dataclasses.replace(run, scores=scores)])
    assert all(row.reported for row in table.rows)
    assert "3 judgements failed; with them the score lies between 0.100 and 0.900" in " ".join(table.notes)


def test_editing_runs_make_a_report_with_their_failures(edited, tmp_path, capsys):
    assert reports_main.main([str(edited / "imagenhub"), "--output", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] == 4, "no edit was made"
    assert "| IP2P † |" in (tmp_path / "r" / "report.md").read_text()


def test_edits_of_the_icon_world_have_a_table_of_their_own(edited):
    runs, _ = load([edited / "interactive", edited / "emu_edit"])
    table = editing.measured_table(runs)
    assert [row.label.partition(":")[0] for row in table.rows] == ["Interactive generation", "Emu-Edit"]
    for row, run in zip(table.rows, runs, strict=True):
        shares = run.scores["overall"]["measured"]["shares"]
        assert [cell.value for cell in row.cells[:3]] == [
            shares[name]["value"] for name in ("edit done", "rest untouched", "both")
        ]
    assert table.rows[0].cells[0].value == 0, "nothing was done to the pictures"
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
    pictures = [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]
    assert np.abs(pictures[0] - pictures[1]).max() > 50, "the target is another picture"


def test_teaser_is_a_wide_picture_with_ink_in_every_panel(run, tmp_path):
    target = tmp_path / "docs" / "teaser.png"
    assert reports_main.main(["teaser", str(run), "00000", "--output", str(target)]) == 0
    pixels = np.asarray(Image.open(target).convert("L"))
    assert pixels.shape[1] > 3 * pixels.shape[0]
    for panel in np.array_split(pixels, 5, axis=1):
        assert (panel < 128).mean() > 0.002


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "{tmp}/nothing"], "nothing/run.json is missing"),
        (["teaser", "{run}", "00007"], "has no case '00007' with index 0; its cases: 00000 to 00000"),
        (["teaser", "{run}", "00000", "--index", "5"], "with index 5"),
        (["teaser", "{run}", "00000", "--output", "{tmp}/teaser.xyz"], "cannot write --output"),
    ],
)
def test_a_users_mistake_is_one_line(run, tmp_path, words, message):
    words = [word.format(tmp=tmp_path, run=run) for word in words]
    done = subprocess.run([sys.executable, "-m", "reports", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_damaged_log_is_named(run, capsys):
    (run / "chains.jsonl").write_text('{"case": ')
    assert reports_main.main(["teaser", str(run), "00000"]) == 2
    assert "chains.jsonl is damaged" in capsys.readouterr().err
