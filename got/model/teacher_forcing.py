"""Teacher forcing: whole conversations as training sequences, and one differentiable pass over them.

A sequence is what the reasoner reads and writes when it makes images (see `got.model.reasoner`): the chat prompt, then
for each image its chain, ``<|im_gen_start|>``, the 64 image tokens and ``<|im_gen_end|>``; between two images the first
of them as the vision tower sees it; at the end ``<|endoftext|>``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from got.model.reasoner import IMAGE_TOKENS, prompt_text
from got.model.tokenizer import (
    END_OF_TEXT,
    IMAGE_END,
    IMAGE_PAD,
    IMAGE_START,
    VISION_END,
    VISION_START,
    image_token_ids,
    token_id,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

IGNORED_LABEL = -100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """A prompt with the chains that answer it."""

    prompt: str
    chains: tuple[str, ...]
    """One per image that is made."""
    images: tuple[np.ndarray, ...] = ()
    """What the reasoner looks at, uint8 (size, size, 3) each: nothing for text-to-image, else the source and every
    image that was made but the last."""
    written: bool = True
    """Whether the model is to learn to write the chains. One that a person changed is only to be obeyed."""
    drawn: bool = True
    """Whether images follow. Without, the sequence ends where the first of them would begin."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """Whole sequences, padded on the right. Integer tensors are int64."""

    input_ids: torch.Tensor
    """(batch, length)"""
    attention_mask: torch.Tensor
    """(batch, length), 1 where there is a token."""
    labels: torch.Tensor
    """(batch, length): the ids that the model is to write, elsewhere -100. Not shifted."""
    image_positions: torch.Tensor
    """(images, 64): where the image tokens of each image are that is made, conversation by conversation."""
    image_rows: torch.Tensor
    """(images,): the sequence that each of them belongs to."""
    pixel_values: torch.Tensor | None
    """Patches of the images as the image processor gives them, float32; None if there are none."""
    image_grid_thw: torch.Tensor | None
    """(images, 3)"""
    position_ids: torch.Tensor | None = None
    """(3, batch, length), as `placed` gives them; None leaves them to `teacher_forced`."""

    def placed(self, mllm: Qwen2_5_VLForConditionalGeneration) -> TrainingBatch:
        """The same batch with `position_ids`, made by a loop over rows: call it before the batch goes to a GPU."""
        return dataclasses.replace(self, position_ids=_positions(mllm, self))

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: None if one is None else one.to(device) for name, one in tensors.items()}
        return TrainingBatch(**moved)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forced:
    """Result of one differentiable pass over whole sequences."""

    loss: torch.Tensor
    """Mean cross-entropy of the labelled tokens, in nats; a scalar."""
    logits: torch.Tensor
    """(labelled tokens, vocabulary)"""
    targets: torch.Tensor
    """(labelled tokens,)"""
    hidden: torch.Tensor
    """Last hidden states of the image tokens, (images, 64, hidden_dim)."""


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    image_processor: Qwen2VLImageProcessor | None = None,
) -> TrainingBatch:
    """Encode conversations for `teacher_forced`.

    Args:
        tokenizer: The reasoner's.
        conversations: Those with images have one image per chain.
        image_processor: Needed where there are images, which all have the size that the vision tower takes.
    """
    shown = [image for conversation in conversations for image in conversation.images]
    patches, pads = None, 0
    if shown:
        if image_processor is None:
            raise ValueError("Expected an image processor for conversations with images but got none")
        patches = image_processor(images=shown, return_tensors="pt")
        pads = int(patches["image_grid_thw"][0].prod()) // image_processor.merge_size**2
    rows = [sequence(tokenizer, conversation, pads) for conversation in conversations]
    lengths = torch.tensor([len(ids) for ids, _, _ in rows])
    ids = [torch.tensor(ids) for ids, _, _ in rows]
    labels = [
        torch.where(torch.tensor(written), row, IGNORED_LABEL) for row, (_, written, _) in zip(ids, rows, strict=True)
    ]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    starts = torch.tensor([start for _, _, starts in rows for start in starts], dtype=torch.long)
    return TrainingBatch(
        input_ids=input_ids,
        attention_mask=(torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long(),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        image_positions=starts[:, None] + torch.arange(IMAGE_TOKENS),
        image_rows=torch.tensor([row for row, (_, _, starts) in enumerate(rows) for _ in starts], dtype=torch.long),
        pixel_values=None if patches is None else patches["pixel_values"],
        image_grid_thw=None if patches is None else patches["image_grid_thw"],
    )


def sequence(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, pads: int
) -> tuple[list[int], list[bool], list[int]]:
    """Ids, which of them the model writes, and where each block of image tokens begins.

    Args:
        tokenizer: The reasoner's.
        conversation: Only the number of its images matters here.
        pads: Tokens that an image takes.
    """
    start, end, eos, look, looked, pad = (
        token_id(tokenizer, token)
        for token in (IMAGE_START, IMAGE_END, END_OF_TEXT, VISION_START, VISION_END, IMAGE_PAD)
    )
    prompt = prompt_text(tokenizer, conversation.prompt, edit=bool(conversation.images))
    ids = tokenizer(prompt.replace(IMAGE_PAD, IMAGE_PAD * pads), add_special_tokens=False)["input_ids"]
    written = [False] * len(ids)
    blocks = []
    for turn, chain in enumerate(conversation.chains):
        if turn:
            ids += [look, *[pad] * pads, looked]
            written += [True, *[False] * pads, True]
        chain_ids = tokenizer(chain, add_special_tokens=False)["input_ids"]
        ids += [*chain_ids, start]
        written += [True] * (len(chain_ids) + 1)
        if not conversation.drawn:
            return ids, [label and conversation.written for label in written], []
        blocks.append(len(ids))
        ids += [*image_token_ids(tokenizer, IMAGE_TOKENS), end]
        written += [False] * IMAGE_TOKENS + [True]
    return [*ids, eos], [label and conversation.written for label in (*written, True)], blocks


def teacher_forced(
    mllm: Qwen2_5_VLForConditionalGeneration,
    batch: TrainingBatch,
    blank: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Forced:
    """One pass with gradients over whole sequences; `batch` is on the model's device.

    Padding is on the right, where causal attention cannot see it, so no mask is needed and attention takes its
    fast path. Logits are computed only where there is a label.

    Args:
        mllm: The reasoner.
        batch: Whole conversations.
        blank: Patches and grid of an image that changes nothing, for a batch without images. Processes that share
            a training exchange weights and gradients in the order in which the networks use them, so the vision tower
            must have its turn in each of them, and the same: behind the embedding, before the first layer.
    """
    inputs: dict[str, torch.Tensor | None] = {"input_ids": batch.input_ids}
    if batch.pixel_values is not None:
        inputs |= {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
    elif blank is not None:
        embedded = mllm.get_input_embeddings()(batch.input_ids)
        inputs = {"inputs_embeds": embedded + 0 * mllm.model.visual(blank[0], grid_thw=blank[1]).pooler_output.sum()}
    positions = _positions(mllm, batch) if batch.position_ids is None else batch.position_ids
    states = mllm.model(position_ids=positions, use_cache=False, **inputs)[0]
    targets = batch.labels[:, 1:]
    labelled = targets != IGNORED_LABEL
    logits = mllm.lm_head(states[:, :-1][labelled])
    rows = states[batch.image_rows]
    return Forced(
        loss=functional.cross_entropy(logits.float(), targets[labelled]),
        logits=logits,
        targets=targets[labelled],
        hidden=rows.gather(1, batch.image_positions[..., None].expand(-1, -1, rows.shape[-1])),
    )


def _positions(mllm: Qwen2_5_VLForConditionalGeneration, batch: TrainingBatch) -> torch.Tensor:
    """Positions of every token, (3, batch, length).

    Given explicitly: left to itself the model may use offsets that an earlier call with images left behind.
    """
    rows, length = batch.input_ids.shape
    if batch.image_grid_thw is None:
        return torch.arange(length, device=batch.input_ids.device).expand(3, rows, length)
    types = (batch.input_ids == mllm.config.image_token_id).int()
    positions: torch.Tensor = mllm.model.get_rope_index(
        batch.input_ids, types, image_grid_thw=batch.image_grid_thw, attention_mask=batch.attention_mask
    )[0]
    return positions
