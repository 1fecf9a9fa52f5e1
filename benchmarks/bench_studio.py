"""How soon the studio answers: a drawing and a redrawing with mini, from the request to the image on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from evals.geneval.observer import Observer
from got import checkpoint

pytest.importorskip("starlette", reason="the studio is not installed: pip install 'got-bench[studio]'")
pytest.importorskip("uvicorn", reason="the studio is not installed: pip install 'got-bench[studio]'")

import studio_kit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

_PROMPT = "a photo of a red apple and a blue dog"


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[studio_kit.Visitor]:
    """A studio of mini, with the detector."""
    root: Path = tmp_path_factory.mktemp("studio")
    with studio_kit.served(root, checkpoint.load(), observer=Observer("icon", "cpu")) as address:
        yield studio_kit.Visitor(address)


def bench_draw(measure: BenchmarkFixture, visitor: studio_kit.Visitor) -> None:
    """A caption: plan, previews, image, and what the detector finds."""
    name = visitor.new()
    measure.pedantic(lambda: visitor.work(name, kind="draw", prompt=_PROMPT), rounds=5, warmup_rounds=1)


def bench_redraw(measure: BenchmarkFixture, visitor: studio_kit.Visitor) -> None:
    """A changed plan."""
    name = visitor.new()
    plan = visitor.work(name, kind="draw", prompt=_PROMPT)["chain"]["plan"]
    chain = {"text": plan["text"].replace("(500,", "(450,"), "names": []}
    measure.pedantic(lambda: visitor.work(name, kind="revise", entry=0, chain=chain), rounds=5, warmup_rounds=1)


def bench_two_hundred_drawings(measure: BenchmarkFixture, visitor: studio_kit.Visitor) -> None:
    """What memory they leave behind, in `extra_info`."""
    name, process = visitor.new(), psutil.Process()
    request = {"kind": "draw", "prompt": "two clocks", "chain": {"text": "two clocks", "names": []}}
    quick = {"options": {"num_inference_steps": 1}}
    visitor.work(name, **request, **quick)
    before = process.memory_info().rss
    measure.pedantic(lambda: visitor.work(name, **request, **quick), rounds=200)
    measure.extra_info["growth_mb"] = (process.memory_info().rss - before) / 1e6
