"""GenEval 2's icon edition: 400 prompts of 3 to 10 atoms over the 80 classes, from a seed and a template of our own.

An atom is what an image can get wrong by itself: a kind of object, its colour, its number where there are two or more,
and a relation between two kinds. One to three kinds, at most `MOST_OBJECTS` objects, and no two prompts alike.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Case
from evals.core.vocabulary import CLASSES, COLORS, NUMBERS, RELATIONS, plural, with_article

if TYPE_CHECKING:
    from collections.abc import Sequence

ATOM_COUNTS = range(3, 11)
EACH = 50
"""Prompts of each number of atoms."""
MOST_OBJECTS = 9
_MOST_OF_A_KIND = 4
_SEED = 2512_16853
_UNCOLORED = "person"
"""The class that no prompt names a colour of, as in GenEval."""
_TARGETS = {0: 1, 2: 1}
"""Which kinds of object may have a relation, and to which other kind, by their places in the prompt."""


def tag_of(atoms: int) -> str:
    """The task of prompts with so many atoms; names sort by number.

    >>> tag_of(3), tag_of(10)
    ('03_atoms', '10_atoms')
    """
    return f"{atoms:02d}_atoms"


@functools.cache
def cases() -> tuple[Case, ...]:
    """All prompts, by their number of atoms.

    >>> made = cases()
    >>> len(made), made[0].tag, made[-1].metadata["atom_count"]
    (400, '03_atoms', 10)
    """
    rng = np.random.default_rng(_SEED)
    lines: dict[str, dict[str, Any]] = {}
    for atoms in ATOM_COUNTS:
        wanted = len(lines) + EACH
        while len(lines) < wanted:
            include = _sample(atoms, rng)
            if include is not None:
                line = _line(atoms, include)
                lines.setdefault(line["prompt"], line)
    return tuple(
        Case(id=f"{number:05d}", prompt=line["prompt"], tag=line["tag"], metadata=line)
        for number, line in enumerate(lines.values())
    )


def _sample(atoms: int, rng: np.random.Generator) -> list[dict[str, Any]] | None:
    """Draws what a prompt of so many atoms asks for; None where the draw does not fit: draw again."""
    kinds = int(rng.integers(1, 4))
    features = [(what, kind) for what in ("count", "color") for kind in range(kinds)]
    features += [("position", kind) for kind in _TARGETS if kind < kinds > 1]
    if not 0 <= atoms - kinds <= len(features):
        return None
    chosen = [features[i] for i in sorted(rng.permutation(len(features))[: atoms - kinds])]
    names = [str(name) for name in rng.choice(CLASSES, kinds, replace=False)]
    include: list[dict[str, Any]] = [{"class": name, "count": 1} for name in names]
    for what, kind in chosen:
        if what == "count":
            include[kind]["count"] = int(rng.integers(2, _MOST_OF_A_KIND, endpoint=True))
        elif what == "color":
            include[kind]["color"] = str(rng.choice(COLORS))
        else:
            include[kind]["position"] = [str(rng.choice(RELATIONS)), _TARGETS[kind]]
    objects = sum(item["count"] for item in include)
    colored = any(item["class"] == _UNCOLORED and "color" in item for item in include)
    return None if objects > MOST_OBJECTS or colored else include


def _line(atoms: int, include: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A prompt with all that is asked about it: GenEval 2's four keys, and GenEval's two that say what to look for."""
    asked = questions(include)
    return {
        "prompt": _prompt(include),
        "atom_count": atoms,
        "vqa_list": [[question, answer] for question, answer, _ in asked],
        "skills": [skill for _, _, skill in asked],
        "tag": tag_of(atoms),
        "include": list(include),
    }


def _phrase(item: dict[str, Any]) -> str:
    """One group as the prompt names it.

    >>> _phrase({"class": "bus", "count": 3, "color": "red"}), _phrase({"class": "dog", "count": 1})
    ('three red buses', 'a dog')
    """
    adjective = f"{item['color']} " if "color" in item else ""
    if item["count"] == 1:
        return with_article(adjective + item["class"])
    return f"{NUMBERS[item['count']]} {adjective}{plural(item['class'])}"


def _named(item: dict[str, Any]) -> str:
    return item["class"] if item["count"] == 1 else plural(item["class"])


def _prompt(include: Sequence[dict[str, Any]]) -> str:
    """The prompt, in which every relation can be read in one way only.

    >>> dog, cat, bus = ({"class": name, "count": 1} for name in ("dog", "cat", "bus"))
    >>> _prompt([dog, cat, {**bus, "count": 2}])
    'a photo of a dog, a cat and two buses'
    >>> _prompt([{**dog, "position": ["left of", 1]}, cat, {**bus, "position": ["below", 1]}])
    'a photo of a dog left of a cat, and a bus below the cat'
    """
    phrases = [_phrase(item) for item in include]
    related = [item.get("position") for item in include]
    if related[0] is not None:
        relation, target = related[0]
        phrases[:2] = [f"{phrases[0]} {relation} {phrases[target]}"]
    if related[-1] is not None and len(include) == 3:
        relation, target = related[-1]
        phrases[-1] += f" {relation} the {_named(include[target])}"
    comma = "," if any(related) and len(phrases) == 2 else ""
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}{comma} and {phrases[-1]}"
    return f"a photo of {listed}"


def questions(include: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Question, answer and skill of everything that is asked for, kind by kind; numbers of one are asked, too.

    >>> [answer for _, answer, _ in questions([{"class": "dog", "count": 2, "color": "red"}])]
    ['Yes', 'two', 'Yes']
    """
    found = []
    for item in include:
        be, name, many = ("Is" if item["count"] == 1 else "Are"), _named(item), plural(item["class"])
        found += [(f"Are there any {many} in the image?", "Yes", "object")]
        found += [(f"How many {many} are in the image?", NUMBERS[item["count"]], "count")]
        if "color" in item:
            found.append((f"{be} the {name} {item['color']}?", "Yes", "attribute"))
        if "position" in item:
            relation, target = item["position"]
            found.append((f"{be} the {name} {relation} the {_named(include[target])}?", "Yes", "position"))
    return found
