"""Reads icons back from images by comparing them with the drawings: a quick gate for training, not a scorer.

It is told where to look (the planned box), so it needs no training; detectors of `evals` do not and are trained.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from got.iconworld.glyphs import DRAWINGS, glyph
from got.iconworld.placing import ANGLES
from got.iconworld.render import PALETTE, edges_px
from got.iconworld.vocabulary import CLASSES

if TYPE_CHECKING:
    from got.iconworld.scenes import Scene

_SIDE = 20


def _normal(features: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1."""
    centred = features - features.mean(-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-6)


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Squares of all drawings at all angles: distance from the background (1 main, 0.6 accent); class indices."""
    rows, labels = [], []
    for label, name in enumerate(CLASSES):
        for variant in range(len(DRAWINGS[name])):
            for angle in ANGLES:
                small = glyph(name, variant, angle).resize((_SIDE, _SIDE), Image.Resampling.BOX)
                coverage = np.asarray(small)[..., :2].astype(np.float32) / 255
                rows += [(coverage @ np.array([1, w], np.float32)).ravel() for w in (0.5, 1.0, 1.6)]
                labels += [label] * 3
    return _normal(np.stack(rows)), np.array(labels)


def read_object(image: np.ndarray, box_1000: tuple[int, int, int, int]) -> tuple[str, str]:
    """Class and colour of what fills a box of an image, uint8 (size, size, 3)."""
    size = len(image)
    x1, y1, x2, y2 = edges_px(box_1000, size)
    crop = np.asarray(Image.fromarray(image[y1:y2, x1:x2]).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)).astype(
        np.float32
    )
    around = image[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2].astype(np.float32)
    rim = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
    distance = np.linalg.norm(crop - np.median(rim, axis=0), axis=-1)
    templates, labels = _templates()
    name = CLASSES[labels[int((templates @ _normal(distance.ravel())).argmax())]]
    front = crop[distance > 0.5 * np.percentile(distance, 95)]
    shades = np.array(list(PALETTE.values()), np.float32)
    votes = np.bincount(np.linalg.norm(front[:, None] - shades, axis=-1).argmin(-1), minlength=len(shades))
    return name, list(PALETTE)[int(votes.argmax())]


def read_objects(images: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Shares of the scenes' objects whose class, and whose colour, is read in their box of the images."""
    right = [
        (name == item.name, color == item.color)
        for image, scene in zip(images, scenes, strict=True)
        for item in scene.objects
        for name, color in (read_object(image, item.box_1000),)
    ]
    return {"class": float(np.mean([r[0] for r in right])), "color": float(np.mean([r[1] for r in right]))}
