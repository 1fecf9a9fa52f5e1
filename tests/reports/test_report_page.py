"""The report as files: what is in it, where it comes from, and that a run's words stay words."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import runner_kit
from PIL import Image
from report_kit import (
    BOTH,
    CAT,
    CHAIN,
    GREEN_DOG,
    HOSTILE,
    NO_DOG,
    WRONG_CHAIN,
    change_lines,
    make_ablation,
    write_lines,
    write_run,
)

from evals.core.vocabulary import task_title
from got.util.images import open_if_any
from reports import __main__ as reports_main
from reports import report
from reports.frames import load_ablation, load_run
from reports.samples import load_samples

STEPS = {"steps 20": ["--steps", "20"], "steps 5": ["--steps", "5"], "steps 10": ["--steps", "10"]}


def call(capsys, *words):
    code = reports_main.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


class Elements(HTMLParser):
    """Names, attributes and texts of a page's elements, as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag = self.found[-1][0] if self.found else ""
        self.texts.setdefault(tag, []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page_data(folder):
    text = (folder / "report.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


# --------------------------------------------------------------------------------------------------------------- whole
@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A run with an image of every kind, and an ablation over steps whose cells are real runs."""
    root = tmp_path_factory.mktemp("sources")
    kinds = [
        (CHAIN, BOTH, None),
        (WRONG_CHAIN, NO_DOG, None),
        (CHAIN, CAT, BOTH),
        (CHAIN, GREEN_DOG, NO_DOG),
        (CHAIN, [], None),
        (None, [], None),
    ]
    return write_run(root / "mini", kinds), make_ablation(root / "steps", STEPS)


@pytest.fixture(scope="module")
def folder(sources, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "report"
    assert reports_main.main([*map(str, sources), "--output", str(output), "--title", "Two < three"]) == 0
    return output


def test_a_report_has_every_table_and_figure_in_every_format(folder):
    tables = {path.name for path in (folder / "tables").iterdir()}
    names = ("geneval", "ablation-steps")
    assert tables == {f"{name}.{suffix}" for name in names for suffix in ("csv", "tex", "md")}
    figures = {path.stem for path in (folder / "figures").iterdir()}
    of_run = ("score-by-task", "failures", "layout", "colours", "classes")
    of_steps = ("ladder", "curve", "time", "failures", "layout", "pictures")
    assert figures == {*(f"got-{name}" for name in of_run), *(f"steps-{name}" for name in of_steps)}
    for figure in figures:
        assert (folder / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        ElementTree.parse(folder / "figures" / f"{figure}.svg")
        assert len((folder / "figures" / f"{figure}.csv").read_text().splitlines()) > 1
        with Image.open(folder / "figures" / f"{figure}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5, "a figure with ink"


def test_the_page_is_one_file_that_asks_nothing_of_a_network(folder):
    text = (folder / "report.html").read_text()
    page = Elements(text)
    loaded = [attributes.get("src") for tag, attributes in page.found if attributes.get("src")]
    assert loaded == [], "images are made by the script from the page's data"
    assert [link for link in page.all("link") if link["rel"] != "icon"] == []
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"|http://www.w3.org/2000/svg', "", text)
    assert "default-src 'none'" in page.all("meta")[3]["content"]
    linked = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert linked
    assert [name for name in linked if not (folder / name).is_file()] == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in page_data(folder)["pictures"].values())


def test_the_page_can_be_read_without_eyes(folder):
    page = Elements((folder / "report.html").read_text())
    assert page.all("html") == [{"lang": "en"}]
    assert {header["scope"] for header in page.all("th")} == {"col", "row", "rowgroup"}
    assert len(page.all("caption")) == len(page.all("table")) == 2
    drawings = [attributes for attributes in page.all("div") if attributes.get("class") == "drawing"]
    assert all(each["role"] == "img" and len(each["aria-label"]) > 40 for each in drawings)
    ids = [attributes["id"] for _, attributes in page.found if attributes.get("id")]
    assert len(ids) == len(set(ids)), "an id twice"
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert targets <= set(ids)
    used = {use["xlink:href"][1:] for use in page.all("use")}
    assert used <= set(ids), "a drawing that refers to another one's parts"


def test_every_wrong_sample_is_in_the_page_with_its_stage(folder):
    data = page_data(folder)
    mine = [sample for sample in data["samples"] if data["runs"][sample["run"]] == "got"]
    assert {sample["key"]: sample["stage"] for sample in mine} == {
        "00000/1": "plan_wrong", "00000/2": "drawing_wrong", "00000/3": "detector_doubt", "00000/4": "unchecked",
        "00000/5": "no_plan"
    }  # fmt: skip
    (view,) = next(sample for sample in mine if sample["key"] == "00000/2")["views"]
    assert view["reason"] == "expected dog>=1, found 0"
    assert view["chain"] == CHAIN
    assert [item[:2] for item in view["planned"]] == [["apple", "red"], ["dog", "blue"]]
    assert view["planned"][0][2:] == [100, 300, 450, 700]
    assert view["seen"][1] == ["cat", "", 547, 297, 891, 703, 0.97]
    image = base64.b64decode(data["pictures"][view["file"]].partition(",")[2])
    assert image.startswith(b"\xff\xd8\xff")


def test_all_samples_are_shown_on_request_and_images_can_stay_beside_the_page(sources, tmp_path, capsys):
    code, out, _ = call(capsys, sources[0], "--output", tmp_path, "--samples", "all", "--pictures", "beside")
    assert (code, json.loads(out)["samples"]) == (0, 6)
    data = page_data(tmp_path)
    assert data["pictures"] == {}
    files = {sample["views"][0]["file"] for sample in data["samples"]}
    assert files == {path.name for path in (tmp_path / "pictures").iterdir()}
    assert [sample["outcome"] for sample in data["samples"]] == ["right", *["wrong"] * 5]
    with Image.open(tmp_path / "pictures" / data["samples"][0]["views"][0]["file"]) as image:
        assert image.size == (64, 64)


def test_many_thumbnails_go_beside_the_page_by_themselves(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "INLINE_BYTES", 100)
    assert json.loads(call(capsys, sources[0], "--output", tmp_path)[1])["pictures_in_page"] is False
    assert list((tmp_path / "pictures").iterdir())


@pytest.mark.usefixtures("every_format")
def test_the_same_runs_make_the_same_report(sources, folder, tmp_path, capsys):
    assert call(capsys, *sources, "--output", tmp_path / "again", "--title", "Two < three")[0] == 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes(), path.name


def test_markdown_and_latex_hold_what_the_page_holds(folder):
    markdown = (folder / "report.md").read_text()
    for link in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (folder / link).is_file()
    assert markdown.startswith("# Two &lt; three\n")
    assert "| **0.64** | **0.99** |" in markdown
    latex = (folder / "report.tex").read_text()
    assert latex.count(r"\begin{table*}") == latex.count(r"\bottomrule") == latex.count(r"\caption") == 2
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert len(set(labels)) == 2


def test_a_new_report_replaces_an_old_one_and_nothing_else(sources, tmp_path, capsys):
    mine = tmp_path / "figures" / "mine.txt"
    assert call(capsys, sources[0], "--output", tmp_path)[0] == 0
    mine.write_text("keep")
    (tmp_path / "figures" / "old.svg").write_text("stale")
    assert call(capsys, sources[0], "--output", tmp_path)[0] == 0
    assert mine.read_text() == "keep"
    assert not (tmp_path / "figures" / "old.svg").exists()


def test_thumbnails_of_an_old_report_stay_where_the_new_one_has_them(sources, tmp_path, capsys):
    words = (sources[0], "--output", tmp_path, "--pictures", "beside", "--samples")
    assert call(capsys, *words, "all")[0] == 0
    first, *others = [tmp_path / "pictures" / sample["views"][0]["file"] for sample in page_data(tmp_path)["samples"]]
    whole, kept = others[0].read_bytes(), others[1].stat().st_mtime_ns
    others[0].write_bytes(whole[:-9])  # as a kill leaves it
    (older := first.with_suffix(".webp")).touch()  # thumbnails were WebP once
    assert call(capsys, *words, "wrong")[0] == 0
    assert not first.exists(), "the sample that is right is shown no more"
    assert not older.exists()
    assert others[0].read_bytes() == whole
    assert others[1].stat().st_mtime_ns == kept


def test_a_mistake_leaves_the_old_report_whole(sources, tmp_path, capsys):
    output, strange = tmp_path / "r", write_run(tmp_path / "strange")
    assert call(capsys, sources[0], "--output", output, "--pictures", "beside")[0] == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    scores = json.loads((strange / "scores.json").read_text())
    (strange / "scores.json").write_text(json.dumps({**scores, "suite": "other", "tasks": {}, "overall": {}}))
    for words in ([strange], ["compare", sources[0], strange]):
        (strange / "observations.jsonl").write_text("")
        assert call(capsys, *words, "--output", output)[0] == 2
        assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_report_that_broke_off_has_no_page_and_can_be_made_again(sources, tmp_path, capsys):
    output = tmp_path / "r"
    assert call(capsys, sources[0], "--output", output)[0] == 0
    (output / "report.md").unlink()
    (output / "report.md").mkdir()
    assert call(capsys, sources[0], "--output", output)[0] == 2
    (output / "report.md").rmdir()
    assert not (output / "report.html").exists()
    assert call(capsys, sources[0], "--output", output)[0] == 0
    assert sorted(path.name for path in output.iterdir() if path.is_file()) == [
        "report.html", "report.md", "report.tex", "samples.csv"
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- hostile
@pytest.fixture
def hostile(tmp_path):
    """A run and an ablation whose every word attacks: markup, LaTeX, paths that lead elsewhere."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    run = write_run(tmp_path / "evil", [(CHAIN, CAT, None), (CHAIN, CAT, None), (CHAIN, BOTH, None)])
    change_lines(run / "results.jsonl", prompt=HOSTILE, tag=HOSTILE, reason=HOSTILE)
    lines = runner_kit.lines(run / "results.jsonl")
    lines[0]["filename"], lines[1]["filename"] = "../secret.png", str(tmp_path / "secret.png")
    write_lines(run / "results.jsonl", lines)
    change_lines(run / "chains.jsonl", chain=HOSTILE)
    scores = json.loads((run / "scores.json").read_text())
    scores |= {"model": HOSTILE, "world": HOSTILE, "tasks": {HOSTILE: next(iter(scores["tasks"].values()))}}
    (run / "scores.json").write_text(json.dumps(scores))
    (run / "run.json").write_text(json.dumps({"machine": {"commit": HOSTILE}, "note": HOSTILE}))
    ablation = make_ablation(tmp_path / "table", {HOSTILE: [], f"../../{HOSTILE}": ["--spatial", "off"]})
    content = json.loads((ablation / "ablation.json").read_text())
    content["command"] = [HOSTILE]
    content["cells"][1]["run"] = "../evil"
    (ablation / "ablation.json").write_text(json.dumps(content))
    return run, ablation


def test_a_runs_words_stay_words(hostile, tmp_path, capsys):
    output = tmp_path / "out" / "report"
    code, _, err = call(capsys, *hostile, "--output", output, "--pictures", "beside", "--title", HOSTILE)
    assert code == 0, err
    page = Elements((output / "report.html").read_text())
    assert len(page.all("script")) == 3, "the page's own data and code"
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert any("window.planted" in text for text in page.texts["h1"]), "and yet the words can be read"
    sample = next(each for each in page_data(output)["samples"] if each["task"] == task_title(HOSTILE))
    assert sample["prompt"] == HOSTILE, "unharmed in the data"
    for text in ((output / "report.md").read_text(), *(p.read_text() for p in (output / "tables").glob("*.md"))):
        assert not re.search(r"<(script|img)", text)
        assert "\u202e" not in text
    latex = (output / "report.tex").read_text()
    assert r"\input{a}" not in latex.partition("\n")[2]
    assert "<" not in latex
    for line in latex.splitlines():
        if line.startswith("% "):  # a comment ends with its line
            continue
        bare = re.sub(r"\\[&%$#_{}]", "", line)
        assert "%" not in bare
        assert "$x" not in bare
    for path in (output / "figures").glob("*.svg"):
        tags = {str(element.tag).rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert tags.isdisjoint({"script", "foreignObject"})


def test_no_name_of_a_run_leads_out_of_its_folder(hostile, tmp_path, capsys):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    output = tmp_path / "out" / "report"
    assert call(capsys, *hostile, "--output", output, "--pictures", "beside")[0] == 0
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert [path for path in new if output not in path.parents] == []
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) for path in new)
    first, second, third = load_samples(load_run(hostile[0]))
    assert (first.file, second.file) == (None, None)
    assert open_if_any(third.file) is not None
    shown = [s["views"][0]["file"] for s in page_data(output)["samples"] if s["task"] == task_title(HOSTILE)]
    assert shown == [None, None]
    assert load_ablation(hostile[1]).cells[1].run is None, "a cell's run lies in the ablation's own folder"


def test_an_unreadable_image_is_a_hole_and_not_the_end(tmp_path, capsys):
    run = write_run(tmp_path / "run", [(CHAIN, NO_DOG, None), (CHAIN, NO_DOG, None), (CHAIN, NO_DOG, None)])
    samples = run / "images" / "00000" / "samples"
    (samples / "0000.png").unlink()
    (samples / "0001.png").write_bytes(b"<svg onload='alert(1)'/>")
    assert call(capsys, run, "--output", tmp_path / "r", "--pictures", "beside")[0] == 0
    assert [bool(sample["views"][0]["file"]) for sample in page_data(tmp_path / "r")["samples"]] == [False, False, True]


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/nothing", "--output", "{tmp}/r"], "nothing is missing; expected the --output of a finished run"),
        (["{run}", "{run}", "--output", "{tmp}/r"], "is given twice"),
        (["{run}", "--output", "{run}"], "has files but no report.html"),
        (["{run}", "--output", "{run}/run.json"], "cannot write --output"),
        (["{run}/run.json", "--output", "{tmp}/r"], "is a file"),
        (["{damaged}", "--output", "{tmp}/r"], "not written by evals.ablation"),
        (["{strange}", "--output", "{tmp}/r"], "is a run of suite 'other'; known: geneval, emu_edit"),
        (["{uneven}", "--output", "{tmp}/r"], "1 results but 2 observations"),
        (["compare", "{run}", "{strange}", "--output", "{run}"], "has files but no report.html"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, capsys, words, message):
    places = {name: write_run(tmp_path / name / name) for name in ("run", "strange", "uneven")}
    scores = json.loads((places["strange"] / "scores.json").read_text())
    (places["strange"] / "scores.json").write_text(json.dumps({**scores, "suite": "other", "tasks": {}, "overall": {}}))
    write_lines(places["uneven"] / "results.jsonl", runner_kit.lines(places["uneven"] / "results.jsonl")[:1])
    places["damaged"] = tmp_path / "damaged"
    places["damaged"].mkdir()
    (places["damaged"] / "ablation.json").write_text('{"cells": [{}]}')
    code, _, err = call(capsys, *(word.format(tmp=tmp_path, **places) for word in words))
    assert code == 2
    assert message in err
    assert sum(not line.startswith("note: ") for line in err.splitlines()) == 1
    assert not Path(tmp_path / "r" / "report.html").exists()
