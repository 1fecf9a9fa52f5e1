"""Checks that the paper's pipeline lacks: boxes found again by a second look, prompts against chains, duplicates.

A sample that does not pass is rejected with the reasons; it is not repaired.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from got.data.annotate.boxes import frame_in_words, shown
from got.data.annotate.prompts import ask, prompt
from got.data.annotate.replies import candidates_of
from got.plan.chain import iou
from got.util.errors import one_line
from got.vlm.clients import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from got.data.annotate.annotator import Draft, Located, View
    from got.plan.chain import Box1000
    from got.vlm.asker import Asker

_GRID = 8
_NOISE = 2  # grey levels: an even background must not turn into random bits
_BANDS = 4
_NEAR_BITS = 3  # of 64: images that share a band of 16 bits may differ in this many, and any two that do share one
_NEAR_LEVELS = 16  # grey levels of any cell of the thumbnail
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "knives": "knife", "wolves": "wolf", "shelves": "shelf", "leaves": "leaf",
}  # fmt: skip
_MEASURE = re.compile(r".*\b(?:group|pair|couple|bunch|row|pile|stack|herd|flock|set|number|lot|lots)s? of ")


class Checker(Protocol):
    """Looks for things in images without knowing where they are said to be."""

    async def find(self, sample: str, image: Image.Image, names: Sequence[str]) -> list[list[Box1000] | None]:
        """For each name, the boxes where the checker finds such a thing; None where it does not know the word."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standards:
    """What a sample has to meet."""

    min_located: float = 1.0
    """Share of the named objects that have a box; 0 takes chains without boxes, too."""
    min_iou: float = 0.5
    """Overlap with what the checker finds from which a box counts as seen."""


async def reasons(draft: Draft, standards: Standards, checker: Checker | None) -> list[str]:
    """Why a sample is rejected; nothing if it is not. Each reason begins with the name of its check and a colon.

    Raises:
        StageFailed: If a checker that asks a model gets no answer.
    """
    found = [*_unlocated(draft, standards.min_located), *_not_in_chain(draft.named)]
    if checker is not None and not found:
        found += await _unconfirmed(draft, standards.min_iou, checker)
    return found


def _unlocated(draft: Draft, least: float) -> Iterable[str]:
    without = [thing.name for thing in draft.located if thing.box_1000 is None]
    if without and 1 - len(without) / len(draft.located) < least:
        yield f"located: no box for {', '.join(map(repr, without))}"
    if not draft.located and least > 0 and draft.example.source is None:
        yield "located: no object was named"


def _not_in_chain(named: Sequence[tuple[str, str]]) -> Iterable[str]:
    """Names whose noun, in one number or the other, the chain does not contain."""
    for name, chain in named:
        if not noun_of(name) <= _stems(chain):
            yield f"consistency: {name!r} is not in the chain"


def noun_of(name: str) -> set[str]:
    """The noun of a noun phrase, as stems: its last word, of the part before "of", "with", "on", "in" and their like.

    >>> noun_of("two brown dogs with a ball"), noun_of("a pair of boots"), noun_of("berries") == noun_of("a red berry")
    ({'dog'}, {'boot'}, True)
    """
    name = _MEASURE.sub("", name.lower())
    head = re.split(r"\s(?:of|with|on|in|at|from|to|by|under|behind|beside|near|that|who|which)\s", name)[0]
    words = re.findall(r"\w+", head)
    return {_stem(words[-1])} if words else set()


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in re.findall(r"\w+", text.lower())}


def _stem(word: str) -> str:
    """A word without the ending of the plural: rough, but the same on both sides of a comparison."""
    word = _IRREGULAR.get(word, word)
    for ending in ("es", "s"):
        if len(word) > len(ending) + 2 and word.endswith(ending) and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    word = word.removesuffix("e") if len(word) > 3 else word
    return word[:-1] + "i" if word.endswith("y") else word


async def _unconfirmed(draft: Draft, least: float, checker: Checker) -> list[str]:
    found, images = [], {id(thing.image): thing.image for thing in draft.located}
    for key, image in images.items():
        things: list[tuple[Located, Box1000]] = [
            (thing, thing.box_1000) for thing in draft.located if id(thing.image) == key and thing.box_1000
        ]
        seen = await checker.find(draft.example.id, image, [thing.name for thing, _ in things])
        for (thing, box), places in zip(things, seen, strict=True):
            if places is None:
                continue
            best = max((iou(box, place) for place in places), default=0.0)
            if best < least:
                found.append(f"boxes: {thing.name!r} is not where it is said to be (overlap {best:.2f})")
    return found


