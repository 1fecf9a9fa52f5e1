"""CLIP-I, CLIP-T, CLIPdir and DINO of given embeddings. No model is run here, and none is named: see `images.named`.

Sources: Emu Edit (arXiv 2311.10089) and MagicBrush (2306.10012) for the cosines, InstructPix2Pix (2211.09800) for the
direction. Cosines of two encoders do not compare, so the encoder is part of a metric's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evals.metrics.images import Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ZERO_VECTOR = "a vector of length 0"
EQUAL_CAPTIONS = "captions are equal"
EQUAL_EMBEDDINGS = "images have equal embeddings"


def cosines(a: ArrayLike, b: ArrayLike) -> list[Score]:
    """Cosine of each row of one list of vectors with the same row of another, in [-1, 1]; no percent, no cut at 0.

    With a CLIP this is CLIP-I to the source (result, source), CLIP-I to the target (result, target) or CLIP-T (result,
    target caption); with a DINO it is DINO. Only the name tells them apart: see `named`.

    >>> [score.value for score in cosines([[1, 0], [3, 4]], [[0, 2], [3, 4]])]
    [0.0, 1.0]
    >>> cosines([[0, 0]], [[0, 1]])[0].undefined
    'a vector of length 0'
    """
    x, y = _rows(a), _rows(b)
    if x.shape != y.shape:
        raise ValueError(f"Expected vectors in pairs but got {x.shape} and {y.shape}")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = (x * y).sum(1)
    # Rounding may pass 1 by a bit in the last place.
    return [
        Score(value=float(np.clip(dot / length, -1, 1))) if length > 0 else Score(value=None, undefined=ZERO_VECTOR)
        for dot, length in zip(dots, lengths, strict=True)
    ]


def clip_directions(
    source_images: ArrayLike, result_images: ArrayLike, source_texts: ArrayLike, target_texts: ArrayLike
) -> list[Score]:
    """CLIPdir: does the image change as its caption does? Cosine of the two changes, in [-1, 1], higher is better.

    The changes are differences of embeddings of length 1. Equal captions, or an image left as it was, have no
    direction.

    Args:
        source_images: ``(n, d)`` embeddings before the edit.
        result_images: ``(n, d)`` after it.
        source_texts: ``(n, d)`` embeddings of the captions before.
        target_texts: ``(n, d)`` after.

    >>> x, y = [[1.0, 0.0]], [[0.0, 1.0]]
    >>> round(clip_directions(x, y, x, y)[0].value, 6), round(clip_directions(x, y, y, x)[0].value, 6)
    (1.0, -1.0)
    >>> clip_directions(x, y, x, x)[0].undefined, clip_directions(x, x, x, y)[0].undefined
    ('captions are equal', 'images have equal embeddings')
    """
    before, after, said_before, said_after = (
        _unit(_rows(x)) for x in (source_images, result_images, source_texts, target_texts)
    )
    if not before.shape == after.shape == said_before.shape == said_after.shape:
        raise ValueError(
            f"Expected four lists of vectors of one shape but got {before.shape}, {after.shape}, "
            f"{said_before.shape}, {said_after.shape}"
        )
    images, captions = after - before, said_after - said_before
    still = np.linalg.norm(images, axis=1) < 1e-6
    silent = np.linalg.norm(captions, axis=1) < 1e-6
    return [
        Score(value=None, undefined=EQUAL_CAPTIONS if silent[i] else EQUAL_EMBEDDINGS)
        if silent[i] or still[i]
        else score
        for i, score in enumerate(cosines(images, captions))
    ]


def _rows(vectors: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"Expected vectors (n, d) but got {rows.shape}")
    return rows


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit
