"""The reasoner: a prompt (and a source image) in, a chain of thought and the states of the image tokens out.

A sequence is: chat prompt, chain, ``<|im_gen_start|>``, 64 image tokens, ``<|im_gen_end|>``, ``<|endoftext|>``. The
last hidden states of the image tokens are what the diffusion model sees of the language model.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from got.model.tokenizer import (
    EDIT_PREFIX,
    END_OF_TEXT,
    GENERATE_PREFIX,
    IMAGE_END,
    IMAGE_PAD,
    IMAGE_START,
    VISION_START,
    ImageInput,
    Inputs,
    Transcript,
    batch,
    image_prompt,
    image_token,
    image_token_ids,
    require_image_processor,
    token_id,
)
from got.model.validation import at_least_one, unknown_words
from got.plan.chain import BOX_END, BOX_START, Chain, no_boxes
from got.util.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

IMAGE_TOKENS = 64
_MAX_NEW_TOKENS = 1024
_STOPS = (IMAGE_START, VISION_START, END_OF_TEXT)
_NOT_ENDED = f"the chain did not end in {IMAGE_START}"
_CUT_OFF = "the next chain was cut off, so nothing was drawn for it"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReasonerOutput:
    """What the reasoner makes of a batch of prompts."""

    chains: list[str]
    """Chain texts, without the token that ends them."""
    hidden: torch.Tensor
    """Last hidden states of the image tokens, (batch, 64, hidden_dim)."""
    warnings: list[tuple[str, ...]]
    """Per prompt: what went wrong while writing, in words."""
    transcripts: list[Transcript]
    """The conversations up to and with the image tokens; `Reasoner.continue_after_image` takes them further."""

    def __len__(self) -> int:
        """How many prompts it is of."""
        return len(self.chains)

    def __getitem__(self, rows: Sequence[int]) -> ReasonerOutput:
        """The output of some rows, in the order given."""
        return ReasonerOutput(
            chains=[self.chains[row] for row in rows],
            hidden=self.hidden[list(rows)],
            warnings=[self.warnings[row] for row in rows],
            transcripts=[self.transcripts[row] for row in rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[ReasonerOutput]) -> ReasonerOutput:
        """Several outputs as one, row behind row."""
        return cls(
            chains=[text for part in parts for text in part.chains],
            hidden=torch.cat([part.hidden for part in parts]),
            warnings=[warning for part in parts for warning in part.warnings],
            transcripts=[transcript for part in parts for transcript in part.transcripts],
        )


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, prompt: str, *, edit: bool = False, has_image: bool | None = None
) -> str:
    """The chat prompt up to where the chain begins; an edit has one ``<|image_pad|>`` for the source image.

    Args:
        tokenizer: With a chat template.
        prompt: Caption or instruction.
        edit: Which words go before the prompt.
        has_image: Whether an image goes before the words; as for an edit, unless told otherwise.

    Raises:
        ValueError: If the prompt contains one of the tokenizer's special tokens.
    """
    forbidden = _special_token_in(tokenizer, prompt)
    if forbidden is not None:
        raise ValueError(f"Expected a prompt in plain words, but it contains the model's own token {forbidden}")
    text = {"type": "text", "text": (EDIT_PREFIX if edit else GENERATE_PREFIX) + prompt}
    content = [{"type": "image"}, text] if (edit if has_image is None else has_image) else [text]
    turn = {"role": "user", "content": content}
    try:
        return str(tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # of a template that anybody may have written
        raise ValueError(f"the chat template of the checkpoint's tokenizer is damaged: {one_line(error)}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reasoner:
    """A language model with its tokenizer: writes chains, reads given ones, and goes on after an image."""

    mllm: Qwen2_5_VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessor | None = None
    """Needed for source images only."""
    vision_image_px: int = 448
    """Source images are squashed to a square of this side before they enter the vision tower."""
    device: torch.device | None = None
    """Where to compute; needed only where an offloaded model cannot say it itself."""

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image] | None = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> ReasonerOutput:
        """Write a chain for each prompt (greedily, unless told otherwise) and read its image tokens.

        One `generate` call serves the batch. The image tokens then run once on top of its cache, although the chains
        ended at different lengths: what a row holds after its end is masked out, and its positions go on from there.

        Args:
            prompts: Captions, or editing instructions if there are images. Equal ones are computed once.
            images: One source image per prompt, or None.
            max_new_tokens: Longest chain; the default is the model's generation config.
            generate_kwargs: Passed on to `generate`, e.g. ``do_sample=True``: equal prompts then get different chains.

        Raises:
            ValueError: If `generate` is asked for more than one chain per prompt, or for beams.
        """
        if "generation_config" in generate_kwargs:
            raise ValueError("Expected the options of `generate` one by one but got a generation_config")
        for name in ("num_beams", "num_return_sequences"):
            if generate_kwargs.get(name, 1) != 1:
                raise ValueError(f"Expected {name} to be 1, one chain per prompt, but got {generate_kwargs[name]}")
        if generate_kwargs.get("do_sample"):
            given = [None] * len(prompts) if images is None else images
            requests = [_Request(prompt=p, chain=None, image=i) for p, i in zip(prompts, given, strict=True)]
            inverse = list(range(len(requests)))
        else:
            requests, inverse = _unique(prompts, images)
        transcripts = [self.transcript(r.prompt, r.image, r.chain) for r in requests]
        written = self._write_on(transcripts, max_new_tokens, **generate_kwargs)
        outputs = ReasonerOutput(
            chains=[self.tokenizer.decode(ids) for ids in written.ids],
            hidden=self._image_token_states(written),
            warnings=[
                (*unknown_words(self.tokenizer, request.prompt), *(() if ended else (_NOT_ENDED,)))
                for request, ended in zip(requests, written.ended.tolist(), strict=True)
            ],
            transcripts=[self._with_image_tokens(row, ids) for row, ids in zip(transcripts, written.ids, strict=True)],
        )
        return outputs[inverse]

    @torch.inference_mode()
    def read(
        self, prompts: Sequence[str], chains: Sequence[str], images: Sequence[Image.Image] | None = None
    ) -> ReasonerOutput:
        """Take the chains as written and compute their image tokens in one forward pass.

        Raises:
            ValueError: If a chain contains special tokens other than those of boxes.
        """
        for chain in chains:
            check_chain(self.tokenizer, chain)
        requests, inverse = _unique(prompts, images, chains)
        transcripts = [self.transcript(r.prompt, r.image, r.chain) for r in requests]
        return ReasonerOutput(
            chains=[str(request.chain) for request in requests],
            hidden=self.states(self.batch(transcripts))[:, -IMAGE_TOKENS:],
            warnings=[_of_given(self.tokenizer, request) for request in requests],
            transcripts=transcripts,
        )[inverse]

    @torch.inference_mode()
    def continue_after_image(
        self,
        transcripts: Sequence[Transcript],
        images: Sequence[Image.Image],
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> tuple[ReasonerOutput, list[int], list[tuple[str, ...]]]:
        """Write the next chain of each conversation, now that the image of its last one has been drawn.

        A model that wants to see the image says so with ``<|vision_start|>``; it is then shown the image and goes
        on. The end of the image tokens and the end of a shown image are not asked of the model but given to it.

        Args:
            transcripts: Conversations that end in image tokens: those of an output of `write`, `read` or of this.
            images: What was drawn last in each.
            max_new_tokens: As for `write`.
            generate_kwargs: As for `write`.

        Returns:
            The outputs of the conversations that have another chain; which ones these are; and for each one that was
            given, why it ended otherwise than by ``<|endoftext|>``.
        """
        rows = [row.plus([token_id(self.tokenizer, IMAGE_END)]) for row in transcripts]
        written = self._write_on(rows, max_new_tokens, **generate_kwargs)
        words, stops, hidden = list(written.ids), list(written.stops), self._states_if_any(written)
        looking = [i for i, stop in enumerate(stops) if stop == VISION_START]
        if looking:
            for i in looking:
                rows[i] = rows[i].plus([*words[i], *image_prompt(self.tokenizer, self._image_input)], [images[i]])
            again = self._write_on([rows[i] for i in looking], max_new_tokens, **generate_kwargs)
            for i, ids, stop, states in zip(looking, again.ids, again.stops, self._states_if_any(again), strict=True):
                rows[i] = rows[i].plus(ids)
                words[i], stops[i], hidden[i] = (*words[i], *ids), stop, states
        going = [i for i, stop in enumerate(stops) if stop == IMAGE_START]
        outputs = ReasonerOutput(
            chains=[self.tokenizer.decode(words[i]) for i in going],
            hidden=torch.stack([hidden[i] for i in going]) if going else torch.empty(0),
            warnings=[()] * len(going),
            transcripts=[self._with_image_tokens(rows[i], [] if i in looking else words[i]) for i in going],
        )
        regular = (IMAGE_START, END_OF_TEXT)
        return outputs, going, [() if stop in regular else (_CUT_OFF,) for stop in stops]

    def batch(self, transcripts: Sequence[Transcript]) -> Inputs:
        """Conversations as tensors on the model's device."""
        return batch(transcripts, self.mllm, self.tokenizer, self._image_input, self.device or self.mllm.device)

    def states(self, inputs: Inputs) -> torch.Tensor:
        """Last hidden states (after the final norm) of one plain pass; (rows, length, hidden_dim)."""
        return self._forward(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
            use_cache=False,
            **(inputs.vision or {}),
        )

    def generate(self, inputs: Inputs, stops: Sequence[int], max_new_tokens: int | None, **options: Any) -> Any:
        """The library's `generate`, greedy unless told otherwise, until one of the stop tokens."""
        vision = {} if inputs.vision is None else {**inputs.vision, "mm_token_type_ids": inputs.token_types}
        usual = self.mllm.generation_config.max_new_tokens or _MAX_NEW_TOKENS
        return self.mllm.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=at_least_one(max_new_tokens, usual, "max_new_tokens"),
            eos_token_id=list(stops),
            pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            use_cache=True,
            **({"do_sample": False} | options),
            **vision,
        )

    @property
    def pads(self) -> int:
        """How many ``<|image_pad|>`` stand for an image."""
        return require_image_processor(self._image_input).pads

    @property
    def _image_input(self) -> ImageInput | None:
        return self.image_processor and ImageInput(processor=self.image_processor, side_px=self.vision_image_px)

    def _forward(self, **inputs: Any) -> torch.Tensor:
        # Offloading moves weights when `forward` is called, and this calls the network inside.
        hook = getattr(self.mllm, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.mllm)
        return self.mllm.model(**inputs)[0]

    def transcript(
        self, prompt: str, image: Image.Image | None = None, chain: str | None = None, *, edit: bool | None = None
    ) -> Transcript:
        """A prompt as it begins a conversation, or up to its last image token where there is a chain.

        Args:
            prompt: Caption or instruction.
            image: Source image.
            chain: A chain that has been written already.
            edit: Whether the prompt is an instruction; it is where there is an image, unless told otherwise.
        """
        shows = image is not None
        text = prompt_text(self.tokenizer, prompt, edit=shows if edit is None else edit, has_image=shows)
        if shows:
            text = text.replace(IMAGE_PAD, IMAGE_PAD * self.pads)
        if chain is not None:
            text += chain + IMAGE_START + "".join(image_token(i) for i in range(IMAGE_TOKENS))
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Transcript(ids=tuple(ids), images=() if image is None else (image,))

    def _with_image_tokens(self, transcript: Transcript, chain_ids: Sequence[int]) -> Transcript:
        start = token_id(self.tokenizer, IMAGE_START)
        return transcript.plus([*chain_ids, start, *image_token_ids(self.tokenizer, IMAGE_TOKENS)])

    def _write_on(
        self, transcripts: Sequence[Transcript], max_new_tokens: int | None, **generate_kwargs: Any
    ) -> _Written:
        """Let the model write until an image is due, it wants to see one, or it ends."""
        inputs = self.batch(transcripts)
        stops = [token_id(self.tokenizer, token) for token in _STOPS]
        output = self.generate(inputs, stops, max_new_tokens, **generate_kwargs)
        new = output.sequences[:, inputs.input_ids.shape[1] :]
        # (rows,): tokens of the chain proper, and the one that ended it
        is_stop = torch.isin(new, torch.tensor(stops, device=new.device))
        lengths = torch.where(is_stop.any(1), is_stop.int().argmax(1), new.shape[1])
        last = torch.cat([new, torch.full_like(new[:, :1], -1)], 1).gather(1, lengths[:, None])[:, 0]
        names = dict(zip(stops, _STOPS, strict=True))
        return _Written(
            input=inputs,
            output=output,
            lengths=lengths,
            ended=last == stops[0],
            ids=[tuple(row[:length]) for row, length in zip(new.tolist(), lengths.tolist(), strict=True)],
            stops=[names.get(token) for token in last.tolist()],
        )

    def _states_if_any(self, written: _Written) -> list[torch.Tensor]:
        """States of the image tokens, row by row; empty if no row has reached its image tokens."""
        return list(self._image_token_states(written)) if written.ended.any() else [torch.empty(0)] * len(written.ids)

    def _image_token_states(self, written: _Written) -> torch.Tensor:
        """Run the image tokens on top of `generate`'s cache; (rows, 64, hidden_dim).

        `generate` leaves its last column out of the cache, so that column goes first; rows without the start token get
        it in one more column, hidden from the others.
        """
        inputs, output, ended = written.input, written.output, written.ended
        rows, device = len(ended), ended.device
        name = "cache" if "cache" in output else "past_key_values"  # until transformers 5.24
        cached = output[name].get_seq_length()
        width = output.sequences.shape[1] - inputs.input_ids.shape[1]
        kept = torch.arange(width, device=device)[None] < (written.lengths + ended)[:, None]
        columns = [output.sequences[:, cached:]]
        masks = [inputs.attention_mask, kept.long()]
        if not ended.all():
            columns.append(torch.full((rows, 1), token_id(self.tokenizer, IMAGE_START), device=device))
            masks.append((~ended)[:, None].long())
        columns.append(torch.tensor(image_token_ids(self.tokenizer, IMAGE_TOKENS), device=device).expand(rows, -1))
        masks.append(torch.ones(rows, IMAGE_TOKENS, dtype=torch.long, device=device))
        input_ids, mask = torch.cat(columns, 1), torch.cat(masks, 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :] + inputs.rope_deltas
        states = self._forward(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions.expand(3, -1, -1),
            use_cache=True,
            **{name: output[name]},
        )
        return states[:, -IMAGE_TOKENS:]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    prompt: str
    chain: str | None
    image: Image.Image | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Written:
    """What one call of `generate` added to a batch."""

    input: Inputs
    output: Any
    lengths: torch.Tensor
    """(rows,): new tokens before the one that ended the row."""
    ended: torch.Tensor
    """(rows,): whether that one was the start of the image tokens."""
    ids: list[tuple[int, ...]]
    stops: list[str | None]
    """The token that ended the row; None if it ran out of tokens."""


