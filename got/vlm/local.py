"""A vision-language model of transformers on this machine, greedy: one question has one answer."""

from __future__ import annotations

import asyncio
import collections
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util import weight_files
from got.vlm.clients import CUT_OFF, TOP_TOKENS, AskParams, Reply, SetupError
from got.vlm.prefixes import KEPT, Prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.vlm.clients import Together
    from got.vlm.messages import Messages

MOST = 16
"""So many questions are a batch at most."""


class TransformersBackend:
    """A model of transformers with its processor."""

    secret_free_place = "local"

    def __init__(self, place: str, device: str = "cpu", dtype: str = "float32", *, kept: int = KEPT) -> None:
        """Loads it.

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
        """In a thread of its own, one question at a time; greedy, so temperature and seed change nothing."""
        del seed
        return await asyncio.to_thread(self.answer, messages, params)

    async def ask_among(self, number: int, questions: Together, params: AskParams) -> Reply:
        """The same of one of some questions, all of which are answered at the first one's turn.

        What a question is answered with is therefore the same to the last bit in a run that was killed and goes on.
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
        """Text, number of tokens and end of an answer; behind its end, others of its batch went on."""
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
