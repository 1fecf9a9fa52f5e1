"""Scenes of the icon world: what is where, sampled from a seed, and how people and chains put it in words."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from got.chain import MASK_COLORS, Chain
from got.iconworld.glyphs import CLASSES, DRAWINGS, aspect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's ten colours, in its order."""
BACKGROUNDS = ("plain", "gradient", "clouds", "stripes", "checks", "grain")
HELD_OUT_BACKGROUNDS = ("rings", "dots")
"""Textures that no training scene shows; detectors are measured on them."""
ANGLES = (-10, -5, 0, 5, 10)
"""Rotations of an icon in degrees."""
_ANGLE_SHARES = (0.05, 0.15, 0.6, 0.15, 0.05)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
MAX_OBJECTS = 6
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Unit offset of A from B in "A is RELATION B", y pointing down."""

_GRID = 10  # box coordinates are multiples of this, in thousandths: finer than a pixel of a 64 px image
_SIZE = {1: (500, 860), 2: (350, 500), 3: (310, 460), 4: (310, 460), 5: (240, 330), 6: (240, 330)}
"""Range of an icon's longer side, by the number of icons."""
_ARRANGEMENTS = {2: ((2, 1), (2, 1), (1, 2)), 3: ((2, 2),), 4: ((2, 2),), 5: ((3, 2), (2, 3)), 6: ((3, 2), (2, 3))}
"""Columns and rows of the loose grids that so many icons are placed on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One icon."""

    name: str
    color: str
    box_1000: tuple[int, int, int, int]
    """x1, y1, x2, y2 in thousandths of the image; the drawing fills it."""
    variant: int = 0
    """Which of the class's drawings."""
    angle: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Icons on a textured ground, painted in order."""

    objects: tuple[SceneObject, ...]
    background: str
    seed: int
    """Fixes texture and colour jitter."""


def plural(name: str) -> str:
    """GenEval's plural.

    >>> plural("bus"), plural("dog")
    ('buses', 'dogs')
    """
    return name + ("es" if name.endswith("s") else "s")


def with_article(phrase: str) -> str:
    """GenEval's article, chosen by the first letter.

    >>> with_article("orange dog"), with_article("dog")
    ('an orange dog', 'a dog')
    """
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def vocabulary() -> list[str]:
    """Every word that captions and chains of this world can contain, sorted."""
    nouns = [*CLASSES, *map(plural, CLASSES)]
    glue = ["a", "an", "and", "of", "photo", "picture", "image", "icons", "the", "to", "is", "with", "in", "there",
            "left", "right", "above", "below", "next", "are", "on", "it", "one", *NUMBERS[2:]]  # fmt: skip
    return sorted({word for text in [*nouns, *COLORS, *MASK_COLORS, *glue] for word in text.split()})


def parse_phrase(text: str) -> tuple[str, str | None] | None:
    """Class and colour named by the last words of a region's text; None if no class is named there.

    >>> parse_phrase("three dogs : a red hot dog")
    ('hot dog', 'red')
    >>> parse_phrase("the bear")
    ('bear', None)
    """
    words = re.findall(r"\w+", text.lower())
    for length in (2, 1):
        name = " ".join(words[-length:])
        if len(words) >= length and name in DRAWINGS:
            before = words[-length - 1] if len(words) > length else ""
            return name, before if before in COLORS else None
    return None


# --- placing ---------------------------------------------------------------------------------------------------------


def _look(name: str, rng: np.random.Generator) -> tuple[int, int, float]:
    """A drawing, a rotation and their aspect ratio with a little stretch. First drawings and upright ones are usual."""
    variants = len(DRAWINGS[name])
    variant = int(rng.random() > 0.85) if variants > 1 else 0
    angle = int(rng.choice(ANGLES, p=_ANGLE_SHARES))
    return variant, angle, aspect(name, variant, angle) * math.exp(rng.uniform(-0.06, 0.06))


def _extent(longer: float, ratio: float) -> tuple[int, int]:
    """Width and height of a box with the given longer side and width/height, on the coordinate grid."""
    width, height = (longer, longer / ratio) if ratio >= 1 else (longer * ratio, longer)
    return max(60, round(width / _GRID) * _GRID), max(60, round(height / _GRID) * _GRID)


def _overlaps(a: Sequence[int], b: Sequence[int], gap: int) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _spot(
    size: tuple[int, int], rng: np.random.Generator, cell: tuple[int, int, int, int] = (10, 10, 990, 990)
) -> tuple[int, int, int, int]:
    """A box of the given size at a random place of a cell, on the coordinate grid."""
    x, y = (
        int(rng.integers(low // _GRID, max(low // _GRID + 1, (high - side) // _GRID + 1))) * _GRID
        for low, high, side in zip(cell[:2], cell[2:], size, strict=True)
    )
    return x, y, min(x + size[0], 990), min(y + size[1], 990)


def _arrange(
    ratios: Sequence[float], rng: np.random.Generator, columns: int, rows: int
) -> list[tuple[int, int, int, int]]:
    """Boxes for objects of the given aspect ratios, each somewhere in its cell of a grid, in reading order."""
    low, high = _SIZE[len(ratios)]
    cells = [(i % columns, i // columns) for i in sorted(rng.permutation(columns * rows)[: len(ratios)])]
    boxes = []
    for (column, row), ratio in zip(cells, ratios, strict=True):
        x1, x2, y1, y2 = (
            10 + 980 * at // n for at, n in ((column, columns), (column + 1, columns), (row, rows), (row + 1, rows))
        )
        width, height = _extent(rng.uniform(low, high), ratio)
        shrink = min(1.0, (x2 - x1 - 10) / width, (y2 - y1 - 10) / height)
        size = (int(width * shrink) // _GRID * _GRID, int(height * shrink) // _GRID * _GRID)
        boxes.append(_spot(size, rng, (-(-x1 // _GRID) * _GRID, -(-y1 // _GRID) * _GRID, x2, y2)))
    return boxes


def _scatter(ratios: Sequence[float], rng: np.random.Generator, gap: int) -> list[tuple[int, int, int, int]]:
    """Boxes for objects of the given aspect ratios, at random places, `gap` thousandths apart."""
    low, high = _SIZE[len(ratios)]
    longer = rng.uniform(low, high, len(ratios))
    while True:
        boxes: list[tuple[int, int, int, int]] = []
        for side, ratio in zip(longer, ratios, strict=True):
            size = _extent(side, ratio)
            spots = (_spot(size, rng) for _ in range(40))
            free = next((s for s in spots if not any(_overlaps(s, b, gap) for b in boxes)), None)
            if free is None:
                break
            boxes.append(free)
        if len(boxes) == len(ratios):
            return boxes
        longer = longer * 0.95


def _place(ratios: Sequence[float], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Boxes for a scene: mostly on a loose grid and in reading order, as people compose; some anywhere."""
    if len(ratios) == 1 or rng.random() < 0.15:
        return _scatter(ratios, rng, gap=int(rng.choice([0, 10, 30])))
    arrangements = _ARRANGEMENTS[len(ratios)]
    return _arrange(ratios, rng, *arrangements[int(rng.integers(len(arrangements)))])


