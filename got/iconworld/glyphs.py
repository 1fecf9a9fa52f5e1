"""Drawings of the 80 classes: two-tone coverage maps cut from icon fonts, a few drawn here.

A glyph has two layers, `main` (painted in the object's colour) and `accent` (a darker or lighter shade of it), so
that an icon keeps its inner drawing in any colour. Fonts: Material Design Icons (Apache-2.0) and Noto Emoji (OFL),
both read from their own packages.
"""

from __future__ import annotations

import functools
import importlib.resources
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# How a font glyph becomes two layers.
#   solid: the ink is main, enclosed holes are accent (screens, windows, eyes)
#   line:  the ink is accent, what it encloses is main (outline drawings)
#   open:  the ink is main, holes stay holes (wheels, frames)
Style = Literal["solid", "line", "open"]

# class -> drawings. "mdi:NAME" is a Material Design icon, "noto:HEX" a Noto Emoji character, "own" is drawn below.
DRAWINGS: dict[str, tuple[tuple[str, Style], ...]] = {
    "person": (("mdi:human_male", "solid"), ("noto:1f9cd", "solid")),
    "bicycle": (("mdi:bicycle", "open"),),
    "car": (("mdi:car_side", "solid"), ("noto:1f697", "line")),
    "motorcycle": (("mdi:motorbike", "open"), ("noto:1f6f5", "line")),
    "airplane": (("mdi:airplane", "solid"), ("noto:2708", "line")),
    "bus": (("mdi:bus_side", "solid"), ("mdi:bus_double_decker", "solid")),
    "train": (("mdi:train", "solid"), ("noto:1f682", "line")),
    "truck": (("mdi:truck", "solid"), ("mdi:dump_truck", "solid")),
    "boat": (("mdi:sail_boat", "solid"), ("noto:26f5", "line")),
    "traffic light": (("mdi:traffic_light", "solid"),),
    "fire hydrant": (("mdi:fire_hydrant", "solid"),),
    "stop sign": (("own", "solid"),),
    "parking meter": (("own", "solid"),),
    "bench": (("mdi:bench_back", "solid"),),
    "bird": (("mdi:bird", "solid"), ("noto:1f426", "line")),
    "cat": (("mdi:cat", "solid"), ("noto:1f431", "line")),
    "dog": (("mdi:dog_side", "solid"),),
    "horse": (("mdi:horse", "solid"), ("mdi:horse_variant", "solid")),
    "sheep": (("noto:1f411", "line"),),
    "cow": (("noto:1f404", "line"), ("mdi:cow", "solid")),
    "elephant": (("mdi:elephant", "solid"), ("noto:1f418", "line")),
    "bear": (("noto:1f43b", "solid"),),
    "zebra": (("noto:1f993", "line"),),
    "giraffe": (("noto:1f992", "line"),),
    "backpack": (("noto:1f392", "line"), ("mdi:bag_personal", "solid")),
    "umbrella": (("mdi:umbrella", "solid"), ("noto:2602", "line")),
    "handbag": (("mdi:purse", "open"), ("noto:1f45c", "line")),
    "tie": (("mdi:tie", "solid"),),
    "suitcase": (("mdi:bag_suitcase", "solid"),),
    "frisbee": (("noto:1f94f", "line"),),
    "skis": (("own", "solid"),),
    "snowboard": (("own", "solid"),),
    "sports ball": (("mdi:soccer", "solid"), ("mdi:basketball", "solid")),
    "kite": (("mdi:kite", "solid"), ("noto:1fa81", "line")),
    "baseball bat": (("mdi:baseball_bat", "solid"),),
    "baseball glove": (("own", "solid"),),
    "skateboard": (("mdi:skateboard", "solid"), ("noto:1f6f9", "line")),
    "surfboard": (("own", "solid"),),
    "tennis racket": (("mdi:tennis", "open"), ("mdi:racquetball", "solid")),
    "bottle": (("mdi:bottle_soda", "solid"), ("mdi:bottle_wine", "solid")),
    "wine glass": (("mdi:glass_wine", "solid"), ("noto:1f377", "line")),
    "cup": (("mdi:coffee", "open"), ("noto:2615", "line")),
    "fork": (("mdi:silverware_fork", "solid"),),
    "knife": (("mdi:knife", "solid"),),
    "spoon": (("mdi:silverware_spoon", "solid"),),
    "bowl": (("noto:1f963", "line"),),
    "banana": (("noto:1f34c", "line"),),
    "apple": (("mdi:food_apple", "solid"), ("noto:1f34e", "solid")),
    "sandwich": (("noto:1f96a", "line"),),
    "orange": (("noto:1f34a", "line"),),
    "broccoli": (("noto:1f966", "line"),),
    "carrot": (("noto:1f955", "line"), ("mdi:carrot", "solid")),
    "hot dog": (("noto:1f32d", "line"), ("mdi:food_hot_dog", "solid")),
    "pizza": (("mdi:pizza", "solid"), ("noto:1f355", "line")),
    "donut": (("noto:1f369", "line"),),
    "cake": (("mdi:cake", "solid"), ("mdi:cake_layered", "solid")),
    "chair": (("noto:1fa91", "line"),),
    "couch": (("mdi:sofa", "solid"), ("mdi:sofa_outline", "line")),
    "potted plant": (("own", "solid"),),
    "bed": (("mdi:bed", "open"), ("noto:1f6cf", "line")),
    "dining table": (("mdi:table_furniture", "open"),),
    "toilet": (("mdi:toilet", "open"), ("noto:1f6bd", "line")),
    "tv": (("mdi:television_classic", "solid"),),
    "laptop": (("mdi:laptop", "solid"), ("noto:1f4bb", "line")),
    "computer mouse": (("mdi:mouse", "solid"), ("noto:1f5b1", "line")),
    "tv remote": (("mdi:remote_tv", "solid"),),
    "computer keyboard": (("mdi:keyboard", "solid"), ("noto:2328", "line")),
    "cell phone": (("mdi:cellphone", "solid"), ("noto:1f4f1", "line")),
    "microwave": (("mdi:microwave", "solid"),),
    "oven": (("mdi:stove", "solid"),),
    "toaster": (("mdi:toaster", "solid"),),
    "sink": (("own", "solid"),),
    "refrigerator": (("mdi:fridge", "solid"), ("mdi:fridge_bottom", "solid")),
    "book": (("mdi:book_open_variant", "solid"), ("mdi:book", "solid")),
    "clock": (("mdi:clock", "solid"), ("mdi:alarm", "solid")),
    "vase": (("noto:1f3fa", "line"), ("noto:26b1", "line")),
    "scissors": (("mdi:content_cut", "open"), ("noto:2702", "line")),
    "teddy bear": (("noto:1f9f8", "line"), ("mdi:teddy_bear", "solid")),
    "hair drier": (("mdi:hair_dryer", "solid"),),
    "toothbrush": (("noto:1faa5", "line"), ("mdi:toothbrush", "solid")),
}

