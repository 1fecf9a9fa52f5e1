"""Ablations: grids and their mistakes, cells that are ordinary runs, paired differences, and plans made wrong."""

import io
import json

import judged_kit
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evals import ablation
from evals.core.records import UserError
from evals.geneval import suite
from evals.metrics import statistics
from got.iconworld import CORRUPTIONS, chain_text, corrupted, sample_scene
from got.plan.chain import Chain
from reports import report, tables
from reports.frames import load_ablation

ORACLE = ["--model", "oracle", "--limit", "6", "--images-per-prompt", "2"]


def call(capsys, *words):
    """Exit code, lines of standard output, standard error."""
    code = ablation.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


# ---------------------------------------------------------------------------------------------------------------- grids
def test_every_named_grid_is_made_of_flags_that_the_suite_knows(tmp_path):
    for cells in ablation.GRIDS.values():
        plans = [ablation.plan_of(suite.SUITE, cell, ["--limit", "6"], tmp_path) for cell in cells]
        assert len({plan.output for plan in plans}) == len(cells)
        assert len({str(plan.identity["generate"]) for plan in plans}) == len(cells)


@pytest.mark.slow
def test_a_dry_run_tells_how_long_it_will_take_and_writes_nothing(capsys, tmp_path):
    words = ["--axis", "seed=1,2,3", *ORACLE, "--output", tmp_path / "out"]
    code, out, err = call(capsys, *words, "--dry-run")
    assert code == 0, err
    assert not out
    assert err.count("to do ") == 3
    assert "36 images to do, about" in err
    assert (
        "ablation: 6 prompts cannot tell 2 variants from the first: no corrected p is below 0.0625; it takes 7" in err
    )
    assert not (tmp_path / "out").exists()


def test_the_default_of_mini_is_the_first_cell_of_the_guidance_grid():
    from got.model.config import CONFIGS

    scales = CONFIGS["mini"].text_to_image
    words = ablation.GRIDS["guidance"][0].words
    assert [float(words[1]), float(words[3])] == [scales.semantic, scales.spatial]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cells]\na = 1\nb = ''", "a cell is a string of flags"),
        ("[axes]\nsteps = 20", "an axis is a list"),
        ("[cellls]\na = ''", "unknown parts: cellls"),
        ("[cells", "is not TOML"),
        ("[cells]\na = '--steps \"3'\nb = ''", "cell a: '--steps \"3' cannot be read as flags: No closing quotation"),
        ("cells = ['--steps 3']", "[cells] and [axes] are tables"),
        ("[cells]\n'No chain' = '--steps 3'\n'no chain' = ''", "'No chain' and 'no chain' would share the folder"),
        ("[cells]\na = ''", "two or more cells"),
        ("[cells]\na = ''\nb = '--stteps 3'", "cell b: unrecognized arguments: --stteps"),
        ("[cells]\na = ''\nb = '--chain jitter:7'", "cell b: argument --chain: expected own, none"),
    ],
)
def test_a_faulty_grid_is_one_clear_line(capsys, tmp_path, text, message):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    code, out, err = call(capsys, "--grid", path, "--output", tmp_path / "out")
    assert code == 2
    assert not out
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_benchmark_that_a_judge_grades_has_no_cells(capsys, tmp_path):
    words = ["--suite", "wise", "--axis", "seed=1,2", "--data", str(judged_kit.wise(tmp_path)), "--allow-other-data"]
    words += ["--judge", "openai:judge-1", "--model", "identity"]
    assert ablation.main([*words, "--output", str(tmp_path / "out")]) == 2
    said = "ablation: error: wise: a judge grades its images; cells are compared by right and wrong"
    assert said in capsys.readouterr().err


def test_a_grid_must_be_named(capsys):
    assert call(capsys)[0] == 2
    code, _, err = call(capsys, "--grid", "components3")
    assert code == 2
    assert "components, guidance" in err


# ---------------------------------------------------------------------------------------------------------------- cells
def test_what_is_not_distinguishable_is_one_line_of_a_terminal_table():
    score = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 40, "clusters": 10}
    change = {"value": -0.04, "low": -0.08, "high": -0.01, "p_holm": 0.12, "cases": 120}
    why = "120 cases, interval 0.07 wide without 0, but corrected permutation test p = 0.1212"
    change["verdict"] = f"not distinguishable ({why})"
    rows = [
        {"cell": "boxes moved", "overall": score, "difference": difference, "tasks": {}, "seconds_per_image": None}
        for difference in (None, change)
    ]
    printed = io.StringIO()
    Console(file=printed, width=80).print(ablation.terminal(rows, "grid", "a note"))
    lines = [line.split() for line in printed.getvalue().splitlines() if "distinguishable" in line or "p =" in line]
    assert lines == [["not", "distinguishable", "0.250–0.750", "-0.080", "to", "-0.010"]]


