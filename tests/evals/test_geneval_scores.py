"""GenEval from outcomes to scores: means, missing images, tables, the public summary."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from evals import geneval_reference
from evals.core.records import Case, Sample, Scored
from evals.core.vocabulary import TASKS, task_title
from evals.geneval import scores as geneval_scores
from evals.geneval.suite import SUITE
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.metrics.layout import LayoutFit
from evals.suite.plans import Outcome
from evals.suite.tables import load_reference, reference_of


def case(tag, include, exclude=(), number=0):
    metadata = {
        "tag": tag,
        "include": include,
        **({"exclude": exclude} if exclude else {}),
        "prompt": f"photo {number}",
    }
    return Case(id=f"{number:05d}", prompt=f"photo {number}", tag=tag, metadata=metadata)


def sample(of, index=0):
    return Sample(case=of, index=index, seed=index)


def outcome(of, *, index=0, **known):
    return Scored(sample=sample(of, index), observation={}, score=Outcome(**known))


# -------------------------------------------------------------------------------------------------------------- scores
def two_tasks():
    cases = [case("single_object", [], number=0), case("single_object", [], number=1), case("counting", [], number=2)]
    rights = {"00000": [1, 1], "00001": [0, 1], "00002": [0, 0]}
    return cases, [outcome(of, correct=bool(right)) for of in cases for right in rights[of.id]]


def test_the_overall_score_is_the_mean_of_the_tasks():
    cases, outcomes = two_tasks()
    scores = geneval_scores.summarize(cases, outcomes, [], 2)
    assert scores["tasks"]["single_object"]["score"]["value"] == 0.75
    assert scores["overall"]["score"]["value"] == 0.375
    assert scores["images"]["value"] == 0.5
    assert scores["overall"]["prompts_any"]["value"] == pytest.approx(2 / 3)
    assert (scores["overall"]["score"]["n"], scores["overall"]["score"]["clusters"]) == (6, 3)
    assert scores["overall"]["bounds"] is None
    assert list(scores["tasks"]) == ["single_object", "counting"]


def test_an_interval_of_null_has_its_reason():
    cases, _ = two_tasks()
    told = {"suite": "geneval", "world": "w", "model": "m", "detector": "d", "checkpoint": None, "reference": None}
    said = SUITE.headline({**geneval_scores.summarize(cases, [], [], 2), **told})
    assert (said["interval_95"], said["no_interval"]) == ([None, None], "nothing was scored")
    fit = LayoutFit(ious=(0.5,), offsets=(0.1,))
    outcomes = [outcome(cases[0], correct=True, plan_correct=True, fit=fit)]
    scores = {**geneval_scores.summarize(cases, outcomes, [], 2), **told}
    assert "no_interval" not in SUITE.headline(scores)
    console = Console(width=200, file=io.StringIO())
    console.print(*geneval_scores.tables(scores))
    shown = " ".join(console.file.getvalue().split())
    assert "no interval of iou (single object), offset (single object), iou (all images)" in shown
    assert "one prompt or source image alone: resampling says nothing" in shown


def test_a_missing_image_is_missing_and_not_wrong():
    cases, outcomes = two_tasks()
    failures = [
        {"case": "00002", "index": 0, "stage": "generate", "error": "images/00002/samples/0000.png: no such image"},
        {"case": "00002", "index": 1, "stage": "generate", "error": "images/00002/samples/0001.png: no such image"},
        {"case": "00001", "index": 0, "stage": "observe", "error": "ValueError: too odd"},
        {"case": "00001", "index": 0, "stage": "observe", "error": "ValueError: too odd"},
    ]
    scores = geneval_scores.summarize(cases, outcomes[:2] + outcomes[3:4], failures, 2)
    assert scores["missing"] == {
        "total": 3,
        "by_cause": {"generate: no such image": 2, "observe: ValueError: too odd": 1},
    }
    assert scores["tasks"]["counting"]["score"]["value"] is None
    assert scores["tasks"]["counting"]["bounds"] == [0.0, 1.0]
    assert scores["tasks"]["single_object"]["score"]["value"] == 1.0
    assert scores["tasks"]["single_object"]["bounds"] == [0.75, 1.0]
    assert scores["overall"]["score"]["value"] == 1.0
    assert scores["overall"]["bounds"] == [0.375, 1.0]
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_images_that_nobody_made_are_counted_too():
    cases, outcomes = two_tasks()
    assert geneval_scores.summarize(cases, outcomes, [], 4)["missing"]["by_cause"] == {"not made yet": 6}


def test_the_faults_of_a_task_add_up_to_its_wrong_images():
    cases = [case("position", [], number=0)]
    fit = LayoutFit(ious=(1.0, 0.25), offsets=(0.0, 0.5))
    outcomes = [
        outcome(cases[0], correct=True, plan_correct=False, fit=fit),
        outcome(cases[0], correct=False, plan_correct=False, fit=fit),
        outcome(cases[0], correct=False, plan_correct=True, oracle_correct=True, fit=fit),
        outcome(cases[0], correct=False),
    ]
    block = geneval_scores.summarize(cases, outcomes, [], 4)["tasks"]["position"]
    assert block["faults"] == {
        "plan_wrong": 1,
        "drawing_wrong": 1,
        "detector_doubt": 0,
        "unchecked": 0,
        "no_plan": 1,
    }
    assert block["right_despite_plan"] == 1
    assert (block["plan"]["value"], block["plan"]["n"]) == (pytest.approx(1 / 3), 3)
    measured = {name: (estimate["value"], estimate["n"]) for name, estimate in block["layout"].items()}
    assert measured == {"iou": (0.625, 6), "recall": (0.5, 6), "offset": (0.25, 6)}


def test_scores_are_the_same_every_time():
    cases, outcomes = two_tasks()
    first, second = (geneval_scores.summarize(cases, outcomes, [], 2) for _ in range(2))
    assert first == second


# -------------------------------------------------------------------------------------------- a whole run, in the small
def small_run(*words):
    """Twenty-four cases of all tasks with random images: what the runner would hand to the suite."""
    rng = np.random.default_rng(0)
    made = cli.make_plan(SUITE, ["--images-per-prompt", "2", *words])
    every = made.cases
    cases = [c for tag in TASKS for c in [c for c in every if c.tag == tag][:4]]
    scored, results = [], []
    for number, of in enumerate(cases):
        for index in range(2):
            found = [
                {
                    "name": item["class"],
                    "score": float(rng.uniform(0.2, 1.0)),
                    "box_xyxy_px": [float(x), float(y), float(x + 12), float(y + 12)],
                    "color": item.get("color", "black"),
                }
                for item in of.metadata["include"]
                for x, y in rng.uniform(0, 48, (item["count"], 2))
            ]
            planned = [
                {"text": "", "name": d["name"], "color": d["color"], "box_1000": [100, 100, 400, 400]} for d in found
            ]
            plan = {"objects": planned, "oracle": None} if number % 2 else None
            observation = {"case": of.id, "index": index, "width": 60, "height": 60, "detections": found, "plan": plan}
            filename = f"images/{of.id}/samples/{index:04d}.png"
            score = SUITE.score(of, observation, made.options)
            scored.append(Scored(sample=sample(of, index), observation=observation, score=score))
            results.append(SUITE.result(scored[-1], filename))
    return results, SUITE.summarize(cases, scored, [], made.options, made.context)


def test_the_public_summary_prints_the_same_numbers(tmp_path):
    results, scores = small_run()
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in results))
    frame = pd.read_json(path, orient="records", lines=True)
    assert list(frame.columns) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert scores["images"]["value"] == pytest.approx(frame["correct"].mean())
    by_prompt = frame.groupby("metadata")["correct"].any().mean()
    assert scores["overall"]["prompts_any"]["value"] == pytest.approx(by_prompt)
    by_task = frame.groupby("tag", sort=False)["correct"].mean()
    assert {tag: block["score"]["value"] for tag, block in scores["tasks"].items()} == pytest.approx(dict(by_task))
    assert scores["overall"]["score"]["value"] == pytest.approx(by_task.mean())
    assert 0 < by_task.mean() < 1


def test_details_hold_the_boxes_that_counted():
    results, _ = small_run()
    for line in results:
        metadata, details = json.loads(line["metadata"]), json.loads(line["details"])
        assert metadata["prompt"] == line["prompt"]
        threshold = 0.9 if line["tag"] == "counting" else 0.3
        assert all(len(box) == 5 and box[4] > threshold for found in details.values() for box in found)


def rendered(scores, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for table in geneval_scores.tables(scores):
        console.print(table)
    return console.file.getvalue()


def test_the_tables_say_what_a_reader_needs():
    text = rendered(small_run()[1], width=110)
    assert "icon world" in text
    for word in (*map(task_title, TASKS), "mean of tasks", "95 %", "score ↑", "offset", "plan"):
        assert word in text
    assert "…" not in text
    assert "missing" not in text
    assert "photographs" in rendered(small_run("--detector", "mask2former")[1], width=100)


def test_the_tables_fit_a_terminal_of_80_columns_and_no_width_cuts_a_number():
    lines = rendered(small_run()[1], width=80).splitlines()
    (row,) = [line for line in lines if line.startswith("mean of tasks")]
    assert re.fullmatch(r"mean of tasks +\d\.\d{3} +\d\.\d{3}–\d\.\d{3} .*", row)
    (header,) = [line for line in lines if line.startswith("task ") and "boxes" in line]
    assert len(header) <= 80
    digits = [re.sub(r"\D", "", rendered(small_run()[1], width=width)) for width in (60, 120)]
    assert "…" not in rendered(small_run()[1], width=60)
    assert sorted(digits[0]) == sorted(digits[1]), "a column that is too narrow goes on below"


def test_the_tables_own_up_to_missing_images():
    cases, outcomes = two_tasks()
    measured = geneval_scores.summarize(cases, outcomes, [], 4)
    text = rendered({**small_run()[1], **measured}, width=110)
    assert "6 × not made yet" in text
    assert "0.375–0.875" in text


def test_floor_and_ceiling_are_shown_only_for_the_options_they_were_measured_with(tmp_path):
    _, scores = small_run()
    stored = {
        "options": scores["options"],
        "floor": geneval_reference.flat({**scores, "images": {"value": 0.125, "n": 48, "clusters": 12}}, "nothing"),
        "ceiling": geneval_reference.flat(scores, "everything"),
    }
    path = tmp_path / "reference_scores.json"
    path.write_text(json.dumps({"geneval, icon": stored}))
    assert load_reference("geneval", "icon", scores["options"], path) == stored
    assert load_reference("geneval", "icon", {**scores["options"], "threshold": 0.5}, path) is None
    assert load_reference("geneval", "mask2former", scores["options"], path) is None
    assert load_reference("geneval", "icon", scores["options"], tmp_path / "absent.json") is None
    text = rendered({**scores, "reference": stored}, width=110)
    assert "floor: nothing; ceiling: everything" in text
    assert "0.12" in text or "0.13" in text


@pytest.mark.parametrize(("suite", "detector"), [("geneval", "icon"), ("geneval2", "icon-fine")])
def test_a_part_of_the_prompts_is_told_that_floor_and_ceiling_are_of_all(suite, detector):
    made = find_suite(suite)
    plan = cli.make_plan(made, ["--model", "oracle"])
    tags = [case.tag for case in plan.cases]
    reference = load_reference(suite, detector, plan.options.rules())
    for part, told in ((tags, "(oracle)"), (tags[::40], f"(oracle), of all {len(tags)} prompts")):
        ends = reference_of(reference, part)
        assert ends["ceiling"]["what"].endswith(told)
        assert ("of all" in ends["floor"]["what"]) == (part is not tags)


@pytest.mark.parametrize("seed", range(4))
def test_an_empty_image_is_full_size_and_repeatable(seed):
    image = geneval_reference.empty_image(32, seed)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert (image == geneval_reference.empty_image(32, seed)).all()


def test_the_headline_is_json():
    _, scores = small_run()
    headline = json.loads(json.dumps(SUITE.headline(scores)))
    assert headline["overall"] == scores["overall"]["score"]["value"]
    assert set(headline["tasks"]) == set(TASKS)
    assert headline["world"] == "icon world"
