"""LoRA adapters beside a checkpoint: their names on disk, and merging one into its language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LORA_RANK = 32
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matched by the end of the name, so the vision tower's MLPs carry LoRA as well."""
ADAPTER_FOLDER = "mllm_lora"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_KEY = "base_model.model.{module}.lora_{letter}.weight"
"""PEFT's name of a LoRA factor in a saved adapter."""
SAVED_IN_FULL = ("embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm")


def carries_lora(name: str) -> bool:
    """Whether a parameter of the language model has LoRA factors beside it.

    >>> carries_lora("model.layers.0.self_attn.q_proj.weight"), carries_lora("lm_head.weight")
    (True, False)
    """
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.endswith(LORA_TARGETS) and not module.endswith(SAVED_IN_FULL)


@torch.no_grad()
def merge_adapter(mllm: nn.Module, folder: Path) -> None:
    """Add a kept LoRA (in PEFT's format) to the weights it belongs to, in float32.

    Raises:
        ValueError: If a factor is missing.
        OSError: If the file is.
    """
    with safe_open(folder / ADAPTER_FILE, "pt") as factors:
        held = set(factors.keys())
        for name, weight in mllm.state_dict().items():
            if not carries_lora(name):
                continue
            keys = [ADAPTER_KEY.format(module=name.removesuffix(".weight"), letter=letter) for letter in "AB"]
            if not held.issuperset(keys):
                raise ValueError(f"Expected {' and '.join(keys)} in {folder / ADAPTER_FILE}")
            factor_a, factor_b = (factors.get_tensor(key).float().to(weight.device) for key in keys)
            weight.copy_(torch.addmm(weight.float(), factor_b, factor_a))
