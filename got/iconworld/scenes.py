"""Scenes of the icon world: what is where, sampled from a seed, and how people and chains put it in words."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from got.iconworld.glyphs import DRAWINGS, aspect
from got.iconworld.placing import RELATIONS, place, place_groups, place_related, relation, sample_look
from got.iconworld.vocabulary import CLASSES, COLORS, NUMBERS, parse_phrase, plural, with_article
from got.plan.chain import MASK_COLORS, Chain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


BACKGROUNDS = ("plain", "gradient", "clouds", "stripes", "checks", "grain")
HELD_OUT_BACKGROUNDS = ("rings", "dots")
"""Textures that no training scene shows; detectors are measured on them."""
MAX_OBJECTS = 6
"""The most objects of a sampled scene, as training sees them."""
MOST_ASKED = 9
"""The most objects of a scene that a prompt asks for."""


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
    jitter: tuple[int, int, int] | None = None
    """What is added to the colour's red, green and blue; None draws it from the scene's seed."""
    reflected: bool = False
    """Whether it is seen in the scene's mirror, which shows things the right way round: detectors know no other."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Icons on a textured background, painted in order."""

    objects: tuple[SceneObject, ...]
    background: str
    seed: int
    """Fixes texture and colour jitter."""
    ground_color: str | None = None
    """One of `BACKGROUND_COLORS`, or None for a background that is nearly grey."""
    mirror_1000: tuple[int, int, int, int] | None = None
    """Where a mirror hangs, behind all objects."""


def assemble(things: Sequence[tuple[str, str]], rng: np.random.Generator, wanted: str | None, background: str) -> Scene:
    """Place (class, colour) pairs in an image; `wanted` is the relation of the first of two to the second."""
    looks = [sample_look(name, rng) for name, _ in things]
    ratios = [look[2] for look in looks]
    boxes = place_related(ratios, wanted, rng) if wanted else place(ratios, rng)
    objects = tuple(
        SceneObject(name=name, color=color, box_1000=box, variant=look[0], angle=look[1])
        for (name, color), look, box in zip(things, looks, boxes, strict=True)
    )
    return Scene(objects=objects, background=background, seed=int(rng.integers(2**62)))


def _assemble_groups(include: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Scene:
    """A scene of groups, some of which are to stand in relations to others, in the order in which they are listed."""
    group_of = [i for i, entry in enumerate(include) for _ in range(int(entry["count"]))]
    colors = [str(entry.get("color") or rng.choice(COLORS)) for entry in include]
    looks = [sample_look(str(include[i]["class"]), rng) for i in group_of]
    wanted = [(i, *entry["position"]) for i, entry in enumerate(include) if "position" in entry]
    boxes = place_groups([look[2] for look in looks], group_of, wanted, rng)
    objects = tuple(
        SceneObject(name=str(include[i]["class"]), color=colors[i], box_1000=box, variant=look[0], angle=look[1])
        for i, look, box in zip(group_of, looks, boxes, strict=True)
    )
    return Scene(objects=objects, background=str(rng.choice(BACKGROUNDS)), seed=int(rng.integers(2**62)))


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
    return assemble(list(zip(names, colors, strict=True)), rng, wanted, background)


def loosened(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with boxes that are not on the grid: every corner moves by less than half a step of it."""
    objects = []
    for item in scene.objects:
        x1, y1, x2, y2 = (int(value) for value in np.clip(np.array(item.box_1000) + rng.integers(-4, 6, 4), 0, 999))
        objects.append(dataclasses.replace(item, box_1000=(x1, y1, x2, y2)))
    return dataclasses.replace(scene, objects=tuple(objects))


def stable_rng(*key: object) -> np.random.Generator:
    """A generator seeded by the text of its arguments, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def scene_from_include(include: Sequence[Mapping[str, Any]], seed: int) -> Scene:
    """The scene that a GenEval prompt asks for, and nothing else: the oracle's image.

    Args:
        include: GenEval metadata, entries with `class`, `count` and perhaps `color` and `position` (relation, index).
        seed: fixes everything that the prompt leaves open.

    Raises:
        ValueError: These are more than `MOST_ASKED` objects, or relations that contradict each other.
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
    if len(things) > MOST_ASKED:
        raise ValueError(f"Expected at most {MOST_ASKED} objects but got {len(things)}")
    if wanted is not None and len(things) > 2:
        return _assemble_groups(include, rng)
    return assemble(things, rng, wanted if len(things) == 2 else None, str(rng.choice(BACKGROUNDS)))


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
    """Neighbouring objects of one class, together and in order: (class, colours)."""
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
