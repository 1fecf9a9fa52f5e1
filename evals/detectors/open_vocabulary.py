"""Detectors of transformers that find what they are told to: prompted with GenEval's 80 class names.

Two families. Grounding DINO (and MM-Grounding-DINO) reads all names as one text, "person. bicycle. ...", as long as its
text encoder allows; what does not fit goes into further texts, each a look of its own. A class's score in a box is the
mean of the probabilities of its name's tokens, as in the authors' evaluation on COCO, so no phrase has to be read back.
OWL-ViT and OWLv2 read one text per class, "a photo of a person", and score each against every patch. In both, a box
belongs to its best class.

Their scores are no probabilities that a box is right, and lower than those of a detector trained on the 80 classes:
GenEval's thresholds, above all the 0.9 of counting, mean something else here. Everything from 0.05 up is logged, so
that others can be tried with ``--from verdict``.
"""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from evals.core.records import Detection, UserError
from evals.core.vocabulary import CLASSES
from evals.detectors.photo import MIN_SCORE, best_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from PIL import Image

_LOG = logging.getLogger(__name__)
IMAGE_INPUTS = ("pixel_values", "pixel_mask")
"""What a network is given of an image."""
TEXT_INPUTS = ("input_ids", "attention_mask")
"""What these networks are given beside the image."""
TEMPLATE = "a photo of a {name}"
"""OWL-ViT's and OWLv2's own."""
_GROUNDED, _MATCHED = ("grounding-dino", "mm-grounding-dino"), ("owlvit", "owlv2")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What a network reads beside an image, and which classes that asks for."""

    names: tuple[str, ...]
    """GenEval classes, in the order of the scores."""
    ids: torch.Tensor
    """Token numbers, int64 ``(texts, tokens)``."""
    mask: torch.Tensor
    """1 where there is a token, int64 ``(texts, tokens)``."""
    spans: tuple[tuple[int, int], ...] | None = None
    """First and last + 1 token of each name in the one text; None where each name has a text of its own."""


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which names go into one text: in order, as many as fit.

    Args:
        lengths: Tokens of each name, without the separator behind it.
        room: Tokens that a text may have, the two at its ends included.

    >>> packed([1, 2, 1, 3], room=9)
    [[0, 1, 2], [3]]
    """
    chunks: list[list[int]] = []
    left = 0
    for index, length in enumerate(lengths):
        if not chunks or length + 1 > left:
            chunks.append([])
            left = room - 2
        chunks[-1].append(index)
        left -= length + 1
    return chunks


def grounded_prompts(tokenizer: Any, room: int, names: Sequence[str] = CLASSES) -> list[Prompt]:
    """The names as few texts, "person. bicycle. ...", of at most `room` tokens, with each name's place in its text."""
    import torch

    pieces = [tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
    (stop,) = tokenizer(".", add_special_tokens=False)["input_ids"]
    prompts = []
    for chunk in packed([len(piece) for piece in pieces], room):
        ids, spans = [tokenizer.cls_token_id], []
        for index in chunk:
            spans.append((len(ids), len(ids) + len(pieces[index])))
            ids += [*pieces[index], stop]
        row = torch.tensor([[*ids, tokenizer.sep_token_id]])
        named = tuple(names[index] for index in chunk)
        prompts.append(Prompt(names=named, ids=row, mask=torch.ones_like(row), spans=tuple(spans)))
    return prompts


def matched_prompt(tokenizer: Any, room: int, names: Sequence[str] = CLASSES) -> Prompt:
    """The names as texts of their own, of `room` tokens each."""
    texts = [TEMPLATE.format(name=name) for name in names]
    read = tokenizer(texts, padding="max_length", max_length=room, truncation=True, return_tensors="pt")
    return Prompt(names=tuple(names), ids=read["input_ids"], mask=read["attention_mask"])


class OpenVocabularyDetector:
    """A model of transformers that looks for the names it is given."""

    min_score = MIN_SCORE
    classes = frozenset(CLASSES)
    batch = 4

    def __init__(self, name: str, network: Any, processor: Any, prompts: Sequence[Prompt], device: str) -> None:
        self.name = name
        self.network = network.to(device).eval()
        self._processor, self._prompts, self._device = processor, prompts, device

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""
        found: list[list[Detection]] = []
        for start in range(0, len(images), self.batch):
            chunk = [image.convert("RGB") for image in images[start : start + self.batch]]
            inputs = self._processor(images=chunk, return_tensors="pt").to(self._device)
            features = {key: inputs[key] for key in inputs if key in IMAGE_INPUTS}
            sizes = [(image.height, image.width) for image in chunk]
            looks = [self._look(features, prompt, sizes) for prompt in self._prompts]
            found += [best_first([each for look in looks for each in look[i]]) for i in range(len(chunk))]
        return found

    def _look(
        self, image: dict[str, torch.Tensor], prompt: Prompt, sizes: list[tuple[int, int]]
    ) -> list[list[Detection]]:
        import torch

        each = len(sizes)
        with torch.inference_mode():
            outputs = self.network(
                **image,
                input_ids=prompt.ids.repeat(each, 1).to(self._device),
                attention_mask=prompt.mask.repeat(each, 1).to(self._device),
            )
            logits = class_logits(outputs.logits, prompt)
        read = SimpleNamespace(logits=logits, pred_boxes=outputs.pred_boxes)
        post = self._processor.post_process_object_detection(read, threshold=self.min_score, target_sizes=sizes)
        return [
            [
                Detection(name=prompt.names[label], score=score, box_xyxy_px=tuple(box))
                for label, score, box in zip(*(one[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
            ]
            for one in post
        ]


def class_logits(logits: torch.Tensor, prompt: Prompt) -> torch.Tensor:
    """Logits of the prompt's classes, ``(images, boxes, classes)``, from a network's own.

    Args:
        logits: Of classes already where each has a text of its own, else of tokens, ``(images, boxes, tokens)``.
        prompt: What the network was given.
    """
    import torch

    if prompt.spans is None:
        return logits
    probabilities = logits.sigmoid()
    means = [probabilities[..., first:last].mean(-1) for first, last in prompt.spans]
    return torch.stack(means, -1).logit()


def load(name: str, network: Any, processor: Any, tokenizer: Any, device: str) -> OpenVocabularyDetector:
    """The detector of a network that transformers files under zero-shot object detection.

    Raises:
        UserError: It is of another family than those known here.
    """
    config = network.config
    if config.model_type in _GROUNDED:
        prompts = grounded_prompts(tokenizer, config.max_text_len)
    elif config.model_type in _MATCHED:
        prompts = [matched_prompt(tokenizer, config.text_config.max_position_embeddings)]
    else:
        known = ", ".join((*_GROUNDED, *_MATCHED))
        raise UserError(f"{name}: a {config.model_type} model is not known here; of open vocabulary, {known} are")
    _LOG.warning("%s is prompted with the class names; GenEval's thresholds are not made for its scores (README)", name)
    return OpenVocabularyDetector(name, network, processor, prompts, device)
