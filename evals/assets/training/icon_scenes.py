"""Batches of icon scenes with their truth, for training and measuring the embedded detector and CLIP."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from evals.assets.training import augment
from evals.core.vocabulary import CLASSES
from got import iconworld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LABELS = {name: label for label, name in enumerate(CLASSES)}
TRAIN_SIZES_PX = (64, 64, 64, 128)
"""Scenes are drawn at these sizes, one per batch."""
HELD_OUT_SIZES_PX = (56, 72, 80, 96, 112)
"""Sizes that no training scene has."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images and what is in them."""

    images: torch.Tensor
    """float (n, 3, size, size) RGB in [0, 255]."""
    boxes: torch.Tensor
    """float (n, k, 4) x1, y1, x2, y2 in pixels, rows of zeros where an image has fewer than k objects."""
    labels: torch.Tensor
    """int64 (n, k) class, -1 where there is no object."""
    scenes: Sequence[Any]


def draw(scenes: Sequence[Any], drawn_px: int, size_px: int) -> Batch:
    """Render scenes at one size and bring them to another, with boxes to match.

    Args:
        scenes: the icon world's.
        drawn_px: side they are drawn at.
        size_px: side of the result.
    """
    drawn = [iconworld.render(scene, drawn_px) for scene in scenes]
    images = augment.to_tensor(np.stack([image.image for image in drawn]))
    if drawn_px != size_px:
        images = F.interpolate(images, (size_px, size_px), mode="bilinear", antialias=drawn_px > size_px)
    most = max(1, *(len(scene.objects) for scene in scenes))
    boxes, labels = np.zeros((len(scenes), most, 4), np.float32), np.full((len(scenes), most), -1)
    for i, (scene, image) in enumerate(zip(scenes, drawn, strict=True)):
        count = len(scene.objects)
        boxes[i, :count] = image.boxes_xyxy_px * (size_px / drawn_px)
        labels[i, :count] = [LABELS[item.name] for item in scene.objects]
    return Batch(images=images, boxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels), scenes=scenes)


def training_batch(count: int, size_px: int, rng: np.random.Generator) -> Batch:
    """Fresh scenes, degraded and recoloured; of sixteen images, one has no object and one is only noise."""
    scenes = [iconworld.sample_scene(rng) for _ in range(count)]
    for i in range(0, count, 16):
        scenes[i] = dataclasses.replace(scenes[i], objects=())
    batch = draw(scenes, int(rng.choice(TRAIN_SIZES_PX)), size_px)
    images = augment.some(augment.recolor, batch.images, 0.3, rng)
    images = augment.degrade(images, rng)
    for i in range(8, count, 16):
        images[i], batch.labels[i] = noise_image(size_px, rng), -1
    return dataclasses.replace(batch, images=images)


def noise_image(size_px: int, rng: np.random.Generator) -> torch.Tensor:
    """Blotches of any grain and contrast on any colour, float (3, size, size) in [0, 255]."""
    side = round(size_px ** rng.uniform(0.25, 1))
    grains = torch.from_numpy(rng.uniform(-1, 1, (1, 3, side, side)).astype(np.float32))
    blotches = F.interpolate(grains, (size_px, size_px), mode=str(rng.choice(["bilinear", "bicubic", "nearest"])))[0]
    middle = torch.from_numpy(rng.uniform(64, 192, (3, 1, 1)).astype(np.float32))
    return (middle + blotches * rng.uniform(10, 192)).clamp(0, 255)


def held_out(count: int, size_px: int, seed: int, *, degraded: bool = False) -> list[Batch]:
    """Scenes on backgrounds and of sizes that training never shows, with colour jitter; in batches of 50.

    Args:
        count: how many.
        size_px: side of the images.
        seed: other scenes for another seed.
        degraded: with all degradations of training; else with jitter of light and colour only.
    """
    rng = np.random.default_rng([20_311, seed])
    batches = []
    for start in range(0, count, 50):
        scenes = [iconworld.sample_scene(rng, iconworld.HELD_OUT_BACKGROUNDS) for _ in range(min(50, count - start))]
        batch = draw(scenes, int(rng.choice(HELD_OUT_SIZES_PX)), size_px)
        images = augment.degrade(batch.images, rng) if degraded else augment.light(batch.images, rng, strength=1.5)
        batches.append(dataclasses.replace(batch, images=images))
    return batches


def empty_pictures(count: int, size_px: int, seed: int) -> NDArray[Any]:
    """Images without an object: flat colours, empty backgrounds, white and blotchy noise; uint8 (n, size, size, 3)."""
    rng = np.random.default_rng([20_312, seed])
    flat = np.broadcast_to(rng.uniform(0, 255, (count // 4, 1, 1, 3)), (count // 4, size_px, size_px, 3))
    white = rng.uniform(0, 255, (count // 4, size_px, size_px, 3))
    rough = augment.to_tensor(rng.integers(0, 256, (count // 4, size_px // 8, size_px // 8, 3), np.uint8))
    blotchy = F.interpolate(rough, (size_px, size_px), mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1).numpy()
    scenes = [iconworld.sample_scene(rng, iconworld.HELD_OUT_BACKGROUNDS) for _ in range(count - 3 * (count // 4))]
    grounds = [iconworld.render(dataclasses.replace(scene, objects=()), size_px).image for scene in scenes]
    images: NDArray[Any] = np.concatenate([flat, white, blotchy, np.stack(grounds)])
    return images.astype(np.uint8)
