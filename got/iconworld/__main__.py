"""Images of the icon world for people.

python -m got.iconworld classes docs/classes.png     # every drawing of the 80 classes, by name
python -m got.iconworld scenes docs/scenes.png       # random scenes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from got.iconworld.glyphs import DRAWINGS, aspect
from got.iconworld.render import render
from got.iconworld.scenes import BACKGROUNDS, Scene, SceneObject, sample_scene, stable_rng
from got.iconworld.vocabulary import CLASSES, COLORS
from got.util.cli import Parser, run_command
from got.util.files import write_atomic
from got.util.images import png_bytes

_ICON_PX = 72
_LABEL_PX = 16
_COLUMNS = 10


def _icon(name: str, variant: int, color: str) -> Image.Image:
    ratio = aspect(name, variant)
    width, height = (880, round(880 / ratio)) if ratio >= 1 else (round(880 * ratio), 880)
    x, y = (1000 - width) // 2, (1000 - height) // 2
    item = SceneObject(name=name, color=color, box_1000=(x, y, x + width, y + height), variant=variant)
    return Image.fromarray(render(Scene(objects=(item,), background="plain", seed=7), _ICON_PX).image)


def draw_classes() -> Image.Image:
    """A sheet of all classes with all their drawings, colours in turn."""
    cell = (2 * _ICON_PX + 8, _ICON_PX + _LABEL_PX + 8)
    sheet = Image.new("RGB", (_COLUMNS * cell[0], -(-len(CLASSES) // _COLUMNS) * cell[1]), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, name in enumerate(CLASSES):
        x, y = i % _COLUMNS * cell[0] + 4, i // _COLUMNS * cell[1] + 4
        draw.text((x, y), name, fill="black", font=font)
        for variant in range(len(DRAWINGS[name])):
            icon = _icon(name, variant, COLORS[(i + 3 * variant) % len(COLORS)])
            sheet.paste(icon, (x + variant * _ICON_PX, y + _LABEL_PX + 2))
    return sheet


def draw_scenes(columns: int = 8, rows: int = 4, size_px: int = 128) -> Image.Image:
    """Random scenes in a grid."""
    rng = stable_rng("gallery")
    sheet = Image.new("RGB", (columns * (size_px + 4), rows * (size_px + 4)), "white")
    for i in range(columns * rows):
        image = Image.fromarray(render(sample_scene(rng, BACKGROUNDS), size_px).image)
        sheet.paste(image, (i % columns * (size_px + 4) + 2, i // columns * (size_px + 4) + 2))
    return sheet


def main() -> int:
    """Entry point of `python -m got.iconworld`."""
    parser = Parser(prog="python -m got.iconworld", description=__doc__)
    parser.add_argument("what", choices=["classes", "scenes"])
    parser.add_argument("output", type=Path, help="a .png file")

    def draw() -> dict[str, Any]:
        options = parser.parse_args()
        sheet = draw_classes() if options.what == "classes" else draw_scenes()
        write_atomic(options.output, png_bytes(sheet))
        return {"picture": str(options.output)}

    return run_command(draw)


if __name__ == "__main__":
    raise SystemExit(main())