GLYPH_PX = 128
"""Longer side of a stored glyph; objects are drawn by scaling it down."""
_INK_PX = 384
"""Glyphs are cut at this size and reduced, which gives smooth edges."""

# Own drawings in a unit square, painted in order: (layer, shape, coordinates). Later strokes overwrite earlier ones.
_OWN: dict[str, tuple[tuple[str, str, tuple[float, ...]], ...]] = {
    "stop sign": (
        ("main", "rectangle", (0.46, 0.6, 0.54, 1.0)),
        ("main", "polygon", (0.2, 0.0, 0.6, 0.0, 0.6, 0.0, 0.8, 0.0, 1.0, 0.2, 1.0, 0.5, 0.8, 0.7, 0.2, 0.7, 0.0, 0.5, 0.0, 0.2)),
        ("text:STOP", "text", (0.5, 0.35, 0.34)),
    ),
    "parking meter": (
        ("main", "rectangle", (0.44, 0.5, 0.56, 1.0)),
        ("main", "rectangle", (0.3, 0.93, 0.7, 1.0)),
        ("main", "pieslice", (0.22, 0.0, 0.78, 0.56, 180, 360)),
        ("main", "rectangle", (0.22, 0.27, 0.78, 0.58)),
        ("accent", "pieslice", (0.3, 0.08, 0.7, 0.44, 180, 360)),
        ("text:P", "text", (0.5, 0.42, 0.3)),
    ),
    "skis": (
        ("main", "polygon", (0.0, 0.84, 0.72, 0.0, 0.84, 0.0, 0.8, 0.1, 0.1, 0.92)),
        ("main", "polygon", (0.16, 1.0, 0.9, 0.12, 1.0, 0.1, 0.98, 0.2, 0.27, 1.0)),
        ("accent", "polygon", (0.3, 0.5, 0.4, 0.38, 0.48, 0.47, 0.38, 0.59)),
        ("accent", "polygon", (0.46, 0.64, 0.56, 0.52, 0.64, 0.6, 0.54, 0.72)),
    ),
    "snowboard": (
        ("main", "rounded", (0.3, 0.0, 0.7, 1.0, 0.2)),
        ("accent", "rectangle", (0.24, 0.27, 0.76, 0.36)),
        ("accent", "rectangle", (0.24, 0.64, 0.76, 0.73)),
    ),
    "baseball glove": (
        ("main", "ellipse", (0.1, 0.3, 0.9, 1.0)),
        ("main", "rounded", (0.06, 0.22, 0.24, 0.75, 0.09)),
        ("main", "rounded", (0.24, 0.05, 0.42, 0.6, 0.09)),
        ("main", "rounded", (0.44, 0.0, 0.62, 0.6, 0.09)),
        ("main", "rounded", (0.64, 0.08, 0.82, 0.7, 0.09)),
        ("main", "polygon", (0.72, 0.86, 0.94, 0.42, 1.0, 0.5, 1.0, 0.62, 0.86, 0.9)),
        ("accent", "ellipse", (0.32, 0.42, 0.7, 0.8)),
        ("main", "arc", (0.18, 0.4, 0.48, 0.82, 310, 50)),
        ("main", "arc", (0.54, 0.4, 0.84, 0.82, 130, 230)),
    ),
    "surfboard": (
        ("main", "polygon", (0.5, 0.0, 0.6, 0.1, 0.68, 0.28, 0.72, 0.5, 0.7, 0.75, 0.62, 0.94, 0.56, 1.0, 0.44, 1.0, 0.38, 0.94, 0.3, 0.75, 0.28, 0.5, 0.32, 0.28, 0.4, 0.1)),
        ("accent", "rectangle", (0.475, 0.12, 0.525, 0.78)),
        ("accent", "polygon", (0.5, 0.8, 0.58, 0.94, 0.42, 0.94)),
    ),
    "potted plant": (
        ("main", "polygon", (0.26, 0.62, 0.74, 0.62, 0.66, 1.0, 0.34, 1.0)),
        ("main", "rectangle", (0.22, 0.58, 0.78, 0.68)),
        ("accent", "rectangle", (0.26, 0.68, 0.74, 0.71)),
        ("accent", "rectangle", (0.475, 0.25, 0.525, 0.58)),
        ("accent", "ellipse", (0.38, 0.0, 0.62, 0.36)),
        ("accent", "polygon", (0.5, 0.56, 0.34, 0.5, 0.16, 0.3, 0.1, 0.12, 0.3, 0.2, 0.44, 0.36)),
        ("accent", "polygon", (0.5, 0.56, 0.66, 0.5, 0.84, 0.3, 0.9, 0.12, 0.7, 0.2, 0.56, 0.36)),
    ),
    "sink": (
        ("main", "rectangle", (0.0, 0.48, 1.0, 0.6)),
        ("main", "polygon", (0.08, 0.6, 0.92, 0.6, 0.8, 0.9, 0.2, 0.9)),
        ("main", "rectangle", (0.42, 0.9, 0.58, 1.0)),
        ("accent", "rectangle", (0.6, 0.1, 0.7, 0.48)),
        ("accent", "rectangle", (0.34, 0.06, 0.7, 0.15)),
        ("accent", "rectangle", (0.34, 0.06, 0.43, 0.28)),
        ("accent", "rectangle", (0.74, 0.3, 0.9, 0.38)),
    ),
}  # fmt: skip


