"""A local judge's questions about one image, as GenEval 2 asks them: the image read once, and all as one batch.

Held against each question by itself, with the image before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench_scoring import compare
from PIL import Image
from vlm_kit import build

from got.util.images import png_bytes
from got.vlm.clients import AskParams, Reply
from got.vlm.local import TransformersBackend
from got.vlm.messages import USER, ImageFile, Message

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from got.vlm.clients import Together

IMAGES, QUESTIONS = 3, 8
"""GenEval 2 has 7.5 questions a prompt, and one about the prompt as a whole."""
SIDE_PX = 448
"""256 tokens: an image of a real judge has 1,000 or so."""
YES = ("Yes", "yes", " yes", " Yes")


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def bench_questions_about_one_image(measure: BenchmarkFixture, tmp_path: Path, kind: str) -> None:
    """One token an answer, whose probabilities both ways give alike."""
    text = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}}
    place = str(build(tmp_path / "m", kind=kind, side_px=SIDE_PX, text={**text, "head_dim": 64}))
    shared, alone = TransformersBackend(place), TransformersBackend(place, kept=0)
    rng = np.random.default_rng(0)
    asked: list[Together] = []
    for _ in range(IMAGES):
        pixels = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        image = ImageFile(data=png_bytes(Image.fromarray(pixels)))
        words = (f"Are there any things of kind {number}? Answer in one word." for number in range(QUESTIONS))
        asked.append(tuple(((Message(role=USER, parts=(image, one)),), YES) for one in words))
    params = AskParams(max_tokens=1)

    def once() -> list[Reply]:
        shared._prefixes._kept.clear()
        shared._answered.clear()
        return [reply for questions in asked for reply in shared.answers(questions, params)]

    def plain() -> list[Reply]:
        return [alone.answers((one,), params)[0] for questions in asked for one in questions]

    found, expected = compare(measure, once, plain)
    for one, other in zip(found, expected, strict=True):
        assert one.spelled == pytest.approx(other.spelled, rel=1e-4)
