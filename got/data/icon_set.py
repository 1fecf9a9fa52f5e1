"""The icon world as a chain dataset of any size: the n-th example of a seed is the same on every machine.

Prompts, instructions, chains and images are true by construction: sampled together, not annotated afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import struct
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from got.data.records import DataError, Example, Provenance, Step
from got.data.storage import Writer
from got.iconworld.edits import Edit, chained, sample_edit
from got.iconworld.referring import sample_reasoning_edit
from got.iconworld.render import render
from got.iconworld.scenes import Scene, caption, chain_text, sample_scene, stable_rng
from got.util import processes
from got.util.files import read_object, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

TASKS = ("text-to-image", "edit", "reasoning-edit", "multi-turn")
"""What examples can be: a reasoning edit names its object in a way that takes thought."""
WEIGHTS: Mapping[str, float] = {"text-to-image": 4, "edit": 3, "reasoning-edit": 1, "multi-turn": 2}
LICENSE = "Apache-2.0 AND OFL-1.1"
"""Of the fonts whose drawings the images show."""
MADE = "made.json"
"""The file that says how a folder was made; a command that adds to it must have the same recipe."""
_MOST_TURNS = 4
_CHUNK = 50
_PROBES = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Which dataset is made."""

    seed: int = 0
    size_px: int = 128
    """Side of the images, at least 16."""
    weights: tuple[tuple[str, float], ...] = tuple(WEIGHTS.items())
    """Tasks, and how often each is drawn in proportion to the others."""


def sample(recipe: Recipe, number: int) -> Example:
    """The example of that number: it depends on recipe and number alone."""
    rng = stable_rng("dataset", recipe.seed, number)
    names, weights = zip(*recipe.weights, strict=True)
    task = str(rng.choice(names, p=[weight / sum(weights) for weight in weights]))
    prompt, source, steps, extra = _SAMPLERS[task](rng)
    return Example(
        id=example_id(recipe, number),
        prompt=prompt,
        source=None if source is None else _png(source, recipe.size_px),
        steps=tuple(Step(chain=c, instruction=i, target=_png(scene, recipe.size_px)) for i, c, scene in steps),
        provenance=Provenance(
            dataset="iconworld",
            license=LICENSE,
            origin=f"seed {recipe.seed}, number {number}",
            made_by=f"got.iconworld {_version()}",
        ),
        extra={"kind": task, **extra},
    )


def example_id(recipe: Recipe, number: int) -> str:
    """The id of that example.

    >>> example_id(Recipe(seed=3), 42)
    'icons-3-0000042'
    """
    return f"icons-{recipe.seed}-{number:07d}"


def make(recipe: Recipe, count: int, folder: Path, *, format: str, per_file: int, workers: int) -> Iterator[int]:
    """Write the first `count` examples of a recipe that are not there yet.

    Examples and their order do not depend on the number of workers, nor on whether the work was broken off in between;
    Parquet files and shards are cut where it was.

    Yields:
        How many are there, each time that some were added.

    Raises:
        DataError: If something else is in the folder.
    """
    _claim(recipe, folder)
    with Writer(folder, format, per_file=per_file) as writer:
        missing = [number for number in range(count) if example_id(recipe, number) not in writer.known_ids()]
        done = count - len(missing)
        yield done
        for examples in _in_order(functools.partial(_sample_all, recipe), _chunks(missing), workers):
            for example in examples:
                writer.add(example)
            yield (done := done + len(examples))


# --- examples --------------------------------------------------------------------------------------------------------

_Sampled = tuple[str, "Scene | None", "list[tuple[str, str, Scene]]", dict[str, Any]]
"""Prompt, source, (instruction, chain, target) of every step, extra fields."""


def _text_to_image(rng: np.random.Generator) -> _Sampled:
    scene = sample_scene(rng)
    return caption(scene, rng), None, [("", chain_text(scene), scene)], {}


def _single(sampler: Callable[[np.random.Generator], Edit], rng: np.random.Generator) -> _Sampled:
    edit = sampler(rng)
    return edit.instruction, edit.source, [("", edit.chain, edit.target)], {"edits": [edit.truth()]}


def _multi_turn(rng: np.random.Generator) -> _Sampled:
    """Two edits or more: each begins with the image that the one before it ended with."""
    while True:
        edits = [sample_edit(rng)]
        turns = int(rng.integers(2, _MOST_TURNS + 1))
        while len(edits) < turns and (following := chained(edits[-1], rng)) is not None:
            edits.append(following)
        if len(edits) > 1:  # an edit may leave nothing to go on with
            prompt = " , then ".join(edit.instruction for edit in edits)
            steps = [(edit.instruction, edit.chain, edit.target) for edit in edits]
            return prompt, edits[0].source, steps, {"edits": [edit.truth() for edit in edits]}


_SAMPLERS: dict[str, Callable[[np.random.Generator], _Sampled]] = {
    "text-to-image": _text_to_image,
    "edit": functools.partial(_single, sample_edit),
    "reasoning-edit": functools.partial(_single, sample_reasoning_edit),
    "multi-turn": _multi_turn,
}


def _png(scene: Scene, size_px: int) -> bytes:
    """The image of a scene as a PNG file.

    Pillow tries five filters on each line, which takes most of its time, while flat icons are smallest without any.
    """
    lines = np.zeros((size_px, 1 + 3 * size_px), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = render(scene, size_px).image.reshape(size_px, -1)
    header = struct.pack(">IIBBBBB", size_px, size_px, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("got-bench")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree"


# --- folders ---------------------------------------------------------------------------------------------------------


def _made(recipe: Recipe) -> dict[str, Any]:
    """Recipe and fingerprint: other drawings or words would make another dataset."""
    digest = hashlib.sha256()
    for number in range(_PROBES):
        example = sample(recipe, number)
        digest.update(repr((example.prompt, example.chains)).encode())
        for _, encoded in example.images():
            assert isinstance(encoded, bytes), "sampled images are in memory"
            with Image.open(io.BytesIO(encoded)) as image:
                digest.update(image.tobytes())
    return {"source": "iconworld", **dataclasses.asdict(recipe), "fingerprint": digest.hexdigest()[:16]}


def _claim(recipe: Recipe, folder: Path) -> None:
    """Leave the recipe in a new folder, or make sure that it is the one of an old folder."""
    path, now = folder / MADE, json.loads(json.dumps(_made(recipe)))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise DataError(f"{folder}: expected a new folder, or one that was made before, but there are other files")
        write_json(path, now, indent=1)
        return
    before = read_object(path, DataError)
    changed = [f"{name} {before.get(name)} (now {now[name]})" for name in now if before.get(name) != now[name]]
    if changed:
        raise DataError(f"{folder} was made with another recipe: {', '.join(changed)}")


# --- processes -------------------------------------------------------------------------------------------------------


def _chunks(numbers: Sequence[int]) -> Iterator[list[int]]:
    numbers_left = iter(numbers)
    while chunk := list(itertools.islice(numbers_left, _CHUNK)):
        yield chunk


def _sample_all(recipe: Recipe, numbers: list[int]) -> list[Example]:
    return [sample(recipe, number) for number in numbers]


def _in_order(
    work: Callable[[list[int]], list[Example]], chunks: Iterator[list[int]], workers: int
) -> Iterator[list[Example]]:
    """The work of every chunk, in order; no more chunks are under way than keep all workers busy."""
    if workers == 1:
        yield from map(work, chunks)
        return
    with processes.pool(workers) as pool:
        futures = deque(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 3 * workers))
        try:
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
