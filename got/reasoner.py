"""The reasoner: a prompt (and a source image) in, a chain of thought and the states of the image tokens out.

A sequence is: chat prompt, chain, ``<|im_gen_start|>``, 64 image tokens (``<|im_gen_end|>``, ``<|endoftext|>``). The last
hidden states of the image tokens are what the diffusion model sees of the language model.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from got.tokens import (
    EDIT_PREFIX,
    END_OF_TEXT,
    GENERATE_PREFIX,
    IMAGE_END,
    IMAGE_PAD,
    IMAGE_START,
    VISION_START,
    image_token_ids,
    token_id,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

IMAGE_TOKENS = 64
IGNORED_LABEL = -100
_MAX_NEW_TOKENS = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thoughts:
    """What the reasoner makes of a batch of prompts."""

    chains: list[str]
    """Chain texts, without the token that ends them."""
    hidden: torch.Tensor
    """Last hidden states of the image tokens, (batch, 64, hidden_dim)."""
    warnings: list[tuple[str, ...]]
    """Per prompt: what went wrong while writing, in words."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """Whole sequences, padded on the right; all tensors are int64."""

    input_ids: torch.Tensor
    """(batch, length)"""
    attention_mask: torch.Tensor
    """(batch, length), 1 where there is a token."""
    labels: torch.Tensor
    """(batch, length): the ids of chain and ``<|im_gen_start|>``, elsewhere -100. Not shifted."""
    image_positions: torch.Tensor
    """(batch, 64): where the image tokens are."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        fields = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return TrainingBatch(**fields)


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
    """Last hidden states of the image tokens, (batch, 64, hidden_dim)."""


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str, *, edit: bool = False) -> str:
    """The chat prompt up to where the chain begins; an edit has one ``<|image_pad|>`` for the source image.

    Raises:
        ValueError: If the prompt contains one of the tokenizer's special tokens.
    """
    forbidden = next((token for token in tokenizer.all_special_tokens if token in prompt), None)
    if forbidden is not None:
        raise ValueError(f"Expected a prompt in plain words, but it contains the model's own token {forbidden}")
    text = {"type": "text", "text": (EDIT_PREFIX if edit else GENERATE_PREFIX) + prompt}
    content = [{"type": "image"}, text] if edit else [text]
    turn = {"role": "user", "content": content}
    return str(tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))


def encode_training_batch(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], chains: Sequence[str]
) -> TrainingBatch:
    """Encode text-to-image pairs for `teacher_forced`: prompt, chain, image tokens, end; padded on the right."""
    start, end, eos = (token_id(tokenizer, token) for token in (IMAGE_START, IMAGE_END, END_OF_TEXT))
    tail = [*image_token_ids(tokenizer, IMAGE_TOKENS), end, eos]
    prompts = tokenizer([prompt_text(tokenizer, caption) for caption in captions], add_special_tokens=False)
    written = tokenizer(list(chains), add_special_tokens=False)
    ids, labels, positions = [], [], []
    for prompt, chain in zip(prompts["input_ids"], written["input_ids"], strict=True):
        head = len(prompt) + len(chain) + 1
        ids.append(torch.tensor([*prompt, *chain, start, *tail]))
        labels.append(torch.tensor([IGNORED_LABEL] * len(prompt) + [*chain, start] + [IGNORED_LABEL] * len(tail)))
        positions.append(torch.arange(head, head + IMAGE_TOKENS))
    lengths = torch.tensor([len(sequence) for sequence in ids])
    input_ids = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    return TrainingBatch(
        input_ids=input_ids,
        attention_mask=(torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long(),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        image_positions=torch.stack(positions),
    )


def teacher_forced(mllm: Qwen2_5_VLForConditionalGeneration, batch: TrainingBatch) -> Forced:
    """One pass with gradients over whole text-to-image sequences; `batch` is on the model's device.

    Padding is on the right, where causal attention cannot see it, so no mask is needed and attention takes its
    fast path. Logits are computed only where there is a label.
    """
    states = mllm.model(input_ids=batch.input_ids, position_ids=_plain_positions(batch), use_cache=False)[0]
    targets = batch.labels[:, 1:]
    labelled = targets != IGNORED_LABEL
    logits = mllm.lm_head(states[:, :-1][labelled])
    return Forced(
        loss=functional.cross_entropy(logits.float(), targets[labelled]),
        logits=logits,
        targets=targets[labelled],
        hidden=_gather(states, batch.image_positions),
    )


def _plain_positions(batch: TrainingBatch) -> torch.Tensor:
    # Given explicitly: left to itself the model may use rope offsets that an earlier call with images left behind.
    rows, length = batch.input_ids.shape
    return torch.arange(length, device=batch.input_ids.device).expand(3, rows, length)


def _gather(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
