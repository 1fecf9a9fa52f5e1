"""The icon world as a dataset: true chains, the same files whoever makes them, and no harm from kill -9."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from data_kit import contents
from PIL import Image

from got.data.__main__ import main
from got.data.checking import Findings, check
from got.data.icon_set import TASKS, Recipe, make, sample
from got.data.records import DataError
from got.data.storage import read
from got.iconworld.edits import sample_edit
from got.iconworld.plans import read_operation
from got.iconworld.render import render
from got.iconworld.scenes import sample_scene, stable_rng
from got.iconworld.vocabulary import parse_phrase
from got.plan.chain import Chain


def pixels(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def recipe(task, **fields):
    return Recipe(weights=((task, 1.0),), **{"size_px": 64, **fields})


def test_images_are_those_of_the_renderer():
    """The generator's first draw picks the task."""
    rng = stable_rng("dataset", 0, 5)
    rng.choice(["text-to-image"], p=[1.0])
    example = sample(recipe("text-to-image"), 5)
    assert np.array_equal(pixels(example.steps[0].target), render(sample_scene(rng), 64).image)
    rng = stable_rng("dataset", 0, 5)
    rng.choice(["edit"], p=[1.0])
    example, edit = sample(recipe("edit"), 5), sample_edit(rng)
    assert np.array_equal(pixels(example.source), render(edit.source, 64).image)
    assert np.array_equal(pixels(example.steps[0].target), render(edit.target, 64).image)
    assert (example.prompt, example.chains) == (edit.instruction, (edit.chain,))


@pytest.mark.parametrize("task", TASKS)
def test_chains_are_well_formed_and_name_what_changes(task):
    for number in range(12):
        example = sample(recipe(task), number)
        assert not list(example.problems())
        assert example.task == {"reasoning-edit": "edit"}.get(task, task)
        assert "unknown" not in example.provenance.license
        assert example.extra["kind"] == task
        before = example.source
        for step in example.steps:
            chain = Chain.parse(step.chain)
            assert all(parse_phrase(region.text) for region in chain.regions)
            if before is not None:
                planned = read_operation(step.chain)
                changed = (pixels(before) != pixels(step.target)).any(-1)
                assert changed.any()
                if planned.ground_color is None:
                    for x1, y1, x2, y2 in (*planned.erased, *(box for _, _, box in planned.drawn)):
                        changed[y1 * 64 // 1000 : y2 * 64 // 1000 + 2, x1 * 64 // 1000 : x2 * 64 // 1000 + 2] = False
                    assert not changed.any(), "something changes outside the chain's boxes"
            before = step.target


def test_turns_follow_each_other():
    examples = [sample(recipe("multi-turn"), number) for number in range(12)]
    assert {len(example.steps) for example in examples} == {2, 3, 4}
    for example in examples:
        assert example.prompt == " , then ".join(step.instruction for step in example.steps)
        for before, after in zip(example.chains, example.chains[1:], strict=False):
            shown = before.rpartition("now there ")[2].partition(" ")[2]
            assert after.startswith(f"the image shows {shown} .")


def test_the_first_examples_of_a_larger_set_are_the_smaller_set():
    assert contents(sample(Recipe(size_px=16), 3)) == contents(sample(Recipe(size_px=16), 3))
    assert contents(sample(Recipe(size_px=16), 3)) != contents(sample(Recipe(size_px=16, seed=1), 3))
    assert contents(sample(Recipe(size_px=16), 3)) != contents(sample(Recipe(size_px=16), 4))


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".writing"
    }


@pytest.mark.parametrize("form", ["folder", "webdataset", "parquet"])
def test_going_on_gives_the_files_that_one_go_gives(tmp_path, form):
    plan = Recipe(size_px=16, weights=(("text-to-image", 1.0), ("edit", 1.0)))
    options = {"format": form, "per_file": 10, "workers": 1}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert list(make(plan, 120, whole, **options)) == [0, 50, 100, 120]
    assert list(make(plan, 30, broken, **options)) == [0, 30]
    steps = make(plan, 120, broken, **options)
    assert [next(steps), next(steps)] == [30, 80]
    steps.close()
    assert list(make(plan, 120, broken, **options)) == [80, 120]
    assert list(make(plan, 120, broken, **options)) == [120]
    assert files(broken) == files(whole)


def test_another_recipe_does_not_go_on_with_a_folder(tmp_path):
    plan, options = recipe("edit", size_px=16), {"format": "folder", "per_file": 10, "workers": 1}
    list(make(plan, 2, tmp_path / "a", **options))
    with pytest.raises(DataError, match=r"another recipe: seed 0 \(now 1\)"):
        list(make(recipe("edit", size_px=16, seed=1), 2, tmp_path / "a", **options))
    with pytest.raises(DataError, match="size_px 16"):
        list(make(recipe("edit", size_px=32), 2, tmp_path / "a", **options))
    made = json.loads((tmp_path / "a" / "made.json").read_text())
    (tmp_path / "a" / "made.json").write_text(json.dumps({**made, "fingerprint": "drawn otherwise"}))
    with pytest.raises(DataError, match="fingerprint drawn otherwise"):
        list(make(plan, 3, tmp_path / "a", **options))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").touch()
    with pytest.raises(DataError, match="other files"):
        list(make(plan, 2, tmp_path / "b", **options))


def test_workers_change_nothing_and_kill_9_harms_nothing(tmp_path, capsys):
    words = ["make", "--size", "16", "--tasks", "text-to-image=3", "edit", "--seed", "4"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "got.data", *words, "--num", "99999", "--workers", "2", "--output", str(broken)]
    making = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(broken.glob("images/*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(making.pid).children(recursive=True)
    os.kill(making.pid, signal.SIGKILL)
    assert making.wait() == -signal.SIGKILL
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "workers outlive the one that they work for"
    there = (broken / "examples.jsonl").read_bytes().count(b"\n")
    count = there + 70
    assert main([*words, "--num", str(count), "--workers", "2", "--output", str(broken)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["made_now"] == 70
    assert list(check(broken, Findings())) == []
    assert main([*words, "--num", str(count), "--workers", "1", "--output", str(tmp_path / "whole")]) == 0
    # An image without a line is what the kill left of an example that was made again.
    assert files(broken) == files(tmp_path / "whole")
    assert [example.id for example in read(broken)] == [f"icons-4-{number:07d}" for number in range(count)]


def test_help_says_how_an_example_is_written(capsys):
    for words, said in (
        ([], '"provenance"'),
        (["make"], "kill -9"),
        (["check"], "Exit code 1"),
        (["convert"], "--append"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out
