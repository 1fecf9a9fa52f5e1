"""The parts of a report: samples and their stages, the numbers behind each figure, and what flips between two runs."""

import json

import runner_kit
from report_kit import BOTH, CAT, CHAIN, GREEN_DOG, NO_DOG, make_ablation, write_json, write_lines, write_run
from test_report_page import call, page_data

from evals.harness.runner import run as run_suite
from reports import changes, run_figures, setting_figures, style
from reports.frames import load, load_ablation, load_run
from reports.samples import load_samples


def test_failed_samples_are_missing_and_not_wrong(tmp_path):
    folder = tmp_path / "run"
    run_suite(runner_kit.make_plan(folder, "--limit", "6"))
    lost = runner_kit.lines(folder / "observations.jsonl")[3]
    for name in ("results", "observations"):
        lines = runner_kit.lines(folder / f"{name}.jsonl")
        write_lines(folder / f"{name}.jsonl", lines[:3] + lines[4:])
    failure = {"case": lost["case"], "index": lost["index"], "stage": "observe", "error": "out of memory"}
    write_lines(folder / "failures.jsonl", [failure])
    found = load_samples(load_run(folder))
    assert len(found) == 12
    assert (found[-1].key, found[-1].outcome, found[-1].stage) == (
        f"{lost['case']}/{lost['index']}",
        "missing",
        "failed",
    )
    assert found[-1].reason == "observe: out of memory"
    assert found[-1].prompt.startswith("a photo of")
    assert found[-1].file.is_file()


def test_stages_of_a_real_run_agree_with_its_scores(tmp_path):
    folder = tmp_path / "run"
    scores = run_suite(runner_kit.make_plan(folder, "--limit", "12"))
    stages = [image.stage for image in load_samples(load_run(folder)) if image.stage]
    assert {stage: stages.count(stage) for stage in scores["overall"]["faults"]} == scores["overall"]["faults"]
    # A run from before stages were recorded: it is said, not guessed.
    del scores["faults"]
    write_json(folder / "scores.json", scores)
    assert {p.stage for p in load_samples(load_run(folder)) if p.outcome == "wrong"} == {"untraced"}


def test_layout_figure_counts_boxes(tmp_path):
    images = load_samples(load_run(write_run(tmp_path / "r", [(CHAIN, BOTH, None), (CHAIN, NO_DOG, None)])))
    with style.sheet():
        drawn = run_figures.layout_fit({"all": images}, "layout", "Layout")
    shares = {step: share for _, step, share, _ in drawn.rows}
    assert shares[0.0] == shares[0.5] == 0.75, "three of four planned boxes were found"
    assert shares[1.0] == 0.0


def test_colour_confusion_counts_what_was_asked_for(tmp_path):
    kinds = [(CHAIN, BOTH, None), (CHAIN, GREEN_DOG, None), (CHAIN, NO_DOG, None)]
    with style.sheet():
        drawn = run_figures.color_confusion(load_samples(load_run(write_run(tmp_path / "r", kinds))), "c", "Colours")
    counts = {row[0]: dict(zip(drawn.header[1:], row[1:], strict=True)) for row in drawn.rows}
    assert {name: count for name, count in counts["blue"].items() if count} == {"blue": 1, "green": 1, "not found": 1}
    assert counts["red"]["red"] == 3


def test_class_confusion_names_what_stands_there_instead(tmp_path):
    kinds = [(CHAIN, BOTH, None), (CHAIN, CAT, None), (CHAIN, CAT, None), (CHAIN, NO_DOG, None)]
    with style.sheet():
        drawn = run_figures.class_confusion(load_samples(load_run(write_run(tmp_path / "r", kinds))), "c", "Classes")
    assert drawn.rows == (("dog", "cat", 2, 4), ("dog", "nothing", 1, 4))


def test_one_setting_makes_a_curve_in_its_order(tmp_path):
    words = {f"steps {n}": ["--steps", n] for n in ("20", "5", "10")}
    steps = load_ablation(make_ablation(tmp_path / "steps", words))
    assert setting_figures.settings_of(steps).numbers == {"steps": [5.0, 10.0, 20.0]}
    with style.sheet():
        drawn = setting_figures.over_settings(steps)
    assert [row[1] for row in drawn.rows] == [5.0, 10.0, 20.0]
    scores = {cell.name: cell.row["overall"]["value"] for cell in steps.cells}
    assert [row[2] for row in drawn.rows] == [scores["steps 5"], scores["steps 10"], scores["steps 20"]]


