"""Edits that take thought: objects named by side, size, colour or what they are for, in a mirror, and two at a time.

The categories are Reason-Edit's (SmartEdit). Descriptions are ours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from got.iconworld.edits import Edit, boxed, chain_of, one_of, pointed, referred, sample_edit
from got.iconworld.placing import fit_inside, sample_look
from got.iconworld.render import sample_jitter
from got.iconworld.scenes import BACKGROUNDS, Scene, SceneObject, assemble
from got.iconworld.vocabulary import CLASSES, COLORS, DESCRIPTIONS, with_article

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from got.plan.chain import Box1000

CATEGORIES = ("left-right", "size", "mirror", "color", "multiple", "reasoning")
"""How the object of an edit is to be found."""

_AMONG_TWINS = ("left-right", "size")
_CLEARLY_LARGER = 1.35  # times the area
_CLEARLY_APART = 150  # thousandths between centres
_THOUGHT_SHARE = 0.5  # of the questions that could do without


def told_apart(scene: Scene, rng: np.random.Generator) -> list[tuple[str, SceneObject]]:
    """Objects that words can tell from the others, with these words, in a random order.

    Half of them are named in a way that takes thought, where there is one.
    """
    order = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    return [(words, item) for item in order if (words := _named(item, scene, rng)) is not None]


def _named(item: SceneObject, scene: Scene, rng: np.random.Generator) -> str | None:
    others = [other for other in scene.objects if other is not item]
    found = [ways for category in CATEGORIES if (ways := _ways(item, others, category))]
    if found and rng.random() < _THOUGHT_SHARE:
        ways = found[int(rng.integers(len(found)))]
        return ways[int(rng.integers(len(ways)))]
    return referred(item, scene, rng)


def sample_reasoning_edit(rng: np.random.Generator, category: str | None = None) -> Edit:
    """A random edit whose object is named in a way that takes thought.

    Raises:
        ValueError: If there is no such category.
    """
    if category is None:
        category = str(rng.choice(CATEGORIES))
    if category not in CATEGORIES:
        raise ValueError(f"Expected one of {', '.join(CATEGORIES)} but got {category!r}")
    if category == "mirror":
        return sample_mirror_edit(rng)
    while True:
        if category == "multiple":
            edit = _two_at_once(sample_edit(rng, "remove"), rng)
        else:
            kind = str(rng.choice(["remove", "replace", "recolor"]))
            edit = rephrased(sample_edit(rng, kind, twins=category in _AMONG_TWINS), category, rng)
        if edit is not None:
            return edit


def rephrased(edit: Edit, category: str, rng: np.random.Generator) -> Edit | None:
    """The same edit with its object named another way; None if that way does not tell it from the others."""
    (old,) = edit.erased
    named = next((t for t in (f"the {old.color} {old.name}", f"the {old.name}") if t in edit.instruction), None)
    others = [item for item in edit.source.objects if item is not old]
    found = _ways(old, others, category)
    if named is None or not found:
        return None
    words = f"the {old.name}" if category == "reasoning" else f"the {old.color} {old.name}"
    return dataclasses.replace(
        edit,
        instruction=edit.instruction.replace(named, found[int(rng.integers(len(found)))], 1),
        chain=edit.chain.replace(pointed(named, old), pointed(words, old)),
    )


def _ways(old: SceneObject, others: Sequence[SceneObject], category: str) -> tuple[str, ...]:
    twins = [item for item in others if item.name == old.name]
    if category == "left-right":
        offsets = [_centre(old) - _centre(item) for item in twins]
        for side, sign in (("left", -1), ("right", 1)):
            if offsets and all(sign * offset >= _CLEARLY_APART for offset in offsets):
                return (f"the {side} {old.name}", f"the {old.name} on the {side}")
    if category == "size":
        for words, sign in ((("bigger", "larger"), 1), (("smaller",), -1)):
            ratios = [_area(old) / _area(item) for item in twins]
            if ratios and all(ratio**sign >= _CLEARLY_LARGER for ratio in ratios):
                return tuple(f"the {word} {old.name}" for word in words)
    if category == "color" and others and all(item.color != old.color for item in others):
        return (f"the {old.color} object", f"the {old.color} thing")
    if category == "reasoning" and others and not twins:
        return DESCRIPTIONS[old.name]
    return ()


def _two_at_once(edit: Edit, rng: np.random.Generator) -> Edit | None:
    """An edit that removes two objects at a time."""
    (old,) = edit.erased
    names = [item.name for item in edit.source.objects]
    rest = [item for item in edit.kept if names.count(item.name) == 1 and names.count(old.name) == 1]
    if not rest:
        return None
    pair = (old, rest[int(rng.integers(len(rest)))])
    target = dataclasses.replace(edit.target, objects=tuple(o for o in edit.source.objects if o not in pair))
    verb = ("remove", "delete", "take away")[int(rng.integers(3))]
    operands = [pointed(f"the {item.name}", item, number) for number, item in enumerate(pair)]
    return dataclasses.replace(
        edit,
        target=target,
        instruction=f"{verb} the {pair[0].name} and the {pair[1].name}",
        chain=chain_of(edit.source, f"remove {' and '.join(operands)}", target),
    )


def _centre(item: SceneObject) -> float:
    return (item.box_1000[0] + item.box_1000[2]) / 2


def _area(item: SceneObject) -> int:
    x1, y1, x2, y2 = item.box_1000
    return (x2 - x1) * (y2 - y1)


assert set(DESCRIPTIONS) == set(CLASSES), "a class has no description"


# -------------------------------------------------------------------------------------------------------------- mirrors
_KINDS = ("remove", "replace", "recolor")  # what can be done to a reflection
_PANE_SHARE = 0.88
"""Of a mirror's sides, what the reflection takes."""
_MOST_OTHERS = 1


