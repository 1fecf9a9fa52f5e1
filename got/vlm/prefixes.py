"""What questions about the same images have in common, computed once by a local model.

Where words follow the last image of a conversation, all that stands before them is read once: its keys and values go
before each question's own words. They depend on nothing else, and each question is read alone, so that an answer is the
same whichever questions came before it, also after a run was killed.
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
    from collections.abc import Mapping

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

    def inputs(self, messages: Messages) -> Mapping[str, Any]:
        """What `generate` is to go on with. Changes the model's state: one question at a time.

        Args:
            messages: A conversation that ends with the user's turn.
        """
        turns = [{"role": message.role, "content": [_part(part) for part in message.parts]} for message in messages]
        text = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        images = list(images_of(messages))
        if not self._can_go_on(text, messages, len(images)):
            return self._whole(text, images)
        mark = self._processor.image_token
        head, _, words = text.rpartition(mark)
        prefix = self._read(head + mark, images)
        return self._continued(prefix, words)

    def _can_go_on(self, text: str, messages: Messages, images: int) -> bool:
        """Whether words follow the last image, in a form and in a model that is known."""
        if not self._most or self._model.config.model_type not in KINDS or not images:
            return False
        # A word of a question that looks like an image's mark leaves no way to tell them apart.
        return isinstance(messages[-1].parts[-1], str) and text.count(self._processor.image_token) == images

    def _whole(self, text: str, images: list[ImageFile]) -> Any:
        shown = [open_image(image.data) for image in images]
        return self._processor(text=[text], images=shown or None, return_tensors="pt").to(self._model.device)

    def _read(self, text: str, images: list[ImageFile]) -> _Prefix:
        key = (text, *(hashlib.sha256(image.data).hexdigest() for image in images))
        prefix = self._kept.pop(key, None) or self._compute(text, images)
        self._kept[key] = prefix
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return prefix

    def _compute(self, text: str, images: list[ImageFile]) -> _Prefix:
        inputs = self._whole(text, images)
        read = self._model.generate(**inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True)
        return _Prefix(ids=inputs["input_ids"], cache=read[self._cache_name], shift=self._model.model.rope_deltas)

    def _continued(self, prefix: _Prefix, words: str) -> dict[str, Any]:
        import torch

        tokens = self._processor.tokenizer(words, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = torch.cat([prefix.ids, tokens.to(prefix.ids.device)], dim=1)
        self._model.model.rope_deltas = prefix.shift
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            self._cache_name: copy.deepcopy(prefix.cache),  # it grows with the answer
        }

    @property
    def _cache_name(self) -> str:
        """What keys and values are called: transformers 5.24 gave them another name."""
        from transformers.generation import GenerateDecoderOnlyOutput

        names = {field.name for field in dataclasses.fields(GenerateDecoderOnlyOutput)}
        return "cache" if "cache" in names else "past_key_values"


def _part(part: str | ImageFile) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
