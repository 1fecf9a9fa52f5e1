"""Which command a run directory belongs to: what its stages were made with, and which ones may be made anew.

The one rule: a stage that stands must have been made with what the command says, and with the same stages before it.
run.json keeps a hash for each stage (`made_with`); files of a stage that has none are left over, and are cleared.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.options import CASES, GENERATE, OBSERVE, STAGES, VERDICT, as_json, flags_of
from evals.core.records import UserError
from evals.core.run_directory import differences, key_of
from evals.generators.folder_images import change, content, counted_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evals.core.run_directory import Key, RunDirectory
    from evals.harness.plan import Plan

Identity = dict[str, dict[str, Any]]

STANDING = {None: STAGES, GENERATE: (GENERATE,), OBSERVE: (GENERATE,), VERDICT: (GENERATE, OBSERVE)}
"""Stage to begin with (None: resume) -> the stages whose arguments must be those of the run."""

FILES = ("weights_sha256", "folder_sha256")
"""Parts of an identity that lie in files, not in arguments."""
_PLACES = (*FILES, "judge_place")
"""Parts of an identity that may also come from the environment."""
_OF_CASES = ("prompts_sha256", "judge_prompts")
"""Parts of an identity that hash what its cases ask for, of a model and of a judge."""


def hashes(identity: Identity) -> dict[str, str]:
    """A hash for each stage of all that decides it, the stages before it included.

    >>> one, two = hashes({"generate": {"seed": 1}, "observe": {}}), hashes({"generate": {"seed": 2}, "observe": {}})
    >>> [one[stage] == two[stage] for stage in STAGES]
    [False, False, False]
    """
    found, text = {}, ""
    for stage in STAGES:
        text = hashlib.sha256(json.dumps([text, identity.get(stage, {})], sort_keys=True).encode()).hexdigest()
        found[stage] = text
    return found


def made_with(spec: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of a run's stages. Older runs keep none: theirs are made here, for all stages not being redone."""
    if "made_with" in spec:
        return dict(spec["made_with"])
    cleared = STAGES.index(spec["clearing"]) if spec.get("clearing") else len(STAGES)
    known = hashes(spec["identity"])
    return {stage: known[stage] for stage in STAGES[:cleared]}


def left_over(spec: Mapping[str, Any]) -> str | None:
    """The first stage without a hash, whose files are from before a redo; None if all have one."""
    found = made_with(spec)
    return next((stage for stage in STAGES if stage not in found), None)


def as_now(spec: Mapping[str, Any], plan: Plan) -> Identity:
    """An older run's identity as it would be now: its folder's path resolved, and its images taken to be as they are.

    Later stages go by what the run has, whatever the folder holds. Where it has no setting of the generator, the one
    that it recorded as the generator's own holds.
    """
    identity, resolved = spec["identity"], spec.get("arguments", {}).get("resolved", {})
    generate = {
        key: resolved.get(key) if value is None else value
        for key, value in identity.get(GENERATE, {}).items()
        if key != "images_sha256"
    }
    kind, _, place = str(generate.get("model", "")).partition(":")
    if kind == "folder":
        generate["model"] = f"folder:{Path(place).resolve()}"
        now = plan.identity[GENERATE]
        if plan.settings.start is None and generate["model"] == now["model"]:
            generate = {"folder_sha256": now["folder_sha256"], **generate}
    return {**identity, GENERATE: generate}


def of_run(plan: Plan, old: Identity, stand: tuple[str, ...]) -> Identity:
    """The plan's identity, but for what stages that stand keep.

    They keep the files that they were made of, moved or changed as they may be, and the generator's own settings where
    no flag says otherwise.

    Args:
        plan: What the command says.
        old: The run's identity.
        stand: The stages of which nothing is done again.
    """
    identity = dict(plan.identity)
    for stage in stand:
        arguments = {key: value for key, value in identity[stage].items() if key not in _PLACES}
        kept = (*_PLACES, *(plan.usual.keys() - plan.spec.given))
        identity[stage] = arguments | {key: old[stage][key] for key in kept if key in old[stage]}
    generate, before = identity[GENERATE], old.get(GENERATE, {})
    if plan.settings.start != GENERATE and "folder_sha256" not in before:
        # Older runs do not say which images they were given.
        generate = {key: value for key, value in generate.items() if key != "folder_sha256"}
    elif "folder_sha256" in generate and generate["folder_sha256"] == before["folder_sha256"]:
        generate = {**generate, "model": before["model"]}  # the same images at another place
    return {**identity, GENERATE: generate}


