"""One vector per image and text, whatever metric or suite asks for it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from got.util.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_CHECKSUM_BYTES = 8
"""Behind each vector in its file."""


class EmbeddingCache:
    """An encoder that embeds each image and each text once, whatever asks for it.

    Keys are hashes of pixels and texts, so the same image under two names costs one pass. With a folder, vectors
    outlive the process and are shared by suites: one file each, below a name made of the encoder's label and weights.
    """

    def __init__(self, embedder: Any, folder: Path | None = None) -> None:
        self.name: str = embedder.name
        self.embedder = embedder
        self._folder = None if folder is None else folder / fingerprint(embedder)
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d); the new ones in one batch."""
        return self._look_up([_content(image) for image in images], images, self.embedder.embed_images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d); the new ones in one batch."""
        keys = [hashlib.sha256(b"text\0" + text.encode()).hexdigest() for text in texts]
        return self._look_up(keys, texts, self.embedder.embed_texts)

    def _look_up(
        self, keys: Sequence[str], items: Sequence[Any], embed: Callable[[list[Any]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        self._known.update({key: v for key in set(keys) - self._known.keys() if (v := self._read(key)) is not None})
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        if new:
            for key, vector in zip(new, embed(list(new.values())), strict=True):
                self._known[key] = vector
                if self._folder is not None:
                    data = vector.astype("<f4").tobytes()
                    write_atomic(self._folder / key[:2] / key, data + _checksum(key, data))
        return np.stack([self._known[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)

    def _read(self, key: str) -> NDArray[np.float32] | None:
        path = None if self._folder is None else self._folder / key[:2] / key
        if path is None or not path.is_file():
            return None
        content = path.read_bytes()
        data, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        # What is damaged, or of a version without checksums, is made anew.
        return np.frombuffer(data, "<f4") if data and checksum == _checksum(key, data) else None


def _checksum(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + data).digest()[:_CHECKSUM_BYTES]


def _content(image: Image.Image) -> str:
    digest = hashlib.sha256(f"image\0{image.mode}\0{image.width}\0{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def fingerprint(embedder: Any) -> str:
    """Short hash of an encoder: its label and preprocessing, and every weight. Two encoders never share a cache."""
    import torch

    # A function's printed form holds its address, which is another one in every process.
    preprocess = re.sub(r" at 0x[0-9a-f]+", "", str(embedder._preprocess))
    digest = hashlib.sha256(f"{embedder.name}\0{preprocess}\0".encode())
    for key, tensor in sorted(embedder.network.state_dict().items()):
        digest.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
