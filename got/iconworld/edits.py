"""Edits of the icon world: a source scene, an instruction, the target scene, and the chain that leads there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from got.iconworld.placing import fit_inside, overlaps, relation, sample_look
from got.iconworld.render import sample_jitter
from got.iconworld.scenes import BACKGROUNDS, Scene, SceneObject, assemble, loosened
from got.iconworld.vocabulary import BACKGROUND_COLORS, CLASSES, COLORS, NUMBERS, PLACES, plural, with_article
from got.plan.chain import MASK_COLORS, format_box, iou

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np

    from got.plan.chain import Box1000

KINDS = ("add", "remove", "replace", "recolor", "move", "background", "count", "global")
"""What an instruction can ask for; a global one recolours everything."""
_MOST_OBJECTS = 4
_TINTED_SHARE = 0.15  # of the sources have a tinted background already
_LOOSE_SHARE = 0.5  # of the scenes have boxes that are not on the grid of tens
_NEAR_MIDDLE = 60  # thousandths: a centre this near to the middle is on no side
_SAME_PLACE = 0.26  # overlap of an object and what replaces it: a scorer that asks for 0.25 is to see it there


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit with its truth."""

    kind: str
    """One of `KINDS`."""
    source: Scene
    target: Scene
    """What was not touched is equal to the source's, pixel by pixel when rendered."""
    instruction: str
    chain: str
    """What the source shows, what is done where, and what the target shows."""
    wanted: str = ""
    """What the instruction fixes beyond classes and colours: the place of a move, the relation of an addition and the
    number of the other object, the number of a count, the colour of a background."""

    @property
    def kept(self) -> tuple[SceneObject, ...]:
        """Objects of both scenes."""
        return tuple(item for item in self.target.objects if item in self.source.objects)

    @property
    def erased(self) -> tuple[SceneObject, ...]:
        """Objects of the source that the target lacks."""
        return tuple(item for item in self.source.objects if item not in self.target.objects)

    @property
    def drawn(self) -> tuple[SceneObject, ...]:
        """Objects of the target that the source lacks."""
        return tuple(item for item in self.target.objects if item not in self.source.objects)

    def truth(self) -> dict[str, Any]:
        """What scorers have to know, JSON-able: objects that stay, go and come, and what the instruction fixes."""
        things = {"kept": self.kept, "erased": self.erased, "drawn": self.drawn}
        named = any(item.color in self.instruction.split() for item in self.drawn)
        return {
            "kind": self.kind,
            **{
                key: [{"name": o.name, "color": o.color, "box_1000": list(o.box_1000)} for o in items]
                for key, items in things.items()
            },
            "wanted": self.wanted,
            "color_named": named if self.kind in {"add", "replace"} else True,
            "ground_color": self.source.ground_color,
        }


