"""How good the icon CLIP is: colours of flawless crops by GenEval's procedure, captions found among 50."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from evals.assets.training import icon_scenes
from evals.core.vocabulary import COLORS
from evals.generators.oracle import icon_world
from evals.suite.objects import classify_colors

if TYPE_CHECKING:
    from evals.core.backends import Embedder

CHOICES = 50


def _images(batch: icon_scenes.Batch) -> list[Image.Image]:
    return [Image.fromarray(p) for p in batch.images.round().byte().permute(0, 2, 3, 1).numpy()]


def color_accuracy(embedder: Embedder, scenes: int, *, degraded: bool) -> dict[str, Any]:
    """Share of icons whose colour is named right, in all and by colour, in [0, 1]. Crops are the true boxes."""
    crops, names, truth = [], [], []
    for batch in icon_scenes.held_out(scenes, 64, seed=5, degraded=degraded):
        for scene, image, boxes in zip(batch.scenes, _images(batch), batch.boxes.tolist(), strict=True):
            for item, box in zip(scene.objects, boxes, strict=False):
                crops.append(image.crop(tuple(round(v) for v in box)))
                names.append(item.name)
                truth.append(item.color)
    right = np.array(classify_colors(embedder, crops, names, COLORS)) == np.array(truth)
    per_color = {color: float(right[np.array(truth) == color].mean()) for color in COLORS if color in truth}
    return {"overall": float(right.mean()), "per_color": per_color}


def retrieval(embedder: Embedder, scenes: int) -> dict[str, float]:
    """R@1 among 50 in both directions, in [0, 1]: is the own caption the nearest, and the own image?"""
    rng = np.random.default_rng(20_313)
    world = icon_world()
    hits: dict[str, list[float]] = {"image_to_text": [], "text_to_image": []}
    for batch in icon_scenes.held_out(max(CHOICES, scenes // CHOICES * CHOICES), 64, seed=6):
        captions = [world.caption(scene, rng) for scene in batch.scenes]
        similar = embedder.embed_images(_images(batch)) @ embedder.embed_texts(captions).T
        own = np.arange(len(captions))
        hits["image_to_text"].append(float((similar.argmax(1) == own).mean()))
        hits["text_to_image"].append(float((similar.argmax(0) == own).mean()))
    return {direction: float(np.mean(shares)) for direction, shares in hits.items()}


def report(embedder: Embedder, scenes: int = 1500) -> dict[str, Any]:
    """All numbers of the model card."""
    return {
        "color_accuracy": color_accuracy(embedder, scenes, degraded=False),
        "color_accuracy_degraded": color_accuracy(embedder, scenes, degraded=True)["overall"],
        "retrieval": retrieval(embedder, scenes),
    }
