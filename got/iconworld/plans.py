"""Plans: an edit's, read back from its chain; changed by a person before they are drawn; made wrong on purpose."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from got.iconworld.edits import Edit, side_of
from got.iconworld.glyphs import aspect
from got.iconworld.placing import overlaps
from got.iconworld.scenes import Scene, SceneObject, caption, chain_text, sample_scene
from got.iconworld.vocabulary import BACKGROUND_COLORS, CLASSES, COLORS, PLACES, parse_phrase
from got.plan.chain import Chain, iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.plan.chain import Box1000

_SAME_PLACE = 0.5  # intersection over union from which two boxes mean the same object


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The plan of one edit."""

    erased: tuple[Box1000, ...] = ()
    """Boxes whose content goes away; a repainted object is erased and drawn."""
    drawn: tuple[tuple[str, str | None, Box1000], ...] = ()
    """Class, colour and box of what appears."""
    ground_color: str | None = None


def read_operation(text: str) -> Operation | None:
    """The operation that a chain plans; None if its words are of another kind.

    >>> read_operation("the image shows nothing . the background becomes green . now there is nothing").ground_color
    'green'
    """
    chain = Chain.parse(text)
    ground = re.search(rf"the background becomes ({'|'.join(BACKGROUND_COLORS)})\b", text)
    if ground and not chain.regions:
        return Operation(ground_color=ground[1])
    verb = re.search(r" \. (add|remove|replace|paint|move) ", text)
    named = [(parse_phrase(region.text), region.box_1000) for region in chain.regions]
    if verb is None or not named or any(name is None for name, _ in named):
        return None
    things = [(name[0], name[1], box) for name, box in named if name is not None]
    if verb[1] == "add":
        return Operation(drawn=tuple(things))
    if verb[1] == "remove":
        return Operation(erased=tuple(box for _, _, box in things))
    if verb[1] == "paint":
        color = re.match(r"\W*(\w+)", text[chain.spans[-1][3] :])
        if color is None or color[1] not in COLORS:
            return None
        painted = tuple((name, color[1], box) for name, _, box in things)
        return Operation(erased=tuple(box for _, _, box in things), drawn=painted)
    if len(things) != 2:
        return None
    return Operation(erased=(things[0][2],), drawn=(things[1],))


def is_right(text: str, edit: Edit) -> bool:
    """Whether a chain plans the edit: the right objects go, the right ones come, to a free and proper place."""
    planned = read_operation(text)
    if planned is None or planned.ground_color != (edit.wanted if edit.kind == "background" else None):
        return False
    if not _matched(planned.erased, [item.box_1000 for item in edit.erased]):
        return False
    if sorted(name for name, _, _ in planned.drawn) != sorted(item.name for item in edit.drawn):
        return False
    wanted = {(item.name, item.color) for item in edit.drawn}
    words = edit.instruction.split()
    if any(
        item.color in words and (item.name, item.color) not in {d[:2] for d in planned.drawn} for item in edit.drawn
    ):
        return False
    if edit.kind in {"recolor", "count", "move", "global"} and any(
        (name, color) not in wanted for name, color, _ in planned.drawn
    ):
        return False
    if any(overlaps(box, kept.box_1000, -40) for _, _, box in planned.drawn for kept in edit.kept):
        return False
    return edit.kind != "move" or _at(planned.drawn[0][2], edit.wanted)


def _at(box: Box1000, place: str) -> bool:
    return all(wanted in (0, there) for wanted, there in zip(PLACES[place], side_of(box), strict=True))


def _matched(boxes: Sequence[Box1000], truths: Sequence[Box1000]) -> bool:
    """Whether each box belongs to another truth, and none is left."""
    left = list(truths)
    for box in boxes:
        best = max(left, key=lambda truth: iou(box, truth), default=None)
        if best is None or iou(box, best) < _SAME_PLACE:
            return False
        left.remove(best)
    return not left


# -------------------------------------------------------------------------------------------------------- interventions
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


# ---------------------------------------------------------------------------------------------------------- corruptions
CORRUPTIONS = ("jitter", "drop", "swap")


def corrupted(text: str, how: str, amount: float, rng: np.random.Generator) -> str:
    """A chain with some of its boxes or names made wrong.

    Args:
        text: The chain.
        how: ``"jitter"`` moves each box by normal noise of `amount` times the image's side, and keeps it inside;
            in steps of a hundredth, so that coordinates stay as round as those the icon world's chains have;
            ``"drop"`` takes away each box with probability `amount` and leaves its words; ``"swap"`` gives that share
            of the names, chosen at random, to each other's boxes.
        amount: 0 leaves the chain as it is.
        rng: Fixes everything.

    >>> boxes = [f"<|box_start|>({x},0),({x + 300},300)<|box_end|> (red)" for x in (0, 500)]
    >>> chain, rng = f"a dog {boxes[0]} and a cat {boxes[1]}", np.random.default_rng(0)
    >>> corrupted(chain, "drop", 1.0, rng)
    'a dog and a cat'
    >>> [region.text for region in Chain.parse(corrupted(chain, "swap", 1.0, rng)).regions]
    ['a cat', 'a dog']

    Raises:
        ValueError: If there is no such way to corrupt a chain.
    """
    chain = Chain.parse(text)
    if how == "jitter":
        for i, region in enumerate(chain.regions):
            chain = chain.edit(i, box_1000=_moved(region.box_1000, 10 * np.round(rng.normal(0, 100 * amount, 2))))
        return chain.text
    chosen = [i for i in range(len(chain.regions)) if rng.random() < amount]
    if how == "drop":
        for i in reversed(chosen):
            _, name_end, _, box_end = chain.spans[i]
            text = text[:name_end] + text[box_end:]
        return text
    if how == "swap":
        names = [chain.regions[i].text for i in chosen]
        for place, i in enumerate(chosen):
            chain = chain.edit(i, text=names[(place + 1) % len(names)])
        return chain.text
    raise ValueError(f"Expected one of {', '.join(CORRUPTIONS)} but got {how!r}")


def _moved(box: Box1000, shift: np.ndarray) -> Box1000:
    x1, y1, x2, y2 = box
    dx, dy = (
        int(np.clip(step, -(low // 10 * 10), max((999 - high) // 10 * 10, 0)))
        for step, low, high in zip(shift, (x1, y1), (x2, y2), strict=True)
    )
    return x1 + dx, y1 + dy, x2 + dx, y2 + dy
