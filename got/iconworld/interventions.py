"""What a person may do to a plan before it is drawn: another object in a box, a box elsewhere, another colour."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from got.iconworld.edits import Edit
from got.iconworld.glyphs import aspect
from got.iconworld.placing import overlaps
from got.iconworld.scenes import Scene, SceneObject, caption, chain_text, sample_scene
from got.iconworld.vocabulary import CLASSES, COLORS

if TYPE_CHECKING:
    import numpy as np

INTERVENTIONS = ("replace", "move", "recolor")
_LEAST_MOVE = 150  # thousandths between the centres before and after
_MOST_STRETCH = 0.2  # of the logarithm of the proportions: a person puts a giraffe in a tall box
_TRIES = 60


def sample_intervention(rng: np.random.Generator, kind: str) -> Edit:
    """A prompt with the plan of a scene for it, and what becomes of the plan.

    Source is the scene of the plan as it was, target that of the changed plan, and the chain is the changed plan; the
    instruction is the prompt, which knows nothing of the change.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in INTERVENTIONS:
        raise ValueError(f"Expected one of {', '.join(INTERVENTIONS)} but got {kind!r}")
    while True:
        scene = sample_scene(rng)
        index = int(rng.integers(len(scene.objects)))
        new = _changed(scene, index, kind, rng)
        if new is not None:
            objects = (*scene.objects[:index], new, *scene.objects[index + 1 :])
            target = dataclasses.replace(scene, objects=objects)
            return Edit(
                kind=kind,
                source=scene,
                target=target,
                instruction=caption(scene, rng),
                chain=chain_text(target),
                wanted="box" if kind == "move" else "",
            )


def _changed(scene: Scene, index: int, kind: str, rng: np.random.Generator) -> SceneObject | None:
    old = scene.objects[index]
    x1, y1, x2, y2 = old.box_1000
    if kind == "recolor":
        return dataclasses.replace(old, color=str(rng.choice([c for c in COLORS if c != old.color])))
    if kind == "replace":
        ratio = (x2 - x1) / (y2 - y1)
        fitting = [name for name in CLASSES if name != old.name and abs(math.log(aspect(name) / ratio)) < _MOST_STRETCH]
        if not fitting:
            return None
        name, color = str(rng.choice(fitting)), str(rng.choice(COLORS))
        return dataclasses.replace(old, name=name, color=color, variant=0, angle=0)
    others = [item.box_1000 for item in scene.objects if item is not old]
    for _ in range(_TRIES):
        x, y = int(rng.integers(5, 995 - (x2 - x1))), int(rng.integers(5, 995 - (y2 - y1)))
        box = (x, y, x + x2 - x1, y + y2 - y1)
        far = max(abs(x - x1), abs(y - y1)) >= _LEAST_MOVE
        if far and not any(overlaps(box, other, 0) for other in others):
            return dataclasses.replace(old, box_1000=box)
    return None
