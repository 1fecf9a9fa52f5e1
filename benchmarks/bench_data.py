"""How fast chain datasets are made, written and read, in examples per second on one core."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from got.data.icon_set import Recipe, sample
from got.data.storage import FORMATS, Writer, read

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from got.data.records import Example


@pytest.fixture
def count(measure: BenchmarkFixture) -> int:
    """How many examples; few where nothing is measured."""
    return 50 if measure.disabled else 500


def _note(measure: BenchmarkFixture, count: int) -> None:
    if measure.stats:  # None under --benchmark-disable
        measure.extra_info["examples_per_second"] = count / measure.stats.stats.mean


def bench_sample_icons(measure: BenchmarkFixture, count: int) -> None:
    """Examples of the icon world with their PNG files, glyphs in memory."""
    recipe = Recipe()

    def work() -> list[Example]:
        return [sample(recipe, number) for number in range(count)]

    made = measure.pedantic(work, rounds=3, warmup_rounds=1)
    assert len({example.id for example in made}) == count
    _note(measure, count)


@pytest.mark.parametrize("form", FORMATS)
def bench_write(measure: BenchmarkFixture, count: int, form: str, tmp_path: Path) -> None:
    """Examples to disk."""
    examples = [sample(Recipe(), number) for number in range(count)]

    def work() -> int:
        with Writer(tempfile.mkdtemp(dir=tmp_path), form) as writer:
            return sum(writer.add(example) for example in examples)

    assert measure.pedantic(work, rounds=3, warmup_rounds=1) == count
    _note(measure, count)


@pytest.mark.parametrize("form", FORMATS)
def bench_read_shuffled(measure: BenchmarkFixture, count: int, form: str, tmp_path: Path) -> None:
    """Examples from disk in a random order; of a folder, the images' bytes as well."""
    with Writer(tmp_path, form) as writer:
        for number in range(count):
            writer.add(sample(Recipe(), number))

    def work() -> int:
        images = (image for example in read(tmp_path, shuffle_seed=0) for _, image in example.images())
        return sum(len(image if isinstance(image, bytes) else image.read_bytes()) for image in images)

    assert measure.pedantic(work, rounds=3, warmup_rounds=1) > count
    _note(measure, count)
