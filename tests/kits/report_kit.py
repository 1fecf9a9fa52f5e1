"""Small run directories for tests of reports, written by the suite's own functions, and an ablation of such runs."""

import json

import numpy as np
import runner_kit
from PIL import Image

from evals import ablation
from evals.core.records import Sample, Scored
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from evals.metrics import layout

CHAIN = (
    "a photo of a red apple <|box_start|>(100,300),(450,700)<|box_end|> (red) and "
    "a blue dog <|box_start|>(550,300),(900,700)<|box_end|> (green)"
)
WRONG_CHAIN = "a photo of a red apple <|box_start|>(100,300),(450,700)<|box_end|> (red)"
METADATA = {
    "tag": "color_attr",
    "include": [{"class": "apple", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "blue"}],
    "prompt": "a photo of a red apple and a blue dog",
}
HOSTILE = (
    "</script><script>window.planted=1</script><img src=x onerror=window.planted=1> $x_1$ \\input{a} | `b` & % \u202e"
)


def detection(name, color, x1):
    return {"name": name, "score": 0.97, "box_xyxy_px": [x1, 19.0, x1 + 22.0, 45.0], "color": color}


BOTH = [detection("apple", "red", 6.0), detection("dog", "blue", 35.0)]
NO_DOG = BOTH[:1]
CAT = [BOTH[0], detection("cat", None, 35.0)]
GREEN_DOG = [BOTH[0], detection("dog", "green", 35.0)]


def write_run(folder, images=((CHAIN, BOTH, None), (CHAIN, NO_DOG, None))):
    """A finished run of one case.

    Args:
        folder: Where.
        images: Of each image: chain or None, detections, detections in an exact drawing of the plan or None.
    """
    folder.mkdir(parents=True)
    (folder.parent / "prompts.jsonl").write_text(json.dumps(METADATA) + "\n")
    options = ["--prompts", str(folder.parent / "prompts.jsonl"), "--images-per-prompt", str(len(images))]
    plan = cli.make_plan(suite.SUITE, options)
    (case,) = plan.cases
    (folder / "images" / case.id / "samples").mkdir(parents=True)
    chains, scored, results = [], [], []
    for index, (chain, found, exact) in enumerate(images):
        plan_of_image = None
        if chain is not None:
            oracle = exact and {"width": 64, "height": 64, "detections": exact}
            plan_of_image = {"objects": [item.as_dict() for item in layout.parse_plan(chain)], "oracle": oracle}
        name = f"images/{case.id}/samples/{index:04d}.png"
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        key = {"case": case.id, "index": index}
        observation = {**key, "width": 64, "height": 64, "detections": found, "plan": plan_of_image}
        score = suite.SUITE.score(case, observation, plan.options)
        scored.append(Scored(sample=Sample(case=case, index=index, seed=index), observation=observation, score=score))
        chains.append({**key, "chain": chain, "warnings": []})
        results.append(suite.SUITE.result(scored[-1], name))
    observations = [one.observation for one in scored]
    scores = suite.SUITE.summarize([case], scored, [], plan.options, plan.context)
    scores["wording"] = None  # counts as one of the benchmark's own prompts, which stand below published rows
    for name, lines in (("chains", chains), ("observations", observations), ("results", results)):
        write_lines(folder / f"{name}.jsonl", lines)
    (folder / "scores.json").write_text(json.dumps(scores))
    generate = {"suite": "geneval", "images_per_prompt": len(images), "seed": 42, "prompts_sha256": "0" * 64}
    identity = {"generate": generate, "observe": {"detector": "icon"}, "verdict": {"version": 1}}
    (folder / "run.json").write_text(json.dumps({"identity": identity}))
    return folder


def write_lines(path, lines):
    """Another log in the place of one, as if the run had written it."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runner_kit.accept(path)


def write_json(path, content):
    """The same of JSON."""
    path.write_text(json.dumps(content))
    runner_kit.accept(path)


def change_lines(path, **changes):
    """Every line of a log with other values."""
    write_lines(path, [{**line, **changes} for line in runner_kit.lines(path)])


def make_ablation(folder, cells):
    """An ablation by the real runner, scorer and comparison; the arithmetic detector stands for a model.

    Args:
        folder: Where.
        cells: Name of each cell -> its flags, as its row shows them.
    """
    finished = []
    for number, (name, words) in enumerate(cells.items()):
        place = folder / f"cell-{number}"
        scores = run(runner_kit.make_plan(place, "--limit", "12", "--seed", str(number)))
        finished.append((ablation.Cell(name=name, words=tuple(words)), place, scores))
    content = {"command": ["--grid", "test"], "cells": ablation.compare(finished)}
    (folder / "ablation.json").write_text(json.dumps(content))
    return folder
