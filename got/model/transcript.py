"""A conversation as the reasoner's network sees it: token ids, the images among them, and both as padded tensors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from PIL import Image

from got.model.tokenizer import IMAGE_PAD, VISION_END, VISION_START, token_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transcript:
    """One conversation so far."""

    ids: tuple[int, ...]
    """Every token; an image is a run of as many ``<|image_pad|>`` as the vision tower makes of it."""
    images: tuple[Image.Image, ...] = ()
    """The images behind those runs, in order."""

    def plus(self, ids: Iterable[int], images: Iterable[Image.Image] = ()) -> Transcript:
        """The conversation with more tokens (and images) at its end.

        >>> Transcript(ids=(1, 2)).plus([3]).ids
        (1, 2, 3)
        """
        return Transcript(ids=(*self.ids, *ids), images=(*self.images, *images))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Some conversations as one batch, padded on the left."""

    input_ids: torch.Tensor
    """(rows, length)"""
    attention_mask: torch.Tensor
    """(rows, length), 1 where there is a token."""
    token_types: torch.Tensor
    """1 at image pads: without these the library silently numbers image tokens as if they were text."""
    position_ids: torch.Tensor
    """(3, rows, length)"""
    rope_deltas: torch.Tensor
    """(rows, 1): what to add to a text position that follows the images."""
    vision: dict[str, torch.Tensor] | None
    """Patches and grids of all images, row by row."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageInput:
    """How images enter the reasoner: squashed to one size, cut into patches."""

    processor: Qwen2VLImageProcessor
    side_px: int
    """Images are squashed to a square of this side."""

    def patches(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Patches of all images, and the grid of each."""
        side = (self.side_px, self.side_px)
        squares = [image.convert("RGB").resize(side, Image.Resampling.BICUBIC) for image in images]
        patches = self.processor(images=squares, return_tensors="pt")
        return {"pixel_values": patches["pixel_values"], "image_grid_thw": patches["image_grid_thw"]}

    @property
    def pads(self) -> int:
        """How many tokens an image takes."""
        return (self.side_px // (self.processor.patch_size * self.processor.merge_size)) ** 2


def image_prompt(tokenizer: PreTrainedTokenizerBase, image_input: ImageInput | None) -> list[int]:
    """The tokens of one image: start, pads, end."""
    pads = [token_id(tokenizer, IMAGE_PAD)] * require_image_processor(image_input).pads
    return [token_id(tokenizer, VISION_START), *pads, token_id(tokenizer, VISION_END)]


def batch(
    transcripts: Sequence[Transcript],
    mllm: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    image_input: ImageInput | None,
    device: torch.device,
) -> Inputs:
    """Pad conversations on the left, and number their positions in time, height and width.

    Raises:
        ValueError: If there are images and no image processor to see them.
    """
    images = [image for transcript in transcripts for image in transcript.images]
    vision = (
        {key: value.to(device) for key, value in require_image_processor(image_input).patches(images).items()}
        if images
        else None
    )
    longest = max(len(transcript.ids) for transcript in transcripts)
    pads = [longest - len(transcript.ids) for transcript in transcripts]
    rows = [[tokenizer.pad_token_id] * pad + [*row.ids] for pad, row in zip(pads, transcripts, strict=True)]
    input_ids = torch.tensor(rows, device=device)
    mask = (torch.arange(longest)[None] >= torch.tensor(pads)[:, None]).long().to(device)
    token_types = (input_ids == token_id(tokenizer, IMAGE_PAD)).int()
    if vision is None:
        position_ids = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        rope_deltas = torch.zeros_like(mask[:, :1])
    else:
        position_ids, rope_deltas = mllm.model.get_rope_index(
            input_ids, token_types, image_grid_thw=vision["image_grid_thw"], attention_mask=mask
        )
    return Inputs(
        input_ids=input_ids,
        attention_mask=mask,
        token_types=token_types,
        position_ids=position_ids,
        rope_deltas=rope_deltas,
        vision=vision,
    )


def require_image_processor(image_input: ImageInput | None) -> ImageInput:
    """The image processor, or an error that says what is missing."""
    if image_input is None:
        raise ValueError("Expected an image processor for source images, but this reasoner was made without one")
    return image_input
