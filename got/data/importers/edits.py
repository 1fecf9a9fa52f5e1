"""Editing sets without chains: OmniEdit, SEED-Data-Edit's multi-turn part, MagicBrush.

They are what the annotation pipeline starts from. Their examples have empty chains: `Example.annotated` is False, and
`Example.problems` says so.

OmniEdit (TIGER-Lab/OmniEdit-Filtered-1.2M, licence MIT): Parquet, splits ``train`` (1,202,797 rows, 3 TB) and ``dev``
(700). Columns: omni_edit_id, task, src_img, edited_img, edited_prompt_list, width, height, sc_score_1, sc_score_2,
sc_reasoning, pq_score, pq_reasoning, o_score. The list has the instruction in several wordings, short to detailed; the
last is the prompt, and all are kept in ``extra``.

SEED-Data-Edit, part 3 (AILab-CVC/SEED-Data-Edit-Part2-3, licence CC-BY-NC-4.0): JSON lines in
``multi_turn_editing/annotations/split_*.jsonl``, one round each: source_image, then instruction_1, edit_image_1,
instruction_2, ... up to five or six; turns that a round does not have are absent, null or empty. Paths are relative to
``multi_turn_editing/images``, which comes as a split archive to be unpacked. Some images of that archive are damaged.

MagicBrush (osunlp/MagicBrush, licence CC-BY-4.0): Parquet, splits ``train`` (8,807 turns) and ``dev`` (528). Columns:
img_id, turn_index (from 1), source_img, mask_img, instruction, target_img; each turn starts from the target of the one
before. Its test set, a folder with ``edit_sessions.json``, is for measuring and must not be trained on; it is refused.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.data.importers.files import Row, data_files, safe_id
from got.data.records import DataError, Example, Provenance, Step
from got.util.parquet import ParquetTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from got.data.importers.files import Request

SOURCE_NAMES = (
    "source_image",
    "src_img",
    "source_img",
    "src_img_path",
    "source_img_path",
    "source_image_path",
    "source",
)
"""Names under which sets have the image that an edit starts from."""
TARGET_NAMES = (
    "edited_img",
    "target_img",
    "target_image",
    "edited_image",
    "edited_img_path",
    "target_img_path",
    "target",
)
"""Names under which sets have the edited image."""
_SCORES = ("task", "width", "height", "sc_score_1", "sc_score_2", "pq_score", "o_score", "sc_reasoning", "pq_reasoning")


# ------------------------------------------------------------------------------------------------------------- OmniEdit
def read_omniedit(request: Request) -> Iterator[Example]:
    """OmniEdit's rows as edits without a chain.

    Raises:
        DataError: A file or a row cannot be used.
    """
    found = request.rows(request.place)
    yield from request.examples(found, lambda row: [omniedit_example(row, request)])


def omniedit_example(row: Row, request: Request, chain: str = "", prompt: str = "") -> Example:
    """One row of OmniEdit.

    Args:
        row: The row, with both images.
        request: What was asked.
        chain: Its chain, if somebody has written one.
        prompt: The instruction that the chain was written for; the row's own if empty.

    Raises:
        DataError: The row lacks something.
    """
    name = request.text(row, "id", ("omni_edit_id",))
    wordings = instructions(row, request.names("prompt", ("edited_prompt_list", "edited_prompt", "instruction")))
    known = {key: row.values.get(key) for key in _SCORES}
    # NaN, which JSON does not have, is the one value that differs from itself.
    extra: dict[str, Any] = {key: value for key, value in known.items() if value is not None and value == value}
    return Example(
        id=safe_id(name),
        prompt=prompt or wordings[-1],
        source=request.image(row, "source", SOURCE_NAMES),
        steps=(Step(chain=chain, target=request.image(row, "target", TARGET_NAMES)),),
        provenance=Provenance(dataset=request.dataset, license=request.license, origin=f"{name} ({row.origin})"),
        extra={**extra, "prompts": wordings},
    )


def instructions(row: Row, names: Sequence[str]) -> list[str]:
    """The wordings of an instruction: a list of texts, or one.

    Raises:
        DataError: There are none.
    """
    name, value = row.find(names)
    if isinstance(value, list):
        if not all(isinstance(text, str) for text in value):
            raise row.error(name, f"expected a list of texts but got {value!r:.60}")
        wordings = [text.strip() for text in value if text.strip()]
        if not wordings:
            raise row.error(name, "expected at least one text but there is none")
        return wordings
    return [row.text(names)]


# ---------------------------------------------------------------------------------------------------------- multi-turn
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a session."""

    instruction: str
    target: bytes | Path


def numbered_turns(row: Row, request: Request) -> list[Turn]:
    """Turns written as ``instruction_1``, ``edit_image_1``, ``instruction_2``, ...

    Raises:
        DataError: There are none; or a turn has only one of the two, or stands behind a gap.
    """
    keys = request.names("instruction", ("instruction",))[0], request.names("target", ("edit_image",))[0]
    last = max((n for n in range(1, 100) if any(row.values.get(f"{key}_{n}") for key in keys)), default=0)
    if not last:
        raise row.error(f"{keys[0]}_1", f"expected a turn but the row has {', '.join(sorted(row.values)) or 'nothing'}")
    return [
        Turn(
            instruction=row.text((f"{keys[0]}_{n}",)),
            target=row.image((f"{keys[1]}_{n}",), request.root, request.options.strip_prefix),
        )
        for n in range(1, last + 1)
    ]