def relation(a: Sequence[int], b: Sequence[int], margin: float = 0.6) -> str | None:
    """The clearest relation in which box a stands to box b, by GenEval's rule with a margin; None if unclear.

    >>> relation((0, 400, 200, 600), (700, 400, 900, 600))
    'left of'
    """
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    norm = math.hypot(dx, dy) or 1.0
    reach_x, reach_y = 0.1 * (a[2] - a[0] + b[2] - b[0]), 0.1 * (a[3] - a[1] + b[3] - b[1])
    x = math.copysign(max(abs(dx) - reach_x, 0.0), dx) / norm
    y = math.copysign(max(abs(dy) - reach_y, 0.0), dy) / norm
    strength = {name: ux * x + uy * y for name, (ux, uy) in RELATIONS.items()}
    best = max(strength, key=lambda name: strength[name])
    return best if strength[best] > margin else None


def _related(ratios: Sequence[float], wanted: str, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Two boxes of which the first stands in the wanted relation to the second."""
    dx, dy = RELATIONS[wanted]
    while True:
        if dx + dy < 0:  # the first is left or above: reading order
            boxes = _arrange(ratios, rng, *((2, 1) if dx else (1, 2)))
        else:
            boxes = _arrange(ratios[::-1], rng, *((2, 1) if dx else (1, 2)))[::-1]
        if relation(boxes[0], boxes[1]) == wanted:
            return boxes


def _assemble(
    things: Sequence[tuple[str, str]], rng: np.random.Generator, wanted: str | None, background: str
) -> Scene:
    looks = [_look(name, rng) for name, _ in things]
    ratios = [look[2] for look in looks]
    boxes = _related(ratios, wanted, rng) if wanted else _place(ratios, rng)
    objects = tuple(
        SceneObject(name=name, color=color, box_1000=box, variant=look[0], angle=look[1])
        for (name, color), look, box in zip(things, looks, boxes, strict=True)
    )
    return Scene(objects=objects, background=background, seed=int(rng.integers(2**62)))


# --- sampling --------------------------------------------------------------------------------------------------------


def sample_scene(rng: np.random.Generator, backgrounds: Sequence[str] = BACKGROUNDS) -> Scene:
    """A random scene of 1 to `MAX_OBJECTS` icons.

    One object in 20 % of the scenes, two different ones in 36 % (half of them set clearly left/right/above/below),
    several of one class in 24 %, and mixed groups in 20 %. Objects are ordered as a caption would name them.
    """
    kind = rng.choice(["one", "pair", "same", "mixed"], p=[0.20, 0.36, 0.24, 0.20])
    background = str(rng.choice(list(backgrounds)))
    wanted = None
    if kind == "one":
        names = [str(rng.choice(CLASSES))]
    elif kind == "pair":
        names = [str(n) for n in rng.choice(CLASSES, 2, replace=False)]
        wanted = str(rng.choice(list(RELATIONS))) if rng.random() < 0.5 else None
    elif kind == "same":
        count = int(rng.choice([2, 3, 4, 5, 6], p=[0.3, 0.3, 0.3, 0.05, 0.05]))
        names = [str(rng.choice(CLASSES))] * count
    else:
        distinct = [str(n) for n in rng.choice(CLASSES, int(rng.integers(2, 4)), replace=False)]
        total = int(rng.choice([3, 4, 5, 6], p=[0.45, 0.35, 0.12, 0.08]))
        extra = rng.integers(0, len(distinct), total - len(distinct))
        names = [n for i, n in enumerate(distinct) for _ in range(1 + int((extra == i).sum()))]
    colors = [str(c) for c in rng.choice(COLORS, len(names))]
    if kind in {"same", "mixed"} and rng.random() < 0.4:  # one colour per class, so that captions can name it
        colors = [colors[names.index(n)] for n in names]
    return _assemble(list(zip(names, colors, strict=True)), rng, wanted, background)


def stable_rng(*key: object) -> np.random.Generator:
    """A generator seeded by the text of its arguments, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def scene_from_include(include: Sequence[Mapping[str, Any]], seed: int) -> Scene:
    """The scene that a GenEval prompt asks for, and nothing else: the oracle's picture.

    Args:
        include: GenEval metadata, entries with `class`, `count` and perhaps `color` and `position` (relation, index).
        seed: fixes everything that the prompt leaves open.
    """
    rng = stable_rng("include", seed)
    things: list[tuple[str, str]] = []
    wanted = None
    for entry in include:
        color = str(entry.get("color") or rng.choice(COLORS))
        thing = [(str(entry["class"]), color)] * int(entry["count"])
        if "position" in entry:  # "A left of B" lists B first; A is named and drawn first
            wanted, things = str(entry["position"][0]), thing + things
        else:
            things = things + thing
    if len(things) > MAX_OBJECTS:
        raise ValueError(f"Expected at most {MAX_OBJECTS} objects but got {len(things)}")
    return _assemble(things, rng, wanted if len(things) == 2 else None, str(rng.choice(BACKGROUNDS)))


def scene_from_chain(text: str, seed: int) -> Scene:
    """The scene that a chain plans: each region's class, colour and box. Regions that name no class are left out.

    A region without a colour gets one from the seed. The drawing is the one whose shape fits the box best.
    """
    rng = stable_rng("chain", seed)
    objects = []
    for region in Chain.parse(text).regions:
        named = parse_phrase(region.text)
        if named is None:
            continue
        x1, y1, x2, y2 = region.box_1000
        ratio = max(x2 - x1, 1) / max(y2 - y1, 1)
        fits = [abs(math.log(aspect(named[0], v) / ratio)) for v in range(len(DRAWINGS[named[0]]))]
        color = named[1] or str(rng.choice(COLORS))
        objects.append(SceneObject(name=named[0], color=color, box_1000=region.box_1000, variant=int(np.argmin(fits))))
    return Scene(objects=tuple(objects), background=str(rng.choice(BACKGROUNDS)), seed=seed)


# --- words -----------------------------------------------------------------------------------------------------------


def _groups(scene: Scene) -> list[tuple[str, list[str]]]:
    """Runs of one class in order: (class, colours)."""
    groups: list[tuple[str, list[str]]] = []
    for item in scene.objects:
        if groups and groups[-1][0] == item.name:
            groups[-1][1].append(item.color)
        else:
            groups.append((item.name, [item.color]))
    return groups


def _noun_phrase(name: str, colors: Sequence[str], colored: bool) -> str:
    adjective = f"{colors[0]} " if colored and len(set(colors)) == 1 else ""
    if len(colors) == 1:
        return with_article(adjective + name)
    return f"{NUMBERS[len(colors)]} {adjective}{plural(name)}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short prompt that the scene satisfies: GenEval's six templates and richer lists.

    Colours and relations are named at random where they hold; what is named is named in the order of the objects.
    """
    groups = _groups(scene)
    opening = "a photo of " if rng.random() < 0.85 else str(rng.choice(["a picture of ", "an image of ", ""]))
    colored = rng.random(len(groups)) < (0.5 if rng.random() < 0.5 else rng.choice([0.0, 1.0]))
    phrases = [_noun_phrase(n, c, bool(k)) for (n, c), k in zip(groups, colored, strict=True)]
    if len(scene.objects) == 2 and len(groups) == 2 and rng.random() < 0.6:
        found = relation(scene.objects[0].box_1000, scene.objects[1].box_1000)
        if found:
            return f"{opening}{phrases[0]} {found} {phrases[1]}"
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return opening + listed


def chain_text(scene: Scene) -> str:
    """The reasoning chain of a scene: every object with its colour and box, mask colours in their fixed order.

    >>> item = SceneObject(name="dog", color="red", box_1000=(100, 200, 500, 800))
    >>> chain_text(Scene(objects=(item,), background="plain", seed=0))
    'there is a red dog <|box_start|>(100,200),(500,800)<|box_end|> (red)'
    """
    parts = []
    for item, mask_color in zip(scene.objects, MASK_COLORS, strict=False):
        x1, y1, x2, y2 = item.box_1000
        box = f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|> ({mask_color})"
        parts.append(f"{with_article(f'{item.color} {item.name}')} {box}")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"there {'is' if len(parts) == 1 else 'are'} {listed}"
