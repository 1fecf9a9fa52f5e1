"""Three published editing sets as `EditCase`s: Emu-Edit, ImagenHub and Reason-Edit.

Each loader checks what is known of its set (numbers of rows, pairs, names) and says in one line what is wrong.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import EditCase, UserError
from evals.editing.datasets import (
    EditSet,
    Origin,
    fetch,
    file_image,
    inside,
    own_set,
    required,
    rows_of,
    safe_id,
    split_of_size,
    turn_case,
    unique,
)
from got.util.tables import counted

if TYPE_CHECKING:
    from evals.editing.datasets import Row

# ------------------------------------------------------------------------------------------------------------ Emu-Edit
EMU_EDIT = Origin(
    name="Emu-Edit test set",
    licence="CC-BY-NC-4.0",
    page="https://huggingface.co/datasets/facebook/emu_edit_test_set",
    hub_id="facebook/emu_edit_test_set",
    revision="b31936a",
)
EMU_EDIT_GENERATIONS = Origin(
    name="Emu-Edit test set with Emu Edit's own results",
    licence="CC-BY-NC-4.0",
    page="https://huggingface.co/datasets/facebook/emu_edit_test_set_generations",
    hub_id="facebook/emu_edit_test_set_generations",
)
EMU_EDIT_ROWS = 3589
EMU_EDIT_TASKS = ("background", "global", "style", "remove", "add", "local", "texture")
EMU_EDIT_PLACEHOLDER = "a train station in city"
"""A caption that stands under many images it has nothing to do with."""
_EMU_EDIT_WORDS = ("instruction", "task", "split", "idx", "hash", "input_caption", "output_caption")


def load_emu_edit(
    place: str = "facebook/emu_edit_test_set", variant: str = "all", *, rows: int = EMU_EDIT_ROWS
) -> EditSet:
    """The Emu-Edit test set; with Emu Edit's own results, if the data has them.

    The split is found by its number of rows: the set with generations calls the test split "validation". A case has no
    target. `filtered` leaves out the cases whose two captions are equal: CLIPdir has no direction there, and CLIP-T
    asks for the image as it was.

    Args:
        place: Hub id of either set, folder, or Parquet file.
        variant: `all` or `filtered`.
        rows: Number of rows of the wanted split; 2022 is the validation split.

    Raises:
        UserError: The data is not there or not as expected.
    """
    if variant not in ("all", "filtered"):
        raise UserError(f"Expected the Emu-Edit variant all or filtered but got {variant!r}")
    origin = EMU_EDIT_GENERATIONS if place.partition("@")[0] == EMU_EDIT_GENERATIONS.hub_id else EMU_EDIT
    path, commit = fetch(place, origin)
    split, files, size = split_of_size(path, rows)
    generations = all("edited_image" in file.columns for file in files)
    images = ("image", "edited_image") if generations else ("image",)
    if generations:
        origin = EMU_EDIT_GENERATIONS
    notes = [f"rows of split {split!r}"]
    if size != rows:
        origin, words = own_set(origin, place, size, rows)
        notes.insert(0, words)
    found = [row for file in files for row in rows_of(file, _EMU_EDIT_WORDS, images)]
    twice = Counter(safe_id(f"{row.text('task')}_{row.text('idx')}") for row in found)
    cases = [_emu_edit_case(row, twice, generations=generations, own=origin.own) for row in found]
    equal = {case.id for case in cases if _plain(case.captions["source"]) == _plain(case.captions["target"])}
    kept = [case for case in cases if variant == "all" or case.id not in equal]
    placeholders = sum(EMU_EDIT_PLACEHOLDER in map(_plain, case.captions.values()) for case in kept)
    if placeholders:
        notes.append(f"{counted(placeholders, 'cases', 'have')} the placeholder caption {EMU_EDIT_PLACEHOLDER!r}")
    if variant == "all" and equal:
        notes.append(f"{counted(len(equal), 'cases', 'have')} equal captions before and after")
    return EditSet(
        origin=origin,
        variant=variant,
        cases=unique(kept, str(place)),
        revision=commit or None,
        dropped={"captions are equal": len(equal)} if variant == "filtered" else {},
        notes=tuple(notes),
    )


def _emu_edit_case(row: Row, twice: Counter[str], *, generations: bool, own: bool) -> EditCase:
    task = required(row, "task")
    if task not in EMU_EDIT_TASKS and not own:
        known = ", ".join(EMU_EDIT_TASKS)
        raise UserError(f"{row.table.path.name} row {row.number}: expected a task among {known} but got {task!r}")
    name = safe_id(f"{task}_{row.text('idx')}")
    if twice[name] > 1:
        # The index alone may not be unique; the row's own hash then tells cases apart.
        name = safe_id(f"{name}_{row.text('hash')[:12]}")
    return EditCase(
        id=name,
        instruction=required(row, "instruction"),
        source=row.image("image"),
        released=row.image("edited_image") if generations else None,
        captions={"source": row.text("input_caption"), "target": row.text("output_caption")},
        category=task,
        extra={key: row.values[key] for key in ("split", "idx", "hash")},
    )


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split()).rstrip(".")


# ----------------------------------------------------------------------------------------------------------- ImagenHub
IMAGENHUB = Origin(
    name="ImagenHub, text-guided image editing",
    licence="CC-BY-4.0",
    page="https://huggingface.co/datasets/ImagenHub/Text_Guided_Image_Editing",
    hub_id="ImagenHub/Text_Guided_Image_Editing",
)
IMAGENHUB_ROWS = {"filtered": 179, "dev": 528, "extra": 249}
_IMAGENHUB_CAPTIONS = {
    "source_global_caption": "source",
    "target_global_caption": "target",
    "target_local_caption": "target_local",
}


def load_imagenhub(
    place: str = "ImagenHub/Text_Guided_Image_Editing", split: str = "filtered", *, rows: int | None = None
) -> EditSet:
    """ImagenHub's text-guided editing; `filtered` is the benchmark. A case's id is that of the public human ratings.

    Args:
        place: Hub id, folder, or Parquet file.
        split: `filtered`, `dev` or `extra`.
        rows: Expected number of rows; by default the published one.

    Raises:
        UserError: The data is not there or not as expected.
    """
    if split not in IMAGENHUB_ROWS:
        raise UserError(f"Expected an ImagenHub split among {', '.join(IMAGENHUB_ROWS)} but got {split!r}")
    path, commit = fetch(place, IMAGENHUB)
    expected = IMAGENHUB_ROWS[split] if rows is None else rows
    name, files, size = split_of_size(path, expected, split)
    origin, notes = IMAGENHUB, tuple[str, ...]()
    if size != expected:
        origin, said = own_set(IMAGENHUB, place, size, expected)
        split, notes = name, (said,)
    words = ("img_id", "turn_index", "instruction", *_IMAGENHUB_CAPTIONS)
    found = [row for file in files for row in rows_of(file, words, ("source_img", "mask_img", "target_img"))]
    cases = [
        turn_case(
            row,
            f"sample_{row.text('img_id')}_{row.text('turn_index')}",
            {name: row.text(column) for column, name in _IMAGENHUB_CAPTIONS.items()},
        )
        for row in found
    ]
    return EditSet(origin=origin, variant=split, cases=unique(cases, str(place)), revision=commit or None, notes=notes)


# --------------------------------------------------------------------------------------------------------- Reason-Edit
REASON_EDIT = Origin(
    name="Reason-Edit (SmartEdit)",
    licence="none stated by its publisher: keep your copy to yourself",
    page="https://github.com/TencentARC/SmartEdit",
)
REASON_EDIT_FOLDERS = (
    "1-Left-Right",
    "2-Relative-Size",
    "3-Mirror",
    "4-Color",
    "5-Multiple-Objects",
    "6-Reasoning",
)
REASON_EDIT_CASES = 219
_OBJECT = " CLIP: "


def load_reason_edit(place: str | Path) -> EditSet:
    """Reason-Edit from the user's own folder, all six categories.

    A mask belongs to the image of the same stem, whatever else is in the folder; a line of the text file belongs to
    the image at the same place in the list sorted by name, for the file names none.

    Args:
        place: Folder with ``1-Left-Right`` to ``6-Reasoning``, each with ``NAME.png``, ``NAME_mask.jpg`` and one
            text file with lines ``INSTRUCTION CLIP: OBJECT``. Folder names may carry a date behind them.

    Raises:
        UserError: A folder, a mask or a line is missing, or there is one too many.
    """
    root = Path(place)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; get the set from {REASON_EDIT.page}")
    cases: list[EditCase] = []
    notes: list[str] = []
    origin = REASON_EDIT
    for number, name in enumerate(REASON_EDIT_FOLDERS, 1):
        # The published reasoning folder also goes by another name, which the official script does not know.
        found = sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith(f"{number}-"))
        if name == "6-Reasoning" and not found:
            found = sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith("Reasoning"))
        if len(found) != 1:
            raise UserError(f"{root}: expected one folder {name} but got {len(found)}")
        part, odd = _reason_edit_folder(root, found[0], name)
        cases += part
        notes += odd
    if len(cases) != REASON_EDIT_CASES:
        origin, words = own_set(REASON_EDIT, root, len(cases), REASON_EDIT_CASES)
        notes.insert(0, words)
    return EditSet(origin=origin, variant="all", cases=unique(cases, str(root)), notes=tuple(notes))


def _reason_edit_folder(root: Path, folder: Path, category: str) -> tuple[list[EditCase], list[str]]:
    images = sorted(path.stem for path in folder.glob("*.png"))
    masks = {path.name.removesuffix("_mask.jpg") for path in folder.glob("*_mask.jpg")}
    if not images:
        raise UserError(f"{folder}: no images (*.png) there")
    lonely = sorted(set(images) ^ masks)
    if lonely:
        raise UserError(f"{folder}: {len(lonely)} stems lack NAME.png or NAME_mask.jpg, the first is {lonely[0]!r}")
    lines = _reason_edit_lines(folder)
    if len(lines) != len(images):
        raise UserError(f"{folder}: {len(images)} images but {len(lines)} lines of text")
    by_number = sorted(images, key=lambda stem: (int(stem) if stem.isdecimal() else 0, stem))
    notes = []
    if by_number != images:
        notes.append(f"{category}: names without leading zeros; lines are taken in the order of the names as text")
    cases = [
        EditCase(
            id=safe_id(f"{category}_{stem}"),
            instruction=instruction,
            source=file_image(root, f"{folder.name}/{stem}.png"),
            mask=file_image(root, f"{folder.name}/{stem}_mask.jpg"),
            captions={"object": edited},
            category=category,
            group=f"{category}/{stem}",
        )
        for stem, (instruction, edited) in zip(images, lines, strict=True)
    ]
    return cases, notes


def _reason_edit_lines(folder: Path) -> list[tuple[str, str]]:
    texts = sorted(folder.glob("*.txt"))
    if len(texts) != 1:
        raise UserError(f"{folder}: expected one text file but got {len(texts)}")
    path = inside(folder, texts[0].name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from error
    pairs = []
    for number, line in enumerate(text.rstrip().split("\n"), 1):
        instruction, clip, edited = line.partition(_OBJECT)
        if not clip or not instruction.strip() or not edited.strip():
            raise UserError(f"{path} line {number}: expected INSTRUCTION{_OBJECT}OBJECT but got {line[:80]!r}")
        pairs.append((instruction.strip(), edited.strip()))
    return pairs
