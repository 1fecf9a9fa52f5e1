"""GenEval's 553 prompts, made by our own code, and the reader of prompt files in their format."""

from __future__ import annotations

import difflib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.folder_listing import METADATA, list_folder, some
from evals.core.records import Case, NothingLeft, UserError, alike, describes, note, unfit
from evals.core.vocabulary import CLASSES, COLORS, NUMBERS, RELATIONS, plural, with_article
from got.util.files import numbered_lines
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from evals.core.folder_listing import Place

_SEED = 43
FOLDER = "folder"
"""The value of ``--prompts`` that takes the cases from the folder of images."""
OWN_WORDING, OWN_PROMPTS = "own wording of GenEval's cases", "own prompts"
MAX_OBJECTS = 16
"""The most objects of one class that the benchmark counts."""
MOST_OBJECTS = 10_000
"""The largest count that a prompt file may ask for: far more than any image shows, and few enough for every stage."""
_KEYS = {"tag", "include", "exclude", "prompt"}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_DRAWS = 100
"""Prompts drawn for each task but the first, before duplicates are dropped."""


def _line(tag: str, include: list[dict[str, Any]], prompt: str, **exclude: Any) -> dict[str, Any]:
    return {"tag": tag, "include": include, **exclude, "prompt": f"a photo of {prompt}"}


def _two_object(rng: np.random.Generator) -> dict[str, Any]:
    a, b = (CLASSES[i] for i in rng.choice(80, size=2, replace=False))
    return _line(
        "two_object", [{"class": a, "count": 1}, {"class": b, "count": 1}], f"{with_article(a)} and {with_article(b)}"
    )


def _counting(rng: np.random.Generator) -> dict[str, Any]:
    name = CLASSES[rng.choice(80)]
    count = int(rng.integers(2, 4, endpoint=True))
    exclude = [{"class": name, "count": count + 1}]
    return _line("counting", [{"class": name, "count": count}], f"{NUMBERS[count]} {plural(name)}", exclude=exclude)


def _colors(rng: np.random.Generator) -> dict[str, Any]:
    name = CLASSES[rng.choice(79) + 1]  # never a person
    color = COLORS[rng.choice(10)]
    return _line("colors", [{"class": name, "count": 1, "color": color}], with_article(f"{color} {name}"))


def _position(rng: np.random.Generator) -> dict[str, Any]:
    a, b = (CLASSES[i] for i in rng.choice(80, size=2, replace=False))
    relation = RELATIONS[rng.choice(4)]
    include = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
    return _line("position", include, f"{with_article(a)} {relation} {with_article(b)}")


def _color_attr(rng: np.random.Generator) -> dict[str, Any]:
    names = [CLASSES[i + 1] for i in rng.choice(79, size=2, replace=False)]  # never a person
    colors = [COLORS[i] for i in rng.choice(10, size=2, replace=False)]
    pairs = list(zip(names, colors, strict=True))
    include = [{"class": name, "count": 1, "color": color} for name, color in pairs]
    return _line("color_attr", include, " and ".join(with_article(f"{color} {name}") for name, color in pairs))


_DRAWN: tuple[Callable[[np.random.Generator], dict[str, Any]], ...] = (
    *(_two_object, _counting, _colors, _position, _color_attr),
)


def generate() -> list[dict[str, Any]]:
    """The benchmark's metadata lines, in order.

    >>> lines = generate()
    >>> len(lines), lines[0]["prompt"]
    (553, 'a photo of a bench')
    """
    rng = np.random.default_rng(_SEED)
    names = [CLASSES[i] for i in rng.choice(80, size=80, replace=False)]
    lines = [_line("single_object", [{"class": name, "count": 1}], with_article(name)) for name in names]
    lines += [draw(rng) for draw in _DRAWN for _ in range(_DRAWS)]
    return [json.loads(text) for text in dict.fromkeys(json.dumps(line) for line in lines)]


def cases(lines: Iterable[dict[str, Any]]) -> list[Case]:
    """One case per metadata line; its id is the zero-padded line number."""
    return [_case(index, line) for index, line in enumerate(lines)]


def _case(number: int, line: dict[str, Any]) -> Case:
    return Case(id=f"{number:05d}", prompt=line["prompt"], tag=line["tag"], metadata=line)


