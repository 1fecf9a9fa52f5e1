"""A bank of rendered scenes for training: drawn once on all cores, kept on disk, read by every stage."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
from typing import TYPE_CHECKING

import numpy as np

from got.iconworld.render import render
from got.iconworld.scenes import Scene, sample_scene, stable_rng

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 512


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Scenes and their pictures."""

    scenes: list[Scene]
    images: np.ndarray
    """uint8 (n, size, size, 3)."""
    foreground: np.ndarray
    """bool (n, size, size): pixels of any object."""


def _scenes(job: tuple[int, int, int, int]) -> list[Scene]:
    seed, index, count, _ = job
    rng = stable_rng("bank", seed, index)
    return [sample_scene(rng) for _ in range(count)]


def _chunk(job: tuple[int, int, int, int]) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    scenes, size_px = _scenes(job), job[3]
    rendered = [render(scene, size_px) for scene in scenes]
    return scenes, np.stack([r.image for r in rendered]), np.stack([r.masks.any(0) for r in rendered])


def make_bank(count: int, seed: int, size_px: int, cache: Path | None = None) -> Bank:
    """Sample and render `count` scenes on all cores.

    The first n scenes of a larger bank with the same seed are the bank of n scenes. Pictures are kept in `cache` (an
    .npz file) and read from there the next time; scenes are cheap and sampled again.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked child may inherit a lock held by a torch thread
    jobs = [(seed, i, min(_CHUNK, count - i * _CHUNK), size_px) for i in range(-(-count // _CHUNK))]
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            images, foreground = stored["images"], stored["foreground"]
        if len(images) == count and images.shape[1] == size_px:
            with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
                return Bank([scene for part in pool.map(_scenes, jobs) for scene in part], images, foreground)
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        parts = list(pool.map(_chunk, jobs))
    bank = Bank(
        [s for p in parts for s in p[0]], np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])
    )
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, images=bank.images, foreground=bank.foreground)
    return bank
