"""What runs are called: by the settings that differ between them, never by the hash of a folder."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from evals.core.options import STAGES
from evals.core.records import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    Told: TypeAlias = tuple[Mapping[str, Any], Mapping[str, Any], str]

_NO_SETTINGS = {"suite", "version", "limit", "tasks", "judge_place"}
"""Parts of an identity that are no setting of a model or a scorer, besides hashes."""
_UNSAID: dict[str, Any] = {"guidance_interval": None, "reference_compat": False}
"""Settings that an identity leaves out where they have their default."""
_SIZE = {"images_per_prompt", "seed", "prompts"}
"""Settings that say which samples there are: they name a run only beside one that has others."""


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's numbers, by the names of their flags, defaults resolved.

    Args:
        spec: run.json.

    >>> spec = {"identity": {"generate": {"suite": "geneval", "model": "got", "steps": None, "weights_sha256": {}}},
    ...         "arguments": {"resolved": {"model": "got", "steps": 10}}}
    >>> settings_of(spec)
    {'model': 'got', 'steps': 10}
    """
    resolved = (spec.get("arguments") or {}).get("resolved") or {}
    identity = spec.get("identity") or {}
    found = {key: value for stage in STAGES for key, value in (identity.get(stage) or {}).items()}
    return {
        key: resolved.get(key) if value is None else value
        for key, value in found.items()
        if key not in _NO_SETTINGS and not key.endswith("sha256")
    }


def in_words(key: str, value: Any) -> str:
    """A setting for people.

    >>> in_words("semantic_scale", 1.0), in_words("model", "folder:/data/sdxl/"), in_words("checkpoint", "runs/full")
    ('semantic scale 1.0', 'folder:sdxl', 'checkpoint full')
    >>> in_words("steps", None), in_words("reference_compat", True)
    ('default steps', 'reference compat')
    >>> in_words("guidance_interval", [0.0, 0.7]), in_words("tasks", ["a", "b"])
    ('guidance interval 0.0 to 0.7', 'tasks a+b')
    """
    name = key.replace("_", " ")
    if value is None:
        return f"default {name}"
    if value is True or value is False:
        return name if value else f"no {name}"
    if isinstance(value, (list, tuple)):
        return f"{name} {'+'.join(value) if all(isinstance(one, str) for one in value) else _short(list(value))}"
    kind, colon, place = str(value).partition(":") if key == "model" else ("", "", str(value))
    shown = f"{kind}{colon}{place.rstrip('/').rpartition('/')[2]}"
    return shown if key == "model" else f"{name} {shown}"


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two records of settings, ``name before → after``; what only one of them knows is no change.

    Nor is what has no value for one of two models: a folder of images has no steps. Of one model none is its default.

    >>> changed({"steps": 10, "seed": 1}, {"steps": 4, "seed": 1})
    ['steps 10 → 4']
    >>> changed({}, {"guidance_interval": [0.0, 0.7]})
    ['guidance interval default → 0.0 to 0.7']
    >>> changed({"model": "got", "steps": 10}, {"model": "folder:a", "steps": None})
    ['model got → folder:a']
    """
    before, after = _UNSAID | dict(before), _UNSAID | dict(after)
    if before.get("model") != after.get("model"):
        before, after = ({key: value for key, value in of.items() if value is not None} for of in (before, after))
    return [
        f"{key.replace('_', ' ')} {_short(before[key])} → {_short(after[key])}"
        for key in before
        if key in after and before[key] != after[key]
    ]


def _short(value: Any) -> str:
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return " to ".join(map(str, value))
    return "default" if value is None else str(value)


def model_of(scores: Mapping[str, Any]) -> str:
    """What drew the images, without the path of a folder.

    >>> model_of({"model": "folder:/data/sdxl"})
    'folder:sdxl'
    """
    return in_words("model", str(scores.get("model", "unknown")))


def names_of(told: Sequence[Told], folders: Sequence[str], given: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Name and label of each run. A label stands in tables beside other methods, and always has the model.

    Runs of one suite are named by the settings that differ between them; where none does, or several runs share all, by
    the prompts that they are of, or else by their folders, without the hash at the end of these.

    Args:
        told: run.json and scores.json of each, in order, and which part of the benchmark it is of.
        folders: What their folders are called, all unlike.
        given: The user's own names, in the same order.

    Raises:
        UserError: There are more names than runs, or fewer, or two are equal.
    """
    if given:
        if len(given) != len(told) or len(set(given)) < len(given):
            raise UserError(f"--names: expected {len(told)} names that differ, but got {', '.join(given)}")
        return [(name, name) for name in given]
    named: dict[int, tuple[str, str]] = {}
    suites = [str(scores.get("suite")) for _, scores, _ in told]
    for suite in dict.fromkeys(suites):
        own = [i for i, other in enumerate(suites) if other == suite]
        found = _of_one_suite([told[i] for i in own], [folders[i] for i in own])
        title = told[own[0]][1].get("title") or {"geneval": "GenEval"}.get(suite, suite)
        prefix = f"{title}: " if len(set(suites)) > 1 else ""
        named |= {i: (prefix + name, label) for i, (name, label) in zip(own, found, strict=True)}
    return [named[i] for i in range(len(told))]