def session_examples(
    request: Request,
    name: str,
    source: bytes | Path,
    turns: Sequence[Turn],
    *,
    origin: str,
    chains: Sequence[str] = (),
) -> Iterator[Example]:
    """A session as one multi-turn example, or turn by turn if the request says so.

    Args:
        request: What was asked.
        name: Id of the session.
        source: The image before the first turn.
        turns: The turns, in order; at least one.
        origin: Where the session stands in its set.
        chains: A chain for each turn; none yet if empty.
    """
    steps = [
        Step(chain=chain, target=turn.target, instruction=turn.instruction)
        for turn, chain in zip(turns, chains or [""] * len(turns), strict=True)
    ]
    whole = Example(
        id=name,
        prompt=" ".join(_sentence(turn.instruction) for turn in turns) if len(turns) > 1 else turns[0].instruction,
        source=source,
        steps=tuple(steps),
        provenance=Provenance(dataset=request.dataset, license=request.license, origin=origin),
    )
    if not request.options.single_turn or len(turns) == 1:
        yield whole
        return
    for number, step in enumerate(steps):
        yield dataclasses.replace(
            whole,
            id=f"{name}_{number + 1}",
            prompt=step.instruction,
            source=turns[number - 1].target if number else source,
            steps=(dataclasses.replace(step, instruction=""),),
        )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def read_seed(request: Request) -> Iterator[Example]:
    """SEED-Data-Edit's multi-turn part, without chains.

    Raises:
        DataError: A file or a row cannot be used.
    """
    if request.place.is_dir() and (request.place / "multi_turn_editing" / "annotations").is_dir():
        # The hub's folder as a whole, with part 2 beside it, which has single turns.
        part = request.place / "multi_turn_editing"
        images = part / "images" if request.images is None else request.images
        request = dataclasses.replace(request, place=part / "annotations", images=images)
    elif request.images is None and (beside := request.place.parent / "images").is_dir():
        request = dataclasses.replace(request, images=beside)

    def read(row: Row) -> Iterator[Example]:
        source = request.image(row, "source", SOURCE_NAMES)
        turns = numbered_turns(row, request)
        yield from session_examples(request, f"seed_{row.label}", source, turns, origin=row.origin)

    yield from request.examples(request.rows(request.place), read)


# ---------------------------------------------------------------------------------------------------------- MagicBrush
_TURN_COLUMNS = ("img_id", "turn_index", "source_img", "instruction", "target_img")


def read_magicbrush(request: Request) -> Iterator[Example]:
    """MagicBrush's Parquet files by session, without chains.

    The turns of an image may stand anywhere in the files: their numbers are read first, the images when their turn
    comes. Where a number is missing, the turns behind the gap make a session of their own, for they start from another
    image.

    Raises:
        DataError: A file or a row cannot be used, or it is the test set.
    """
    if (request.place / "edit_sessions.json").is_file() or request.place.name == "edit_sessions.json":
        raise DataError(f"{request.place}: MagicBrush's test set is for measuring (evals), and must not be trained on")
    sessions: dict[str, dict[int, tuple[ParquetTable, int]]] = {}
    for path in data_files(request.place, request.options.split):
        table = ParquetTable(path, DataError)
        for number, values in enumerate(table.rows(_TURN_COLUMNS[:2])):
            try:
                row = _turn(table, number, values)
                turns, turn = sessions.setdefault(row.text(("img_id",)), {}), row.values["turn_index"]
                if not isinstance(turn, int) or turn < 1 or turn in turns:
                    raise row.error("turn_index", f"expected a new number from 1 but got {turn!r}")
                turns[turn] = (table, number)
            except DataError as error:
                request.failed(error)
    for name, turns in sessions.items():
        for run in _runs(sorted(turns)):
            try:
                found = list(_session(name, {turn: _turn(*turns[turn]) for turn in run}, request))
            except DataError as error:
                request.failed(error)
                continue
            yield from found


def _turn(table: ParquetTable, number: int, values: dict[str, Any] | None = None) -> Row:
    """A row, with all columns if its values are not given."""
    return Row(values=values or table.row(number, _TURN_COLUMNS), file=table.path, place=f"row {number}")


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Groups of numbers that follow each other without a gap."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _session(name: str, rows: dict[int, Row], request: Request) -> Iterator[Example]:
    start, first = next(iter(rows.items()))
    yield from session_examples(
        request,
        f"magicbrush_{safe_id(name)}" + (f"_from{start}" if start > 1 else ""),
        request.image(first, "source", ("source_img",)),
        [
            Turn(
                instruction=request.text(row, "instruction", ("instruction",)),
                target=request.image(row, "target", ("target_img",)),
            )
            for row in rows.values()
        ],
        origin=f"img_id {name} ({first.origin})",
    )