def sample_mirror_edit(rng: np.random.Generator) -> Edit:
    """A random edit of a reflection. The thing itself stays, and so does the mirror."""
    source = _sample_scene(rng)
    thing, old, *others = source.objects
    kind = str(rng.choice(_KINDS))
    there = f"the {old.name} in the mirror"
    here = pointed(f"in the mirror the {old.name}", old)
    if kind == "remove":
        instruction, operation = f"{one_of(rng, 'remove', 'delete', 'erase')} {there}", f"remove {here}"
        new: tuple[SceneObject, ...] = ()
    elif kind == "recolor":
        color = str(rng.choice([color for color in COLORS if color != old.color]))
        new = (dataclasses.replace(old, color=color, jitter=sample_jitter(rng)),)
        instruction, operation = f"{one_of(rng, 'make', 'paint', 'turn')} {there} {color}", f"paint {here} {color}"
    else:
        name, color = str(rng.choice([name for name in CLASSES if name != old.name])), str(rng.choice(COLORS))
        variant, angle, ratio = sample_look(name, rng)
        assert source.mirror_1000 is not None
        new = (
            SceneObject(
                name=name, color=color, box_1000=_inside(source.mirror_1000, ratio), variant=variant, angle=angle,
                jitter=sample_jitter(rng), reflected=True,
            ),
        )  # fmt: skip
        wanted = with_article(f"{color} {name}")
        instruction, operation = f"replace {there} with {wanted}", f"replace {here} with {boxed(new, 1)[0]}"
    target = dataclasses.replace(source, objects=(thing, *new, *others))
    chain = chain_of(source, operation, target)
    return Edit(kind=kind, source=source, target=target, instruction=instruction, chain=chain)


def _sample_scene(rng: np.random.Generator) -> Scene:
    """A thing, its reflection in a mirror, and up to `_MOST_OTHERS` other things of other classes."""
    names = [str(name) for name in rng.choice(CLASSES, 1 + int(rng.integers(_MOST_OTHERS + 1)), replace=False)]
    colors = [str(color) for color in rng.choice(COLORS, len(names))]
    scene = assemble([(names[0], colors[0]), *zip(names, colors, strict=True)], rng, None, str(rng.choice(BACKGROUNDS)))
    thing, mirror, *others = (dataclasses.replace(item, jitter=sample_jitter(rng)) for item in scene.objects)
    x1, y1, x2, y2 = thing.box_1000
    image = dataclasses.replace(thing, box_1000=_inside(mirror.box_1000, (x2 - x1) / (y2 - y1)), reflected=True)
    return dataclasses.replace(scene, objects=(thing, image, *others), mirror_1000=mirror.box_1000)


def _inside(mirror: Box1000, ratio: float) -> Box1000:
    """Where in a mirror an object of these proportions (width through height) is seen."""
    width, height = (_PANE_SHARE * (high - low) for low, high in zip(mirror[:2], mirror[2:], strict=True))
    return fit_inside(ratio, max(min(width, height * ratio), min(height, width / ratio)), mirror, [])
