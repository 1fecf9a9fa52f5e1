"""How fast the parts are. `pytest benchmarks` runs them; `--benchmark-json=FILE` keeps the numbers.

Each measurement has a warm-up, checks what it made, and notes its rate in `extra_info`. Nothing here fails for being
slow: rates are compared between commits on one machine.
"""

from __future__ import annotations

import gzip
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evals.core.backends import Tools
from evals.core.records import Case, Detection
from evals.core.vocabulary import CLASSES
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from evals.metrics import layout
from got import checkpoint, iconworld

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from pytest_benchmark.fixture import BenchmarkFixture

    from evals.core.records import Generated, Sample

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "geneval_cases.jsonl.gz"
PROMPTS = ("a photo of a red apple", "a photo of two cats", "a photo of a dog left of a bench", "a photo of a bus") * 4

COMMANDS = {
    "generate": ("got", "generate", "a photo of a red apple", "--output"),
    "geneval": ("evals.geneval", "--model", "got", "--limit", "1", "--output"),
}
START_UP = """
import sys, time

sys.argv = sys.argv[1:]  # a command's are ["-m"] while its package is imported
from got.util.garbage import loading

def part(name):
    print(name, time.process_time() - spent[-1], flush=True)
    spent.append(time.process_time())

spent = [0.0]
part("Python")
with loading():
    import torch
    part("import torch")
    from transformers import Qwen2_5_VLForConditionalGeneration
    part("import the reasoner's class")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from got import checkpoint
    part("import diffusers and the pipeline")
    pipe = checkpoint.load("mini")
    part("build networks, read weights")
pipe.set_progress_bar_config(disable=True)
pipe("a photo of a red apple", generator=torch.Generator("cpu").manual_seed(42))
part("draw one image")
print("all", time.process_time())
"""


def note_rate(measure: BenchmarkFixture, unit: str, count: int) -> None:
    """Items per second of a round, beside pytest-benchmark's seconds."""
    if measure.stats:  # None under --benchmark-disable
        measure.extra_info[f"{unit}_per_second"] = count / measure.stats.stats.mean


@pytest.mark.parametrize("size_px", [64, 128])
def bench_render_scenes(measure: BenchmarkFixture, size_px: int) -> None:
    """Sampling and drawing scenes on one core, glyphs in memory."""
    rng = np.random.default_rng(0)
    scenes = [iconworld.sample_scene(rng) for _ in range(200)]

    def render() -> list[Any]:
        return [iconworld.render(scene, size_px) for scene in scenes]

    made = measure.pedantic(render, rounds=5, warmup_rounds=1)
    assert {one.image.shape for one in made} == {(size_px, size_px, 3)}
    note_rate(measure, "scenes", len(scenes))


def bench_verdicts(measure: BenchmarkFixture) -> None:
    """GenEval's rules on 2,000 logged cases."""
    work = []
    for line in gzip.decompress(GOLDEN.read_bytes()).decode().splitlines():
        golden = json.loads(line)
        case = Case(id="0", prompt="", tag=golden["metadata"]["tag"], metadata=golden["metadata"])
        found = [
            Detection(name=d["cls"], score=d["score"], box_xyxy_px=tuple(d["box"]), color=d["color"])
            for d in golden["detections"]
        ]
        work.append((case, found, golden["expected"]["correct"]))
    options = suite.Options()

    def judge() -> list[bool]:
        return [suite.verdict(case, found, options).correct for case, found, _ in work]

    assert len(measure.pedantic(judge, rounds=5, warmup_rounds=1)) == 2000
    note_rate(measure, "verdicts", len(work))


@pytest.mark.parametrize("batch", [1, 16])
def bench_pipeline(measure: BenchmarkFixture, batch: int) -> None:
    """Prompt to image with the embedded GoT: chain, guided steps, the config's own number of steps."""
    import torch

    pipe = checkpoint.load("mini")
    pipe.set_progress_bar_config(disable=True)

    def draw() -> list[Any]:
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in range(batch)]
        return list(pipe(list(PROMPTS[:batch]), generator=noise).images)

    assert len(measure.pedantic(draw, rounds=3, warmup_rounds=1)) == batch
    note_rate(measure, "images", batch)


def _children_s() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def bench_start_up(measure: BenchmarkFixture, tmp_path: Path, command: str) -> None:
    """A whole command for one prompt, from its start to its exit; `extra_info` has what it cost the processor."""
    numbers, spent = itertools.count(), list[float]()

    def run_command() -> None:
        before, output = _children_s(), tmp_path / str(next(numbers))
        words = [sys.executable, "-m", *COMMANDS[command], str(output)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1])
        spent.append(_children_s() - before)

    measure.pedantic(run_command, rounds=1 if measure.disabled else 3, warmup_rounds=0 if measure.disabled else 1)
    measure.extra_info["processor_seconds"] = min(spent)


