"""Edits of what is seen in a mirror: an object and its reflection, of which only the reflection is to change."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from got.iconworld.edits import Edit, boxed, chain_of, one_of, pointed
from got.iconworld.placing import fit_inside, sample_look
from got.iconworld.render import sample_jitter
from got.iconworld.scenes import BACKGROUNDS, Scene, SceneObject, assemble
from got.iconworld.vocabulary import CLASSES, COLORS, with_article

if TYPE_CHECKING:
    import numpy as np

    from got.plan.chain import Box1000

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
