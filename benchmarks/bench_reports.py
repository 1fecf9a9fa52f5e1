"""How long a report takes to build: logs, thumbnails, tables, figures, page; runs of 1,000 and 10,000 samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from evals.core.vocabulary import CLASSES, TASKS
from evals.metrics import statistics
from got.util.files import write_atomic, write_json, write_lines
from got.util.images import png_bytes
from reports import report, style
from reports.frames import load

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PER_PROMPT = 4


def write_run(folder: Path, samples: int) -> Path:
    """A run directory of that many images, each another one, every second one wrong."""
    rng = np.random.default_rng(0)
    chains, observations, results = [], [], []
    for number in range(samples):
        case, index = f"{number // PER_PROMPT:05d}", number % PER_PROMPT
        name, task = CLASSES[number % len(CLASSES)], TASKS[number // PER_PROMPT % len(TASKS)]
        file = f"images/{case}/samples/{index:04d}.png"
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        write_atomic(folder / file, png_bytes(coarse.resize((64, 64), Image.Resampling.BICUBIC)))
        key, box = {"case": case, "index": index}, [8.0, 8.0, 40.0, 48.0]
        text = f"a photo of a red {name}"
        planned = {"text": text, "name": name, "color": "red", "box_1000": [100, 100, 600, 700]}
        seen = {"name": name, "score": 0.9, "box_xyxy_px": box, "color": "red"}
        chains.append({**key, "chain": f"{text} <|box_start|>(100,100),(600,700)<|box_end|> (red)"})
        observations.append({**key, "width": 64, "height": 64, "detections": [seen],
                             "plan": {"objects": [planned], "oracle": None}})  # fmt: skip
        wanted = {"tag": task, "include": [{"class": name, "count": 1 + number % 2, "color": "red"}], "prompt": text}
        results.append({"filename": file, "tag": task, "prompt": text, "correct": number % 2 == 0,
                        "reason": "" if number % 2 == 0 else f"expected {name}>=2, found 1",
                        "metadata": json.dumps(wanted), "details": json.dumps({name: [[*box, 0.9]]})})  # fmt: skip
    for log, lines in (("chains", chains), ("observations", observations), ("results", results)):
        write_lines(folder / f"{log}.jsonl", lines)
    write_json(folder / "scores.json", _scores(samples))
    write_json(folder / "run.json", {"identity": {}, "machine": {}})
    return folder


def _scores(samples: int) -> dict[str, Any]:
    cases = samples // PER_PROMPT
    half = statistics.share([PER_PROMPT / 2] * cases, [PER_PROMPT] * cases).as_dict()
    wrong = range(1, samples, 2)
    return {
        "suite": "geneval", "version": 1, "model": "got", "world": "icon world", "detector": "icon", "reference": None,
        "overall": {"score": half, "bounds": None}, "tasks": {task: {"score": half} for task in TASKS},
        "missing": {"total": 0, "by_cause": {}},
        "faults": {f"{n // PER_PROMPT:05d}/{n % PER_PROMPT}": "plan_wrong" for n in wrong},
    }  # fmt: skip


@pytest.mark.parametrize("samples", [1_000, 10_000])
def bench_report(measure: BenchmarkFixture, tmp_path: Path, samples: int) -> None:
    """A report that shows every sample, from the logs to the page on the disk."""
    samples //= 10 if measure.disabled else 1  # it is only to be seen that all this still works
    run = write_run(tmp_path / "run", samples)

    def build() -> dict[str, Any]:
        runs, ablations = load([run])
        with style.sheet():
            made = report.of_runs(runs, ablations, "Report", every=True)
            return report.write(made, tmp_path / "report", "auto")

    written = measure.pedantic(build, rounds=1, warmup_rounds=0)
    assert (written["samples"], written["pictures"]) == (samples, samples)
    page = tmp_path / "report" / "report.html"
    measure.extra_info.update(page_bytes=page.stat().st_size, pictures_in_page=written["pictures_in_page"])
    if measure.stats:  # None under --benchmark-disable
        measure.extra_info["samples_per_second"] = samples / measure.stats.stats.mean
