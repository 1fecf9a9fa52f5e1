"""Each judged benchmark with a model on this machine as judge, and with a server that answers as its official judge
does: twelve cases, both in one report. And in what words tables show such runs."""

import html

import judged_kit as kit
import pytest
from vlm_kit import build

from evals import imgedit
from reports import __main__ as reports
from reports import judged
from reports.frames import load

GRADES = '{"consistency_score": 4, "instruction_score": 5, "knowledge_score": 3, "quality_score": 4}'
LINES = "\n".join(f"{name}: 4" for name in dict.fromkeys(name for names in imgedit.KINDS.values() for name in names))
SAID = {
    "wise": ("Score: 1", 1.0),
    "genevalpp": ('{"correct": 1}', 1.0),
    "imgedit": (LINES, 4.0),
    "gedit": ('{"score": [9, 4]}', 4.0),
    "rise": ("Final Score: 1", 3 / 12),  # the best of logic, the least of all else
    "kris": (GRADES, (7 * 250 / 3 + 5 * 75) / 12),  # seven cases without knowledge, five with it
    "t2i_reasonbench": ('{"score": [1, 0.5]}', 0.75),
}
"""All that a tiny model says to a benchmark's questions, and what that makes overall."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_twelve_cases_by_a_local_judge_and_by_a_server_stand_in_one_report(run, tmp_path, name):
    said, overall = SAID[name]
    folder = build(tmp_path / "judge-vl", said)
    words = ("--output", tmp_path / "local", "--judge-log", tmp_path / "local.jsonl")
    code, local, _, err, requests = run(name, "--judge", f"hf:{folder}", *words)
    assert (code, local["missing"], local["failed"], requests) == (0, 0, {}, []), err
    assert local["overall"] == pytest.approx(overall)
    assert "@judge-vl-" in local["judge"]
    code, served, *_ = run(name)
    assert (code, served["missing"], served["images"]) == (0, 0, local["images"])
    runs = [str(tmp_path / part) for part in ("local", "run")]
    assert reports.main([*runs, "--output", str(tmp_path / "report")]) == 0
    page = html.unescape((tmp_path / "report" / "report.html").read_text())
    for one, judge in ((local, "judge-vl"), (served, "judge-1")):
        assert f"edition {one['edition']}, judged by {judge} in our wording" in page
        assert one["judge"] in page, "by its weights or place, in the notes"


def test_rows_of_a_judged_table_say_no_more_than_its_caption(run, tmp_path):
    for edition in ("verified", "legacy"):
        kit.wise(tmp_path / "data", edition)
    variants = {"a": ("openai:judge-1",), "b": ("openai:judge-2",), "c": ("openai:judge-2", "--judge-repeats", "2"),
                "d": ("openai:judge-2", "--edition", "legacy")}  # fmt: skip
    for name, words in variants.items():
        assert run("wise", "--judge", *words, "--output", tmp_path / "runs" / name)[0] == 0
    loaded, _ = load([tmp_path / "runs" / name for name in variants])
    tables = [judged.judged_table(some) for some in (loaded[:1], loaded[1:3], loaded[3:])]
    labels = [[row.label for row in table.rows if "floor" not in row.label] for table in tables]
    repeats = ["folder:results, judge repeats 1 (b)", "folder:results, judge repeats 2"]
    assert labels == [["folder:results, judge repeats 1"], repeats, ["folder:results, judge repeats 1 (d)"]]


def test_tasks_of_genevalpp_are_in_words(run, tmp_path):
    out = run("genevalpp")[2]
    table = judged.judged_table(load([tmp_path / "run"])[0])
    titles = ["color attribution", "position and count", "color and position", "color and count",
              "counts of several objects", "size and position", "counting"]  # fmt: skip
    assert [column.title for column in table.columns if column.title in titles] == titles
    assert all(title in out for title in titles)
    assert "attr " not in out
