"""A vision-language model of transformers on this machine. Decoding is greedy: a question has one answer.

What questions about the same images have in common is computed once: where words follow the last image of a
conversation, all that stands before them is read once, and its keys and values go before each question's own words.
They depend on nothing else, so that an answer is the same to the last bit whichever batches came before it.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util import weight_files
from got.util.images import open_image
from got.vlm.clients import CUT_OFF, TOP_TOKENS, AskParams, Reply, SetupError
from got.vlm.messages import images_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from got.vlm.clients import Together
    from got.vlm.messages import ImageFile, Messages

# ------------------------------------------------------------------------------------------------------------- prefixes
KEPT = 4
"""Number of prefixes that are cached: as many as there are images about which questions are asked at a time."""
KINDS = ("qwen2_5_vl", "qwen3_vl")
"""Models for which a test shows that a cached prefix gives the same answers. Others, such as those with a recurrent
state, may continue from a cache differently: their questions are read as a whole."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Prefix:
    """A prefix that the model has read."""

    ids: torch.Tensor
    """``(1, tokens)``."""
    cache: Any
    """Keys and values of these tokens."""
    shift: Any
    """By how much the positions behind it differ from numbers of tokens, because images take up other ones."""


class Prefixes:
    """A model with a cache of the prefixes that it has read last."""

    def __init__(self, model: Any, processor: Any, kept: int = KEPT) -> None:
        """An empty cache.

        Args:
            model: Of transformers.
            processor: Its own.
            kept: Number of prefixes in the cache; 0 reads each question as a whole.
        """
        self._model, self._processor, self._most = model, processor, kept
        self._kept: collections.OrderedDict[tuple[str, ...], _Prefix] = collections.OrderedDict()

    def inputs(self, conversations: Sequence[Messages]) -> Mapping[str, Any]:
        """The inputs of `generate`. Changes the model's state: one batch at a time.

        Args:
            conversations: One, or several of which `beginning` says the same; each ends with the user's turn.

        Returns:
            ``input_ids`` and ``attention_mask`` ``(conversations, tokens)``, with what the model needs beside them.
            Shorter questions are filled up between beginning and words, where the mask is 0.
        """
        key = self.beginning(conversations[0])
        text, images = self._text(conversations[0]), list(images_of(conversations[0]))
        if key is None:
            return self._whole(text, images)
        prefix = self._read(key, images)
        return self._continued(prefix, [self._text(one)[len(key[0]) :] for one in conversations])

    def beginning(self, messages: Messages) -> tuple[str, ...] | None:
        """Everything up to the last image: the text and the hash of each image; None where it cannot be a prefix."""
        text, images, mark = self._text(messages), list(images_of(messages)), self._processor.image_token
        if not self._most or self._model.config.model_type not in KINDS or not images:
            return None
        # A word of a question that looks like an image's mark leaves no way to tell them apart.
        if not isinstance(messages[-1].parts[-1], str) or text.count(mark) != len(images):
            return None
        return (text[: text.rindex(mark)] + mark, *(hashlib.sha256(image.data).hexdigest() for image in images))

    def _text(self, messages: Messages) -> str:
        turns = [{"role": message.role, "content": [_part(part) for part in message.parts]} for message in messages]
        text: str = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text

    def _whole(self, text: str, images: list[ImageFile]) -> Any:
        shown = [open_image(image.data) for image in images]
        return self._processor(text=[text], images=shown or None, return_tensors="pt").to(self._model.device)

    def _read(self, key: tuple[str, ...], images: list[ImageFile]) -> _Prefix:
        prefix = self._kept.pop(key, None) or self._compute(key[0], images)
        self._kept[key] = prefix
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return prefix

    def _compute(self, text: str, images: list[ImageFile]) -> _Prefix:
        inputs = self._whole(text, images)
        read = self._model.generate(**inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True)
        return _Prefix(ids=inputs["input_ids"], cache=read[self._cache_name], shift=self._model.model.rope_deltas)

    def _continued(self, prefix: _Prefix, words: Sequence[str]) -> dict[str, Any]:
        import torch

        tokens = [self._processor.tokenizer(one, add_special_tokens=False)["input_ids"] for one in words]
        longest = max(map(len, tokens))
        # A token that stands in every conversation fills up: what punishes repetition sees nothing new.
        fill = int(prefix.ids[0, 0])
        rows = torch.tensor([[fill] * (longest - len(one)) + one for one in tokens], device=prefix.ids.device)
        seen = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in tokens], device=rows.device)
        before = prefix.ids.expand(len(tokens), -1)
        cache = copy.deepcopy(prefix.cache)  # it grows with the answers
        if len(tokens) > 1:
            cache.batch_repeat_interleave(len(tokens))
        self._model.model.rope_deltas = prefix.shift
        return {
            "input_ids": torch.cat([before, rows], dim=1),
            "attention_mask": torch.cat([torch.ones_like(before), seen], dim=1),
            self._cache_name: cache,
        }

    @property
    def _cache_name(self) -> str:
        """What keys and values are called: transformers 5.24 gave them another name."""
        from transformers.generation import GenerateDecoderOnlyOutput

        names = {field.name for field in dataclasses.fields(GenerateDecoderOnlyOutput)}
        return "cache" if "cache" in names else "past_key_values"


