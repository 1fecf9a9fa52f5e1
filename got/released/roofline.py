"""How fast GoT-6B can be at most, on paper: every operation at the peak of a GPU's arithmetic or of its memory.

Counted on the meta device and never run. An operation takes the longer of its operations at the peak rate and of its
bytes (inputs and results once) at the peak bandwidth (Williams et al. 2009). Kernels below their peak, launches,
and what a compiler fuses are not in it, so eager code reaches a part of it.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import DynamicCache

from got.model.config import CONFIGS
from got.released.memory import Drawing, FusedAttention, calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

_CONFIG = CONFIGS["got-6b"]
_PROMPT, _CHAIN = 70, 360
"""Tokens of a typical prompt with its template, and of a chain with four boxes, which are written one by one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU's peaks, dense, as its data sheet has them."""

    half: float
    """Operations a second of bfloat16 and float16."""
    tf32: float
    """Of float32 convolutions, which PyTorch rounds to TF32 by default."""
    single: float
    """Of other float32."""
    bandwidth: float
    """Bytes a second."""


DEVICES = {
    "H100 SXM": Device(half=989.4e12, tf32=494.7e12, single=66.9e12, bandwidth=3.35e12),
    "H200": Device(half=989.4e12, tf32=494.7e12, single=66.9e12, bandwidth=4.8e12),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One kernel."""

    flops: float
    """A multiplication and an addition are two."""
    bytes: int
    precision: str
    """``half``, ``tf32`` or ``single``: the peak that holds for it."""

    def seconds(self, device: Device) -> tuple[float, float]:
        """Seconds by arithmetic and by memory; the longer one is the time it takes."""
        return self.flops / getattr(device, self.precision), self.bytes / device.bandwidth


class _Operations(TorchDispatchMode):
    """Lists every operation that makes a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, made = ([t for t in tree_leaves(tree) if torch.is_tensor(t)] for tree in ((args, kwargs), result))
        storages = {t.untyped_storage()._cdata for t in taken}
        in_place = func._schema.is_mutable
        if (
            made
            and "empty" not in str(func)
            and (in_place or any(t.untyped_storage()._cdata not in storages for t in made))
        ):
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else made[0].numel()
            self._add(flops, [*taken, *made], tf32="convolution" in str(func))
        return result

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """A fused attention: two products, whose matrix of weights never reaches memory."""
        self._add(4 * query.numel() * key.shape[-2], [query, query, key, value])

    def _add(self, flops: float, tensors: Sequence[torch.Tensor], *, tf32: bool = False) -> None:
        precision = "half" if any(t.element_size() == 2 for t in tensors) else "tf32" if tf32 else "single"
        size = sum(t.numel() * t.element_size() for t in tensors)
        self.found.append(Operation(flops=flops, bytes=size, precision=precision))


def operations(work: Callable[[], object]) -> list[Operation]:
    """What some work on the meta device does.

    >>> a, b = torch.empty(100, 50, device="meta"), torch.empty(50, 20, device="meta")
    >>> [(each.flops, each.bytes) for each in operations(lambda: (a @ b).relu())]
    [(200000, 32000), (2000, 16000)]
    """
    with _Operations() as listed, FusedAttention(listed.attention), torch.no_grad():
        work()
    return listed.found


def _token(mllm: Any, batch: int) -> Callable[[], object]:
    """One more token of each chain, behind a cache of half of them."""
    text, before = mllm.config.get_text_config(), _PROMPT + _CHAIN // 2
    width = text.hidden_size // text.num_attention_heads
    cache = DynamicCache(config=text)
    keys = torch.empty(batch, text.num_key_value_heads, before, width, device="meta", dtype=torch.bfloat16)
    for layer in range(text.num_hidden_layers):
        cache.update(keys, keys, layer)

    decoder = mllm.model.language_model
    named = "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"  # until 5.24

    def work() -> object:
        hidden = decoder(
            inputs_embeds=torch.empty(batch, 1, text.hidden_size, device="meta", dtype=torch.bfloat16),
            position_ids=torch.empty(3, batch, 1, device="meta", dtype=torch.long),
            attention_mask=None,
            use_cache=True,
            **{named: cache},
        )
        return mllm.lm_head(hidden.last_hidden_state)

    return work


Work = list[tuple[float, list[Operation]]]
"""Passes, and what one of them does."""


def stages(parts: Mapping[str, nn.Module], drawing: Drawing) -> dict[str, Work]:
    """What each stage of drawing a batch does, with the steps of the released checkpoint.

    Args:
        parts: `got.released.names.full_size()`.
        drawing: What is drawn.
    """
    once = {name: operations(call) for name, (_, call) in calls(parts, drawing).items()}
    return {
        "chain, word by word": [(_CHAIN, operations(_token(parts["mllm"], drawing.batch)))],
        "chain, read once": [(1, once["chains"])],
        "layout and reference": [
            (drawing.encoded / min(drawing.encoded, drawing.at_a_time), once["layout and reference"])
        ],
        "denoising": [(_CONFIG.steps, once["denoising"])],
        "decoding": [(drawing.batch / min(drawing.batch, drawing.at_a_time), once["decoding"])],
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a stage for one batch."""

    tflop: float
    gigabytes: float
    """Gigabytes moved, each operation's tensors once."""
    seconds: dict[str, float]
    """By device."""
    compute: dict[str, float]
    """Share of the time in operations that arithmetic bounds, the rest is memory's; by device."""


def cost(work: Work) -> Cost:
    """The cost of some passes.

    >>> found = cost([(2, [Operation(flops=989.4e12, bytes=0, precision="half")])])
    >>> found.seconds["H200"], found.compute["H200"]
    (2.0, 1.0)
    """
    seconds, compute = {}, {}
    for name, device in DEVICES.items():
        times = [(passes, *each.seconds(device)) for passes, each_pass in work for each in each_pass]
        seconds[name] = sum(passes * max(pair) for passes, *pair in times)
        compute[name] = sum(passes * a for passes, a, m in times if a >= m) / (seconds[name] or 1.0)
    return Cost(
        tflop=sum(passes * sum(each.flops for each in all_of) for passes, all_of in work) / 1e12,
        gigabytes=sum(passes * sum(each.bytes for each in all_of) for passes, all_of in work) / 1e9,
        seconds=seconds,
        compute=compute,
    )


_STEPS, _GUIDED = 20, 0.6


def summary(parts: Mapping[str, nn.Module], batch: int, size_px: int) -> dict[str, Any]:
    """Operations, bytes and least seconds of a batch by stage, and images a second with what makes drawing faster.

    Args:
        parts: `got.released.names.full_size()`.
        batch: Images drawn together.
        size_px: Of a side.
    """
    plain = Drawing(batch=batch, size_px=size_px)
    short, many = dataclasses.replace(plain, vae_dtype=torch.bfloat16), dataclasses.replace(plain, batch=8 * batch)
    all_of = dataclasses.replace(many, vae_dtype=torch.bfloat16)
    released, best = stages(parts, plain), stages(parts, all_of)
    ways = {
        "as released": (batch, released),
        f"{_STEPS} steps": (batch, released | {"denoising": _some(parts, plain, released, _STEPS, 1.0)}),
        f"guidance in {_GUIDED:.0%} of the steps": (
            batch, released | {"denoising": _some(parts, plain, released, _CONFIG.steps, _GUIDED)}
        ),
        "autoencoder in bfloat16": (batch, stages(parts, short)),
        f"{8 * batch} images at a time": (8 * batch, stages(parts, many)),
        "all of these": (8 * batch, best | {"denoising": _some(parts, all_of, best, _STEPS, _GUIDED)}),
    }  # fmt: skip
    costs = {name: (images, {stage: cost(work) for stage, work in way.items()}) for name, (images, way) in ways.items()}
    return {
        "batch": batch,
        "size_px": size_px,
        "stages": {stage: dataclasses.asdict(each) for stage, each in costs["as released"][1].items()},
        "images_per_second": {
            name: {device: images / sum(each.seconds[device] for each in way.values()) for device in DEVICES}
            for name, (images, way) in costs.items()
        },
    }


def _some(
    parts: Mapping[str, nn.Module], drawing: Drawing, work: Mapping[str, Work], steps: int, guided: float
) -> Work:
    """Denoising in so many steps, a share of them guided."""
    full = work["denoising"][0][1]
    if guided == 1.0:
        return [(steps, full)]
    alone = operations(calls(parts, dataclasses.replace(drawing, guided=False))["denoising"][1])
    return [(steps * guided, full), (steps * (1 - guided), alone)]


def report(found: dict[str, Any]) -> str:
    """A `summary` in words."""
    lines = [
        "Time on paper, at the peak of arithmetic or of memory, whichever is slower. Real kernels reach a part of it.",
        "",
        "as released             TFLOP  GB moved" + "".join(f"{name:>10}  bound by    " for name in DEVICES).rstrip(),
    ]
    for stage, each in found["stages"].items():
        bounds = "".join(f"{each['seconds'][name]:8.3f} s  {_bound(each['compute'][name]):<12}" for name in DEVICES)
        lines.append(f"  {stage:<20}{each['tflop']:7.1f}  {each['gigabytes']:8.1f}{bounds}".rstrip())
    lines += ["", "images a second, at most        " + "".join(f"{name:>10}" for name in DEVICES)]
    for way, speed in found["images_per_second"].items():
        lines.append(f"  {way:<30}" + "".join(f"{speed[name]:10.2f}" for name in DEVICES))
    return "\n".join(lines)


def _bound(compute: float) -> str:
    """What bounds a stage, and in which share of its time.

    >>> _bound(0.75), _bound(0.0)
    ('compute 75%', 'memory 100%')
    """
    return f"compute {compute:.0%}" if compute > 0.5 else f"memory {1 - compute:.0%}"
