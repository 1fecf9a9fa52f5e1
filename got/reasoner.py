"""The reasoner: a prompt (and a source image) in, a chain of thought and the states of the image tokens out.

A sequence is: chat prompt, chain, ``<|im_gen_start|>``, 64 image tokens, ``<|im_gen_end|>``, ``<|endoftext|>``. The
last hidden states of the image tokens are what the diffusion model sees of the language model.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from got.chain import BOX_END, BOX_START
from got.tokens import (
    EDIT_PREFIX,
    END_OF_TEXT,
    GENERATE_PREFIX,
    IMAGE_PAD,
    IMAGE_START,
    VISION_START,
    image_token,
    image_token_ids,
    token_id,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

IMAGE_TOKENS = 64
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


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str, *, edit: bool = False) -> str:
    """The chat prompt up to where the chain begins; an edit has one ``<|image_pad|>`` for the source image.

    Raises:
        ValueError: If the prompt contains one of the tokenizer's special tokens.
    """
    forbidden = _special_token_in(tokenizer, prompt)
    if forbidden is not None:
        raise ValueError(f"Expected a prompt in plain words, but it contains the model's own token {forbidden}")
    text = {"type": "text", "text": (EDIT_PREFIX if edit else GENERATE_PREFIX) + prompt}
    content = [{"type": "image"}, text] if edit else [text]
    turn = {"role": "user", "content": content}
    return str(tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reasoner:
    """A language model with its tokenizer: writes chains, or reads given ones."""

    mllm: Qwen2_5_VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessor | None = None
    """Needed for source images only."""
    vision_image_px: int = 448
    """Source images are squashed to a square of this side before they enter the vision tower."""

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image] | None = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> Thoughts:
        """Write a chain for each prompt (greedily, unless told otherwise) and read its image tokens.

        One `generate` call serves the batch. The image tokens then run once on top of its cache, although the chains
        ended at different lengths: what a row holds after its end is masked out, and its positions go on from there.

        Args:
            prompts: Captions, or editing instructions if there are images. Equal ones are computed once.
            images: One source image per prompt, or None.
            max_new_tokens: Longest chain; the default is the model's generation config.
            generate_kwargs: Passed on to `generate`, e.g. ``do_sample=True``.
        """
        requests, inverse = _unique(prompts, images)
        inputs = self._encode(requests)
        start = token_id(self.tokenizer, IMAGE_START)
        stops = [start, token_id(self.tokenizer, VISION_START), token_id(self.tokenizer, END_OF_TEXT)]
        vision = {} if inputs.vision is None else {**inputs.vision, "mm_token_type_ids": inputs.token_types}
        output = self.mllm.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=max_new_tokens or self.mllm.generation_config.max_new_tokens or _MAX_NEW_TOKENS,
            eos_token_id=stops,
            pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            use_cache=True,
            **({"do_sample": False} | generate_kwargs),
            **vision,
        )
        new = output.sequences[:, inputs.input_ids.shape[1] :]
        # (rows,): tokens of the chain proper, and whether it ended as it should
        is_stop = torch.isin(new, torch.tensor(stops, device=new.device))
        lengths = torch.where(is_stop.any(1), is_stop.int().argmax(1), new.shape[1])
        ended = torch.cat([new, torch.full_like(new[:, :1], -1)], 1).gather(1, lengths[:, None])[:, 0] == start
        hidden = self._image_token_states(inputs, output, lengths, ended)
        chains = [self.tokenizer.decode(row[:length]) for row, length in zip(new, lengths.tolist(), strict=True)]
        warnings = [() if good else (f"the chain did not end in {IMAGE_START}",) for good in ended.tolist()]
        return Thoughts(
            chains=[chains[i] for i in inverse], hidden=hidden[inverse], warnings=[warnings[i] for i in inverse]
        )

    def _image_token_states(
        self, inputs: _Inputs, output: Any, lengths: torch.Tensor, ended: torch.Tensor
    ) -> torch.Tensor:
        """Run the image tokens on top of `generate`'s cache; (rows, 64, hidden_dim).

        `generate` leaves its last column out of the cache, so that column goes first; rows without the start token get
        it in one more column, hidden from the others.
        """
        rows, device = len(lengths), lengths.device
        cached = output.past_key_values.get_seq_length()
        written = output.sequences.shape[1] - inputs.input_ids.shape[1]
        kept = torch.arange(written, device=device)[None] < (lengths + ended)[:, None]
        columns = [output.sequences[:, cached:]]
        masks = [inputs.attention_mask, kept.long()]
        if not ended.all():
            columns.append(torch.full((rows, 1), token_id(self.tokenizer, IMAGE_START), device=device))
            masks.append((~ended)[:, None].long())
        columns.append(torch.tensor(image_token_ids(self.tokenizer, IMAGE_TOKENS), device=device).expand(rows, -1))
        masks.append(torch.ones(rows, IMAGE_TOKENS, dtype=torch.long, device=device))
        input_ids, mask = torch.cat(columns, 1), torch.cat(masks, 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :] + inputs.rope_deltas
        states = self.mllm.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions.expand(3, -1, -1),
            past_key_values=output.past_key_values,
            use_cache=True,
        )[0]
        return states[:, -IMAGE_TOKENS:]

    @torch.inference_mode()
    def read(
        self, prompts: Sequence[str], chains: Sequence[str], images: Sequence[Image.Image] | None = None
    ) -> Thoughts:
        """Take the chains as written and compute their image tokens in one forward pass.

        Raises:
            ValueError: If a chain contains special tokens other than those of boxes.
        """
        for chain in chains:
            _check_chain(self.tokenizer, chain)
        requests, inverse = _unique(prompts, images, chains)
        inputs = self._encode(requests)
        states = self.mllm.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
            use_cache=False,
            **(inputs.vision or {}),
        )[0]
        hidden = states[:, -IMAGE_TOKENS:]
        return Thoughts(chains=list(chains), hidden=hidden[inverse], warnings=[()] * len(chains))

    def _encode(self, requests: Sequence[_Request]) -> _Inputs:
        """Tokenize prompts, or whole sequences up to the image tokens where there is a chain; padded on the left."""
        device = self.mllm.device
        images = [request.image for request in requests if request.image is not None]
        vision, pads = self._look_at(images) if images else (None, 0)
        texts = [prompt_text(self.tokenizer, r.prompt, edit=r.image is not None) for r in requests]
        tail = IMAGE_START + "".join(image_token(i) for i in range(IMAGE_TOKENS))
        texts = [
            text.replace(IMAGE_PAD, IMAGE_PAD * pads) + ("" if request.chain is None else request.chain + tail)
            for text, request in zip(texts, requests, strict=True)
        ]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(device)
        input_ids, mask = encoded["input_ids"], encoded["attention_mask"]
        token_types = (input_ids == token_id(self.tokenizer, IMAGE_PAD)).int()
        if vision is None:
            position_ids = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
            rope_deltas = torch.zeros_like(mask[:, :1])
        else:
            position_ids, rope_deltas = self.mllm.model.get_rope_index(
                input_ids, token_types, image_grid_thw=vision["image_grid_thw"], attention_mask=mask
            )
        return _Inputs(
            input_ids=input_ids,
            attention_mask=mask,
            token_types=token_types,
            position_ids=position_ids,
            rope_deltas=rope_deltas,
            vision=vision,
        )

    def _look_at(self, images: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], int]:
        """Patches and grids of the source images, and how many pad tokens each of them takes."""
        if self.image_processor is None:
            raise ValueError("Expected an image processor for source images, but this reasoner was made without one")
        side = (self.vision_image_px, self.vision_image_px)
        squares = [image.convert("RGB").resize(side, Image.Resampling.BICUBIC) for image in images]
        patches = self.image_processor(images=squares, return_tensors="pt").to(self.mllm.device)
        pads = int(patches["image_grid_thw"][0].prod()) // self.image_processor.merge_size**2
        return {"pixel_values": patches["pixel_values"], "image_grid_thw": patches["image_grid_thw"]}, pads


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    prompt: str
    chain: str | None
    image: Image.Image | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_types: torch.Tensor
    """1 at image pads: without these the library silently numbers image tokens as if they were text."""
    position_ids: torch.Tensor
    """(3, rows, length)"""
    rope_deltas: torch.Tensor
    """(rows, 1): what to add to a text position that follows the images."""
    vision: dict[str, torch.Tensor] | None


def _unique(
    prompts: Sequence[str], images: Sequence[Image.Image] | None, chains: Sequence[str] | None = None
) -> tuple[list[_Request], list[int]]:
    """Drop repetitions; the second result says which request serves each prompt."""
    given_images = [None] * len(prompts) if images is None else images
    given_chains = [None] * len(prompts) if chains is None else chains
    requests: dict[tuple[str, str | None, int], _Request] = {}
    keys = []
    for prompt, chain, image in zip(prompts, given_chains, given_images, strict=True):
        keys.append((prompt, chain, id(image)))
        requests.setdefault(keys[-1], _Request(prompt=prompt, chain=chain, image=image))
    order = {key: i for i, key in enumerate(requests)}
    return list(requests.values()), [order[key] for key in keys]


def _check_chain(tokenizer: PreTrainedTokenizerBase, chain: str) -> None:
    forbidden = _special_token_in(tokenizer, chain.replace(BOX_START, "").replace(BOX_END, ""))
    if forbidden is not None:
        raise ValueError(f"Expected a chain of words and boxes, but it contains {forbidden}")


def _special_token_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    if "<|" not in text:
        return None
    return next((token for token in tokenizer.get_added_vocab() if token in text), None)
