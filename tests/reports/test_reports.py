"""Reports over a run directory that the suite's own functions wrote."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from report_kit import BOTH, CHAIN, make_ablation, write_run

from evals.core.vocabulary import TASKS
from reports import __main__ as reports_main
from reports import editing, formats, speed, tables
from reports.frames import load, load_lines, load_run, provenance
from reports.published import published
from reports.samples import load_samples


@pytest.fixture
def run(tmp_path):
    """A finished run of one case with two images: the first right, the second without its dog."""
    return write_run(tmp_path / "run")


def test_the_paper_table_has_its_thirteen_methods_and_no_invented_number():
    table = published("geneval")
    methods = list(table)
    assert (methods[0], methods[-1]) == ("SDv1.5", "GoT-6B")
    assert len(table) == 13
    # Chameleon's row gives the overall score only.
    assert table["Chameleon"] == {"overall": 0.39}
    assert published("editing")["IP2P"]["emu_edit_clip_i"] == 0.834
    assert len(published("ablation")) == 4


def test_a_footnote_names_no_detector_where_none_looked(run):
    assert provenance(load_run(run))["detector"] == "icon"
    spec = json.loads((run / "run.json").read_text())
    spec["identity"]["observe"] = {"embedder": "openclip:ViT-L-14/openai"}  # as of a published set of edits
    (run / "run.json").write_text(json.dumps(spec))
    assert provenance(load_run(run))["detector"] == "none"


def test_results_load_as_a_row_per_image(run):
    results = load_lines(run / "results.jsonl")
    assert [line["correct"] for line in results] == [True, False]
    assert results[1]["reason"] == "expected dog>=1, found 0"


def test_a_run_stands_below_the_published_rows_under_its_own_label(run):
    table = tables.geneval_table([load_run(run)])
    ours = table.rows[-1]
    cells = dict(zip((column.key for column in table.columns), ours.cells, strict=True))
    assert (ours.label, ours.images, ours.reported) == ("got", "icon world", False)
    assert cells["overall"].value == cells["color_attr"].value == 0.5
    low, high = cells["overall"].low, cells["overall"].high
    assert low == pytest.approx(1 - high)
    assert high > 0.95, "of a single prompt next to nothing is known"
    assert cells["n"].value == 2
    # The run has no counting prompts: a dash, not a zero.
    assert cells["counting"].value is None
    assert {row.source for row in table.rows[:-1]} == {"photographs, reported"}


def test_text_table_separates_icon_world_from_photographs(run):
    lines = formats.to_text(tables.geneval_table([load_run(run)])).splitlines()
    last = next(number for number, line in enumerate(lines) if line.startswith("GoT-6B"))
    assert set(lines[last + 1]) == {"-", " "}
    assert lines[last + 2] == "icon world:"
    assert lines[last + 3].split()[:2] == ["got", "0.500§"]
    assert lines[-1] == "95 % intervals: Bayesian bootstrap, clustered by prompt."


def test_an_overall_score_of_fewer_tasks_or_with_missing_images_is_marked_in_every_format(run):
    scores = json.loads((run / "scores.json").read_text())
    scores["missing"] = {"total": 2, "by_cause": {"generate: no such image": 2}}
    scores["overall"]["bounds"] = [0.25, 0.75]
    (run / "scores.json").write_text(json.dumps(scores))
    table = tables.geneval_table([load_run(run)])
    fewer = "overall is the mean of 1 of 6 tasks, without single object, two objects, counting, colors, position."
    said = "2 images have no score; with them the score lies between 0.250 and 0.750."
    text = formats.to_text(table)
    assert f"‡ got: {said} § got: {fewer} † as reported" in " ".join(text.split())
    assert "0.500‡§ " in text
    markdown = formats.to_markdown(table)
    assert "| 0.500‡§ (" in markdown
    assert f"- ‡ got: {said}" in markdown
    latex = formats.to_latex(table)
    assert r"& 0.500$^\ddagger$$^\S$ &" in latex
    assert r"$^\ddagger$ got: 2 images" in latex
    (row,) = [row for row in csv.DictReader(io.StringIO(formats.to_csv(table))) if row["method"] == "got"]
    names = ("missing", "overall_bound_low", "overall_bound_high", "tasks_without_score")
    assert [row[name] for name in names] == ["2", "0.25", "0.75", "5"]


def test_a_whole_run_has_no_footnote(tmp_path):
    scores = json.loads((write_run(tmp_path / "run") / "scores.json").read_text())
    scores["tasks"] = dict.fromkeys(TASKS, scores["tasks"]["color_attr"])
    (tmp_path / "run" / "scores.json").write_text(json.dumps(scores))
    table = tables.geneval_table([load_run(tmp_path / "run")])
    assert table.footnotes == ()
    assert "‡" not in formats.to_text(table) + formats.to_latex(table)
    assert "missing" not in formats.to_csv(table).splitlines()[0]


def scored(columns, row, label="got"):
    """A table of scores between 0.25 and 0.75."""
    cell = tables.Cell(value=row, low=0.25, high=0.75)
    row = tables.Row(label=label, images="icon world", cells=(cell,) * len(columns))
    columns = tuple(tables.Column(key=title, title=title) for title in columns)
    return formats.to_text(tables.Table(name="t", caption="Of a test.", columns=columns, rows=(row,)))


def test_a_text_table_of_all_tasks_fits_a_terminal_of_80_columns(run):
    lines = formats.to_text(tables.geneval_table([load_run(run)])).splitlines()
    assert max(map(len, lines)) <= 80
    (place,) = (number for number, line in enumerate(lines) if line.startswith("got "))
    low, high = (line.split() for line in lines[place + 1 : place + 3])
    assert low[:3] == ["95", "%", "from"]
    assert high[0] == "to"
    assert len(low[3:]) == len(high[1:]) == 2, "overall and color attribution"


def test_an_interval_stands_where_there_is_room_for_it():
    assert "got  0.500 (0.250–0.750)" in scored(["overall"], 0.5)
    assert "\n     0.250–0.750  0.250–0.750" in scored(["overall", "a", "b", "c", "d"], 0.5)
    assert "\n  95 % from   0.250 0.250" in scored(["overall", *"abcdefg"], 0.5)


def test_columns_that_fit_nowhere_stand_in_a_second_block_and_a_long_label_on_its_own_line():
    label = "scheduler dpmsolver++, steps 20, seed 7"
    text = scored([f"measure{i}" for i in range(20)], 0.5, label)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.500") == 20
    assert text.count(f"{label}\n") == 3


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
    table = tables.geneval_table(load([run, better])[0])
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
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "rows": 14,
        "runs": 1,
        "scored": 1,
        "output": str(target),
    }


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
    table = tables.geneval_table([load_run(run)])
    notes = " ".join((*table.notes, *table.origins))
    said = ("n = 2 images of 1 prompt", "detector icon (aaaaaaaaaa)", "encoder openclip:x (bbbbbbbbbb)", "judge none",
            "commit 01234567 with local changes", "not measured here", "icon world")  # fmt: skip
    assert [words for words in said if words not in notes] == []


def test_missing_images_are_in_the_notes_with_bounds(run):
    scores = json.loads((run / "scores.json").read_text())
    scores["missing"]["total"], scores["overall"]["bounds"] = 2, [0.25, 0.75]
    (run / "scores.json").write_text(json.dumps(scores))
    notes = " ".join(tables.run_notes([load_run(run)]))
    assert "2 images have no score; with them the score lies between 0.250 and 0.750" in notes


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / parent / "run") for parent in ("a", "b", "x/c", "y/c")]
    runs, _ = load(paths[:2])
    assert [run.label for run in runs] == ["got (a/run)", "got (b/run)"]
    runs, _ = load(paths)
    assert [run.name for run in runs] == ["a/run", "b/run", "x/c/run", "y/c/run"], "and no longer than it takes"


def test_ablations_of_the_same_name_keep_their_cells_apart(tmp_path):
    paths = [make_ablation(tmp_path / parent / "steps", {"few": ["--steps", "5"], "many": []}) for parent in "ab"]
    _, ablations = load(paths)
    names = [cell.run.name for ablation in ablations for cell in ablation.cells]
    assert names == ["a/steps: few", "a/steps: many", "b/steps: few", "b/steps: many"]


def test_scores_of_other_prompts_are_not_best_of_all(run, tmp_path):
    better = write_run(tmp_path / "other" / "better", [(CHAIN, BOTH, None)] * 2)
    spec = json.loads((better / "run.json").read_text())
    spec["identity"]["generate"]["prompts_sha256"] = "1" * 64
    (better / "run.json").write_text(json.dumps(spec))
    table = tables.geneval_table([load_run(run), load_run(better)])
    assert [row.label for row in table.rows if table.best(row, 0)] == ["GoT-6B"]


# ------------------------------------------------------------------------------------------------------------- editing
def test_the_papers_editing_rows_are_never_a_table_of_their_own():
    assert editing.editing_table([]) is None
    paper = published("editing")
    assert len(paper) == 8
    assert paper["GoT-6B"]["reason_edit_judge"] == 0.561
    assert "imagenhub_judge" not in paper["Emu-Edit"], "the paper gives none"


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


@pytest.mark.parametrize(
    ("words", "index"), [(["00000"], 0), (["00000/1"], 1), (["00000/0"], 0), (["00000", "--index", "1"], 1)]
)
def test_a_sample_is_named_by_its_case_alone_or_as_scores_json_has_it(run, tmp_path, capsys, words, index):
    assert reports_main.main(["teaser", str(run), *words, "--output", str(tmp_path / "t.png")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["case"], said["index"]) == ("00000", index)
    assert (said["outcome"], said["reason"][:8], said["failed_at"]) == (
        ("right", "", None), ("wrong", "expected", "unchecked")
    )[index]  # fmt: skip


def test_teaser_is_a_wide_image_with_ink_in_every_panel(run, tmp_path):
    target = tmp_path / "docs" / "teaser.png"
    assert reports_main.main(["teaser", str(run), "00000", "--output", str(target)]) == 0
    pixels = np.asarray(Image.open(target).convert("L"))
    assert pixels.shape[1] > 3 * pixels.shape[0]
    for panel in np.array_split(pixels, 5, axis=1):
        assert (panel < 128).mean() > 0.002


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "{tmp}/nothing"], "nothing is missing; expected the --output of a finished run"),
        (["tabel", "{run}"], "tabel is neither a command (report, table, compare, baseline, gate, power, teaser) nor"),
        (["foo"], "foo is neither a command (report, "),
        (["{tmp}/nothing"], "nothing is neither a command (report, "),
        (["teaser", "{run}", "00007"], "{run} has no sample '00007'; it has 00000 to 00000"),
        (["teaser", "{run}", "00000", "--index", "5"], "has no sample '00000/5'; it has 00000/0 to 00000/1"),
        (["gate", "--baseline", "{run}", "--run", "{run}"], "is a folder; of a run, `python -m reports baseline"),
        (["report", "{tmp}", "--output", "{tmp}/r", "--benchmarks", "{run}"], "run.json is missing"),
        (["report", "--output", "{tmp}/r", "--benchmarks", "{run}"], "{run}"),
        (["teaser", "{run}", "00000", "--output", "{tmp}/teaser.xyz"], "cannot write --output"),
    ],
)
def test_a_users_mistake_is_one_line(run, tmp_path, capsys, words, message):
    assert reports_main.main([word.format(tmp=tmp_path, run=run) for word in words]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: "))
    assert message.format(tmp=tmp_path, run=run) in line


def test_a_damaged_log_is_named(run, capsys):
    (run / "chains.jsonl").write_text('{"case": ')
    assert reports_main.main(["teaser", str(run), "00000"]) == 2
    assert "chains.jsonl line 1 is not valid JSON" in capsys.readouterr().err


def test_a_reason_names_detections_that_nearly_counted_and_the_public_log_stays_as_it_is(tmp_path):
    faint = {**BOTH[1], "score": 0.28}
    run = write_run(tmp_path / "run", [(CHAIN, [BOTH[0], faint], None), (CHAIN, [BOTH[0]], None)])
    before = (run / "results.jsonl").read_bytes()
    near, none = load_samples(load_run(run))
    assert near.reason == "expected dog>=1, found 0 (a 1st at 0.28, below 0.3)"
    assert none.reason == "expected dog>=1, found 0"
    assert reports_main.main([str(run), "--output", str(tmp_path / "report")]) == 0
    assert "a 1st at 0.28, below 0.3" in (tmp_path / "report" / "samples.csv").read_text()
    assert "a 1st at 0.28, below 0.3" in (tmp_path / "report" / "report.html").read_text()
    assert (run / "results.jsonl").read_bytes() == before
    assert b"0.28, below" not in before


def test_scores_of_an_older_run_without_an_overall_are_one_line(tmp_path, capsys):
    for name, content in {"run.json": {"arguments": {}, "identity": {}}, "scores.json": {"suite": "geneval"}}.items():
        (tmp_path / name).write_text(json.dumps(content))
    for words in (["table", str(tmp_path)], ["baseline", str(tmp_path), "--output", str(tmp_path / "b.json")]):
        assert reports_main.main(words) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.endswith("holds no scores: overall is missing; --from verdict makes it again")
