"""GenEval's colour check: zero-shot classification of an object's crop by a CLIP."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.protocols import Embedder


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
