"""What questions about the same images have in common, computed once by a local model.

Where words follow the last image of a conversation, all that stands before them is read once: its keys and values go
before each question's own words. They depend on nothing else, so that an answer is the same to the last bit whichever
batches came before it.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

from got.util.images import open_image
from got.vlm.messages import images_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from got.vlm.messages import ImageFile, Messages

KEPT = 4
"""So many beginnings are remembered: as many as there are images about which questions are asked at a time."""
KINDS = ("qwen2_5_vl", "qwen3_vl")
"""Models of which a test says that both ways give the same answers. Others, such as those with a recurrent state, may
go on from a cache in a way of their own: each question is read as a whole."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Prefix:
    """A beginning that the model has read."""

    ids: torch.Tensor
    """``(1, tokens)``."""
    cache: Any
    """Keys and values of these tokens."""
    shift: Any
    """By how much the positions behind it differ from numbers of tokens, because images take up other ones."""


class Prefixes:
    """A model, and the beginnings that it has read last."""

    def __init__(self, model: Any, processor: Any, kept: int = KEPT) -> None:
        """Nothing is read yet.

        Args:
            model: Of transformers.
            processor: Its own.
            kept: So many beginnings are remembered; 0 reads each question as a whole.
        """
        self._model, self._processor, self._most = model, processor, kept
        self._kept: collections.OrderedDict[tuple[str, ...], _Prefix] = collections.OrderedDict()

    def inputs(self, conversations: Sequence[Messages]) -> Mapping[str, Any]:
        """What `generate` is to go on with. Changes the model's state: one batch at a time.

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
        """All up to the last image, as a text and the hash of each image; None where nothing can go on from there."""
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
