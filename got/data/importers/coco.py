"""COCO as chains: captions that people wrote, with the boxes that people drew. Training data that anybody can get.

The images and ``annotations_trainval2017.zip`` are at https://cocodataset.org/#download. Read are
``instances_SPLIT.json`` (boxes ``[x, y, width, height]`` in pixels, categories, crowds) and ``captions_SPLIT.json``
(five or so for each image). The annotations are licensed CC-BY-4.0; the images belong to their photographers, and
the licence that the file names for an image goes with each example.

An example is an image with one of its captions as the prompt. Its chain is the caption, with a box behind a noun that
can mean one annotated object only, and then a sentence with the other objects, largest first:

    A dog <box> (red) lies on a sofa <box> (green). There are also a cup <box> (blue) and another cup <box> (yellow).

A noun is given its box if the caption has one noun of that category, the image one object of it (crowds and small
ones count), and the words mean an object that is there (`got.data.importers.nouns`): no verb, no part of a longer noun
("train station"), nothing denied or painted. What people wrote of objects nobody annotated stays without a box. Crowds,
objects smaller than ``Options.min_area`` of the image and those beyond ``Options.max_boxes`` get none; an image of
which nothing is left is passed over. There is no chance in any of this: the same files give the same chains.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

from got.data.importers.files import Row, files_below, json_items, row_of
from got.data.importers.nouns import object_nouns
from got.data.records import DataError, Example, Provenance, Step
from got.plan.chain import MASK_COLORS, Box1000, format_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from got.data.importers.files import Request

MADE_BY = "got.data.importers.coco 2"
"""Goes up when the same files would give other chains."""

_PAIRS = ("scissors", "skis")


# --------------------------------------------------------------------------------------------------------------- chains
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An annotated object that may get a box."""

    category: str
    box_1000: Box1000
    area: float
    """Part of the image that its box takes, in [0, 1]."""


def box_to_1000(box_xywh_px: Sequence[float], width_px: int, height_px: int) -> Box1000 | None:
    """A box in thousandths of the image, from 0 to 999; None if nothing of it is inside.

    >>> box_to_1000([64.0, 48.0, 320.0, 240.5], 640, 480)
    (100, 100, 600, 601)
    """
    x, y, width, height = box_xywh_px
    xs = [min(max(round(1000 * value / width_px), 0), 999) for value in (x, x + width)]
    ys = [min(max(round(1000 * value / height_px), 0), 999) for value in (y, y + height)]
    return (xs[0], ys[0], xs[1], ys[1]) if xs[0] < xs[1] and ys[0] < ys[1] else None


def write_chain(caption: str, things: Sequence[Thing], counts: Mapping[str, int], max_boxes: int) -> str:
    """The chain of a caption and the objects of its image.

    Args:
        caption: One or more sentences.
        things: Objects that may get a box, largest first.
        counts: Category -> how many objects of it the image has, those without a box too.
        max_boxes: Most boxes; at least 1.

    >>> dog = Thing(category="dog", box_1000=(0, 0, 500, 500), area=0.25)
    >>> cup = Thing(category="cup", box_1000=(600, 600, 900, 900), area=0.09)
    >>> write_chain("A dog sits", [dog, cup], {"dog": 1, "cup": 1}, 10)
    'A dog <|box_start|>(0,0),(500,500)<|box_end|> (red) sits. There is also a cup
    <|box_start|>(600,600),(900,900)<|box_end|> (green).'
    """
    caption = caption.rstrip(" .") + ("" if caption.rstrip().endswith(("!", "?")) else ".")
    nouns = {category: end for category, end in _nouns(caption).items() if counts.get(category) == 1}
    meant = [thing for thing in things if thing.category in nouns]
    chosen = (meant + [thing for thing in things if thing.category not in nouns])[:max_boxes]
    boxed = sorted((thing for thing in chosen if thing.category in nouns), key=lambda thing: nouns[thing.category])
    text, end = "", 0
    for number, thing in enumerate(boxed):
        at = nouns[thing.category]
        text += f"{caption[end:at]} {_box(thing, number)}"
        end = at
    text += caption[end:]
    rest = [thing for thing in chosen if thing.category not in nouns]
    return text + _sentence(rest, len(boxed), also=bool(boxed)) if rest else text


def _box(thing: Thing, number: int) -> str:
    return format_box(thing.box_1000, MASK_COLORS[number % len(MASK_COLORS)])


def _sentence(things: Sequence[Thing], first: int, *, also: bool) -> str:
    """Write ``There are also a cup <box> (blue) and another cup <box> (yellow).``."""
    seen: Counter[str] = Counter()
    items = []
    for number, thing in enumerate(things):
        items.append(f"{_named(thing.category, again=seen[thing.category] > 0)} {_box(thing, first + number)}")
        seen[thing.category] += 1
    listed = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    return f" There {'is' if len(items) == 1 else 'are'}{' also' if also else ''} {listed}."


def _named(category: str, *, again: bool) -> str:
    name = f"pair of {category}" if category in _PAIRS else category
    if again:
        return f"another {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _nouns(caption: str) -> dict[str, int]:
    """Categories that a caption has one noun of -> where the noun ends."""
    found = object_nouns(caption)
    named = Counter(category for category, _ in found)
    return {category: end for category, end in found if named[category] == 1}