def bench_start_up_parts(measure: BenchmarkFixture) -> None:
    """What one image costs the processor, part by part, in a command and in a program that is searched for garbage."""
    found: dict[str, list[dict[str, float]]] = {"-m": [], "program": []}

    def both() -> None:
        for argv, runs in found.items():
            before = _children_s()
            words = [sys.executable, "-c", START_UP, argv]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            parts = {name: float(s) for name, s in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}
            runs.append(parts | {"end": _children_s() - before - parts["all"]})

    measure.pedantic(both, rounds=1 if measure.disabled else 5)
    for argv, runs in found.items():
        best = {name: min(run[name] for run in runs) for name in runs[0]}
        measure.extra_info["command" if argv == "-m" else argv] = best
        assert all(seconds > 0 for seconds in best.values())


class Stopwatch:
    """Adds up the seconds spent inside the methods it has wrapped."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, target: Any, *methods: str) -> Any:
        """The same object; its methods are timed from now on."""
        for name in methods:
            setattr(target, name, self._timed(getattr(target, name)))
        return target

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def bench_harness_overhead(measure: BenchmarkFixture, tmp_path: Path) -> None:
    """A whole small run: the share of its time spent neither drawing nor detecting nor embedding.

    And that of a run of all 553 prompts, in `extra_info`: what is not the model's is measured there, with oracle images
    whose boxes are known; an image of the model's is taken to need as long as in the small run.
    """
    numbers = itertools.count()
    prompts = 6 if measure.disabled else 60  # disabled: it is only to be seen that all this still works
    plan, watch = _plan(tmp_path / "warm-up", "got", prompts), Stopwatch()
    generator, tools = watch.wrap(plan.generator, "generate"), plan.tools
    watch.wrap(tools.detector, "detect")
    watch.wrap(tools.embedder, "embed_images", "embed_texts")
    rounds: list[tuple[float, float]] = []

    def whole_run() -> dict[str, Any]:
        fresh = _plan(tmp_path / f"run{next(numbers)}", "got", prompts)
        fresh.generator, fresh.tools = generator, tools
        found, *seconds = _timed(fresh, watch)
        rounds.append((seconds[0], seconds[1]))
        return found

    scores = measure.pedantic(whole_run, rounds=2, warmup_rounds=1)
    assert scores["overall"]["score"]["n"] == 4 * prompts
    measured = rounds[1:] or rounds
    inside, all_ = (sum(each) / len(measured) for each in zip(*measured, strict=True))
    whole = _plan(tmp_path / "whole", "oracle", 12 if measure.disabled else 553)
    known = watch.wrap(KnownScenes(whole.generator), "generate", "detect")
    whole.generator, whole.tools = known, Tools(detector=lambda: known, embedder=lambda: tools.embedder)
    scores, inside_of_oracle, all_of_oracle = _timed(whole, watch)
    images = len(whole.samples)
    assert scores["overall"]["score"]["n"] == images
    own, model = all_of_oracle - inside_of_oracle, inside / (4 * prompts) * images
    measure.extra_info.update(overhead_share=1 - inside / all_, overhead_share_of_553=own / (own + model))


class KnownScenes:
    """Draws as the oracle does and finds what it has drawn, without a network: what is left of a run is the harness."""

    name, classes, min_score = "icon", frozenset(CLASSES), 0.05

    def __init__(self, oracle: Any) -> None:
        self._oracle = oracle
        self._found: dict[bytes, list[Detection]] = {}

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The oracle's images."""
        made: list[Generated] = self._oracle.generate(samples)
        for one in made:
            planned = layout.as_detections(layout.parse_plan(one.chain or ""), *one.image.size)
            self._found[one.image.tobytes()] = list(planned)
        return made

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The boxes of their chains."""
        return [self._found.get(image.tobytes(), []) for image in images]


def _timed(plan: Any, watch: Stopwatch) -> tuple[dict[str, Any], float, float]:
    """A run's scores, its seconds inside what is watched, and all of them."""
    watch.seconds, start = 0.0, time.perf_counter()
    scores = run(plan)
    return scores, watch.seconds, time.perf_counter() - start


def _plan(output: Path, model: str, prompts: int) -> Any:
    words = ["--model", model, "--limit", str(prompts), "--output", str(output)]
    return cli.make_plan(suite.SUITE, words)
