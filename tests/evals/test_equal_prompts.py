"""Prompts that stand in a file more than once: their images are one cluster, whatever their ids."""

import dataclasses
import json
import shutil

import numpy as np
from report_kit import write_lines, write_run
from runner_kit import make_plan

from evals import ablation
from evals.core.records import Case, Sample, Scored, alike
from evals.geneval import scores as geneval_scores
from evals.harness.runner import run
from evals.suite.case_scores import case_scores
from evals.suite.plans import Outcome
from reports import compare, tables
from reports.frames import load, load_lines


def cases(*prompts):
    return [
        Case(id=f"{i:05d}", prompt=prompt, tag="t", metadata={"tag": "t", "include": [], "prompt": prompt, "index": i})
        for i, prompt in enumerate(prompts)
    ]


def summed(told, rights):
    outcomes = [
        Scored(sample=Sample(case=case, index=index, seed=0), observation={}, score=Outcome(correct=right))
        for case, each in zip(told, rights, strict=True)
        for index, right in enumerate(each)
    ]
    return geneval_scores.summarize(told, outcomes, [], len(rights[0]))


def test_equal_lines_are_one_cluster_of_the_interval():
    three = summed(cases("a", "a", "a"), [[True] * 4] * 3)
    one = summed(cases("a"), [[True] * 12])
    assert three["overall"]["score"] == one["overall"]["score"]
    assert three["tasks"]["t"]["score"]["clusters"] == three["overall"]["prompts_any"]["clusters"] == 1
    assert three["missing"]["total"] == 0
    other = summed(cases("a", "b", "a"), [[True] * 4] * 3)
    assert other["overall"]["score"]["clusters"] == 2


def test_every_line_still_counts_in_the_score():
    scores = summed(cases("a", "a", "b"), [[True, True], [False, False], [True, False]])
    assert scores["images"]["value"] == 0.5
    assert scores["images"]["n"] == 6
    assert np.isclose(scores["overall"]["prompts_any"]["value"], 2 / 3)


def test_what_asks_for_something_else_is_another_case():
    line = {"tag": "t", "include": [{"class": "dog", "count": 1}], "prompt": "a"}
    assert alike("a", line) == alike("a", {**line, "seed": 3, "exclude": []})
    for key, value in {"tag": "u", "include": [], "exclude": [{"class": "dog", "count": 2}]}.items():
        assert alike("a", line) != alike("a", {**line, key: value})
    assert alike("a", line) != alike("b", line)


def outcomes(rights, first):
    right = {f"{i}": (bool(value),) * 2 for i, value in enumerate(rights)}
    return compare.Outcomes(name="x", made_by={}, tasks=dict.fromkeys(right, "t"), right=right, first=first)


def test_equal_prompts_are_one_case_of_a_comparison():
    first = {"1": "0", "2": "0"}
    (row, _) = compare.compare(outcomes([0, 0, 0, 1], first), outcomes([1, 1, 1, 1], first))
    assert row.difference.cases == 2
    assert (row.before, row.after) == (0.5, 1.0)
    (apart, _) = compare.compare(outcomes([0, 0, 0, 1], {}), outcomes([1, 1, 1, 1], {}))
    assert apart.difference.cases == 4
    baseline = outcomes([0, 0, 0, 1], {})
    assert compare.compare(baseline, outcomes([1, 1, 1, 1], first))[0].difference.cases == 2


def test_edits_of_one_source_are_one_cluster_of_a_comparison():
    rights, groups = [[0, 0, 0, 1] * 4, [1, 1, 1, 1] * 4], {f"{i}": f"source {i // 4}" for i in range(16)}
    apart, together = (
        compare.compare(*(dataclasses.replace(outcomes(right, {}), groups=told) for right in rights))[0].difference
        for told in ({}, groups)
    )
    assert together.value == apart.value
    assert together.cases == apart.cases == 16
    assert together.p_value > 0.05 > apart.p_value, "four sources have 16 ways to turn their signs"


def test_equal_prompts_are_found_in_runs(tmp_path):
    people = {"tag": "t", "include": [{"class": "person", "count": 2}], "prompt": "two people"}
    lines = [{**people, "index": 0}, {**people, "prompt": "three people"}, {**people, "index": 2}]
    (tmp_path / "own").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(make_plan(tmp_path / "run", "--prompts", str(tmp_path / "own")))
    (loaded,), _ = load([tmp_path / "run"])
    assert compare.of_run(loaded).first == {"00002": "00000"}
    scores = case_scores(tmp_path / "run")
    assert len(scores) == 2
    rights = [line["correct"] for line in load_lines(tmp_path / "run" / "results.jsonl")]
    merged = scores[alike("two people", people)]
    assert (merged.task, merged.right, merged.images) == ("t", np.mean([*rights[:2], *rights[4:]]), 4)


def test_an_ablation_compares_a_prompt_whose_first_line_failed_in_a_cell(tmp_path):
    people = {"tag": "t", "include": [{"class": "person", "count": 2}], "prompt": "two people"}
    lines = [people, {**people, "prompt": "three people"}, people]
    (tmp_path / "own").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, part = tmp_path / "whole", tmp_path / "part"
    scores = run(make_plan(whole, "--prompts", str(tmp_path / "own")))
    shutil.copytree(whole, part)
    for log in ("results.jsonl", "observations.jsonl"):
        write_lines(part / log, load_lines(part / log)[2:])
    cells = [(ablation.Cell(name=place.name, words=()), place, scores) for place in (whole, part)]
    _, row = ablation.compare(cells)
    assert row["difference"]["cases"] == 2


def test_an_ablation_and_a_comparison_of_the_same_runs_have_one_interval(tmp_path):
    people = {"tag": "t", "include": [{"class": "person", "count": 1}]}
    lines = [{**people, "prompt": f"{word} person"} for word in "zyxwvutsrqponmlkji"]
    (tmp_path / "own").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, part = tmp_path / "whole", tmp_path / "part"
    scores = run(make_plan(whole, "--prompts", str(tmp_path / "own")))
    shutil.copytree(whole, part)
    results = load_lines(part / "results.jsonl")
    for line, right in zip(results[::2], [False] * 3 + [True] * 15, strict=True):
        line["correct"] = right
    write_lines(part / "results.jsonl", results)
    cells = [(ablation.Cell(name=place.name, words=()), place, scores) for place in (whole, part)]
    _, row = ablation.compare(cells)
    (overall, _) = compare.compare(*map(compare.of_run, load([whole, part])[0]))
    assert {name: row["difference"][name] for name in ("low", "high", "p_value", "cases")} == {
        name: getattr(overall.difference, name) for name in ("low", "high", "p_value", "cases")
    }
    assert overall.difference.value < 0


def test_reports_say_whose_words_the_prompts_are(tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "scores.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wording": "own wording of GenEval's cases"}))
    table = tables.geneval_table(load([folder])[0])
    assert "icon world, own wording of GenEval's cases, n = " in " ".join(table.origins)
    assert table.rows[-1].images == "icon world, own wording of GenEval's cases"
