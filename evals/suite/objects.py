"""Objects in images, for suites that look for them: crops, colours, and detections as the log has them."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Detection
from evals.core.vocabulary import COLORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.backends import Embedder


BACKGROUND = "#999"
"""Paint for what lies outside an object's mask when its colour is asked for."""


def crop(image: Image.Image, detection: Detection) -> Image.Image:
    """The object's box cut out of its image, everything outside its mask painted grey if there is a mask."""
    from PIL import Image

    if detection.mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), Image.fromarray(detection.mask))
    x1, y1, x2, y2 = (round(value) for value in detection.box_xyxy_px)
    return image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def with_colors(
    images: Sequence[Image.Image],
    found: Sequence[Sequence[Detection]],
    wanted: Sequence[Sequence[Detection]],
    embedder: Embedder,
) -> list[list[Detection]]:
    """Detections, with the colour of those for which it is wanted, in one call of the embedder.

    Args:
        images: RGB.
        found: The detections of each.
        wanted: Those of them whose colour is asked for.
        embedder: The CLIP; it is asked nothing where nothing is wanted.
    """
    pairs = [(image, one) for image, some in zip(images, wanted, strict=True) for one in some]
    colors: dict[int, str] = {}
    if pairs:
        named = classify_colors(embedder, [crop(*pair) for pair in pairs], [one.name for _, one in pairs], COLORS)
        colors = {id(one): color for (_, one), color in zip(pairs, named, strict=True)}
    return [[dataclasses.replace(one, color=colors.get(id(one))) for one in some] for some in found]


def by_class(detections: Iterable[Detection]) -> dict[str, tuple[Detection, ...]]:
    """Detections by the name of their class, in order."""
    found: dict[str, tuple[Detection, ...]] = {}
    for one in detections:
        found[one.name] = (*found.get(one.name, ()), one)
    return found


def as_log(detections: Iterable[Detection]) -> list[dict[str, Any]]:
    """Detections as an observation has them."""
    # Every digit: a rounded score or box could change a verdict when the log is scored again.
    return [
        {
            "name": one.name,
            "score": float(one.score),
            "box_xyxy_px": [float(value) for value in one.box_xyxy_px],
            "color": one.color,
        }
        for one in detections
    ]


def from_log(logged: Iterable[Mapping[str, Any]]) -> list[Detection]:
    """The inverse of `as_log`, without masks.

    >>> one = Detection(name="dog", score=0.5, box_xyxy_px=(1.0, 2.0, 3.0, 4.0), color="red")
    >>> [(d.name, d.box_xyxy_px, d.color) for d in from_log(as_log([one]))]
    [('dog', (1.0, 2.0, 3.0, 4.0), 'red')]
    """
    return [
        Detection(name=one["name"], score=one["score"], box_xyxy_px=tuple(one["box_xyxy_px"]), color=one["color"])
        for one in logged
    ]


# -------------------------------------------------------------------------------------------------------------- colours
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""GenEval's templates."""
_CLASSIFIERS: weakref.WeakKeyDictionary[Any, dict[tuple[str, tuple[str, ...]], NDArray[np.float32]]]
_CLASSIFIERS = weakref.WeakKeyDictionary()


def classify_colors(
    embedder: Embedder, crops: Sequence[Image.Image], names: Sequence[str], colors: Sequence[str]
) -> list[str]:
    """GenEval's zero-shot colour of each crop: the colour whose averaged templates are nearest.

    Args:
        embedder: The CLIP.
        crops: RGB images of one object each.
        names: Class of each crop, part of the templates.
        colors: The colours to choose from.
    """
    if not crops:
        return []
    texts = _classifiers(embedder, sorted(set(names)), tuple(colors))
    images = embedder.embed_images(crops)
    return [colors[int((texts[name] @ image).argmax())] for name, image in zip(names, images, strict=True)]


def _classifiers(embedder: Embedder, names: Sequence[str], colors: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Class name -> unit vectors of the colours (colours, d); new names are embedded together and remembered."""
    known = _CLASSIFIERS.setdefault(embedder, {})
    new = [name for name in names if (name, colors) not in known]
    if new:
        texts = [t.format(color=c, name=name) for name in new for c in colors for t in TEMPLATES]
        vectors = embedder.embed_texts(texts).reshape(len(new), len(colors), len(TEMPLATES), -1).mean(2)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        known.update({(name, colors): vector for name, vector in zip(new, vectors, strict=True)})
    return {name: known[name, colors] for name in names}