def _part(part: str | ImageFile) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


MOST = 16
"""So many questions are a batch at most."""


class TransformersBackend:
    """A model of transformers with its processor."""

    secret_free_place = "local"

    def __init__(self, place: str, device: str = "cpu", dtype: str = "float32", *, kept: int = KEPT) -> None:
        """Loads the model.

        Args:
            place: A folder, or a hub id.
            device: Of torch.
            dtype: Of the weights.
            kept: See `Prefixes`.

        Raises:
            SetupError: If there is no such model.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor: Any = AutoProcessor.from_pretrained(place)
            model: Any = AutoModelForImageTextToText.from_pretrained(place, dtype=getattr(torch, dtype))
            self._model: Any = model.to(device).eval()
        # The last three: a damaged file, or no such device.
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, AssertionError) as error:
            raise SetupError(f"{place} cannot be loaded: {weight_files.why(place, error)}") from error
        self._prefixes = Prefixes(self._model, self._processor, kept)
        self._lock = threading.Lock()
        self._answered: collections.OrderedDict[Any, list[Reply]] = collections.OrderedDict()
        self.id = model_name(place)

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """Answers in a thread, one question at a time. Decoding is greedy: temperature and seed have no effect."""
        del seed
        return await asyncio.to_thread(self.answer, messages, params)

    async def ask_among(self, number: int, questions: Together, params: AskParams) -> Reply:
        """Answers one question of a batch; the first one that is asked for has all of them answered.

        A resumed run therefore gets the same answers, to the last bit.
        """
        return (await asyncio.to_thread(self.answers, questions, params))[number]

    def answer(self, messages: Messages, params: AskParams) -> Reply:
        """The reply to one question, at once."""
        return self.answers(((messages, params.spellings),), params)[0]

    def answers(self, questions: Together, params: AskParams) -> Sequence[Reply]:
        """One reply per question, in order; those that begin with the same images are a batch.

        Args:
            questions: Conversations, each with its spellings.
            params: Of all of them but for spellings.
        """
        with self._lock:
            key = (questions, params.max_tokens)
            replies = self._answered.pop(key, None) or self._in_batches(questions, params.max_tokens)
            if len(questions) > 1:  # or nobody will come for the others
                self._answered[key] = replies
            if len(self._answered) > KEPT:
                self._answered.popitem(last=False)
        return replies

    def _in_batches(self, questions: Together, max_tokens: int | None) -> list[Reply]:
        alike: dict[Any, list[int]] = {}
        for number, (messages, _) in enumerate(questions):
            alike.setdefault(self._prefixes.beginning(messages) or number, []).append(number)
        found: dict[int, Reply] = {}
        for numbers in alike.values():
            for first in range(0, len(numbers), MOST):
                batch = numbers[first : first + MOST]
                found |= zip(batch, self._batch([questions[number] for number in batch], max_tokens), strict=True)
        return [found[number] for number in range(len(questions))]

    def _batch(self, questions: Sequence[tuple[Messages, tuple[str, ...]]], max_tokens: int | None) -> list[Reply]:
        import torch

        with torch.inference_mode():
            inputs = self._prefixes.inputs([messages for messages, _ in questions])
            length = int(inputs["input_ids"].shape[1])
            generated = self._model.generate(
                **inputs,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=any(spellings for _, spellings in questions),  # of all tokens, over the whole vocabulary
                **({} if max_tokens is None else {"max_new_tokens": max_tokens}),
            )
        return [
            Reply(
                **self._written(generated.sequences[row, length:].tolist(), max_tokens),
                tokens_in=int(inputs["attention_mask"][row].sum()),
                served_by=self.id,
                **(self._likely(generated.logits[0][row], spellings) if spellings else {}),
            )
            for row, (_, spellings) in enumerate(questions)
        ]

    def _written(self, tokens: list[int], max_tokens: int | None) -> dict[str, Any]:
        """Text, number of tokens and finish of an answer; its row is padded where others of the batch are longer."""
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        whole = next((number for number, token in enumerate(tokens, 1) if token in ends), None)
        tokens = tokens[:whole]
        return {
            "text": self._processor.batch_decode([tokens], skip_special_tokens=True)[0],
            "tokens_out": len(tokens),
            "finish": "stop" if whole or len(tokens) < (max_tokens or 0) else CUT_OFF,
        }

    def _likely(self, logits: Any, spellings: tuple[str, ...]) -> dict[str, Any]:
        """Probabilities of the first token, from logits ``(vocabulary,)``."""
        tokenizer = self._processor.tokenizer
        likely = logits.double().softmax(-1)
        best = likely.topk(min(TOP_TOKENS, len(likely)))
        first: dict[str, float] = {}
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            text = tokenizer.decode([token])
            first[text] = first.get(text, 0.0) + value
        ids = {word: tokenizer.encode(word, add_special_tokens=False)[0] for word in spellings}
        return {"first_token": first, "spelled": {word: float(likely[one]) for word, one in ids.items()}}

    async def close(self) -> None:
        """Nothing to close."""


def model_name(place: str) -> str:
    """The last part of a folder's name with eight digits of its weights' content; a hub id as it is."""
    found = weight_files.below(Path(place)) if place else []
    return f"{Path(place).resolve().name}-{weight_files.digest_of(found)}" if found else place