def other_cases(spec: Mapping[str, Any], options: object) -> list[str]:
    """Which of a suite's options that choose its cases are not those of a run, a line each: such as its edition.

    Args:
        spec: The run's ``run.json``; of an option that the run does not know nothing is said.
        options: The command's.
    """
    known, now = spec.get("arguments", {}).get("resolved", {}), as_json(options)
    names = [field.name for field, flag in flags_of(options) if flag.stage == CASES and field.name in known]
    return differences({name: known[name] for name in names}, {name: now[name] for name in names})


def check(start: str | None, old: Identity, new: Identity, place: Path, cases: Sequence[str] = ()) -> None:
    """Refuses a directory whose standing stages were made with something else.

    Args:
        start: The stage to begin with.
        old: The run's identity.
        new: The command's.
        place: The run directory.
        cases: What `other_cases` says: the message has it in place of hashes of what the cases ask for.

    Raises:
        UserError: They were; the message has the differences.
    """
    before, now = hashes(old), hashes(new)
    suites = [one.get(GENERATE, {}).get("suite") for one in (old, new)]
    if None not in suites and suites[0] != suites[1]:
        raise UserError(f"{place} is a run of {suites[0]}, not of {suites[1]}; choose another --output")
    if all(before[stage] == now[stage] for stage in STANDING[start]):
        return
    changed = {stage: differences(old.get(stage, {}), new[stage]) for stage in STAGES}
    refused = [line for stage in STANDING[start] for line in changed[stage]]
    if start == GENERATE:  # draws from what the files hold now
        refused = [line for line in refused if not line.startswith(FILES)]
    if not refused:
        return
    if cases and any(line.startswith(_OF_CASES) for line in refused):
        refused = [*cases, *(line for line in refused if not line.startswith(_OF_CASES))]
    what = "files" if all(line.startswith(FILES) for line in refused) else "arguments"
    advice = "choose another --output"
    if all(line.startswith(FILES) for line in changed[GENERATE]):
        stage = next(stage for stage in STAGES if changed[stage])
        advice += f" or redo this one with --from {stage}"
    raise UserError(f"{place} was made with other {what} ({'; '.join(refused)}); {advice}")


def changed_images(
    plan: Plan, directory: RunDirectory, old: dict[str, Any], new: dict[str, Any]
) -> dict[Key, tuple[str, str]]:
    """The samples whose file in the user's folder is another: ``changed``, ``added`` or ``deleted``, and its name.

    Args:
        plan: The command's plan.
        directory: The run.
        old: The generate part of its identity.
        new: That of the command.

    Raises:
        UserError: Most files have changed: these are other images, and the run's results would be lost.
    """
    known_files = directory.read(directory.sources) if directory.sources.exists() else []
    before = {key_of(line): line for line in known_files}
    same_otherwise = all(line.startswith("folder_sha256") for line in differences(old, new))
    if plan.settings.start is not None or not before or not same_otherwise:
        return {}
    now = {key_of(line): line for line in plan.sources}
    changed = [key for key in now if key not in before or content(now[key]) != content(before[key])]
    replaced = [key for key in changed if before.get(key, {}).get("sha256")]
    known = sum(bool(line["sha256"]) for line in before.values())
    found = {key: change(before.get(key), now[key]) for key in changed}
    if 2 * len(replaced) > known:
        what = f"of its {known:,} images {counted_changes([found[key] for key in replaced])}"
        advice = "choose another --output or redo this one with --from generate"
        raise UserError(f"{directory.path} was made with other files ({what}); {advice}")
    return found