def _mdi_font() -> ImageFont.FreeTypeFont:
    from fonticon_mdi7 import MDI7

    return ImageFont.truetype(MDI7.__font_file__, _INK_PX, layout_engine=ImageFont.Layout.BASIC)


def _noto_font() -> ImageFont.FreeTypeFont:
    path = importlib.resources.files("manimgx_fonts") / "NotoEmoji[wght].ttf"
    font = ImageFont.truetype(str(path), _INK_PX, layout_engine=ImageFont.Layout.BASIC)
    font.set_variation_by_axes([500])
    return font


@functools.cache
def _fonts() -> dict[str, ImageFont.FreeTypeFont]:
    return {"mdi": _mdi_font(), "noto": _noto_font()}


def _character(source: str) -> tuple[str, str]:
    """Font key and character of a drawing's source.

    >>> _character("noto:1f9cd")
    ('noto', '🧍')
    """
    font, _, name = source.partition(":")
    if font == "noto":
        return font, chr(int(name, 16))
    from fonticon_mdi7 import MDI7

    return font, getattr(MDI7, name)


def _cut_from_font(source: str, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Binary (main, accent) layers of a font glyph."""
    from scipy.ndimage import binary_fill_holes

    key, character = _character(source)
    canvas = Image.new("L", (2 * _INK_PX, 2 * _INK_PX))
    ImageDraw.Draw(canvas).text((_INK_PX, _INK_PX), character, fill=255, font=_fonts()[key], anchor="mm")
    ink = np.asarray(canvas) >= 128
    holes = binary_fill_holes(ink) & ~ink
    if style == "line":
        return holes, ink
    return ink, holes if style == "solid" else np.zeros_like(ink)


def _paint(draw: ImageDraw.ImageDraw, shape: str, xy: tuple[float, ...], fill: int) -> None:
    px = [v * _INK_PX for v in xy]
    if shape == "polygon":
        draw.polygon(px, fill=fill)
    elif shape == "rectangle":
        draw.rectangle(px, fill=fill)
    elif shape == "ellipse":
        draw.ellipse(px, fill=fill)
    elif shape == "rounded":
        draw.rounded_rectangle(px[:4], radius=px[4], fill=fill)
    elif shape == "pieslice":
        draw.pieslice(px[:4], xy[4], xy[5], fill=fill)
    elif shape == "arc":
        draw.arc(px[:4], xy[4], xy[5], fill=fill, width=_INK_PX // 24)
    else:
        raise ValueError(f"unknown shape {shape!r}")


def _write(draw: ImageDraw.ImageDraw, text: str, xy: tuple[float, ...], fill: int) -> None:
    path = importlib.resources.files("manimgx_fonts") / "NotoSans[wght].ttf"
    font = ImageFont.truetype(str(path), int(xy[2] * _INK_PX), layout_engine=ImageFont.Layout.BASIC)
    font.set_variation_by_axes([900, 100])
    draw.text((xy[0] * _INK_PX, xy[1] * _INK_PX), text, fill=fill, font=font, anchor="mm")


def _draw_own(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Binary (main, accent) layers of a drawing of our own."""
    levels = {"main": 1, "accent": 2}
    canvas = Image.new("L", (_INK_PX + 1, _INK_PX + 1))
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"
    for layer, shape, xy in _OWN[name]:
        if shape == "text":
            _write(draw, layer.removeprefix("text:"), xy, levels["accent"])
        else:
            _paint(draw, shape, xy, levels[layer])
    painted = np.asarray(canvas)
    return painted == 1, painted == 2


def _tight(coverage: np.ndarray, threshold: int) -> np.ndarray:
    """Crop (h, w, 2) coverage to where the two layers together exceed a threshold in 0..255."""
    inked = coverage[..., 0].astype(np.uint16) + coverage[..., 1] > threshold
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@functools.cache
def _coverage(name: str, variant: int) -> np.ndarray:
    """Upright two-layer coverage of a drawing, uint8 (h, w, 2), longer side `_INK_PX`-ish, cropped tight."""
    source, style = DRAWINGS[name][variant]
    main, accent = _draw_own(name) if source == "own" else _cut_from_font(source, style)
    return _tight(np.stack([main, accent], axis=-1).astype(np.uint8) * 255, 0)


@functools.cache
def glyph(name: str, variant: int = 0, angle: int = 0) -> Image.Image:
    """One drawing of a class, rotated.

    Args:
        name: one of `CLASSES`.
        variant: index into `DRAWINGS[name]`.
        angle: rotation in degrees, counter-clockwise.

    Returns:
        An RGB image cropped to the drawing, longer side `GLYPH_PX`: red is the coverage of the main layer, green of the
        accent layer (0..255, their sum never above 255), blue is empty.
    """
    coverage = _coverage(name, variant)
    image = Image.merge("RGB", [Image.fromarray(coverage[..., 0]), Image.fromarray(coverage[..., 1]),
                                Image.new("L", (coverage.shape[1], coverage.shape[0]))])  # fmt: skip
    if angle:
        image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        tight = _tight(np.asarray(image)[..., :2], 64)
        image = Image.fromarray(np.concatenate([tight, np.zeros_like(tight[..., :1])], axis=-1))
    scale = GLYPH_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def aspect(name: str, variant: int = 0, angle: int = 0) -> float:
    """Width divided by height of a drawing."""
    width, height = glyph(name, variant, angle).size
    return width / height
