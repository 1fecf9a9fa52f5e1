"""Scenes to pixels. Pillow and numpy only; the same seed gives the same image everywhere."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from got.iconworld.glyphs import glyph

if TYPE_CHECKING:
    from got.iconworld.scenes import Scene, SceneObject

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 36),
    "orange": (246, 138, 20),
    "yellow": (248, 218, 44),
    "green": (44, 158, 64),
    "blue": (40, 84, 222),
    "purple": (138, 54, 186),
    "pink": (250, 150, 198),
    "brown": (122, 74, 36),
    "black": (26, 26, 30),
    "white": (246, 246, 244),
}
_ACCENT = {"black": (112, 112, 118), "white": (150, 150, 156)}
"""Second tone of a colour; the others are darkened."""
_JITTER = 12
"""Each channel of an object's colour moves by at most this much, in grey levels."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A picture and its truth, for n objects."""

    image: np.ndarray
    """uint8 (size, size, 3)."""
    boxes_xyxy_px: np.ndarray
    """float32 (n, 4), tight around each drawing."""
    masks: np.ndarray
    """bool (n, size, size): what is visible of each object."""


def _tones(item: SceneObject, rng: np.random.Generator) -> np.ndarray:
    """Main and accent colour of an object, int32 (2, 3)."""
    main = np.array(PALETTE[item.color])
    accent = np.array(_ACCENT.get(item.color, tuple(int(0.42 * v) for v in PALETTE[item.color])))
    jitter = rng.integers(-_JITTER, _JITTER + 1, 3)
    return np.clip(np.stack([main + jitter, accent + jitter // 2]), 0, 255).astype(np.int32)


def edges_px(box_1000: tuple[int, int, int, int], size_px: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least two pixels wide and high, inside the image.

    >>> edges_px((0, 250, 500, 999), 64)
    (0, 16, 32, 64)
    """
    x1, y1, x2, y2 = (min(max(round(v * size_px / 1000), 0), size_px) for v in box_1000)
    x1, y1 = min(x1, size_px - 2), min(y1, size_px - 2)
    return x1, y1, max(x2, x1 + 2), max(y2, y1 + 2)


# --- grounds ---------------------------------------------------------------------------------------------------------


@functools.cache
def _grid(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-1, 1, size_px, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _clouds(size_px: int, rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise in about [-1, 1], (size, size)."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))


def _wave(kind: str, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks, rings or dots in [-1, 1], (size, size)."""
    x, y = _grid(size_px)
    frequency, phase, turn = rng.uniform(6, 16), rng.uniform(0, 6.3, 2), rng.uniform(0, 3.2)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    if kind == "stripes":
        return np.sin(frequency * u + phase[0])
    if kind == "rings":
        return np.sin(1.5 * frequency * np.sqrt((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2))
    product = np.sin(frequency * u + phase[0]) * np.sin(frequency * v + phase[1])
    return np.clip(4 * product, -1, 1) if kind == "checks" else np.clip(8 * product - 5, -1, 1)


def _texture(kind: str, size_px: int, rng: np.random.Generator) -> np.ndarray | float:
    """A pattern in [-1, 1], or 0 for none."""
    if kind == "plain":
        return 0.0
    if kind == "gradient":
        x, y = _grid(size_px)
        turn = rng.uniform(0, 6.3)
        return 0.8 * (np.cos(turn) * x + np.sin(turn) * y)
    if kind == "clouds":
        return _clouds(size_px, rng, int(rng.integers(3, 7)))
    if kind == "grain":
        return 0.35 * _clouds(size_px, rng, size_px // 2)
    if kind in {"stripes", "checks", "rings", "dots"}:
        return 0.4 * _wave(kind, size_px, rng)
    raise ValueError(f"Expected a known background but got {kind!r}")


def _ground(kind: str, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A low-contrast ground of middle brightness, so that all ten colours stand out, int32 (size, size, 3)."""
    base = rng.uniform(150, 205) + rng.uniform(-14, 14, 3)
    swing = rng.uniform(10, 26) * np.array([1, 1, 1]) + rng.uniform(-6, 6, 3)
    texture = np.asarray(_texture(kind, size_px, rng), np.float32)
    pixels = base.astype(np.float32) + np.atleast_2d(texture)[..., None] * swing.astype(np.float32)
    return np.broadcast_to(pixels, (size_px, size_px, 3)).astype(np.int32)


# --- painting --------------------------------------------------------------------------------------------------------


def _scaled(item: SceneObject, width: int, height: int) -> np.ndarray:
    """Coverage of the two layers at the wanted size, int32 (height, width, 2)."""
    drawing = glyph(item.name, item.variant, item.angle)
    small = drawing.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)[..., :2].astype(np.int32)


def render(scene: Scene, size_px: int = 64) -> Rendered:
    """Draw a scene.

    Args:
        scene: what to draw; later objects cover earlier ones.
        size_px: side of the square image, at least 16.

    Returns:
        The image with the boxes and visible masks of its objects, in the scene's order.
    """
    if size_px < 16:
        raise ValueError(f"Expected size_px to be at least 16 but got {size_px}")
    rng = np.random.default_rng(scene.seed)
    canvas = _ground(scene.background, size_px, rng)
    boxes = np.zeros((len(scene.objects), 4), np.float32)
    masks = np.zeros((len(scene.objects), size_px, size_px), bool)
    for i, item in enumerate(scene.objects):
        x1, y1, x2, y2 = boxes[i] = edges_px(item.box_1000, size_px)
        x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
        layers = _scaled(item, x2 - x1, y2 - y1)
        total = np.minimum(layers.sum(-1, keepdims=True), 255)
        patch = canvas[y1:y2, x1:x2]
        canvas[y1:y2, x1:x2] = (layers @ _tones(item, rng) + (255 - total) * patch + 127) // 255
        masks[:i, y1:y2, x1:x2] &= total[..., 0] < 128
        masks[i, y1:y2, x1:x2] = total[..., 0] >= 128
    return Rendered(image=np.clip(canvas, 0, 255).astype(np.uint8), boxes_xyxy_px=boxes, masks=masks)
