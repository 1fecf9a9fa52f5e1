"""A vision-language model of transformers on this machine, greedy: one question has one answer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util import weight_files
from got.vlm.clients import CUT_OFF, TOP_TOKENS, AskParams, Reply, SetupError
from got.vlm.prefixes import KEPT, Prefixes

if TYPE_CHECKING:
    from got.vlm.messages import Messages


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
        self.id = model_name(place)

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """In a thread of its own, one question at a time; greedy, so temperature and seed change nothing."""
        del seed
        return await asyncio.to_thread(self.answer, messages, params)

    def answer(self, messages: Messages, params: AskParams) -> Reply:
        """The same, at once."""
        import torch

        limit = {} if params.max_tokens is None else {"max_new_tokens": params.max_tokens}
        with self._lock, torch.inference_mode():
            inputs = self._prefixes.inputs(messages)
            length = int(inputs["input_ids"].shape[1])
            generated = self._model.generate(
                **inputs,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=bool(params.spellings),  # of every token, over the whole vocabulary
                **limit,
            )
        written = generated.sequences[0, length:]
        ends = self._model.generation_config.eos_token_id
        ended = int(written[-1]) in (ends if isinstance(ends, list) else [ends])
        return Reply(
            text=self._processor.batch_decode(written[None], skip_special_tokens=True)[0],
            tokens_in=length,
            tokens_out=len(written),
            served_by=self.id,
            finish="stop" if ended or len(written) < (params.max_tokens or 0) else CUT_OFF,
            **(self._likely(generated.logits[0][0], params.spellings) if params.spellings else {}),
        )

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
