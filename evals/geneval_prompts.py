"""GenEval's 553 prompts, made by our own code, and the reader of prompt files in their format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.records import Case, UserError
from evals.vocabulary import CLASSES, COLORS, RELATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the public ``evaluation_metadata.jsonl``, 553 lines."""

_NUMBERS = {2: "two", 3: "three", 4: "four"}
_SEED = 43
_DRAWS = 100
"""Prompts drawn for each task but the first, before duplicates are dropped."""


def _a(words: str) -> str:
    """The words with their article, chosen by the first letter.

    >>> _a("orange cow"), _a("dog")
    ('an orange cow', 'a dog')
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _line(tag: str, include: list[dict[str, Any]], prompt: str, **exclude: Any) -> dict[str, Any]:
    return {"tag": tag, "include": include, **exclude, "prompt": f"a photo of {prompt}"}


def _two_object(rng: np.random.Generator) -> dict[str, Any]:
    a, b = (CLASSES[i] for i in rng.choice(80, size=2, replace=False))
    return _line("two_object", [{"class": a, "count": 1}, {"class": b, "count": 1}], f"{_a(a)} and {_a(b)}")


def _counting(rng: np.random.Generator) -> dict[str, Any]:
    name = CLASSES[rng.choice(80)]
    count = int(rng.integers(2, 4, endpoint=True))
    plural = name + ("es" if name.endswith("s") else "s")
    exclude = [{"class": name, "count": count + 1}]
    return _line("counting", [{"class": name, "count": count}], f"{_NUMBERS[count]} {plural}", exclude=exclude)


def _colors(rng: np.random.Generator) -> dict[str, Any]:
    name = CLASSES[rng.choice(79) + 1]  # never a person
    color = COLORS[rng.choice(10)]
    return _line("colors", [{"class": name, "count": 1, "color": color}], _a(f"{color} {name}"))


def _position(rng: np.random.Generator) -> dict[str, Any]:
    a, b = (CLASSES[i] for i in rng.choice(80, size=2, replace=False))
    relation = RELATIONS[rng.choice(4)]
    include = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
    return _line("position", include, f"{_a(a)} {relation} {_a(b)}")


def _color_attr(rng: np.random.Generator) -> dict[str, Any]:
    names = [CLASSES[i + 1] for i in rng.choice(79, size=2, replace=False)]  # never a person
    colors = [COLORS[i] for i in rng.choice(10, size=2, replace=False)]
    pairs = list(zip(names, colors, strict=True))
    include = [{"class": name, "count": 1, "color": color} for name, color in pairs]
    return _line("color_attr", include, " and ".join(_a(f"{color} {name}") for name, color in pairs))


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
    lines = [_line("single_object", [{"class": name, "count": 1}], _a(name)) for name in names]
    lines += [draw(rng) for draw in _DRAWN for _ in range(_DRAWS)]
    return [json.loads(text) for text in dict.fromkeys(json.dumps(line) for line in lines)]


def as_text(lines: Iterable[dict[str, Any]]) -> str:
    """Metadata lines as the public file has them: one JSON object per line."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def cases(lines: Iterable[dict[str, Any]]) -> list[Case]:
    """One case per metadata line; its id is the zero-padded line number."""
    return [
        Case(id=f"{index:05d}", prompt=line["prompt"], tag=line["tag"], metadata=line)
        for index, line in enumerate(lines)
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """Metadata lines of a prompt file, each checked.

    Raises:
        UserError: The file cannot be read, is empty, or a line is not in the format of
            ``evaluation_metadata.jsonl``; names the line, the value and what is allowed.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {path}: cannot be read as UTF-8 text ({error})") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            lines.append(_checked(json.loads(text)))
        except json.JSONDecodeError as error:
            raise UserError(f"--prompts {path}: line {number}: not JSON ({error})") from error
        except _BadLine as error:
            raise UserError(f"--prompts {path}: line {number}: {error}") from error
    if not lines:
        raise UserError(f"--prompts {path}: no prompts in the file; expected one JSON object per line")
    return lines


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
    _check_keys(line, "the line", {"tag", "include", "prompt"}, {"exclude"})
    for key in ("tag", "prompt"):
        _expect(isinstance(line[key], str) and bool(line[key].strip()), key, line[key], "a non-empty string")
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
    _expect(_is_int(item["count"], 1), f"{where}.count", item["count"], "an integer of at least 1")


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
