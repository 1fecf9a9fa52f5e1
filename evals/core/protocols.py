"""The roles a back-end can play. Each role is one or two methods; anything with them fits."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.records import Detection, Generated, Judgement, JudgeQuestion, Sample


class Generator(Protocol):
    """Draws images for a batch of samples."""

    name: str

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One result per sample, in order. A sample's result depends on its seed, not on its batch."""


class Detector(Protocol):
    """Finds objects of the 80 GenEval classes."""

    name: str
    min_score: float
    """Detections below this score are not returned."""
    classes: frozenset[str]
    """The GenEval classes that it has a label for: any other is never found."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""


class Embedder(Protocol):
    """A CLIP: images and texts in one space."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""


class ImageEmbedder(Protocol):
    """What turns images into vectors: a CLIP, or a DINO, which reads no text."""

    name: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""


class Judge(Protocol):
    """Scores edits: a vision-language model behind a prompt, or a program that measures."""

    name: str
    """Protocol, judge id and hash of its prompts: part of every metric's name, so that judges never share a column."""

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order. A failed one says why; only a mistake in the set-up raises."""


class Tools:
    """The back-ends that a suite may use while it observes, each built when it is first asked for."""

    def __init__(
        self,
        *,
        detector: Callable[[], Detector],
        embedder: Callable[[], Embedder],
        oracle_render: Callable[[str, int], Image.Image] | None = None,
        device: str = "cpu",
        model: Callable[[str, str], Any] | None = None,
    ) -> None:
        """What builds them.

        Args:
            detector: Makes the detector.
            embedder: Makes the CLIP: a suite that asks for no colour never loads one.
            oracle_render: Draws a chain without a model, ``(chain_text, seed) -> RGB image``; None outside the icon
                world.
            device: Where a suite's own encoders are to run.
            model: Makes what answers in place of a vision-language model of transformers, by its place and device; None
                loads the model.
        """
        self._make_detector, self._make_embedder = detector, embedder
        self.oracle_render, self.device, self.model = oracle_render, device, model

    @functools.cached_property
    def detector(self) -> Detector:
        """Finds objects."""
        return self._make_detector()

    @functools.cached_property
    def embedder(self) -> Embedder:
        """Names colours, and compares images with words."""
        return self._make_embedder()
