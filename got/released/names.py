"""The released checkpoint's layout: one flat state dict, with the names that PEFT 0.13 and transformers 4.49 gave.

Every parameter of today's networks comes from one of three kinds of entry:

- plain: the weight itself;
- LoRA: ``X.base_layer.weight`` with ``X.lora_A.default.weight`` and ``X.lora_B.default.weight`` (rank 32, scale 1);
- saved in full: ``X.modules_to_save.default.weight``, trained, beside a frozen ``X.original_module.weight`` that the
  model never reads.

The language model's embedding and its output layer are tied in Qwen2.5-VL-3B, but were trained as two copies: after
the conversion they are two different matrices. Nothing here holds weights; the networks live on the meta device.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from got.model.adapter import LORA_RANK, LORA_TARGETS, SAVED_IN_FULL
from got.model.networks import SemanticProjector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn


_MLLM = "mllm.base_model.model."
_RENAMED = (("model.visual.", "visual."), ("model.language_model.", "model."))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one parameter of today's networks comes from."""

    key: str
    """Its entry in the released state dict."""
    lora: tuple[str, str] | None = None
    """Entries of the LoRA factors A and B, whose product B A is added."""
    unused: str | None = None
    """Entry of the frozen copy; it may be missing."""


def networks(
    mllm_config: Qwen2_5_VLConfig, unet_config: Mapping[str, Any], vae_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the released architecture on the meta device, which takes no memory for weights.

    Args:
        mllm_config: Of the Qwen2.5-VL that GoT started from; its embedding tie is undone.
        unet_config: SDXL's, with 4 input channels; GoT has three times as many.
        vae_config: SDXL's.
    """
    mllm_config.tie_word_embeddings = False
    mllm_config.text_config.tie_word_embeddings = False
    channels = 3 * unet_config["in_channels"]
    pooled = unet_config["projection_class_embeddings_input_dim"] - 6 * unet_config["addition_time_embed_dim"]
    with torch.device("meta"):
        return {
            "mllm": Qwen2_5_VLForConditionalGeneration(mllm_config),
            "unet": UNet2DConditionModel.from_config({**unet_config, "in_channels": channels}),
            "vae": AutoencoderKL.from_config(vae_config),
            "projector": SemanticProjector(
                mllm_config.text_config.hidden_size, unet_config["cross_attention_dim"], pooled
            ),
        }


def full_size() -> dict[str, Any]:
    """GoT-6B on the meta device, from the published configurations of Qwen2.5-VL-3B and SDXL.

    >>> sum(weight.numel() for part in full_size().values() for weight in part.parameters()) / 1e9
    6.72...
    """
    return networks(Qwen2_5_VLConfig(**_QWEN_3B), _SDXL_UNET, _SDXL_VAE)


_QWEN_3B = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
    },
}
_SDXL_UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SDXL_VAE = {
    "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
}


def origin(part: str, name: str) -> Origin:
    """The released entries behind a parameter of one of the networks.

    >>> origin("mllm", "model.visual.blocks.0.mlp.up_proj.bias")
    Origin(key='mllm.base_model.model.visual.blocks.0.mlp.up_proj.base_layer.bias', lora=None, unused=None)
    >>> origin("mllm", "lm_head.weight").key
    'mllm.base_model.model.lm_head.modules_to_save.default.weight'
    """
    if part == "projector":
        module, _, leaf = name.partition(".")
        return Origin(key=f"{module}.projector.{leaf}")
    if part != "mllm":
        return Origin(key=f"{part}.{name}")
    for new, old in _RENAMED:
        if name.startswith(new):
            name = old + name.removeprefix(new)
    module, _, leaf = name.rpartition(".")
    path = _MLLM + module
    if module.endswith(SAVED_IN_FULL):
        return Origin(key=f"{path}.modules_to_save.default.{leaf}", unused=f"{path}.original_module.{leaf}")
    if module.endswith(LORA_TARGETS):
        factors = (f"{path}.lora_A.default.weight", f"{path}.lora_B.default.weight")
        return Origin(key=f"{path}.base_layer.{leaf}", lora=factors if leaf == "weight" else None)
    return Origin(key=f"{path}.{leaf}")


def expected_entries(parts: Mapping[str, nn.Module]) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Names and shapes of the whole released state dict, and which of them may be missing."""
    shapes: dict[str, tuple[int, ...]] = {}
    optional = set()
    for part, network in parts.items():
        for name, parameter in network.state_dict().items():
            source, shape = origin(part, name), tuple(parameter.shape)
            shapes[source.key] = shape
            if source.lora is not None:
                shapes[source.lora[0]] = (LORA_RANK, shape[1])
                shapes[source.lora[1]] = (shape[0], LORA_RANK)
            if source.unused is not None:
                shapes[source.unused] = shape
                optional.add(source.unused)
    return shapes, optional


def differences(parts: Mapping[str, nn.Module], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps a state dict with these names and shapes from being the released one; empty if nothing does."""
    expected, optional = expected_entries(parts)
    missing = [key for key in expected if key not in found and key not in optional]
    unexpected = [key for key in found if key not in expected]
    misshaped = [
        f"{key} {_times(found[key])} instead of {_times(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != shape
    ]
    named = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    return [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in named if keys]


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(keys: list[str], most: int = 40) -> str:
    """The keys; of a long list only the first, with repeated layers folded into one pattern.

    >>> _listed(["a.0.w", "a.1.w", "b"])
    'a.0.w, a.1.w, b'
    >>> _listed([f"a.{i}.w" for i in range(50)])
    'a.*.w (50 times)'
    """
    if len(keys) > most:
        folded: dict[str, int] = {}
        for key in keys:
            pattern = re.sub(r"\.\d+(?=\.)", ".*", key)
            folded[pattern] = folded.get(pattern, 0) + 1
        keys = [key if count == 1 else f"{key} ({count} times)" for key, count in folded.items()]
    rest = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {rest} more" if rest > 0 else "")
