"""What runs are called in tables, figures, comparisons and gates."""

import json

import pytest
from report_kit import write_run

from evals.core.records import UserError
from reports import __main__ as reports_main
from reports import tables
from reports.frames import load


def set_up(folder, given=(), **settings):
    """A run with settings as run.json has them: what was given, and what defaults came to."""
    run = write_run(folder)
    spec = json.loads((run / "run.json").read_text())
    spec["identity"]["generate"] |= {"model": "got", "steps": None, "semantic_scale": None, **settings}
    resolved = {"steps": 10, "semantic_scale": 2.5, **settings}
    spec["arguments"] = {"given": list(given), "resolved": {k: v for k, v in resolved.items() if v is not None}}
    (run / "run.json").write_text(json.dumps(spec))
    return run


def names(*runs, given=()):
    return [run.name for run in load(runs, given)[0]]


def test_runs_are_named_by_the_settings_that_differ_defaults_included(tmp_path):
    a, b = set_up(tmp_path / "geneval-got-0de9c93c"), set_up(tmp_path / "geneval-got-1f", steps=4)
    assert names(a, b) == ["steps 10", "steps 4"]
    assert [run.label for run in load([a, b])[0]] == ["got, steps 10", "got, steps 4"]
    c = set_up(tmp_path / "c", steps=4, semantic_scale=1.0)
    assert names(b, c) == ["semantic scale 2.5", "semantic scale 1.0"]
    assert names(a, c) == ["steps 10, semantic scale 2.5", "steps 4, semantic scale 1.0"]


def test_a_default_that_is_given_makes_no_difference(tmp_path):
    a, b = set_up(tmp_path / "a"), set_up(tmp_path / "b", steps=10)
    assert names(a, b) == ["a", "b"], "nothing differs but the folder"


def test_runs_of_other_prompts_are_named_by_these_and_no_hash_is_read_anywhere(tmp_path):
    whole, part = set_up(tmp_path / "geneval-got-0de9c93c"), set_up(tmp_path / "geneval-got-limit60-4a3c7310", limit=60)
    for run in (whole, part):
        scores = json.loads((run / "scores.json").read_text())
        (run / "scores.json").write_text(json.dumps({**scores, "wording": None}))
    own = set_up(tmp_path / "geneval-got-1a8d1acf")
    scores = json.loads((own / "scores.json").read_text())
    (own / "scores.json").write_text(json.dumps({**scores, "wording": "own prompts"}))
    assert names(whole, part) == ["all prompts", "60 of 553 prompts"]
    assert [run.label for run in load([own, part])[0]] == ["got, own prompts", "got, 60 of 553 prompts"]
    again = set_up(tmp_path / "other" / "geneval-got-5b8d1acf")
    twin = set_up(tmp_path / "third" / "geneval-got-77777777")
    assert names(twin, again) == ["geneval-got 1", "geneval-got 2"], "nothing differs"
    assert [run.path.name for run in load([twin, again])[0]] == ["geneval-got-77777777", "geneval-got-5b8d1acf"]


def test_models_alone_tell_runs_apart_where_they_can(tmp_path):
    a, b = set_up(tmp_path / "a", steps=4), set_up(tmp_path / "b")
    scores = json.loads((b / "scores.json").read_text())
    (b / "scores.json").write_text(json.dumps({**scores, "model": "folder:/data/sdxl"}))
    assert names(a, b) == ["got", "folder:sdxl"]


def test_another_models_settings_name_no_run(tmp_path):
    """Beside the oracle, which has no steps, runs of got are told apart by what differs between them alone."""
    a, b, c = set_up(tmp_path / "a"), set_up(tmp_path / "b", steps=4), set_up(tmp_path / "c", seed=7)
    spec, scores = (json.loads((c / name).read_text()) for name in ("run.json", "scores.json"))
    spec["identity"]["generate"] |= {"model": "oracle", "steps": None}
    del spec["arguments"]["resolved"]["steps"]
    (c / "run.json").write_text(json.dumps(spec))
    (c / "scores.json").write_text(json.dumps({**scores, "model": "oracle"}))
    assert names(a, b, c) == ["got, steps 10", "got, steps 4", "oracle"]
    assert [run.label for run in load([a, c, b])[0]] == ["got, steps 10", "oracle", "got, steps 4"]


def test_a_part_of_the_benchmark_says_so_beside_published_rows(tmp_path):
    """A run of 60 prompts shares no group of rows, and so no bold score, with one of all."""
    whole, part = set_up(tmp_path / "a"), set_up(tmp_path / "b", steps=4, limit=60)
    for run in (whole, part):  # of the benchmark's own prompts
        scores = json.loads((run / "scores.json").read_text())
        (run / "scores.json").write_text(json.dumps({**scores, "wording": None}))
    table = tables.geneval_table(load([whole, part])[0])
    assert [row.source for row in table.rows[-2:]] == ["icon world", "icon world, 60 of 553 prompts"]
    tasks = set_up(tmp_path / "c", tasks=["two_object", "counting"])
    scores = json.loads((tasks / "scores.json").read_text())
    (tasks / "scores.json").write_text(json.dumps({**scores, "wording": None}))
    assert load([tasks])[0][0].images == "icon world, tasks two objects+counting"


def test_one_run_is_named_by_its_model_and_what_was_set(tmp_path):
    a = set_up(tmp_path / "a", ["--steps", "4", "--limit=60", "--seed", "3"], steps=4)
    assert names(a) == ["got, steps 4"]


def test_own_names_stand_everywhere_and_must_be_as_many(tmp_path, capsys):
    a, b = set_up(tmp_path / "a"), set_up(tmp_path / "b", steps=4)
    assert names(a, b, given=("slow", "fast")) == ["slow", "fast"]
    with pytest.raises(UserError, match="--names: expected 2 names that differ, but got slow"):
        names(a, b, given=("slow",))
    assert reports_main.main(["compare", str(a), str(b), "--names", 'slow,"fast, really"', "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "| before: slow | after: fast, really |" in out
    assert out.startswith("Changed settings: steps 10 → 4.\n")
    assert "fast, really scores 0.500 and slow 0.500: a paired difference of +0.000" in out


def test_published_rows_are_chosen_by_name(tmp_path, capsys):
    a = set_up(tmp_path / "a")
    for words, methods in (("none", ["got"]), ("SDXL,GoT-6B", ["SDXL", "GoT-6B", "got"])):
        assert reports_main.main(["table", str(a), "--format", "csv", "--published", words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(",")[0] for line in lines[1:-1]] == methods
    assert reports_main.main(["table", str(a), "--published", "GoT-7B"]) == 2
    assert "no row 'GoT-7B'; expected all, none or some of SDv1.5, " in capsys.readouterr().err