# --------------------------------------------------------------------------------------------------------------- reader
@dataclasses.dataclass(slots=True, kw_only=True)
class _Image:
    """What the files say of an image."""

    row: Row
    width_px: int
    height_px: int
    things: list[tuple[float, int, Thing]] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    captions: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def read_coco(request: Request) -> Iterator[Example]:
    """COCO's images with captions and chains, in the order of the instances file; an example for each caption.

    What is kept of the files in memory is the boxes and the captions, some 300 MB for train2017.

    Raises:
        DataError: A file or an item cannot be used, or no image has both captions and boxes.
    """
    instances, captions = _annotation_files(request)
    images, licenses = _read_instances(instances, request)
    _each(captions, "annotations", lambda row: _add_caption(row, images), request)
    request = dataclasses.replace(request, images=_image_folder(request, instances))
    count = 0
    for image in images.values():
        try:
            found = list(_examples(image, licenses, request))
        except DataError as error:
            request.failed(error)
            continue
        count += len(found)
        yield from found
    if not count:
        raise DataError(f"{instances}: no image has both an object large enough and a caption in {captions.name}")


def _annotation_files(request: Request) -> tuple[Path, Path]:
    place, split = request.place, request.options.split
    if place.is_dir():
        found = files_below(place, f"instances_{split or '*'}.json")
        if len(found) != 1:
            there = ", ".join(path.name for path in found) or "none"
            raise DataError(f"{place}: expected one file instances_{split or 'SPLIT'}.json (--split) but got {there}")
        place = found[0]
    captions = place.with_name(place.name.replace("instances_", "captions_", 1))
    if captions == place or not captions.is_file():
        raise DataError(f"{place}: expected a file instances_SPLIT.json with captions_SPLIT.json beside it")
    return place, captions


def _image_folder(request: Request, instances: Path) -> Path:
    """The folder of the images: the one given, one in it named after the split, or COCO's own layout."""
    split = instances.stem.removeprefix("instances_")
    root = instances.parent.parent if request.images is None else request.images
    return root / split if (root / split).is_dir() else root


def _each(path: Path, key: str, read: Callable[[Row], None], request: Request) -> None:
    """Reads every item of an array of the file; items that cannot be read are passed over."""
    for number, value in json_items(path, key):
        try:
            read(row_of(path, f"{key}[{number}]", value))
        except DataError as error:
            request.failed(error)


def _whole(row: Row, field: str, least: int = 0) -> int:
    value = row.values.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise row.error(field, f"expected a whole number from {least} but got {value!r:.60}")
    return value


def _read_instances(path: Path, request: Request) -> tuple[dict[int, _Image], dict[int, str]]:
    """Images with their objects, and licences by number."""
    images: dict[int, _Image] = {}
    categories: dict[int, str] = {}
    licenses: dict[int, str] = {}

    def add_image(row: Row) -> None:
        width, height = _whole(row, "width", 1), _whole(row, "height", 1)
        images[_whole(row, "id")] = _Image(row=row, width_px=width, height_px=height)

    def add_name(names: dict[int, str], row: Row) -> None:
        names[_whole(row, "id")] = row.text(("name",))

    _each(path, "licenses", functools.partial(add_name, licenses), request)
    _each(path, "categories", functools.partial(add_name, categories), request)
    _each(path, "images", add_image, request)
    least = request.options.min_area
    _each(path, "annotations", lambda row: _add_object(row, images, categories, least), request)
    return images, licenses


def _add_object(row: Row, images: Mapping[int, _Image], categories: Mapping[int, str], min_area: float) -> None:
    box: Any = row.values.get("bbox")
    if not _is_box(box):
        raise row.error("bbox", f"expected [x, y, width, height] in pixels but got {box!r:.60}")
    id, image_id, category = (_whole(row, field) for field in ("id", "image_id", "category_id"))
    image = images.get(image_id)
    if image is None:
        return  # a list of images that somebody cut short is no mistake
    if category not in categories:
        there = f"expected one of the file's {len(categories)} categories but got {category}"
        raise row.error("category_id", there)
    area = box[2] * box[3] / (image.width_px * image.height_px)
    box_1000 = box_to_1000(box, image.width_px, image.height_px)
    crowd = bool(row.values.get("iscrowd"))
    image.counts[categories[category]] += 1 + crowd  # a crowd is never one object
    if not crowd and area >= min_area and box_1000 is not None:
        image.things.append((-area, id, Thing(category=categories[category], box_1000=box_1000, area=area)))


_FAR_PX = 1e7
"""No coordinate of an image lies beyond."""


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _FAR_PX for v in box)
        and min(box[2:]) >= 0
    )


def _add_caption(row: Row, images: Mapping[int, _Image]) -> None:
    image = images.get(_whole(row, "image_id"))
    caption = " ".join(row.text(("caption",)).split())
    if "<|" in caption:
        raise row.error("caption", f"expected plain words but got {caption!r:.60}")
    if image is not None:
        image.captions.append((_whole(row, "id"), caption))


def _examples(image: _Image, licenses: Mapping[int, str], request: Request) -> Iterator[Example]:
    if not image.things or not image.captions:
        return
    row = image.row
    things = [thing for _, _, thing in sorted(image.things, key=lambda entry: entry[:2])]
    target = request.image(row, "image", ("file_name",))
    license_id = row.values.get("license")
    photo = licenses.get(license_id, "unknown") if isinstance(license_id, int) else "unknown"
    address = {key: row.values[key] for key in ("flickr_url", "coco_url") if isinstance(row.values.get(key), str)}
    for number, caption in sorted(image.captions):
        chain = write_chain(caption, things, image.counts, request.options.max_boxes)
        yield Example(
            id=f"coco_{row.values['id']}_{number}",
            prompt=caption,
            steps=(Step(chain=chain, target=target),),
            provenance=Provenance(
                dataset=request.dataset,
                license=f"{request.license}; photo: {photo}",
                origin=f"image {row.values['id']}, caption {number}",
                made_by=MADE_BY,
            ),
            extra=address,
        )