def wording(cases: Sequence[Case]) -> str | None:
    """A note on a run's prompts for its scores; None where they are GenEval's own.

    >>> line = generate()[0]
    >>> wording(cases([line])), wording(cases([{**line, "prompt": "A bench in a sunny park."}]))
    (None, "own wording of GenEval's cases")
    >>> wording(cases([{"tag": "t", "include": [{"class": "dog", "count": 9}], "prompt": "nine dogs"}]))
    'own prompts'
    """
    known = {describes(line): line["prompt"] for line in generate()}
    if any(describes(case.metadata) not in known for case in cases):
        return OWN_PROMPTS
    same = all(known[describes(case.metadata)] == case.prompt for case in cases)
    return None if same else OWN_WORDING


def read(path: Path, max_objects: int = MAX_OBJECTS) -> list[dict[str, Any]]:
    r"""Metadata lines of a prompt file, each checked. What is odd about them is said on stderr.

    Args:
        path: The file. Its lines end at ``\n`` alone: the other line ends of Unicode may stand in a prompt.
        max_objects: So many objects of a class are counted at most.

    Raises:
        UserError: The file cannot be read, is empty, or a line is not in the format of
            ``evaluation_metadata.jsonl``; names the line, the value and what is allowed.
    """
    lines = {}
    for number, text in numbered_lines(path, UserError):
        try:
            lines[f"line {number}"] = _checked(json.loads(text))
        except json.JSONDecodeError as error:
            words = f"line {number}, column {error.colno}: not JSON ({error.msg}); expected a JSON object"
            raise UserError(f"--prompts {path}: {words}") from error
        except _BadLine as error:
            raise UserError(f"--prompts {path}: line {number}: {error}") from error
        except (ValueError, RecursionError) as error:  # numbers that are too long, lists that are too deep
            raise UserError(f"--prompts {path}: line {number}: not JSON that can be read ({error})") from error
    if not lines:
        raise UserError(f"--prompts {path}: no prompts in the file; expected one JSON object per line")
    _note_oddities(f"--prompts {path}", lines, max_objects)
    return list(lines.values())


def from_folder(root: Path, max_objects: int = MAX_OBJECTS) -> list[Case]:
    """The cases that a folder's own ``metadata.jsonl`` files describe, by the number of their sub-folders.

    Args:
        root: In GenEval's layout, see `evals.core.folder_listing`.
        max_objects: As for `read`.

    Raises:
        UserError: The folder has none, one is not in the format, or two of one number differ; names them.
        NothingLeft: None of them can be read.
    """
    places = [place for place in list_folder(root).places if place.number is not None]
    found: dict[int, tuple[str, Case]] = {}
    for place in places:
        where = f"{place.name}/{METADATA}"
        try:
            if place.metadata is not None and place.number is not None:
                case = _case(place.number, _checked(place.metadata))
                _check_same(case, *found.setdefault(place.number, (where, case)))
        except _BadLine as error:
            raise UserError(f"--prompts folder: {root / where}: {error}") from error
    broken = [f"{root / place.name / METADATA}: {place.broken}" for place in places if place.broken is not None]
    if not found and broken:
        raise NothingLeft(f"--prompts folder: none of {len(broken):,} {METADATA} can be read: {some(broken)}")
    if not found:
        raise UserError(f"--prompts folder: {root} has no {root / '00000' / METADATA} or the like")
    if silent := _untold(places, found):
        note(f"--prompts folder: {_left_out(silent)}{f'; {broken[0]}' if broken else ''}")
    lines = {where: case.metadata for where, case in found.values()}
    _note_oddities(f"--prompts folder, {root}", lines, max_objects)
    return [found[number][1] for number in sorted(found)]


def untold(root: Path) -> list[str]:
    """The numbered sub-folders of which no ``metadata.jsonl`` says what they are of: missing or not to be read."""
    places = [place for place in list_folder(root).places if place.number is not None]
    return _untold(places, {place.number for place in places if place.metadata is not None})


def _untold(places: Iterable[Place], told: Container[int | None]) -> list[str]:
    return [place.name for place in places if place.metadata is None and place.number not in told]


def _left_out(names: Sequence[str]) -> str:
    return f"sub-folders without a {METADATA} that can be read, left out: {len(names):,} ({some(names)})"


def left_out(scores: Mapping[str, Any]) -> str | None:
    """What is to be said of the cases that a run's scores leave out; None where they leave none out.

    >>> left_out({"left_out": ["00003", "7"]})
    'sub-folders without a metadata.jsonl that can be read, left out: 2 (00003, 7)'
    >>> left_out({}) is None
    True
    """
    names = scores.get("left_out", ())
    return _left_out(names) if names else None