def _unique(
    prompts: Sequence[str], images: Sequence[Image.Image] | None, chains: Sequence[str] | None = None
) -> tuple[list[_Request], list[int]]:
    """The requests without repetitions, and for each prompt the number of its request among these."""
    given_images = [None] * len(prompts) if images is None else images
    given_chains = [None] * len(prompts) if chains is None else chains
    requests: dict[tuple[str, str | None, int], _Request] = {}
    keys = []
    for prompt, chain, image in zip(prompts, given_chains, given_images, strict=True):
        keys.append((prompt, chain, id(image)))
        requests.setdefault(keys[-1], _Request(prompt=prompt, chain=chain, image=image))
    order = {key: i for i, key in enumerate(requests)}
    return list(requests.values()), [order[key] for key in keys]


def _of_given(tokenizer: PreTrainedTokenizerBase, request: _Request) -> tuple[str, ...]:
    """Warnings about a given chain and its prompt: words that the model lacks, or no boxes at all."""
    chain = Chain.parse(request.chain or "")
    words = " ".join([request.prompt, *(region.text for region in chain.regions)])
    return (*unknown_words(tokenizer, words), *(no_boxes(chain.text) if request.image is None else ()))


def check_chain(tokenizer: PreTrainedTokenizerBase, chain: str) -> None:
    """Refuse a chain with special tokens other than those of boxes.

    Raises:
        ValueError: If it has one; the message names it.
    """
    forbidden = _special_token_in(tokenizer, chain.replace(BOX_START, "").replace(BOX_END, ""))
    if forbidden is not None:
        raise ValueError(f"Expected a chain of words and boxes, but it contains {forbidden}")


def _special_token_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    if "<|" not in text:
        return None
    return next((token for token in tokenizer.get_added_vocab() if token in text), None)
