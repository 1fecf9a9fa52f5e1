"""The sets that the GoT paper releases: captions and instructions with their chains. Images come from elsewhere.

Laion-Aesthetics-High-Resolution-GoT (3.77 M), JourneyDB-GoT (4.09 M) and OmniEdit-GoT (736 k) are on the hub under
``LucasFang/``. FLUX-GoT (600 k) and SEED-Edit-Multiturn-GoT (180 k) are described by the paper but were not seen there.

What is known of their form. OmniEdit-GoT has a row per edit with ``omni_edit_id``, ``got``, ``coord`` and paths of
images: ``got`` is the chain with placeholders, ``coord`` a JSON text that maps each placeholder to its box. Boxes are
in thousandths, as Qwen2-VL writes them. The other sets' columns could not be confirmed. So each field is looked for
under the names that such sets use (`_NAMES`), ``Options.fields`` names another one, and a row without the field is an
error that says what the row has. Boxes may be in ``coord``, or in the text: ``(x1,y1),(x2,y2)``, with or without Qwen's
box tokens, with or without a mask colour behind it. Colours that are missing are added in `MASK_COLORS`'s order.

OmniEdit's own images are in its Parquet files: give their folder as the folder of images, and chains are joined to
them by ``omni_edit_id``. The chains are then held in memory, about 2 GB for the whole set.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from got.data.importers.edits import (
    SOURCE_NAMES,
    TARGET_NAMES,
    instructions,
    numbered_turns,
    omniedit_example,
    session_examples,
)
from got.data.importers.files import files_below, rows, safe_id
from got.data.records import DataError, Example, Provenance, Step
from got.plan.chain import BOX_END, BOX_START, MASK_COLORS, Chain, format_box, is_color

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from got.data.importers.files import Request, Row

_NAMES = {
    "id": ("id", "image_id", "omni_edit_id", "key", "uuid"),
    "chain": ("got", "GoT", "chain", "got_description"),
    "boxes": ("coord", "coords", "coordinates"),
    "prompt": ("prompt", "caption", "short_caption", "text"),
    "instruction": ("instruction", "edit_instruction", "edited_prompt_list", "edit_prompt", "prompt"),
    "image": ("img_path", "image_path", "image", "img", "path", "file_name", "filename"),
    "source": SOURCE_NAMES,
    "target": TARGET_NAMES,
}
_PAIR = r"\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)\s*,\s*\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)"
_BOX = re.compile(rf"(?:{re.escape(BOX_START)}\s*)?{_PAIR}(?:\s*{re.escape(BOX_END)})?(\s*\((\w+)\))?")
_FOUR = re.compile(r"\s*[\[(]?\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*[\])]?\s*")
_NAME_TOKENS = re.compile(r"<\|obj(?:ect_ref)?_(?:start|end)\|>")
_IMAGE = re.compile(r"(?:<\|im_gen_(?:start|end|\d{4})\|>\s*)+|<begin_of_image>")
_END_TOKENS = re.compile(r"<\|(?:im_end|endoftext)\|>")
_NUMBERED = re.compile(r"[A-Za-z]+_?\d+")


# --------------------------------------------------------------------------------------------------------------- chains
def normal_chain(text: str) -> str:
    """A chain as released, in the chain's grammar: every box between its tokens and with a mask colour.

    >>> normal_chain("A <|obj_start|>cat<|obj_end|> <|box_start|>(0,60),(997,983)<|box_end|> by a pot (1,2),(3,4).")
    'A cat <|box_start|>(0,60),(997,983)<|box_end|> (red) by a pot <|box_start|>(1,2),(3,4)<|box_end|> (green).'

    Raises:
        ValueError: A box reaches outside the image, or has its corners swapped.
    """
    count = 0

    def written(match: re.Match[str]) -> str:
        nonlocal count
        x1, y1, x2, y2 = (int(digits) for digits in match.groups()[:4])
        tail, word = match[5] or "", match[6] or ""
        color, rest = (word, "") if is_color(word) else (MASK_COLORS[count % len(MASK_COLORS)], tail)
        count += 1
        return format_box((x1, y1, x2, y2), color) + rest

    plain = _END_TOKENS.sub("", _IMAGE.sub(" ", _NAME_TOKENS.sub("", text)))
    return _BOX.sub(written, plain).strip()


def with_boxes(texts: Sequence[str], boxes: Any) -> list[str]:
    """Chains with the boxes of ``coord`` in their places.

    A key that is a placeholder (``<box_0>``, ``[COORD]``, ``box_1``) is replaced; one in plain words names an object,
    and its boxes go behind the first place where it stands.

    Args:
        texts: The chains of an example.
        boxes: What ``coord`` has: an object of keys and boxes, or its JSON text; one for all chains, or a list with one
            for each.

    >>> with_boxes(["a dog <box_0> by two cups"], '{"<box_0>": [1, 2, 3, 4], "cups": [[5, 6, 7, 8], [9, 9, 20, 20]]}')
    ['a dog <|box_start|>(1,2),(3,4)<|box_end|> by two cups <|box_start|>(5,6),(7,8)<|box_end|>,
    <|box_start|>(9,9),(20,20)<|box_end|>']

    Raises:
        ValueError: It has another form, or a key is in none of the chains.
    """
    if isinstance(boxes, str):
        try:
            boxes = json.loads(boxes) if boxes.strip() else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON but got {boxes!r:.60} ({error})") from error
    if not boxes:
        return list(texts)
    if isinstance(boxes, list) and len(boxes) == len(texts):
        return [with_boxes([text], own)[0] for text, own in zip(texts, boxes, strict=True)]
    if not isinstance(boxes, dict):
        raise ValueError(f"expected an object of names and boxes but got {boxes!r:.60}")
    if not any(map(_is_placeholder, boxes)) and any(map(_BOX.search, texts)):
        return list(texts)  # the boxes are in the text already
    found = {key: ", ".join(map(_tokens, _boxes(value))) for key, value in boxes.items()}
    keys = re.compile("|".join(_whole(key) for key in sorted(found, key=len, reverse=True)))
    seen: set[str] = set()

    def placed(match: re.Match[str]) -> str:
        key = match[0]
        again = key in seen
        seen.add(key)
        if _is_placeholder(key):
            return found[key]
        return key if again or not found[key] else f"{key} {found[key]}"

    written = [keys.sub(placed, text) for text in texts]
    if missing := [key for key in found if key not in seen]:
        raise ValueError(f"expected {missing[0]!r} in the chain but it is not there")
    _refuse_unfilled(found, written)
    return written


def _refuse_unfilled(keys: Iterable[str], texts: Sequence[str]) -> None:
    """A placeholder like those that had boxes, of another number, has none."""
    numbered = [key for key in keys if _is_placeholder(key) and re.search(r"\d", key)]
    forms = "|".join(re.sub(r"\d+", r"\\d+", _whole(key)) for key in numbered)
    if forms and (left := re.search(forms, " ".join(texts))):
        raise ValueError(f"expected a box for {left[0]!r} of the chain but there is none")


def _is_placeholder(key: str) -> bool:
    return not (key[:1].isalnum() or key[-1:].isalnum()) or _NUMBERED.fullmatch(key) is not None


def _whole(key: str) -> str:
    """Pattern of a key, where it is not part of a longer word."""
    if not key.strip():
        raise ValueError("expected names of boxes but one is empty")
    before, after = (r"\b" if key[end].isalnum() else "" for end in (0, -1))
    return before + re.escape(key) + after


def _tokens(corners: Sequence[int]) -> str:
    x1, y1, x2, y2 = corners
    return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}"


def _boxes(value: Any) -> list[list[int]]:
    """Boxes in any of the forms: four numbers, two corners, a list of boxes, or text."""
    if isinstance(value, str):
        if pairs := re.findall(_PAIR, value):
            return [[int(digits) for digits in pair] for pair in pairs]
        if four := _FOUR.fullmatch(value):
            return [[int(digits) for digits in four.groups()]]
        if not value.strip():
            return []
    elif value is None:
        return []
    elif isinstance(value, list):
        if len(value) == 4 and all(isinstance(number, int) for number in value):
            return [value]
        if len(value) == 2 and all(isinstance(c, list) and len(c) == 2 for c in value):
            return _boxes([*value[0], *value[1]])
        if all(isinstance(box, list | str) for box in value):
            return [box for item in value for box in _boxes(item)]
    raise ValueError(f"expected boxes of four whole numbers in thousandths but got {value!r:.60}")


def _chains(row: Row, request: Request, count: int) -> list[str]:
    """The chains of a row, one for each image that is drawn."""
    name, value = row.find(request.names("chain", _NAMES["chain"]))
    if value is None:
        numbered = [row.values.get(f"{name}_{n + 1}") for n in range(count)]
        value = numbered if any(numbered) else None
    if isinstance(value, str) and count > 1:
        value = [part for part in _IMAGE.split(value) if _END_TOKENS.sub("", part).strip()]
    texts = value if isinstance(value, list) else [row.text(request.names("chain", _NAMES["chain"]))]
    if len(texts) != count or not all(isinstance(text, str) and text.strip() for text in texts):
        raise row.error(name, f"expected {count} chains, one for each image, but got {len(texts)}: {texts!r:.60}")
    field, boxes = row.find(request.names("boxes", _NAMES["boxes"]))
    try:
        texts = with_boxes(texts, boxes)
    except ValueError as error:
        raise row.error(field, str(error)) from error
    try:
        chains = [normal_chain(text) for text in texts]
    except ValueError as error:
        raise row.error(name, str(error)) from error
    if warnings := [warning for chain in chains for warning in Chain.parse(chain).warnings]:
        raise row.error(name, warnings[0])
    return chains


# -------------------------------------------------------------------------------------------------------------- readers
def read_captions(request: Request) -> Iterator[Example]:
    """A released text-to-image set.

    Raises:
        DataError: A file or a row cannot be used.
    """

    def read(row: Row) -> Iterator[Example]:
        prompt = request.text(row, "prompt", _NAMES["prompt"])
        chain = _chains(row, request, 1)[0]
        target = request.image(row, "image", _NAMES["image"])
        yield Example(
            id=_id(row, request),
            prompt=prompt,
            steps=(Step(chain=chain, target=target),),
            provenance=_provenance(row, request),
        )

    yield from request.examples(request.rows(request.place), read)


def read_edits(request: Request) -> Iterator[Example]:
    """A released set of single edits; joined to OmniEdit's Parquet files if the folder of images has them.

    Raises:
        DataError: A file or a row cannot be used, or no chain belongs to any image.
    """
    if request.images is not None and request.images.is_dir() and files_below(request.images, "*.parquet"):
        yield from _joined(request)
        return

    def read(row: Row) -> Iterator[Example]:
        yield Example(
            id=_id(row, request),
            prompt=_prompt(row, request),
            source=request.image(row, "source", _NAMES["source"]),
            steps=(Step(chain=_chains(row, request, 1)[0], target=request.image(row, "target", _NAMES["target"])),),
            provenance=_provenance(row, request),
        )

    yield from request.examples(request.rows(request.place), read)


def _joined(request: Request) -> Iterator[Example]:
    """Chains joined to the images of OmniEdit's Parquet files, in the images' order."""
    chains: dict[str, tuple[str, str]] = {}
    for row in rows(request.place, all_splits=True, failed=request.failed):
        try:
            prompt = _prompt(row, request) if row.find(request.names("prompt", _NAMES["instruction"]))[1] else ""
            chains[request.text(row, "id", ("omni_edit_id",))] = _chains(row, request, 1)[0], prompt
        except DataError as error:
            request.failed(error)
    assert request.images is not None
    # Other names of fields are those of the chains' file, but for the images'.
    fields = {name: other for name, other in request.options.fields.items() if name in ("source", "target")}
    images = dataclasses.replace(request, options=dataclasses.replace(request.options, fields=fields))
    matched = 0

    def read(row: Row) -> Iterator[Example]:
        nonlocal matched
        chain, prompt = chains.get(row.text(("omni_edit_id",)), ("", ""))
        if chain:
            matched += 1
            yield omniedit_example(row, images, chain, prompt)

    yield from request.examples(request.rows(request.images, all_splits=True), read)
    if not matched:
        raise DataError(f"{request.images}: none of its rows has a chain in {request.place} (by omni_edit_id)")


def read_sessions(request: Request) -> Iterator[Example]:
    """The released multi-turn set: SEED-Data-Edit's columns, and a chain for each turn.

    The chains may be a list, numbered as the turns are (``got_1``, ...), or one text with GoT's image tokens after
    each image's part.

    Raises:
        DataError: A file or a row cannot be used.
    """

    def read(row: Row) -> Iterator[Example]:
        turns = numbered_turns(row, request)
        yield from session_examples(
            request,
            _id(row, request),
            request.image(row, "source", _NAMES["source"]),
            turns,
            origin=row.origin,
            chains=_chains(row, request, len(turns)),
        )

    yield from request.examples(request.rows(request.place), read)


def _prompt(row: Row, request: Request) -> str:
    return instructions(row, request.names("prompt", _NAMES["instruction"]))[-1]


def _id(row: Row, request: Request) -> str:
    name, value = row.find(request.names("id", _NAMES["id"]))
    if value is None:
        return f"{safe_id(request.dataset)}_{row.label}"
    if not isinstance(value, str | int) or not str(value):
        raise row.error(name, f"expected an id but got {value!r:.60}")
    return safe_id(str(value))


def _provenance(row: Row, request: Request) -> Provenance:
    return Provenance(dataset=request.dataset, license=request.license, origin=row.origin)
