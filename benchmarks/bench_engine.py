"""What workers of Ray cost and bring, beside one process; and how much one driver can log.

All ways of `bench_scaling` run one after the other in one process on the same images. `bench_driver` has workers that
sleep for as long as a GPU takes for a batch, and hand over a finished image: what is measured is the driver alone.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from evals.generators.oracle import OracleGenerator
from evals.geneval.suite import SUITE
from evals.harness import cli
from evals.harness.engines import ENGINES, RayEngine
from evals.harness.outcomes import Outcome
from evals.harness.plan import Plan
from evals.harness.runner import run
from evals.harness.worker import Job
from got.util.images import png_bytes

pytest.importorskip("ray", reason="Ray is not installed: pip install 'got-bench[ray]'")

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_benchmark.fixture import BenchmarkFixture

    from evals.core.records import Sample
    from evals.harness.settings import Settings

BATCH = 8
BATCHES = 12
"""Of each way; divides by the number of workers."""
WAYS = {
    "local, 1 thread": (1, ()),
    "local, 2 threads": (2, ()),
    "1 worker, 1 thread": (1, ("--engine", "ray", "--workers", "1")),
    "2 workers, 1 thread": (1, ("--engine", "ray", "--workers", "2")),
}
SIMULATED, WORKERS = 64, 4
"""So many GPUs are simulated by so few processes, each of which hands over the batches of several."""
SAMPLES = int(os.environ.get("BENCH_SAMPLES", "10000"))
GPU_SECONDS = 0.5
"""For a batch of 32: 64 GPUs could make 4,096 images a second."""


def _rate(folder: Path, threads: int, words: Sequence[str], batches: int, size: int) -> dict[str, float]:
    """Images a second once all is loaded, what they cost this process, and the seconds until then."""
    given = ["--model", "got", "--images-per-prompt", "4", "--batch-size", str(size), "--device", "cpu", *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(threads))
        plan = cli.make_plan(SUITE, [*given, "--output", str(folder)])
        job, slices = Job(plan=plan), [plan.samples[i * size : (i + 1) * size] for i in range(batches)]
        start = time.perf_counter()
        with ENGINES[plan.settings.engine](plan.settings) as engine:
            engine.check(job)
            _ = list(engine.run(job, slices[:1] * 2 * engine.width))  # until all have loaded
            begun, spent = time.perf_counter(), time.process_time()
            images = sum(len(outcomes) for outcomes in engine.run(job, slices))
            end, spent = time.perf_counter(), time.process_time() - spent
    return {
        "images_per_second": images / (end - begun),
        "cpu_seconds_here_per_image": spent / images,  # of workers, what feeding them costs, whatever else runs here
        "start_up_seconds": begun - start,
    }


def bench_scaling(measure: BenchmarkFixture, tmp_path: Path) -> None:
    """Mini's images a second by one process and by workers; `extra_info` has all ways, scaling and overhead."""
    import torch  # here, so that the workers of the other measurement do without

    threads, found = torch.get_num_threads(), dict[str, dict[str, float]]()

    def all_ways() -> None:
        for name, (count, words) in WAYS.items():
            if len(words) < 4 or int(words[-1]) <= len(os.sched_getaffinity(0)):
                batches, size = (2, 1) if measure.disabled else (BATCHES, BATCH)
                found[name] = _rate(tmp_path, count, words, batches, size)

    measure.pedantic(all_ways, rounds=1)
    torch.set_num_threads(threads)
    rates = {name: each["images_per_second"] for name, each in found.items()}
    assert all(rate > 0 for rate in rates.values())
    measure.extra_info.update(ways=found, overhead=1 - rates["1 worker, 1 thread"] / rates["local, 1 thread"])
    if "2 workers, 1 thread" in rates:
        measure.extra_info["scaling_per_worker"] = rates["2 workers, 1 thread"] / rates["1 worker, 1 thread"] / 2


class SleepingPlan(Plan):
    """A plan that needs no torch, so that 64 workers of it fit on one machine."""

    device = "cpu"  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return SleepingPlan, (self.spec,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SleepingJob:
    """A job whose worker sleeps in place of drawing and looking."""

    plan: Plan
    png: bytes
    recorded: bool = False
    asks: bool = True

    def worker(self, before: Any = None) -> SleepingJob:
        """Itself."""
        return self

    def __call__(self, batch: Sequence[Sample], recorded: Any = None) -> list[Outcome]:
        """The same image for all."""
        time.sleep(GPU_SECONDS * WORKERS / SIMULATED)
        seen = {"width": 128, "height": 128, "detections": [], "plan": None}
        return [
            Outcome(sample=one, png=self.png, chain="", warnings=(), observation=seen, generate_s=0.01, observe_s=0.01)
            for one in batch
        ]


class SleepingEngine(RayEngine):
    """The engine, with such a job in place of the runner's; it notes the memory of this process."""

    png = b""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.memory_bytes: dict[int, int] = {}
        """By the number of images that have come."""

    def run(self, job: Any, batches: Sequence[Sequence[Sample]], guard: Any = None) -> Iterator[list[Outcome]]:
        """As the engine does."""
        images, step = 0, len(job.plan.samples) // 10
        for outcomes in super().run(SleepingJob(plan=job.plan, png=self.png), batches, guard):  # type: ignore[arg-type]
            yield outcomes
            images += len(outcomes)
            if images // step != (images - len(outcomes)) // step:
                self.memory_bytes[images] = psutil.Process().memory_info().rss


def bench_driver(measure: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images a second that one process logs, PNG files included, of workers that could make more."""
    import ray

    workers, samples = (2, 600) if measure.disabled else (WORKERS, SAMPLES)
    words = ["--model", "oracle", "--images-per-prompt", str(-(-samples // 553)), "--batch-size", "32"]
    words += ["--output", str(tmp_path / "run"), "--engine", "ray", "--workers", str(workers)]
    plan = cli.make_plan(SUITE, words)
    plan = SleepingPlan(plan.spec)
    engine = SleepingEngine(plan.settings)
    (drawn,) = OracleGenerator().generate(plan.samples[:1])
    assert drawn.image is not None, "the oracle draws all"
    engine.png = png_bytes(drawn.image)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [here, here.parent])))  # workers import this file
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    try:
        with engine:
            while engine.note != f"{workers} of {workers} workers":  # until all have begun
                _ = list(engine.run(Job(plan=plan), [plan.samples[:32]]))
            spent = time.process_time()
            measure.pedantic(lambda: run(plan, engine), rounds=1)
            spent = time.process_time() - spent
    finally:
        ray.shutdown()
    stamps = sorted(path.stat().st_mtime for path in (tmp_path / "run").glob("images/*/samples/*.png"))
    assert len(stamps) == len(plan.samples)
    rate = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    measure.extra_info.update(workers=workers, samples=len(stamps), png_bytes=len(engine.png), images_per_second=rate)
    measure.extra_info["cpu_seconds_here_per_image"] = spent / len(stamps)  # scores and sheets included
    measure.extra_info["memory_bytes_by_images"] = engine.memory_bytes  # while images come
    measure.extra_info["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