def _check_same(case: Case, where: str, first: Case) -> None:
    """Sub-folders of one number, as ``007`` and ``7``, must be of one case."""
    if alike(case.prompt, case.metadata) != alike(first.prompt, first.metadata):
        raise _BadLine(
            f"asks for {case.prompt!r} ({case.tag}), but {where} has the same number and asks for {first.prompt!r}"
            f" ({first.tag})"
        )


def _note_oddities(source: str, lines: Mapping[str, dict[str, Any]], max_objects: int) -> None:
    """Says on stderr which keys are ignored, which cases occur more than once, and which can never be right."""
    ignored = sorted({key for line in lines.values() for key in line} - _KEYS)
    if ignored:
        note(f"{source}: keys that are kept but not used: {', '.join(map(repr, ignored))}")
    doubles = len(lines) - len({alike(line["prompt"], line) for line in lines.values()})
    if doubles:
        note(f"{source}: lines that repeat an earlier one: {doubles:,}; for intervals they are one prompt with it")
    faults = {where: fault for where, line in lines.items() if (fault := impossible(line, max_objects))}
    if faults:
        shown = some([f"{where}: {fault}" for where, fault in faults.items()])
        note(f"{source}: {len(faults):,} of {len(lines):,} cases can never be right ({shown})")
    contradicted = {where: line for where, line in lines.items() if _is_of_another_case(line)}
    if contradicted:
        where, line = next(iter(contradicted.items()))
        note(
            f"{source}: {counted(len(contradicted), 'prompts', 'are', of=len(lines))} word for word another "
            "GenEval case's, "
            f"and images are scored by the include alone ({where}: {line['prompt']!r}, but its include asks for "
            f"{_listed(line)})"
        )
    twice = {where: names for where, line in lines.items() if where not in faults and (names := _named_twice(line))}
    if twice:
        shown = some([f"{where}: {names}" for where, names in twice.items()])
        note(f"{source}: cases that name a class twice, where the same objects answer both: {len(twice):,} ({shown})")


@functools.cache
def _asked_by_prompt() -> dict[str, set[str]]:
    """What GenEval's own cases ask for, by their prompts."""
    asked: dict[str, set[str]] = {}
    for line in generate():
        asked.setdefault(line["prompt"], set()).add(_asked(line))
    return asked


def _asked(line: Mapping[str, Any]) -> str:
    """What must be in the image, the same for every order in which it is listed."""
    include = line["include"]
    items = [[item["class"], item["count"], item.get("color") or "", *_place(item, include)] for item in include]
    return json.dumps(sorted(items))


def _place(item: Mapping[str, Any], include: Sequence[Mapping[str, Any]]) -> list[str]:
    relation, target = item.get("position") or ("", None)
    return [relation, "" if target is None else include[target]["class"]]


def _is_of_another_case(line: Mapping[str, Any]) -> bool:
    """Whether the prompt is, word for word, that of a GenEval case that asks for something else.

    >>> bench = generate()[0]
    >>> _is_of_another_case(bench), _is_of_another_case({**bench, "include": [{"class": "dog", "count": 1}]})
    (False, True)
    """
    asked = _asked_by_prompt().get(line["prompt"])
    return asked is not None and _asked(line) not in asked


def _listed(line: Mapping[str, Any]) -> str:
    """The objects that a line includes, in words.

    >>> _listed({"include": [{"class": "dog", "count": 2, "color": "red"}, {"class": "cat", "count": 1}]})
    '2 red dog, 1 cat'
    """
    return ", ".join(
        " ".join(str(word) for word in (item["count"], item.get("color"), item["class"]) if word)
        for item in line["include"]
    )


def _named_twice(line: Mapping[str, Any]) -> str:
    names = [item["class"] for item in line["include"]]
    return ", ".join(sorted({name for name in names if names.count(name) > 1}))


