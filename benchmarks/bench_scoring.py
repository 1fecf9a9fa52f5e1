"""What scoring costs beside a plain way of doing the same: one thing at a time, as the public scripts do.

Both ways run in the same process on the same inputs and must agree; `speedup` in `extra_info` is the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from evals.core.vocabulary import COLORS
from evals.detectors.registry import make_detector
from evals.embedders.registry import make_embedder
from evals.metrics import statistics
from evals.suite import objects
from evals.suite.objects import classify_colors
from got import iconworld
from got.util.files import append_lines, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

IMAGES = 64
LINES = 10_000


def compare(measure: BenchmarkFixture, fast: Callable[[], Any], plain: Callable[[], Any], rounds: int = 3) -> Any:
    """Measures `fast`, times `plain`, each warmed up, and notes the ratio of the best rounds; gives both answers.

    Both by the clock that `--benchmark-timer` names, such as ``time.process_time`` on a machine with other work.
    """
    expected, clock, times = plain(), measure._timer, []
    for _ in range(1 if measure.disabled else rounds):
        start = clock()
        plain()
        times.append(clock() - start)
    answer = measure.pedantic(fast, rounds=rounds, warmup_rounds=1)
    if measure.stats:  # None under --benchmark-disable
        measure.extra_info["plain_seconds"] = min(times)
        measure.extra_info["speedup"] = min(times) / measure.stats.stats.min
    return answer, expected


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Renders of random scenes."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(iconworld.render(iconworld.sample_scene(rng), 64).image) for _ in range(IMAGES)]


@pytest.mark.parametrize("batch", [4, 16, 64])
def bench_detection(measure: BenchmarkFixture, images: list[Image.Image], batch: int) -> None:
    """The embedded detector in batches, against one image a call."""
    detector = make_detector("icon", "cpu")

    def batched() -> list[Any]:
        return [found for i in range(0, IMAGES, batch) for found in detector.detect(images[i : i + batch])]

    def one_by_one() -> list[Any]:
        return [detector.detect([image])[0] for image in images]

    answer, expected = compare(measure, batched, one_by_one)
    if measure.stats:
        measure.extra_info["images_per_second"] = IMAGES / measure.stats.stats.mean
    assert [[d.name for d in found] for found in answer] == [[d.name for d in found] for found in expected]


def bench_color_check(measure: BenchmarkFixture, images: list[Image.Image]) -> None:
    """Colours of all objects of a batch in one call, against a call for each image's objects of a class."""
    embedder = make_embedder("icon", "cpu")
    found = make_detector("icon", "cpu").detect(images)
    groups = []
    for image, detections in zip(images, found, strict=True):
        for name in dict.fromkeys(d.name for d in detections):
            groups.append((name, [objects.crop(image, d) for d in detections if d.name == name]))
    crops = [crop for _, group in groups for crop in group]
    names = [name for name, group in groups for _ in group]

    def batched() -> list[str]:
        return classify_colors(embedder, crops, names, COLORS)

    def by_group() -> list[str]:
        return [
            color for name, group in groups for color in classify_colors(embedder, group, [name] * len(group), COLORS)
        ]

    answer, expected = compare(measure, batched, by_group)
    assert answer == expected


def bench_interval(measure: BenchmarkFixture) -> None:
    """The interval of a GenEval score over 553 prompts, a closed form, against scipy's bootstrap over the prompts."""
    rng = np.random.default_rng(0)
    right, images = rng.binomial(4, rng.beta(1.6, 0.7, 553)).astype(float), np.full(553, 4.0)

    def closed() -> statistics.Estimate:
        return statistics.share(right, images)

    def with_scipy() -> Any:
        return stats.bootstrap(
            (right, images), lambda a, b: a.sum() / b.sum(), n_resamples=statistics.RESAMPLES, paired=True,
            vectorized=False, method="percentile", rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip

    answer, expected = compare(measure, closed, with_scipy)
    assert abs(answer.low - expected.low) < 0.005
    assert abs(answer.high - expected.high) < 0.005


def bench_log_append(measure: BenchmarkFixture, tmp_path: Path) -> None:
    """10,000 lines in durable batches of 32, against a durable write for each line."""
    lines = [{"case": f"{i:05d}", "index": 0, "detections": [[0.5] * 5] * 3} for i in range(LINES)]
    few = lines[:320]

    def batched() -> int:
        path = tmp_path / "batched.jsonl"
        path.unlink(missing_ok=True)
        for i in range(0, len(few), 32):
            append_lines(path, few[i : i + 32])
        return path.stat().st_size

    def line_by_line() -> int:
        path = tmp_path / "single.jsonl"
        path.unlink(missing_ok=True)
        for line in few:
            append_lines(path, [line])
        return path.stat().st_size

    answer, expected = compare(measure, batched, line_by_line)
    assert answer == expected


def bench_resume_scan(measure: BenchmarkFixture, tmp_path: Path) -> None:
    """Reading a log of 10,000 lines to see what is left to do."""
    path = tmp_path / "log.jsonl"
    append_lines(path, [{"case": f"{i:05d}", "index": 0, "detections": [[0.5] * 5] * 3} for i in range(LINES)])
    records, damaged = measure.pedantic(read_lines, args=(path,), rounds=5, warmup_rounds=1)
    assert (len(records), damaged) == (LINES, 0)
    if measure.stats:
        measure.extra_info["lines_per_second"] = LINES / measure.stats.stats.mean