def sample_edit(rng: np.random.Generator, kind: str | None = None, *, twins: bool = False) -> Edit:
    """A random edit; with `twins`, two objects at least are of one class.

    Without a kind it is a random one of those that change one thing: all but a global one.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind is None:
        kind = str(rng.choice(KINDS[:-1]))
    if kind not in KINDS:
        raise ValueError(f"Expected one of {', '.join(KINDS)} but got {kind!r}")
    while True:  # a kind may find no room or no unambiguous object in a scene
        edit = _MAKERS[kind](_sample_union(rng, kind, twins=twins), rng)
        if edit is not None:
            return edit


def chained(first: Edit, rng: np.random.Generator, tries: int = 20) -> Edit | None:
    """A second edit that starts where the first ended; None if none was found.

    It adds, removes, replaces or recolours: kinds that need no arrangement made beforehand.
    """
    for _ in range(tries):
        kind = str(rng.choice(["remove", "replace", "recolor", "background"]))
        if first.target.objects:
            edit = _MAKERS[kind](first.target, rng)
            if edit is not None:
                return edit
    return None


# --- scenes ----------------------------------------------------------------------------------------------------------


def _sample_union(rng: np.random.Generator, kind: str, *, twins: bool) -> Scene:
    """Objects of source and target together, none of which overlap, colours pinned."""
    if kind == "count":
        total = int(rng.choice([2, 3, 4], p=[0.35, 0.4, 0.25]))
        names, color = [str(rng.choice(CLASSES))] * total, str(rng.choice(COLORS))
        colors = [color] * total
        if total < _MOST_OBJECTS and rng.random() < 0.5:
            names, colors = [*names, str(rng.choice(CLASSES))], [*colors, str(rng.choice(COLORS))]
    else:
        least = 1 if kind in {"recolor", "replace", "background"} and not twins else 2
        total = int(rng.integers(least, _MOST_OBJECTS + 1))
        names = [str(name) for name in rng.choice(CLASSES, total, replace=bool(rng.random() < 0.3))]
        colors = [str(color) for color in rng.choice(COLORS, total)]
        names[0] = names[-1] if twins else names[0]
    scene = assemble(list(zip(names, colors, strict=True)), rng, None, str(rng.choice(BACKGROUNDS)))
    if rng.random() < _LOOSE_SHARE:
        scene = loosened(scene, rng)
    pinned = tuple(dataclasses.replace(item, jitter=sample_jitter(rng)) for item in scene.objects)
    ground = str(rng.choice(BACKGROUND_COLORS)) if rng.random() < _TINTED_SHARE else None
    return dataclasses.replace(scene, objects=pinned, ground_color=ground)


def _with(scene: Scene, objects: Iterable[SceneObject]) -> Scene:
    return dataclasses.replace(scene, objects=tuple(objects))


def side_of(box: Box1000) -> tuple[int, int]:
    """On which side of the image's middle a box has its centre: signs of x and y, 0 near the middle.

    >>> side_of((0, 400, 300, 620))
    (-1, 0)
    """
    offsets = ((box[0] + box[2]) / 2 - 500, (box[1] + box[3]) / 2 - 500)
    x, y = (0 if abs(offset) < _NEAR_MIDDLE else (1 if offset > 0 else -1) for offset in offsets)
    return x, y


# --- words -----------------------------------------------------------------------------------------------------------


def listed(phrases: Sequence[str]) -> str:
    """Phrases joined by commas and "and".

    >>> listed(["a cat", "a dog", "two buses"])
    'a cat, a dog and two buses'
    """
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def described(scene: Scene) -> str:
    """The objects of a scene with their colours, in order.

    >>> item = SceneObject(name="dog", color="red", box_1000=(100, 200, 500, 800))
    >>> described(Scene(objects=(item,), background="plain", seed=0))
    'a red dog'
    """
    phrases = [with_article(f"{o.color} {o.name}") + (" in the mirror" if o.reflected else "") for o in scene.objects]
    return listed(phrases) if phrases else "nothing"


def _after(scene: Scene) -> str:
    return f"now there {'is' if len(scene.objects) < 2 else 'are'} {described(scene)}"


def chain_of(source: Scene, operation: str, target: Scene) -> str:
    """The chain of an edit around the words of its operation."""
    return f"the image shows {described(source)} . {operation} . {_after(target)}"


def boxed(items: Sequence[SceneObject], first: int = 0, article: str | None = None) -> list[str]:
    """Each object with its box; mask colours from number `first` on."""
    return [
        (with_article(f"{item.color} {item.name}") if article is None else f"{article} {item.color} {item.name}")
        + f" {format_box(item.box_1000, MASK_COLORS[first + i])}"
        for i, item in enumerate(items)
    ]


def pointed(words: str, item: SceneObject, number: int = 0) -> str:
    """An object under the name that an instruction gives it, with its box: finding it is then a single step."""
    return f"{words} {format_box(item.box_1000, MASK_COLORS[number])}"


def referred(item: SceneObject, scene: Scene, rng: np.random.Generator) -> str | None:
    """How an instruction names one object of a scene; None if words cannot tell it from the others."""
    same = [other for other in scene.objects if other.name == item.name]
    if len(same) == 1:
        return f"the {item.color} {item.name}" if rng.random() < 0.3 else f"the {item.name}"
    if sum(other.color == item.color for other in same) == 1:
        return f"the {item.color} {item.name}"
    return None


def one_of(rng: np.random.Generator, *templates: str) -> str:
    """One of several wordings, at random."""
    return templates[int(rng.integers(len(templates)))]


def _pick(scene: Scene, rng: np.random.Generator) -> tuple[int, str] | None:
    """An object and the words that refer to it."""
    index = int(rng.integers(len(scene.objects)))
    name = referred(scene.objects[index], scene, rng)
    return None if name is None else (index, name)


# --- kinds -----------------------------------------------------------------------------------------------------------


def _add(union: Scene, rng: np.random.Generator) -> Edit | None:
    index = int(rng.integers(len(union.objects)))
    new = union.objects[index]
    source = _with(union, (o for o in union.objects if o is not new))
    target = _with(union, (*source.objects, new))
    thing = with_article(new.name if rng.random() < 0.15 else f"{new.color} {new.name}")
    where, wanted = "", ""
    if rng.random() < 0.4:
        other = source.objects[int(rng.integers(len(source.objects)))]
        found, name = relation(new.box_1000, other.box_1000), referred(other, source, rng)
        if found and name:
            where, wanted = f" {found} {name}", f"{found} {source.objects.index(other)}"
    instruction = one_of(rng, "add {}", "put {} in the picture", "put {} in", "add {} to the image")
    if where:
        instruction = one_of(rng, "add {}", "put {}")
    return Edit(
        kind="add", source=source, target=target, wanted=wanted, instruction=instruction.format(thing) + where,
        chain=chain_of(source, f"add {boxed([new])[0]}", target),
    )  # fmt: skip


def _remove(source: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(source, rng)
    if picked is None:
        return None
    old = source.objects[picked[0]]
    target = _with(source, (o for o in source.objects if o is not old))
    words = one_of(rng, "remove {}", "delete {}", "take away {}", "erase {} from the picture")
    return Edit(
        kind="remove", source=source, target=target, instruction=words.format(picked[1]),
        chain=chain_of(source, f"remove {pointed(picked[1], old)}", target),
    )  # fmt: skip


def _replace(source: Scene, rng: np.random.Generator) -> Edit | None:
    if (picked := _pick(source, rng)) is None:
        return None
    old = source.objects[picked[0]]
    name = str(rng.choice([name for name in CLASSES if name != old.name]))
    keeps_color = rng.random() < 0.3
    color = old.color if keeps_color else str(rng.choice(COLORS))
    variant, angle, ratio = sample_look(name, rng)
    longer = max(old.box_1000[2] - old.box_1000[0], old.box_1000[3] - old.box_1000[1])
    box = fit_inside(ratio, longer, old.box_1000, [o.box_1000 for o in source.objects if o is not old])
    if iou(box, old.box_1000) < _SAME_PLACE:
        return None
    new = SceneObject(name=name, color=color, box_1000=box, variant=variant, angle=angle, jitter=sample_jitter(rng))
    target = _with(source, (new if o is old else o for o in source.objects))
    words = one_of(rng, "replace {} with {}", "swap {} for {}", "turn {} into {}", "change {} into {}")
    operation = f"replace {pointed(picked[1], old)} with {boxed([new], 1)[0]}"
    return Edit(
        kind="replace", source=source, target=target, chain=chain_of(source, operation, target),
        instruction=words.format(picked[1], with_article(name if keeps_color else f"{color} {name}")),
    )  # fmt: skip


def _recolor(source: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(source, rng)
    if picked is None:
        return None
    old = source.objects[picked[0]]
    color = str(rng.choice([color for color in COLORS if color != old.color]))
    new = dataclasses.replace(old, color=color, jitter=sample_jitter(rng))
    target = _with(source, (new if o is old else o for o in source.objects))
    words = one_of(rng, "make {} {}", "change the color of {} to {}", "paint {} {}", "turn {} {}")
    return Edit(
        kind="recolor", source=source, target=target, instruction=words.format(picked[1], color),
        chain=chain_of(source, f"paint {pointed(picked[1], old)} {color}", target),
    )  # fmt: skip


def _move(union: Scene, rng: np.random.Generator) -> Edit | None:
    """An edit that moves an object: two objects of the union are the same one, before and after."""
    one, two = (union.objects[int(i)] for i in rng.choice(len(union.objects), 2, replace=False))
    sizes = [(o.box_1000[2] - o.box_1000[0], o.box_1000[3] - o.box_1000[1]) for o in (one, two)]
    shrink = min(1.0, sizes[1][0] / sizes[0][0], sizes[1][1] / sizes[0][1])
    places = [fit_inside(sizes[0][0] / sizes[0][1], max(sizes[0]) * shrink, o.box_1000, []) for o in (one, two)]
    old, new = (dataclasses.replace(one, box_1000=box) for box in places)
    if overlaps(old.box_1000, new.box_1000, 0):
        return None
    rest = [o for o in union.objects if o is not one and o is not two]
    if any(overlaps(old.box_1000, o.box_1000, 0) for o in rest):
        return None
    source = _with(union, (*rest, old))
    name = referred(old, source, rng)
    before, after = side_of(old.box_1000), side_of(new.box_1000)
    sides = [side for side, (x, y) in PLACES.items() if _gets_there(before, after, (x, y))]
    if name is None or not sides:
        return None
    side = str(rng.choice(sides))
    target = _with(union, (*rest, new))
    words = one_of(rng, "move {} to the {}", "put {} on the {}", "move {} to the {} side")
    operation = f"move {pointed(name, old)} to the {side} : {boxed([new], 1, 'the')[0]}"
    return Edit(
        kind="move", source=source, target=target, wanted=side, chain=chain_of(source, operation, target),
        instruction=words.format(name, side),
    )  # fmt: skip


def _gets_there(before: tuple[int, int], after: tuple[int, int], place: tuple[int, int]) -> bool:
    """Whether a move ends on the named side and did not start there."""
    named = [axis for axis in (0, 1) if place[axis]]
    return all(after[axis] == place[axis] for axis in named) and any(before[axis] != place[axis] for axis in named)


def _background(source: Scene, rng: np.random.Generator) -> Edit | None:
    color = str(rng.choice([color for color in BACKGROUND_COLORS if color != source.ground_color]))
    target = dataclasses.replace(source, ground_color=color)
    words = one_of(
        rng,
        "make the background {}",
        "change the background to {}",
        "paint the background {}",
        "turn the background {}",
    )
    return Edit(
        kind="background", source=source, target=target, wanted=color, instruction=words.format(color),
        chain=chain_of(source, f"the background becomes {color}", target),
    )  # fmt: skip


def _count(union: Scene, rng: np.random.Generator) -> Edit | None:
    """An edit that changes the number of objects of one class; the others stay."""
    name = union.objects[0].name
    group = [o for o in union.objects if o.name == name]
    rest = [o for o in union.objects if o.name != name]
    fewer = int(rng.integers(1, len(group)))
    changed = boxed(group[fewer:], article=None)
    more = rng.random() < 0.5
    few, many = _with(union, (*group[:fewer], *rest)), _with(union, (*group, *rest))
    source, target = (few, many) if more else (many, few)
    number = len(group) if more else fewer
    words = one_of(rng, "change the number of {1} to {0}", "make it {0} {2}", "there should be {0} {2}")
    noun = plural(name) if number > 1 else name
    return Edit(
        kind="count", source=source, target=target, wanted=str(number),
        instruction=words.format(NUMBERS[number] if number > 1 else "one", plural(name), noun),
        chain=chain_of(source, f"{'add' if more else 'remove'} {listed(changed)}", target),
    )  # fmt: skip


def _global(source: Scene, rng: np.random.Generator) -> Edit | None:
    """An edit that gives everything one colour that nothing has yet."""
    free = [color for color in COLORS if color not in {o.color for o in source.objects}]
    if len(source.objects) < 2 or not free:
        return None
    color = str(rng.choice(free))
    target = _with(source, (dataclasses.replace(o, color=color, jitter=sample_jitter(rng)) for o in source.objects))
    words = one_of(rng, "make everything {}", "paint everything {}", "turn all objects {}", "make all objects {}")
    return Edit(
        kind="global", source=source, target=target, wanted=color, instruction=words.format(color),
        chain=chain_of(source, f"paint {listed(boxed(source.objects, article='the'))} {color}", target),
    )  # fmt: skip


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Edit | None]] = {
    "add": _add, "remove": _remove, "replace": _replace, "recolor": _recolor,
    "move": _move, "background": _background, "count": _count, "global": _global,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ two steps
JOINT = " , then "
"""What stands between the steps of an instruction."""
_FIRST = ("remove", "replace", "recolor", "background")


def sample_steps(rng: np.random.Generator) -> Edit:
    """Two edits as one: from the first one's source to the second one's target.

    The second undoes nothing of the first, so each of them shows in the target. Its chain is the first step's. Where an
    object is drawn, its own step names its colour.
    """
    while True:
        first = sample_edit(rng, str(rng.choice(_FIRST)))
        second = chained(first, rng)
        if second is None or set(second.erased) & set(first.drawn) or first.kind == second.kind == "background":
            continue
        if not all(item.color in step.instruction.split() for step in (first, second) for item in step.drawn):
            continue
        grounds = [step.wanted for step in (first, second) if step.kind == "background"]
        return Edit(
            kind="steps",
            source=first.source,
            target=second.target,
            instruction=JOINT.join((first.instruction, second.instruction)),
            chain=first.chain,
            wanted=grounds[0] if grounds else "",
        )