def impossible(line: Mapping[str, Any], max_objects: int = MAX_OBJECTS) -> str | None:
    """Why no image can satisfy a case; None if one can. The best objects of a class answer for each of its includes.

    >>> impossible({"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 2}]})
    '2 dog are wanted, and fewer than 2 allowed'
    """
    include = line["include"]
    wanted: dict[str, int] = {}
    colors: dict[str, str] = {}
    places: set[tuple[str, str, str]] = set()
    for item in include:
        name, color = item["class"], item.get("color")
        wanted[name] = max(wanted.get(name, 0), item["count"])
        if color and colors.setdefault(name, color) != color:
            return f"{name} is to be {colors[name]} and {color}"
        if "position" in item:
            relation, target = item["position"]
            other = include[target]["class"]
            if other == name:
                return f"{name} is to be {relation} itself"
            places |= {(name, relation, other), (other, _OPPOSITE[relation], name)}
            if (name, _OPPOSITE[relation], other) in places:
                return f"{name} is to be {relation} and {_OPPOSITE[relation]} {other}"
    if over := next((name for name in wanted if wanted[name] > max_objects), None):
        return f"{wanted[over]} {over} are wanted, and {max_objects} counted at most (--max-objects)"
    for item in line.get("exclude", ()):
        if wanted.get(item["class"], 0) >= item["count"]:
            return f"{wanted[item['class']]} {item['class']} are wanted, and fewer than {item['count']} allowed"
    return None


class _BadLine(ValueError):
    """A metadata line that is not in the format; the message has the value and what is allowed."""


def _expect(good: bool, where: str, value: object, allowed: str) -> None:
    if not good:
        raise _BadLine(f"{where} is {json.dumps(value, default=str)}; expected {allowed}")


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _check_keys(item: dict[str, Any], where: str, required: set[str], optional: set[str]) -> None:
    allowed = ", ".join(sorted(required)) + (f" and optionally {', '.join(sorted(optional))}" if optional else "")
    good = required <= set(item) <= required | optional
    if not good:
        raise _BadLine(f"{where} has the keys {', '.join(sorted(item)) or '(none)'}; expected {allowed}")


def _checked(line: object) -> dict[str, Any]:
    """The line itself, if it is one of ``evaluation_metadata.jsonl``."""
    if not isinstance(line, dict):
        raise _BadLine(f"a {type(line).__name__}; expected a JSON object")
    if lacking := sorted({"tag", "include", "prompt"} - line.keys()):
        raise _BadLine(f"the line has no {' and no '.join(lacking)}; expected tag, include and prompt")
    for key in line.keys() - _KEYS:
        if meant := difflib.get_close_matches(key.lower(), _KEYS - line.keys(), n=1, cutoff=0.8):
            raise _BadLine(f"the line has the key {key!r}; expected {meant[0]!r}")
    for key in ("tag", "prompt"):
        _expect(isinstance(line[key], str) and bool(line[key].strip()), key, line[key], "a non-empty string")
    if fault := unfit(line["tag"], line["prompt"]):
        raise _BadLine(fault)
    include, exclude = line["include"], line.get("exclude", [])
    _expect(isinstance(include, list) and bool(include), "include", include, "a non-empty list of objects")
    _expect(isinstance(exclude, list), "exclude", exclude, "a list of objects")
    for index, item in enumerate(include):
        _check_item(item, f"include[{index}]", {"color", "position"})
        _check_color_position(item, index)
    for index, item in enumerate(exclude):
        _check_item(item, f"exclude[{index}]", set())
    return line


def _check_item(item: object, where: str, optional: set[str]) -> None:
    if not isinstance(item, dict):
        raise _BadLine(f"{where} is {json.dumps(item)}; expected an object")
    _check_keys(item, where, {"class", "count"}, optional)
    _expect(item["class"] in CLASSES, f"{where}.class", item["class"], f"one of {', '.join(CLASSES)}")
    fits = _is_int(item["count"], 1) and item["count"] <= MOST_OBJECTS
    _expect(fits, f"{where}.count", item["count"], f"an integer from 1 to {MOST_OBJECTS:,}")


def _check_color_position(item: dict[str, Any], index: int) -> None:
    where = f"include[{index}]"
    if "color" in item:
        _expect(item["color"] in COLORS, f"{where}.color", item["color"], f"one of {', '.join(COLORS)}")
    if "position" not in item:
        return
    position = item["position"]
    _expect(
        isinstance(position, list) and len(position) == 2, f"{where}.position", position, "[relation, include index]"
    )
    relation, target = position
    _expect(relation in RELATIONS, f"{where}.position[0]", relation, f"one of {', '.join(RELATIONS)}")
    _expect(
        _is_int(target, 0) and target < index,
        f"{where}.position[1]",
        target,
        f"the index of an earlier include (less than {index})",
    )