def _of_one_suite(told: Sequence[Told], folders: Sequence[str]) -> list[tuple[str, str]]:
    every = [settings_of(spec) | {"model": model_of(scores)} for spec, scores, _ in told]
    for settings in every:
        settings.pop("judge_prompts", None)  # a hash
    of_model: dict[str, list[dict[str, Any]]] = {}  # what a run of another model has tells no two of this one apart
    for settings in every:
        of_model.setdefault(settings["model"], []).append(settings)
    apart = {model: _differing(own) for model, own in of_model.items()}
    if len(told) == 1:
        given = _given(told[0][0]) - {"model", *_SIZE}
        apart = {model: [key for key in every[0] if key in given] for model in apart}
    short = [", ".join(in_words(key, one.get(key)) for key in apart[one["model"]]) for one in every]
    labels = [", ".join(words for words in (one["model"], own) if words) for one, own in zip(every, short, strict=True)]
    names = short if len(of_model) == 1 < len(told) else labels
    found = list(zip(names, labels, strict=True))
    for name in dict.fromkeys(names):
        alike = [i for i, other in enumerate(names) if other == name]
        if name and len(alike) == 1 and told[alike[0]][0]:
            continue
        parts = [told[i][2] or "all prompts" for i in alike]
        differ = len(set(parts)) == len(alike) > 1
        for i, own in zip(alike, parts if differ else _without_hashes([folders[i] for i in alike]), strict=True):
            named = ", ".join(words for words in (name, own) if words) if differ else own
            found[i] = (named, f"{labels[i]}, {own}" if differ else f"{labels[i]} ({own})")
    return found


def _without_hashes(folders: Sequence[str]) -> list[str]:
    """Folders as the harness names them, without the hash of their settings; numbers where nothing else differs.

    >>> _without_hashes(["geneval-got-0de9c93c", "mine"]), _without_hashes(["a-0de9c93c", "a-4a3c7310"])
    (['geneval-got', 'mine'], ['a 1', 'a 2'])
    """
    bare = [re.sub(r"-[0-9a-f]{8}$", "", folder) for folder in folders]
    return [one if bare.count(one) == 1 else f"{one} {bare[: i + 1].count(one)}" for i, one in enumerate(bare)]


def _differing(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that are not the same in all runs of a model."""
    keys = dict.fromkeys(key for settings in every for key in settings)
    return [key for key in keys if len({str(settings.get(key)) for settings in every}) > 1]


def _given(spec: Mapping[str, Any]) -> set[str]:
    """Settings of what draws that the command line names."""
    words = (spec.get("arguments") or {}).get("given") or ()
    flags = {word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")}
    return flags & set((spec.get("identity") or {}).get("generate", {}))


def listed(text: str) -> tuple[str, ...]:
    """Names between commas; one with a comma stands in quotes.

    >>> listed('4 steps,"b, with a comma"')
    ('4 steps', 'b, with a comma')
    """
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip())


def short_folders(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell it from the others.

    >>> from pathlib import Path
    >>> short_folders([Path("/x/a/run"), Path("/y/a/run"), Path("/y/b")])
    ['x/a/run', 'y/a/run', 'b']
    """
    parts = [path.resolve().parts for path in paths]
    found = []
    for own in parts:
        alone = (n for n in range(1, len(own)) if sum(own[-n:] == other[-n:] for other in parts) == 1)
        found.append("/".join(own[-next(alone, len(own)) :]))
    return found
