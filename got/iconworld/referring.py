"""Edits that take thought: objects named by side, size, colour or what they are for, in a mirror, and two at a time.

The categories are Reason-Edit's (SmartEdit). Descriptions are ours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from got.iconworld.edits import Edit, chain_of, pointed, referred, sample_edit
from got.iconworld.glyphs import CLASSES
from got.iconworld.mirrors import sample_mirror_edit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from got.iconworld.scenes import Scene, SceneObject

CATEGORIES = ("left-right", "size", "mirror", "color", "multiple", "reasoning")
"""How the object of an edit is to be found."""

DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "person": ("the one who can talk", "the one who wears clothes"),
    "bicycle": ("what is moved by pedals", "what has two wheels and no engine"),
    "car": ("what a family drives", "what parks in a garage"),
    "motorcycle": ("what a rider with a helmet sits on", "what has two wheels and an engine"),
    "airplane": ("what flies with passengers", "what lands at an airport"),
    "bus": ("what takes many people through town", "what stops where people with tickets wait"),
    "train": ("what runs on rails", "what leaves from a railway station"),
    "truck": ("what carries heavy goods on the road", "what a mover loads with furniture"),
    "boat": ("what floats with a sail", "what crosses a lake"),
    "traffic light": ("what tells cars to stop or go", "what changes from red to green"),
    "fire hydrant": ("what gives firemen water", "what a hose is fixed to"),
    "stop sign": ("what has eight corners and a word", "what makes drivers halt"),
    "parking meter": ("what takes coins from drivers", "what you pay to leave a car"),
    "bench": ("what people sit on in a park", "a seat for several people outside"),
    "bird": ("the animal with feathers", "the animal that builds a nest"),
    "cat": ("the animal that hunts mice", "the animal that purrs"),
    "dog": ("the animal that barks", "the animal that guards a house"),
    "horse": ("the animal that wears a saddle", "the animal that gallops"),
    "sheep": ("the animal that gives wool", "the animal that a shepherd keeps"),
    "cow": ("the animal that gives milk", "the animal that says moo"),
    "elephant": ("the animal with a trunk", "the animal with big ears and tusks"),
    "bear": ("the wild animal that likes honey", "the animal that sleeps all winter"),
    "zebra": ("the animal with stripes", "the animal that looks like a painted horse"),
    "giraffe": ("the animal with the long neck", "the tallest animal"),
    "backpack": ("what a hiker carries on the back", "what pupils wear to school"),
    "umbrella": ("what keeps the rain off", "what you open in bad weather"),
    "handbag": ("what holds a purse and lipstick", "what a lady carries on her arm"),
    "tie": ("what is knotted around the collar", "what goes with a suit"),
    "suitcase": ("what you pack for a journey", "what goes on the luggage belt"),
    "frisbee": ("the disc that is thrown for fun", "what a dog catches in the air"),
    "skis": ("what two feet glide downhill on", "what comes in a pair for snow"),
    "snowboard": ("the one board for a snowy hill", "what both boots are bound to"),
    "sports ball": ("what players kick", "what goes into a goal"),
    "kite": ("what flies on a string", "what needs wind and a long line"),
    "baseball bat": ("what hits a thrown ball", "the wooden club of a game"),
    "baseball glove": ("what a catcher wears on the hand", "the leather that stops a fast ball"),
    "skateboard": ("the board with four small wheels", "what does tricks on a ramp"),
    "surfboard": ("what rides the waves", "the board for the sea"),
    "tennis racket": ("what has strings and a handle", "what serves over a net"),
    "bottle": ("what is closed with a cork", "what holds a litre of drink"),
    "wine glass": ("what is raised for a toast", "the drink holder with a thin stem"),
    "cup": ("what coffee is served in", "what has one handle and a saucer"),
    "fork": ("what has prongs", "what picks up food with points"),
    "knife": ("what slices bread", "the sharp blade on the table"),
    "spoon": ("what soup is eaten with", "what stirs tea"),
    "bowl": ("the round dish for cereal", "what salad is mixed in"),
    "banana": ("the long fruit that monkeys like", "the curved fruit"),
    "apple": ("the fruit that keeps the doctor away", "the fruit of pies and cider"),
    "sandwich": ("what lies between two slices", "lunch made of bread and cheese"),
    "orange": ("the round fruit that is pressed for juice", "the citrus fruit"),
    "broccoli": ("the vegetable like a small tree", "the vegetable with florets"),
    "carrot": ("the root that rabbits eat", "the nose of a snowman"),
    "hot dog": ("the sausage in a bun", "what is eaten with mustard"),
    "pizza": ("what an italian oven bakes", "the slice with melted cheese"),
    "donut": ("the sweet ring", "the snack with a hole"),
    "cake": ("what has candles on a birthday", "what a baker puts icing on"),
    "chair": ("the seat for one person", "what has four legs and a back"),
    "couch": ("the soft seat for a living room", "where one naps in front of a film"),
    "potted plant": ("what needs water and light", "the green thing that grows indoors"),
    "bed": ("what people sleep in", "what has a pillow and a blanket"),
    "dining table": ("what a meal is served on", "what plates are set on"),
    "toilet": ("what is flushed", "the seat of a bathroom"),
    "tv": ("what shows the evening news", "what has an antenna and channels"),
    "laptop": ("the computer that folds", "what you work with on a train ride"),
    "computer mouse": ("what moves the pointer", "what is clicked"),
    "tv remote": ("what changes the channel", "what couch users search for"),
    "computer keyboard": ("what one types on", "what has letters and a space bar"),
    "cell phone": ("what rings in a pocket", "what sends messages"),
    "microwave": ("what warms food in a minute", "what heats with waves"),
    "oven": ("where bread is baked", "what roasts a chicken"),
    "toaster": ("what browns slices", "what makes bread crisp"),
    "sink": ("where dishes are washed", "what has a tap and a drain"),
    "refrigerator": ("what keeps milk cold", "what has ice inside"),
    "book": ("what has pages", "what is read"),
    "clock": ("what tells the time", "what has two hands and no arms"),
    "vase": ("what holds cut flowers", "the tall pot for roses"),
    "scissors": ("what cuts paper", "what a tailor cuts cloth with"),
    "teddy bear": ("the soft toy", "what a child hugs at night"),
    "hair drier": ("what blows hot air", "what is used after a shower"),
    "toothbrush": ("what cleans teeth", "what needs paste and a mouth"),
}
"""Two ways to say each class without naming it."""
_AMONG_TWINS = ("left-right", "size")
_CLEARLY_LARGER = 1.35  # times the area
_CLEARLY_APART = 150  # thousandths between centres
_THOUGHT_SHARE = 0.5  # of the questions that could do without


def reference_words() -> list[str]:
    """Words of these instructions beyond those of plain ones."""
    extra = "the one on left right bigger smaller larger and object thing"
    return [*(text for texts in DESCRIPTIONS.values() for text in texts), extra]


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
    """A removal that takes a second object along."""
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
