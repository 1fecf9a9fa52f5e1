"""What every measurement says about itself: commit, device, dtype, threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from got.util import provenance

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> BenchmarkFixture:
    """The `benchmark` fixture with the circumstances noted in its JSON."""
    circumstances: dict[str, Any] = {**provenance.commit(), "device": "cpu", "dtype": "float32"}
    benchmark.extra_info.update(circumstances, threads=torch.get_num_threads())
    return benchmark
