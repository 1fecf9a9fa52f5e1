"""Reports over a run directory that the suite's own functions wrote."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from evals import cli, geneval
from evals.metrics import layout
from evals.records import Sample
from reports import __main__ as reports_main
from reports import tables
from reports.frames import load_results, load_run
from reports.published import published

CHAIN = (
    "a photo of a red apple <|box_start|>(100,300),(450,700)<|box_end|> (red) and "
    "a blue dog <|box_start|>(550,300),(900,700)<|box_end|> (green)"
)
METADATA = {
    "tag": "color_attr",
    "include": [{"class": "apple", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "blue"}],
    "prompt": "a photo of a red apple and a blue dog",
}


def detection(name, color, x1):
    return {"name": name, "score": 0.97, "box_xyxy_px": [x1, 19.0, x1 + 22.0, 45.0], "color": color}


@pytest.fixture
def run(tmp_path):
    """A finished run of one case with two images: the first right, the second without its dog."""
    (tmp_path / "prompts.jsonl").write_text(json.dumps(METADATA) + "\n")
    options = ["--prompts", str(tmp_path / "prompts.jsonl"), "--images-per-prompt", "2"]
    args = cli.build_parser(geneval.SUITE).parse_args(options)
    (case,) = geneval.SUITE.load_cases(args)
    planned = layout.parse_plan(CHAIN)
    plan = {"objects": [item.as_dict() for item in planned], "oracle": None}
    found = [[detection("apple", "red", 6.0), detection("dog", "blue", 35.0)], [detection("apple", "red", 6.0)]]
    folder = tmp_path / "run"
    (folder / "images" / case.id / "samples").mkdir(parents=True)
    chains, observations, results = [], [], []
    for index, detections in enumerate(found):
        name = f"images/{case.id}/samples/{index:04d}.png"
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        observation = {"width": 64, "height": 64, "detections": detections, "plan": plan}
        verdict = geneval.SUITE.verdict(case, observation, args)
        key = {"case": case.id, "index": index}
        chains.append({**key, "chain": CHAIN, "warnings": []})
        observations.append({**key, **observation})
        results.append(geneval.SUITE.result(Sample(case=case, index=index, seed=index), name, observation, verdict))
    scores = geneval.SUITE.summarize([case], results, observations, [], args)
    for name, lines in (("chains", chains), ("observations", observations), ("results", results)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "run.json").write_text(json.dumps({"identity": {}}))
    return folder


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
    ours = table.iloc[-1]
    assert (ours["method"], ours["images"]) == ("got (run)", "icon world")
    assert ours["overall"] == ours["color_attr"] == 0.5
    assert ours["overall_low"] <= 0.5 <= ours["overall_high"]
    assert ours["n"] == 2
    # The run has no counting prompts: a dash, not a zero.
    assert np.isnan(ours["counting"])
    assert set(table["images"][:-1]) == {"photographs (published)"}


def test_text_table_separates_icon_world_from_photographs(run):
    lines = tables.to_text(tables.geneval_table([load_run(run)])).splitlines()
    assert lines[-3].startswith("GoT-6B")
    assert set(lines[-2]) == {"-", " "}
    assert lines[-1].split()[:5] == ["got", "(run)", "icon", "world", "0.50"]


def test_markdown_and_latex_have_a_cell_for_every_column(run):
    table = tables.geneval_table([load_run(run)])
    header, rows = tables.as_cells(table)
    assert len(rows) == 14
    for line in tables.to_markdown(table).splitlines():
        assert line.count("|") == len(header) + 1
    latex = tables.to_latex(table)
    assert latex.count(r"\\") == 15
    assert "_" not in latex.replace(r"\_", "")


def test_csv_is_numbers(run, tmp_path, capsys):
    target = tmp_path / "table.csv"
    assert reports_main.main(["table", str(run), "--format", "csv", "--output", str(target)]) == 0
    import pandas as pd

    assert pd.read_csv(target)["overall"].iloc[-1] == 0.5
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 14, "runs": 1, "output": str(target)}


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
