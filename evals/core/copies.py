"""Small copies of an edit's source and target in the run directory, so that reports show them without the data set."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from got.util.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from evals.core.records import EditCase, EncodedImage

LONGEST_PX = 256
"""Longer side of the copies; smaller images keep their size."""


def keep(folder: Path, edit: EditCase) -> None:
    """Writes ``source.webp`` and ``target.webp``, as far as the data have them; drawn once."""
    from PIL import Image

    for name, given in (("source", edit.source), ("target", edit.target)):
        path = folder / f"{name}.webp"
        image = None if path.is_file() else loaded(given)
        if image is not None:
            small, buffer = image.copy(), io.BytesIO()
            small.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
            small.save(buffer, "WEBP", quality=90)
            write_atomic(path, buffer.getvalue())


def loaded(image: EncodedImage | None) -> Image.Image | None:
    """An image of the data, for people to look at; None where there is none that can be read."""
    try:
        return None if image is None else image.load()
    except ValueError:
        return None
