"""MagicBrush as `EditCase`s, turn by turn or a session at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.records import EditCase, UserError
from evals.editing.datasets import (
    EditSet,
    Origin,
    fetch,
    file_image,
    parquet_splits,
    read_json,
    rows_of,
    safe_id,
    turn_case,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evals.editing.datasets import Row

MAGICBRUSH = Origin(
    name="MagicBrush",
    licence="CC-BY-4.0; its test set must not be put online",
    page="https://github.com/OSU-NLP-Group/MagicBrush",
    hub_id="osunlp/MagicBrush",
)
_SESSION_KEYS = ("input", "mask", "output", "instruction")


def load_magicbrush(place: str = "osunlp/MagicBrush", mode: str = "single", split: str = "dev") -> EditSet:
    """MagicBrush, the hub's `dev` or `train` split or the unpacked test set.

    Args:
        place: Hub id, folder with Parquet files, or the test set's folder: ``edit_sessions.json`` and
            ``images/SESSION/FILE``; ``global_descriptions.json`` and ``local_descriptions.json`` are optional.
        mode: `single`: every turn starts from the true picture before it. `multi`: one case a session, from its first
            picture to its last target; ``extra["turns"]`` are the instructions, to be done one after the other.
        split: Split of the Parquet files.

    Raises:
        UserError: The data is not there or not as expected.
    """
    if mode not in ("single", "multi"):
        raise UserError(f"Expected the MagicBrush mode single or multi but got {mode!r}")
    path, commit = fetch(place, MAGICBRUSH, (f"**/{split}-*.parquet", f"{split}-*.parquet"))
    if (path / "edit_sessions.json").is_file():
        variant, sessions = "test", _sessions_of_folder(path)
    else:
        files = parquet_splits(path).get(split)
        if files is None:
            raise UserError(f"{place}: no Parquet files of split {split}, and no edit_sessions.json")
        variant, sessions = split, _sessions_of_rows([r for f in files for r in rows_of(f, *_MAGICBRUSH_COLUMNS)])
    cases = [turn for turns in sessions for turn in turns] if mode == "single" else [_last(t) for t in sessions]
    return EditSet(
        origin=MAGICBRUSH, variant=f"{variant}, {mode} turn", cases=unique(cases, str(place)), revision=commit or None
    )


_MAGICBRUSH_COLUMNS = (("img_id", "turn_index", "instruction"), ("source_img", "mask_img", "target_img"))


def _sessions_of_rows(rows: Sequence[Row]) -> list[list[EditCase]]:
    sessions: dict[str, list[EditCase]] = {}
    for row in sorted(rows, key=lambda row: (row.text("img_id"), int(row.values["turn_index"]))):
        name = row.text("img_id")
        sessions.setdefault(name, []).append(turn_case(row, f"{name}_{row.values['turn_index']}", {}))
    return list(sessions.values())


def _sessions_of_folder(root: Path) -> list[list[EditCase]]:
    sessions = read_json(root, "edit_sessions.json")
    if not isinstance(sessions, dict):
        raise UserError(f"{root}/edit_sessions.json: expected an object of sessions but got {type(sessions).__name__}")
    kinds = {"target": "global_descriptions.json", "target_local": "local_descriptions.json"}
    captions = {kind: _captions(root, name) for kind, name in kinds.items()}
    return [_session(root, name, turns, captions) for name, turns in sorted(sessions.items())]


def _captions(root: Path, name: str) -> dict[str, dict[str, str]]:
    """Session -> file -> caption."""
    if not (root / name).is_file():
        return {}
    read = read_json(root, name)
    if not isinstance(read, dict) or not all(isinstance(known, dict) for known in read.values()):
        raise UserError(f"{root / name}: expected captions by session and file")
    return read


def _session(root: Path, name: str, turns: Any, captions: dict[str, dict[str, dict[str, str]]]) -> list[EditCase]:
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{root}/edit_sessions.json: session {name} has no turns")
    cases = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in _SESSION_KEYS):
            raise UserError(
                f"{root}/edit_sessions.json: turn {number} of session {name} lacks one of {', '.join(_SESSION_KEYS)}"
            )
        said = {kind: known.get(name, {}).get(turn["output"], "") for kind, known in captions.items()}
        before = captions["target"].get(name, {}).get(turn["input"], "")
        cases.append(
            EditCase(
                id=safe_id(f"{name}_{number}"),
                instruction=turn["instruction"].strip(),
                source=file_image(root, f"images/{name}/{turn['input']}"),
                target=file_image(root, f"images/{name}/{turn['output']}"),
                mask=file_image(root, f"images/{name}/{turn['mask']}"),
                captions={key: text for key, text in {"source": before, **said}.items() if text},
                category="text-guided",
                group=name,
                extra={"turn_index": number},
            )
        )
    return cases


def _last(turns: Sequence[EditCase]) -> EditCase:
    """A session as one case: all its instructions, first picture to last target."""
    first, last = turns[0], turns[-1]
    captions = {key: text for key, text in last.captions.items() if key != "source"}
    if "source" in first.captions:
        captions["source"] = first.captions["source"]
    return EditCase(
        id=safe_id(str(first.group)),
        instruction=last.instruction,
        source=first.source,
        target=last.target,
        captions=captions,
        category="text-guided",
        group=first.group,
        extra={"turns": [turn.instruction for turn in turns]},
    )