@pytest.mark.slow
def test_cells_are_runs_and_differences_are_paired(capsys, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(
        '[cells]\nusual = ""\nagain = "--max-objects 16"\nblind = "--threshold 0.99 --counting-threshold 0.99"'
    )
    words = ["--grid", grid, "--output", tmp_path / "out", *ORACLE]
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert json.loads(out[-1])["cells"] == 3
    cells = json.loads((tmp_path / "out" / "ablation.json").read_text())["cells"]
    usual, again, blind = cells
    assert usual["difference"] is None
    assert again["difference"]["value"] == 0
    assert again["difference"]["verdict"].startswith("not distinguishable")
    assert blind["overall"]["value"] <= usual["overall"]["value"]
    assert blind["difference"]["value"] == pytest.approx(blind["overall"]["value"] - usual["overall"]["value"])
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert out[0].startswith("Ablation grid")
    few = "6 prompts cannot tell 2 variants from the first: no corrected p is below 0.0625; it takes 7 prompts"
    assert f"ablation: {few}" in err
    assert few in " ".join(" ".join(out[:-1]).split())
    assert few in table
    assert tables.ablation_table(load_ablation(tmp_path / "out")).notes[0].startswith(few)
    (fact,) = report._facts([], [load_ablation(tmp_path / "out")])
    assert (fact.value, fact.note.startswith(few)) == ("cannot tell", True)
    assert [line.split()[0] for line in out if line.lstrip().startswith(("usual", "again", "blind"))] == [
        "usual", "again", "blind"
    ]  # fmt: skip
    assert max(map(len, out[:-1])) <= 80
    assert json.loads(out[-1])["best"][:2] == ["usual", "again"], "all that are best"
    assert f"python -m reports {tmp_path / 'out'} --output {tmp_path / 'out'}-report" in err
    assert table.count("\n| ") == 4
    before = (tmp_path / "out" / "usual" / "results.jsonl").stat().st_mtime_ns
    assert call(capsys, *words)[1] == out, "a finished grid is only printed again"
    assert (tmp_path / "out" / "usual" / "results.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_cells_of_an_editing_suite_are_compared_by_edits_that_are_done(capsys, tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text('[cells]\ndone = "--model target"\nuntouched = "--model identity"')
    output = tmp_path / "out"
    code, _, err = call(capsys, "--suite", "emu_edit", "--grid", grid, "--output", output, "--limit", "8")
    assert code == 0, err
    done, untouched = json.loads((output / "ablation.json").read_text())["cells"]
    assert done["overall"]["value"] == 1
    assert untouched["overall"]["value"] == 0
    assert untouched["difference"]["value"] == pytest.approx(-1)
    assert set(done["tasks"]) > {"add", "remove"}
    ablation_table = tables.ablation_table(load_ablation(output))
    assert "Emu-Edit, share of edits done" in ablation_table.caption


# ----------------------------------------------------------------------------------------------------------- statistics
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values):
    corrected = statistics.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))


# ---------------------------------------------------------------------------------------------------------------- plans
@given(st.integers(0, 10_000), st.sampled_from(CORRUPTIONS), st.floats(0, 1))
def test_a_corrupted_plan_is_a_plan(seed, how, amount):
    text = chain_text(sample_scene(np.random.default_rng(seed)))
    before, after = Chain.parse(text), Chain.parse(corrupted(text, how, amount, np.random.default_rng(seed)))
    assert not after.warnings
    if how == "drop":
        assert {region.box_1000 for region in after.regions} <= {region.box_1000 for region in before.regions}
        return
    if how == "swap":
        assert sorted(r.text for r in after.regions) == sorted(r.text for r in before.regions)
        assert [r.box_1000 for r in after.regions] == [r.box_1000 for r in before.regions]
        return
    for old, new in zip(before.regions, after.regions, strict=True):
        assert old.text == new.text
        assert new.box_1000[2] - new.box_1000[0] == old.box_1000[2] - old.box_1000[0]
        assert all(0 <= value <= 999 for value in new.box_1000)


def test_an_amount_of_zero_corrupts_nothing():
    text = chain_text(sample_scene(np.random.default_rng(3)))
    for how in CORRUPTIONS:
        assert corrupted(text, how, 0.0, np.random.default_rng(0)) == text
    with pytest.raises(ValueError, match="jitter, drop, swap"):
        corrupted(text, "burn", 1.0, np.random.default_rng(0))


def test_a_faulty_word_for_a_chain_is_refused():
    with pytest.raises(UserError, match=r"swap:X, X in \[0, 1\]"):
        ablation.plan_of(_suite(), ablation.Cell(name="x", words=("--chain", "swap")), [], ablation.Path("runs"))


def _suite():
    from evals.geneval import suite

    return suite.SUITE