# ------------------------------------------------------------------------------------------------------------- checkers
class SecondLook:
    """The same model asked in other words, for each object alone and without the description: agreement of two."""

    def __init__(self, asker: Asker, view: View) -> None:
        self._asker, self._view = asker, view

    async def find(self, sample: str, image: Image.Image, names: Sequence[str]) -> list[list[Box1000] | None]:
        """All places that the model gives for a name."""
        found: list[list[Box1000] | None] = []
        sent = shown(image, self._view.convention, self._view.max_pixels, self._view.encoding)
        read = functools.partial(candidates_of, convention=self._view.convention, size_px=sent.size_px)
        frame = frame_in_words(self._view.convention, sent.size_px)
        for name in names:
            words = prompt("reground", name=name, frame=frame)
            found.append(await ask(self._asker, sample, "reground", words, [sent.file], read))
        return found


class Detector:
    """A detector of transformers: of the classes that it was trained on, or of any words (OWL, Grounding DINO)."""

    def __init__(self, place: str, device: str = "cpu", threshold: float = 0.3) -> None:
        """Loads it.

        Args:
            place: Folder or hub id.
            device: torch device.
            threshold: Least score of a detection.

        Raises:
            SetupError: If there is no such detector.
        """
        from transformers import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING, AutoConfig, pipeline

        try:
            config = AutoConfig.from_pretrained(place)
            self._open = type(config) in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING
            task: Any = "zero-shot-object-detection" if self._open else "object-detection"
            self._pipeline: Any = pipeline(task, model=place, device=device)
        except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:  # the last two: no such device
            raise SetupError(f"{place}: no detector can be loaded: {one_line(error)}") from error
        self._threshold = threshold
        self._labels = {str(label).lower() for label in (config.id2label or {}).values()}

    async def find(self, sample: str, image: Image.Image, names: Sequence[str]) -> list[list[Box1000] | None]:
        """Detections whose class is named; None where no class is."""
        del sample
        return await asyncio.to_thread(self._find, image, names)

    def _find(self, image: Image.Image, names: Sequence[str]) -> list[list[Box1000] | None]:
        if self._open:
            return [self._boxes(self._detections(image, candidate_labels=[name]), image) for name in names]
        detections, found = self._detections(image), []
        for name in names:
            stems = _stems(name)
            known = {label for label in self._labels if _stems(label) <= stems}
            fitting = [item for item in detections if item["label"].lower() in known]
            found.append(self._boxes(fitting, image) if known else None)
        return found

    def _detections(self, image: Image.Image, **options: Any) -> list[dict[str, Any]]:
        return list(self._pipeline(image, threshold=self._threshold, **options))

    def _boxes(self, detections: Sequence[dict[str, Any]], image: Image.Image) -> list[Box1000]:
        sides = (image.width, image.height) * 2
        corners = [[item["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")] for item in detections]
        boxes = [[round(1000 * value / side) for value, side in zip(box, sides, strict=True)] for box in corners]
        return [(box[0], box[1], box[2], box[3]) for box in boxes]


# ----------------------------------------------------------------------------------------------------------- duplicates
def signature(image: Image.Image) -> str:
    """What stays nearly the same when an image is scaled or compressed again: 64 bits of gradients, and a thumbnail.

    Hexadecimal: 16 digits (dHash of brightness, 8 x 8), and two for each colour of each cell of 8 x 8.
    """
    grey = np.asarray(image.convert("L").resize((_GRID + 1, _GRID), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1] + _NOISE)
    small = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX), np.uint8)
    return bits.tobytes().hex() + small.tobytes().hex()


class Duplicates:
    """Remembers images and prompts; finds those that were there before."""

    def __init__(self) -> None:
        self._by_band: dict[tuple[str, int, str], list[str]] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    def first_of(self, id: str, request: str, signatures: Sequence[str]) -> str | None:
        """The id of an earlier sample with the same prompt and nearly the same images; None if there is none.

        Args:
            id: Of the sample; a sample is no duplicate of itself.
            request: Prompt or instruction, as it came; case and spaces do not count.
            signatures: Of its images, source first.

        >>> seen = Duplicates()
        >>> [seen.first_of(id, "a dog", ["0" * 400]) for id in ("a", "b")]
        [None, 'a']
        """
        words = " ".join(request.casefold().split())
        width = 16 // _BANDS
        bands = [(words, n, signatures[0][n * width : (n + 1) * width]) for n in range(_BANDS)]
        for band in bands:
            for other in self._by_band.get(band, ()):
                if other != id and _same_images(self._known[other], signatures):
                    return other
        if id not in self._known:
            self._known[id] = tuple(signatures)
            for band in bands:
                self._by_band.setdefault(band, []).append(id)
        return None


def _same_images(ones: Sequence[str], others: Sequence[str]) -> bool:
    return len(ones) == len(others) and all(map(_same_image, ones, others))


def _same_image(one: str, other: str) -> bool:
    bits = (int(one[:16], 16) ^ int(other[:16], 16)).bit_count()
    if bits > _NEAR_BITS:
        return False
    cells = [np.frombuffer(bytes.fromhex(text[16:]), np.uint8).astype(np.int16) for text in (one, other)]
    return int(np.abs(cells[0] - cells[1]).max()) <= _NEAR_LEVELS
