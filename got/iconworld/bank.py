"""Banks of rendered scenes and edits for training: drawn once on all cores, kept on disk, read by every stage."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from got.iconworld.edits import Edit, sample_edit
from got.iconworld.referring import sample_mirror_edit
from got.iconworld.render import edges_px, render
from got.iconworld.scenes import Scene, sample_scene, stable_rng
from got.util import processes
from got.util.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_CHUNK = 512
_MIRROR_SHARE = 0.05  # of the edits happen before a mirror
_BACKGROUND_SHARE = 0.12  # of the edits change the background, beside those that do among all kinds
_GREY_SHARE = 0.2  # of such edits are kept where the background has no tint yet: half of the others have one


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """Scenes and their images."""

    scenes: list[Scene]
    images: np.ndarray
    """uint8 (n, size, size, 3)."""
    foreground: np.ndarray
    """bool (n, size, size): pixels of any object."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditBank:
    """Edits and their images."""

    edits: list[Edit]
    sources: np.ndarray
    """uint8 (n, size, size, 3)."""
    targets: np.ndarray
    """uint8 (n, size, size, 3)."""
    changed: np.ndarray
    """bool (n, size, size): the target's objects, boxes of what was taken away, all if the background changes."""


_OF = "of"
"""The key under which kept images say what they show."""
_Job = tuple[int, int, int, int]
"""Seed, number of the chunk, items in it, side of the images."""


def _scenes(job: _Job) -> list[Scene]:
    rng = stable_rng("bank", job[0], job[1])
    return [sample_scene(rng) for _ in range(job[2])]


def _edits(job: _Job) -> list[Edit]:
    rng = stable_rng("edits", job[0], job[1])
    return [_edit(rng) for _ in range(job[2])]


def _edit(rng: np.random.Generator) -> Edit:
    lot = rng.random()
    if lot < _MIRROR_SHARE:
        return sample_mirror_edit(rng)
    if lot > 1 - _BACKGROUND_SHARE:
        while True:
            edit = sample_edit(rng, "background")
            if edit.source.ground_color is not None or rng.random() < _GREY_SHARE:
                return edit
    return sample_edit(rng)


def _drawn_scenes(job: _Job) -> tuple[list[Scene], dict[str, np.ndarray]]:
    scenes = _scenes(job)
    rendered = [render(scene, job[3]) for scene in scenes]
    images, foreground = np.stack([r.image for r in rendered]), np.stack([r.masks.any(0) for r in rendered])
    return scenes, {"images": images, "foreground": foreground}


def _drawn_edits(job: _Job) -> tuple[list[Edit], dict[str, np.ndarray]]:
    edits = _edits(job)
    sources, targets = (
        [render(scene, job[3]) for scene in pair] for pair in zip(*((e.source, e.target) for e in edits), strict=True)
    )
    changed = np.stack([target.masks.any(0) for target in targets])
    for pixels, edit in zip(changed, edits, strict=True):
        pixels |= edit.source.ground_color != edit.target.ground_color
        for item in edit.erased:
            x1, y1, x2, y2 = edges_px(item.box_1000, job[3])
            pixels[y1:y2, x1:x2] = True
    drawn = {"sources": [s.image for s in sources], "targets": [t.image for t in targets]}
    return edits, {**{name: np.stack(images) for name, images in drawn.items()}, "changed": changed}


def make_bank(count: int, seed: int, size_px: int, cache: Path | None = None) -> Bank:
    """Sample and render `count` scenes on all cores; kept in `cache` (an .npz file) and read from there next time."""
    scenes, arrays = _made(_scenes, _drawn_scenes, count, seed, size_px, cache)
    return Bank(scenes=scenes, **arrays)


def make_edit_bank(count: int, seed: int, size_px: int, cache: Path | None = None) -> EditBank:
    """Samples and renders `count` edits on all cores, and keeps them as `make_bank` does."""
    edits, arrays = _made(_edits, _drawn_edits, count, seed, size_px, cache)
    return EditBank(edits=edits, **arrays)


def _made(
    sample: Callable[[_Job], list[Any]],
    draw: Callable[[_Job], tuple[list[Any], dict[str, np.ndarray]]],
    count: int,
    seed: int,
    size_px: int,
    cache: Path | None,
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Items and images. The first n items of a larger bank with the same seed are the bank of n items.

    Only images are kept on disk: items are cheap and sampled again. If they are not those of the kept images
    (another number, seed or size, or they are sampled in another way now), these are drawn again.
    """
    jobs = [(seed, i, min(_CHUNK, count - i * _CHUNK), size_px) for i in range(-(-count // _CHUNK))]
    if cache is not None and cache.exists():
        items = [item for part in _each(sample, jobs) for item in part]
        with np.load(cache) as stored:
            if _OF in stored and str(stored[_OF]) == _digest(items, size_px):
                return items, {name: stored[name] for name in stored.files if name != _OF}
    parts = _each(draw, jobs)
    items = [item for part in parts for item in part[0]]
    arrays = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    if cache is not None:
        with replacing(cache) as part, part.open("wb") as file:  # of a name, savez would make another one
            np.savez(file, **{_OF: np.array(_digest(items, size_px)), **arrays})
    return items, arrays


def _digest(items: Sequence[object], size_px: int) -> str:
    digest = hashlib.sha256(str(size_px).encode())
    for item in items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _each(work: Callable[[_Job], Any], jobs: list[_Job]) -> list[Any]:
    """The work of every job, on all cores if there is more than one; processes cost seconds to start."""
    if len(jobs) == 1:
        return [work(jobs[0])]
    with processes.pool() as pool:
        return list(pool.map(work, jobs))