def test_a_sampler_and_its_steps_make_a_curve_each_also_over_time(tmp_path):
    words = {f"{s} {n}": ["--scheduler", s, "--steps", n] for s in ("unipc", "ddim") for n in ("10", "4")}
    ablation = load_ablation(make_ablation(tmp_path / "samplers", words))
    assert setting_figures.labels(ablation)[0]["unipc 4"] == "unipc / 4"
    times = {"unipc 10": 0.4, "unipc 4": 0.2, "ddim 10": 0.3, "ddim 4": 0.1}
    for cell in ablation.cells:
        assert cell.row["seconds_per_image"] > 0, "the run measured it"
        cell.row["seconds_per_image"] = times[cell.name]
    with style.sheet():
        drawn, timed = setting_figures.over_settings(ablation), setting_figures.against_time(ablation)
    assert [row[:3] for row in drawn.rows] == [
        ("unipc", "unipc / 4", 4.0),
        ("unipc", "unipc / 10", 10.0),
        ("ddim", "ddim / 4", 4.0),
        ("ddim", "ddim / 10", 10.0),
    ]
    assert [row[2] for row in timed.rows] == [0.2, 0.4, 0.1, 0.3]
    assert len(drawn.figure.axes[0].lines) == len(timed.figure.axes[0].lines) == 2
    ablation.cells[0].row["seconds_per_image"] = None
    assert setting_figures.against_time(ablation) is None


def test_two_settings_make_a_map_with_a_cell_for_each_pair(tmp_path):
    words = {f"{a} {b}": ["--semantic-scale", a, "--spatial-scale", b] for a in ("1", "4") for b in ("1", "2")}
    with style.sheet():
        drawn = setting_figures.over_settings(load_ablation(make_ablation(tmp_path / "guidance", words)))
    assert drawn.name == "map"
    assert [row[:2] for row in drawn.rows] == [("1", "1"), ("1", "2"), ("4", "1"), ("4", "2")]


def test_other_ablations_make_neither(tmp_path):
    ablation = make_ablation(tmp_path / "parts", {"full": [], "no boxes": ["--spatial", "off"]})
    assert setting_figures.over_settings(load_ablation(ablation)) is None
    seeds = load_ablation(make_ablation(tmp_path / "ablation-seeds", {f"seed {n}": ["--seed", n] for n in "123"}))
    assert seeds.name == "seeds"
    assert setting_figures.over_settings(seeds) is None, "nothing lies between two seeds"
    assert setting_figures.against_time(seeds) is None


def test_matplotlibs_own_settings_come_back():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.sheet():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before


# ---------------------------------------------------------------------------------------------------------- comparison
def test_a_comparison_shows_flips_both_ways(tmp_path, capsys):
    before = write_run(tmp_path / "a" / "before", [(CHAIN, BOTH, None), (CHAIN, CAT, None), (CHAIN, BOTH, None)])
    after = write_run(tmp_path / "b" / "after", [(CHAIN, NO_DOG, None), (CHAIN, BOTH, None), (CHAIN, BOTH, None)])
    output = tmp_path / "report"
    code, out, err = call(capsys, "compare", before, after, "--output", output)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["output"] == str(output / "report.html")
    samples = page_data(output)["samples"]
    assert {sample["key"]: sample["outcome"] for sample in samples} == {"00000/0": "lost", "00000/1": "won"}
    assert [view["outcome"] for view in samples[0]["views"]] == ["right", "wrong"]
    assert [view["label"] for view in samples[0]["views"]] == ["before: before", "after: after"]
    assert {path.stem for path in (output / "figures").iterdir()} == {"differences", "lost", "won"}
    assert "| overall |" in (output / "tables" / "comparison.md").read_text()


def test_a_sample_without_a_verdict_is_no_flip(tmp_path):
    runs, _ = load([write_run(tmp_path / n / n, [(CHAIN, found, None)] * 2) for n, found in (("a", BOTH), ("b", CAT))])
    before, after = ({image.key: image for image in load_samples(run)} for run in runs)
    assert changes.flips(before, after) == {"lost": ["00000/0", "00000/1"], "won": []}
    write_lines(runs[1].path / "failures.jsonl", [{"case": "00000", "index": 1, "stage": "observe", "error": "x"}])
    for name in ("results", "observations"):
        write_lines(runs[1].path / f"{name}.jsonl", runner_kit.lines(runs[1].path / f"{name}.jsonl")[:1])
    after = {image.key: image for image in load_samples(runs[1])}
    assert changes.flips(before, after) == {"lost": ["00000/0"], "won": []}
