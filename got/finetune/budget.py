"""What a recipe needs at full size, counted on the meta device: no weight is held, and nothing of it was run here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from got.model.config import CONFIGS
from got.released import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from got.finetune.recipes import Recipe

_GB = 1e9
_TOKENS, _MASKS = 500, 4  # of a typical example: prompt, chain, 64 image tokens; boxes
_LATENT_PX = 128
_TRAINED_BYTES = 4 + 4 + 8 + 4  # weight, gradient, Adam's two moments, average
_GPUS = (1, 8, 16, 64)
_H100_FLOPS = 4e14  # 40 % of the bfloat16 peak: a common share, not a measurement


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Numbers of weights."""

    frozen: int
    lora: int
    copies: int
    """Trained in full beside a frozen original: embedding, output layer, layer norms."""
    whole: int
    """Networks that are trained as they are."""
    vae: int

    @property
    def trained(self) -> int:
        """Number of weights that are trained."""
        return self.lora + self.copies + self.whole


def weights(parts: Mapping[str, nn.Module], recipe: Recipe) -> Weights:
    """Count a model's weights under a recipe.

    Args:
        parts: Its networks, on any device; for full size those of `got.released.full_size`.
        recipe: Its LoRA rank decides what of the language model is trained.
    """
    sizes = {part: sum(weight.numel() for weight in network.parameters()) for part, network in parts.items()}
    lora = copies = 0
    if recipe.lora_rank:
        for name, weight in parts["mllm"].state_dict().items():
            source = names.origin("mllm", name)
            lora += recipe.lora_rank * sum(weight.shape) if source.lora is not None else 0
            copies += weight.numel() if source.unused is not None else 0
    whole = sizes["unet"] + sizes["projector"] + (0 if recipe.lora_rank else sizes["mllm"])
    frozen = sizes["mllm"] if recipe.lora_rank else 0
    return Weights(frozen=frozen, lora=lora, copies=copies, whole=whole, vae=sizes["vae"])


def gigabytes(counted: Weights, gpus: int) -> float:
    """Memory of weights and optimizer on each GPU, without activations.

    One GPU (or each of several without sharding) has everything, frozen weights in bfloat16; with more, weights,
    gradients, moments and average are cut in pieces (FSDP, ZeRO-3) and the frozen ones are in float32 as well.
    """
    shared = counted.trained * _TRAINED_BYTES + counted.frozen * (2 if gpus == 1 else 4)
    return (shared / gpus + 4 * counted.vae) / _GB


def operations(parts: Mapping[str, nn.Module]) -> dict[str, float]:
    """Floating-point operations of one forward pass of each network for a typical example at 1024 px."""
    networks: dict[str, Any] = {name: torch.nn.Module.to(part, torch.bfloat16) for name, part in parts.items()}
    mllm, unet, vae = (networks[name] for name in ("mllm", "unet", "vae"))
    meta: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    config = CONFIGS["got-6b"]
    calls: dict[str, Callable[[], object]] = {
        "mllm": lambda: mllm.model.language_model(
            inputs_embeds=torch.empty(1, _TOKENS, config.hidden_dim, **meta),
            position_ids=torch.empty(3, 1, _TOKENS, device="meta", dtype=torch.long),
            attention_mask=None,
            use_cache=False,
        ),
        "unet": lambda: unet(
            torch.empty(1, 12, _LATENT_PX, _LATENT_PX, **meta),
            torch.empty(1, **meta),
            torch.empty(1, config.image_tokens, config.cross_attention_dim, **meta),
            added_cond_kwargs={
                "text_embeds": torch.empty(1, config.pooled_dim, **meta),
                "time_ids": torch.empty(1, 6, **meta),
            },
        ),
        "vae": lambda: vae.encode(torch.empty(1, 3, config.image_size_px, config.image_size_px, **meta)),
    }
    counted = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counted[name] = float(counter.get_total_flops())
    head = 2.0 * config.hidden_dim * mllm.config.text_config.vocab_size * _TOKENS
    return counted | {"mllm": counted["mllm"] + head}


def summary(recipe: Recipe) -> dict[str, Any]:
    """Everything that `report` says, as numbers."""
    parts = names.full_size()
    counted = weights(parts, recipe)
    forward = operations(parts)
    again = 1 if recipe.gradient_checkpointing else 0
    # A backward pass costs two forward ones; through frozen weights (all but LoRA's) only one.
    reasoner = forward["mllm"] * ((2 if recipe.lora_rank else 3) + again)
    example = reasoner + forward["unet"] * (3 + again) + forward["vae"] * (2 + _MASKS)
    saved = counted.trained * (_TRAINED_BYTES - 4)  # all but gradients
    return {
        "weights": {**dataclasses.asdict(counted), "trained": counted.trained},
        "gigabytes_per_gpu": {str(gpus): round(gigabytes(counted, gpus), 1) for gpus in _GPUS},
        "checkpoint_gigabytes": round(saved / _GB, 1),
        "sharded_checkpoint_gigabytes": round((saved + 4 * counted.frozen) / _GB, 1),
        "main_memory_gigabytes_per_process": round(4 * (counted.frozen + counted.whole + counted.vae) / _GB, 1),
        "forward_teraflop": {name: round(value / 1e12, 2) for name, value in forward.items()},
        "teraflop_per_example": round(example / 1e12, 1),
        "gpu_days_at_400_tflops": round(recipe.steps * recipe.batch * example / _H100_FLOPS / 86400, 1),
    }


def report(recipe: Recipe) -> str:
    """What the recipe needs at full size, in words."""
    found = summary(recipe)
    count, forward = found["weights"], found["forward_teraflop"]
    lines = [
        f"{recipe.steps:,} updates of {recipe.batch} examples at full size. Counted, not run.",
        "",
        "weights (millions)",
        f"  frozen                    {count['frozen'] / 1e6:9,.1f}   language model",
        f"  trained: LoRA             {count['lora'] / 1e6:9,.1f}   rank {recipe.lora_rank}",
        f"  trained: copies           {count['copies'] / 1e6:9,.1f}   embedding, output layer, layer norms",
        f"  trained: whole networks   {count['whole'] / 1e6:9,.1f}   UNet, projector"
        + ("" if recipe.lora_rank else ", language model"),
        f"  autoencoder, frozen       {count['vae'] / 1e6:9,.1f}",
        "",
        "GB on each GPU for weights, gradients, Adam and the average; activations come on top",
        *[
            f"  {gpus:>3} GPU{'s' if int(gpus) > 1 else ' '}  {gb:7.1f}"
            for gpus, gb in found["gigabytes_per_gpu"].items()
        ],
        "",
        f"main memory while loading   {found['main_memory_gigabytes_per_process']:7.1f} GB per process",
        f"one checkpoint              {found['checkpoint_gigabytes']:7.1f} GB, with FSDP "
        f"{found['sharded_checkpoint_gigabytes']:.1f} GB",
        "",
        f"TFLOP of one forward pass, 1024 px, {_TOKENS} tokens: language model {forward['mllm']}, UNet "
        f"{forward['unet']}, autoencoder {forward['vae']} per image",
        f"TFLOP per example, with {_MASKS} boxes: {found['teraflop_per_example']}",
        f"GPU days at 400 TFLOP/s: {found['gpu_days_at_400_tflops']:,} (arithmetic; the autoencoder, in float32, is "
        "slower)",
    ]
    return "\n".join(lines)
