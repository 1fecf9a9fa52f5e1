"""Scenes to pixels. Pillow and numpy only; the same seed gives the same image everywhere."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from got.iconworld.glyphs import glyph

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_BACKGROUND_TINT = 34.0
"""Grey levels by which a tinted ground is off grey: clear to see, and pale enough for every object to stand out."""
_JITTER = 12
"""Each channel of an object's colour moves by at most this much, in grey levels."""
_MIRROR_PANE = np.array((160, 190, 216))
_HALF_UP_TO_PX = 32
"""Objects up to this size are scaled down from half-size drawings, which is four times faster."""
_SMALLEST_PX = 16
_SOLID = 128
"""A pixel belongs to an object from this coverage on, of 255."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """An image and its truth, for n objects."""

    image: np.ndarray
    """uint8 (size, size, 3)."""
    boxes_xyxy_px: np.ndarray
    """float32 (n, 4), tight around each drawing."""
    masks: np.ndarray
    """bool (n, size, size): what is visible of each object."""


@functools.cache
def _tone_pair(color: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Main and accent tone of a colour."""
    return PALETTE[color], _ACCENT.get(color, tuple(int(0.42 * v) for v in PALETTE[color]))


def _tones(item: SceneObject, rng: np.random.Generator) -> np.ndarray:
    """Main and accent colour of one object, uint16 (2, 3) in 0..255."""
    jitter = sample_jitter(rng) if item.jitter is None else item.jitter
    main, accent = _tone_pair(item.color)
    shifted = [
        [v + j for v, j in zip(main, jitter, strict=True)],
        [v + j // 2 for v, j in zip(accent, jitter, strict=True)],
    ]
    return np.array([[min(max(v, 0), 255) for v in tone] for tone in shifted], np.uint16)


def sample_jitter(rng: np.random.Generator) -> tuple[int, int, int]:
    """What an object's colour is shifted by, per channel."""
    red, green, blue = rng.integers(-_JITTER, _JITTER + 1, 3).tolist()
    return red, green, blue


def edges_px(box_1000: tuple[int, int, int, int], size_px: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least two pixels wide and high, inside the image.

    >>> edges_px((0, 250, 500, 999), 64)
    (0, 16, 32, 64)
    """
    x1, y1, x2, y2 = (min(max(round(v * size_px / 1000), 0), size_px) for v in box_1000)
    x1, y1 = min(x1, size_px - 2), min(y1, size_px - 2)
    return x1, y1, max(x2, x1 + 2), max(y2, y1 + 2)


# --- backgrounds -----------------------------------------------------------------------------------------------------


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


def _hue(color: str) -> np.ndarray:
    """A colour's direction away from grey, unit length, (3,)."""
    offset = np.array(PALETTE[color]) - np.mean(PALETTE[color])
    direction: np.ndarray = offset / np.linalg.norm(offset)
    return direction


def _ground(kind: str, color: str | None, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A low-contrast background of middle brightness, so that all ten colours stand out, uint8 (size, size, 3)."""
    grey, cast = rng.uniform(150, 205), rng.uniform(-14, 14, 3)
    base = grey + cast if color is None else grey + 0.3 * cast + _BACKGROUND_TINT * _hue(color)
    swing = rng.uniform(6, 16) + rng.uniform(-4, 4, 3)
    texture = _texture(kind, size_px, rng)
    if isinstance(texture, float):
        return np.broadcast_to((base + texture * swing).astype(np.uint8), (size_px, size_px, 3)).copy()
    # The pattern picks from 256 shades: one look-up instead of arithmetic on three channels.
    shades = np.clip(base + np.linspace(-1.4, 1.4, 256)[:, None] * swing, 0, 255).astype(np.uint8)
    return shades.take((texture * (127.5 / 1.4) + 127.5).astype(np.uint8), axis=0)


@functools.lru_cache(4)
def _seeded_background(kind: str, color: str | None, size_px: int, seed: int) -> tuple[np.ndarray, Mapping[str, Any]]:
    """The background of a seed, and the state of the generator after it."""
    rng = np.random.default_rng(seed)
    return _ground(kind, color, size_px, rng), rng.bit_generator.state


# --- painting --------------------------------------------------------------------------------------------------------


@functools.cache
def _half_glyph(name: str, variant: int, angle: int) -> Image.Image:
    return glyph(name, variant, angle).reduce(2)


@functools.lru_cache(64)  # an edit's images have most of their objects in common
def _coverage(name: str, variant: int, angle: int, width: int, height: int) -> np.ndarray:
    """Coverage of the two layers at the wanted size, uint16 (2, height, width)."""
    source = _half_glyph if max(width, height) <= _HALF_UP_TO_PX else glyph
    small = source(name, variant, angle).resize((width, height), Image.Resampling.BILINEAR)
    # A plane per layer: arithmetic runs along lines then, which is three times as fast as along three channels.
    return np.asarray(small)[..., :2].transpose(2, 0, 1).astype(np.uint16, order="C")


def _blend(patch: np.ndarray, layers: np.ndarray, tones: np.ndarray) -> np.ndarray:
    """Both layers over a patch, uint16 (h, w, 3). No sum passes 2**16, as a pixel's coverages sum to at most 255."""
    main, accent = layers
    mixed = np.empty((3, *main.shape), np.uint16)
    np.multiply(patch.transpose(2, 0, 1), np.uint16(255) - main - accent, out=mixed)
    mixed += main * tones[0, :, None, None]
    mixed += accent * tones[1, :, None, None]
    mixed += np.uint16(128)
    mixed += mixed >> 8
    mixed >>= 8
    return mixed.transpose(1, 2, 0)


def _hang_mirror(image: np.ndarray, edges: tuple[int, int, int, int]) -> None:
    """Paint a bluish pane into an image, uint8 (size, size, 3). A frame would be taken for an object."""
    x1, y1, x2, y2 = edges
    image[y1:y2, x1:x2] = (0.3 * image[y1:y2, x1:x2] + 0.7 * _MIRROR_PANE).astype(np.uint8)


def render(scene: Scene, size_px: int = 64) -> Rendered:
    """Draw a scene.

    Args:
        scene: What to draw; later objects cover earlier ones.
        size_px: Side of the square image, at least 16.

    Returns:
        The image with the boxes and visible masks of its objects, in the scene's order.

    Raises:
        ValueError: If the image would be too small.
    """
    if size_px < _SMALLEST_PX:
        raise ValueError(f"Expected size_px to be at least {_SMALLEST_PX} but got {size_px}")
    ground, state = _seeded_background(scene.background, scene.ground_color, size_px, scene.seed)
    image = ground.copy()
    if scene.mirror_1000 is not None:
        _hang_mirror(image, edges_px(scene.mirror_1000, size_px))
    rng = np.random.default_rng(0)
    rng.bit_generator.state = state
    boxes = np.zeros((len(scene.objects), 4), np.float32)
    masks = np.zeros((len(scene.objects), size_px, size_px), bool)
    for i, item in enumerate(scene.objects):
        x1, y1, x2, y2 = edges_px(item.box_1000, size_px)
        layers = _coverage(item.name, item.variant, item.angle, x2 - x1, y2 - y1)
        covered = layers[0] + layers[1] >= _SOLID
        image[y1:y2, x1:x2] = _blend(image[y1:y2, x1:x2], layers, _tones(item, rng))
        masks[:i, y1:y2, x1:x2] &= ~covered
        masks[i, y1:y2, x1:x2] = covered
        boxes[i] = x1, y1, x2, y2
    return Rendered(image=image, boxes_xyxy_px=boxes, masks=masks)
