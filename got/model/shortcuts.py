"""Passes of a network that leave out what is known before, and give the same up to rounding.

- A context stays the same over the steps of a drawing: each layer's keys and values of it are computed once.
- In a context without meaning all tokens are equal. Attention to it is their value, whatever asks, so what such rows
  get is computed once, too.
- Doubling a grid (nearest neighbour) before a convolution of 3 x 3 is a transposed convolution of 4 x 4, which
  multiplies 16 times for each value instead of 36.
- Values and gates of a GEGLU that are computed together lie row by row beside each other, where a CPU's passes over one
  of them are slow: they are computed apart.

Only networks that nobody else has changed pass so: others (compiled, offloaded, watched by hooks, in training) pass as
they are, and so do single layers that another library's have replaced, as LoRA's do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional

from got.util.cores import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TAPS = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
"""Which taps of a convolution on the doubled grid, (3,), fall on which of the transposed one, (4,), along one side."""


class Shortcuts:
    """What is known of a network and of the contexts that it attends to, by its weights as they are at first."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._attending = _Attending()
        self._layers: tuple[list[Attention], dict[nn.Module, Callable[..., torch.Tensor]]] | None = None

    def know(self, context: torch.Tensor, different: int) -> None:
        """Announce a context that several passes will get, as this very tensor.

        Args:
            context: (rows, tokens, width). It must stay as it is until `forget`.
            different: So many rows come first; each token of all others is the same.
        """
        self._attending.contexts[id(context)] = _Context(tensor=context, different=different)

    def forget(self) -> None:
        """Begin anew, after weights or contexts may have changed."""
        self._layers = None
        self._attending.contexts.clear()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Let the network take shortcuts inside the block; afterwards it is as it was."""
        if torch.is_grad_enabled():  # what is kept has none
            yield
            return
        if self._layers is None:
            modules = list(self._network.modules()) if is_plain(self._network) else []
            attentions = [module for module in modules if _attends_plainly(module)]
            self._layers = attentions, {one: forward for one in modules if (forward := _shorter_forward(one))}
        attentions, forwards = self._layers
        try:
            for module, forward in forwards.items():
                module.forward = forward
            for attention in attentions:
                attention.processor = self._attending
            yield
        finally:
            for module in forwards:
                module.__dict__.pop("forward", None)
            for attention in attentions:
                attention.processor = AttnProcessor2_0()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Context:
    tensor: torch.Tensor
    different: int
    layers: dict[nn.Module, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=dict)
    """Of each layer the keys and values of different rows, and what all others get, (1, 1, width)."""

    def of(self, layer: Attention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if layer not in self.layers:
            varied, same = self.tensor[: self.different], self.tensor[self.different :][:1, :1]
            heads = [_by_head(project(varied), layer.heads) for project in (layer.to_k, layer.to_v)]
            self.layers[layer] = heads[0], heads[1], _out(layer, layer.to_v(same))
        return self.layers[layer]


class _Attending(AttnProcessor2_0):
    """Attention as usual, but for contexts that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: dict[int, _Context] = {}

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        context = self.contexts.get(id(encoder_hidden_states))
        if context is None or attention_mask is not None or options:
            usual: torch.Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, **options
            )
            return usual
        key, value, same = context.of(attn)
        rows, length = hidden_states.shape[:2]
        others = same.expand(rows - context.different, length, -1)
        if not context.different:
            return others
        query = _by_head(attn.to_q(hidden_states[: context.different]), attn.heads)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return torch.cat([_out(attn, seen.transpose(1, 2).flatten(2)), others])


def _by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    """From (rows, tokens, heads * width) to (rows, heads, tokens, width)."""
    return states.unflatten(2, (heads, -1)).transpose(1, 2)


def _out(layer: Attention, seen: torch.Tensor) -> torch.Tensor:
    """What a layer of attention makes of what it has seen, (rows, tokens, width)."""
    for part in layer.to_out:
        seen = part(seen)
    return seen


def _attends_plainly(module: nn.Module) -> bool:
    return (
        isinstance(module, Attention)
        and type(module.processor) is AttnProcessor2_0
        and not module.norm_cross
        and not module.residual_connection
        and module.rescale_output_factor == 1
        and all(part is None for part in (module.spatial_norm, module.group_norm, module.norm_q, module.norm_k))
    )


def _shorter_forward(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    if _doubles_plainly(module):
        return functools.partial(_double, module, _kernel(module.conv))
    return functools.partial(_gate, module) if _gates_plainly(module) else None


def _gates_plainly(module: nn.Module) -> bool:
    if not isinstance(module, GEGLU):
        return False
    inner = module.proj
    return type(inner) is nn.Linear and inner.bias is not None and inner.weight.device.type == "cpu"


def _gate(module: GEGLU, hidden_states: torch.Tensor) -> torch.Tensor:
    values, gates = (
        functional.linear(hidden_states, weight, bias)
        for weight, bias in zip(module.proj.weight.chunk(2), module.proj.bias.chunk(2), strict=True)
    )
    return values.mul_(functional.gelu(gates))


def _doubles_plainly(module: nn.Module) -> bool:
    if not isinstance(module, Upsample2D) or not (module.use_conv and module.interpolate and module.name == "conv"):
        return False
    conv = module.conv
    return (
        type(conv) is nn.Conv2d
        and module.norm is None
        and (conv.kernel_size, conv.padding, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), 1, "zeros")
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype == torch.float32  # sums of a shorter type would be rounded once more
    )


def _kernel(conv: Any) -> torch.Tensor:
    """From a convolution's weights (out, in, 3, 3) to those of the transposed one, (in, out, 4, 4)."""
    large = conv.weight.flatten(2) @ torch.kron(_TAPS, _TAPS)
    return large.unflatten(2, (4, 4)).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _double(
    module: Upsample2D, kernel: torch.Tensor, hidden_states: torch.Tensor, output_size: Any = None
) -> torch.Tensor:
    if output_size is not None:  # odd sides
        usual: torch.Tensor = type(module).forward(module, hidden_states, output_size)
        return usual
    return functional.conv_transpose2d(hidden_states, kernel, module.conv.bias, stride=2, padding=1)
