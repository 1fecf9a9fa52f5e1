"""What drawing at full size needs of a device, counted on the meta device: no weight is held, and nothing is drawn."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from got.model.config import CONFIGS
from got.model.ssgm import Switches, branch_weights, vae_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

_TOKENS, _MASKS = 500, 4  # of a typical image: prompt, chain and 64 image tokens; boxes
_GB = 1e9
_CONFIG = CONFIGS["got-6b"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operations make for as long as it lives: what a device holds beside the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.untyped_storage()._cdata not in given | self._known:
                self._watch(leaf.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class FusedAttention(TorchFunctionMode):
    """Attention as GPUs' fused kernels compute it, which never hold its matrix of weights.

    Args:
        seen: Told query, key and value of each.
    """

    def __init__(self, seen: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value = (*args, *((kwargs or {}).get(name) for name in ("query", "key", "value")[len(args) :]))[
                :3
            ]
            if self._seen is not None:
                self._seen(query, key, value)
            return torch.empty_like(query)
        return func(*args, **(kwargs or {}))


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that some work holds at a time, beside what is there before.

    >>> x = torch.empty(1000, device="meta")  # 4,000 bytes
    >>> peak_bytes(lambda: (x + 1).mul_(2) - 1)
    8000
    """
    with LiveBytes() as live, FusedAttention(), torch.no_grad():
        work()
    return live.peak


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One network at work."""

    part: str
    """The component whose weights it needs."""
    weights: int
    """Bytes of these."""
    beside: int
    """Bytes of everything else at its peak."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What is drawn: images of one size together, each from a chain with four boxes."""

    batch: int = 1
    """Images drawn together."""
    size_px: int = 1024
    """Length of an image's side."""
    edit: bool = False
    """Whether there are source images, and a fourth branch."""
    sliced: bool = False
    """Whether images pass the autoencoder one by one (``--vae-slicing``)."""
    vae_dtype: torch.dtype = torch.float32
    """Precision of the autoencoder, whose activations overflow in float16."""
    guided: bool = True
    """Whether guidance is on; outside of its interval the prediction with all conditions stands alone."""

    @property
    def branches(self) -> int:
        """Predictions for each image and step."""
        return not self.guided or len(branch_weights(_CONFIG.edit if self.edit else _CONFIG.text_to_image, Switches()))

    @property
    def encoded(self) -> int:
        """Masks and references that the autoencoder encodes; all images without a source share one black reference."""
        return self.batch * (_MASKS + 1) if self.edit else self.batch * _MASKS + 1

    @property
    def at_a_time(self) -> int:
        """Images in one pass of the autoencoder."""
        return 1 if self.sliced else vae_batch_size((self.size_px, self.size_px))


def calls(parts: Mapping[str, nn.Module], drawing: Drawing) -> dict[str, tuple[str, Callable[[], object]]]:
    """One pass of each stage of drawing: whose weights it needs, and what does it.

    A source image's way through the vision tower is not counted; it is small beside the language model's weights.

    Args:
        parts: `got.released.full_size()`, or networks of other sizes on the meta device; their precision is changed:
            bfloat16, but for the autoencoder.
        drawing: What is drawn.
    """
    short: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
    long: dict[str, Any] = {"device": "meta", "dtype": drawing.vae_dtype}
    networks: dict[str, Any] = {
        name: torch.nn.Module.to(part, drawing.vae_dtype if name == "vae" else torch.bfloat16)
        for name, part in parts.items()
    }
    mllm, unet, vae = (networks[name] for name in ("mllm", "unet", "vae"))
    text, latents = mllm.config.get_text_config(), drawing.size_px // 2 ** (len(vae.config.block_out_channels) - 1)
    batch, rows, at_a_time = drawing.batch, drawing.batch * drawing.branches, drawing.at_a_time
    encoded = min(drawing.encoded, at_a_time), 3, drawing.size_px, drawing.size_px
    return {
        "chains": ("mllm", lambda: mllm.model.language_model(
            inputs_embeds=torch.empty(batch, _TOKENS, text.hidden_size, **short),
            position_ids=torch.empty(3, batch, _TOKENS, device="meta", dtype=torch.long),
            attention_mask=None,
            use_cache=True,
        )),
        "layout and reference": ("vae", lambda: vae.encode(torch.empty(encoded, **long))),
        "denoising": ("unet", lambda: unet(
            torch.empty(rows, unet.config.in_channels, latents, latents, **short),
            torch.empty(1, **short),
            torch.empty(rows, _CONFIG.image_tokens, unet.config.cross_attention_dim, **short),
            added_cond_kwargs={
                "text_embeds": torch.empty(rows, networks["projector"].config.pooled_dim, **short),
                "time_ids": torch.empty(rows, 6, **short),
            },
        )),
        "decoding": ("vae", lambda: vae.decode(
            torch.empty(min(batch, at_a_time), vae.config.latent_channels, latents, latents, **long)
        )),
    }  # fmt: skip


def stages(parts: Mapping[str, nn.Module], drawing: Drawing) -> dict[str, Stage]:
    """What each stage of drawing holds, see `calls`."""
    work = calls(parts, drawing)
    sizes = {
        name: sum(weight.numel() * weight.element_size() for weight in network.parameters())
        for name, network in parts.items()
    }
    return {name: Stage(part=part, weights=sizes[part], beside=peak_bytes(call)) for name, (part, call) in work.items()}


def summary(parts: Mapping[str, nn.Module], batch: int, size_px: int) -> dict[str, Any]:
    """What GoT-6B needs to draw and to edit, in GB: by stage, and in all by where the weights wait.

    Args:
        parts: `got.released.names.full_size()`.
        batch: Images drawn together.
        size_px: Of a side.
    """
    found = {}
    for task, edit in (("drawing", False), ("editing", True)):
        for sliced in (False, True):
            counted = stages(parts, Drawing(batch=batch, size_px=size_px, edit=edit, sliced=sliced))
            weights = sum({stage.part: stage.weights for stage in counted.values()}.values())
            found[f"{task}, vae slicing" if sliced else task] = {
                "stages": {
                    name: {"part": stage.part, "weights": _gb(stage.weights), "beside": _gb(stage.beside)}
                    for name, stage in counted.items()
                },
                "all_on_the_device": _gb(weights + max(stage.beside for stage in counted.values())),
                "offload_model": _gb(max(stage.weights + stage.beside for stage in counted.values())),
                "offload_sequential": _gb(max(stage.beside for stage in counted.values())),
            }
    return {"batch": batch, "size_px": size_px, "gigabytes": found}


def report(found: dict[str, Any]) -> str:
    """A `summary` in words."""
    drawing, sliced = (found["gigabytes"][name] for name in ("drawing", "drawing, vae slicing"))
    lines = [
        f"GoT-6B, {found['size_px']} px, {found['batch']} image{'s' if found['batch'] > 1 else ''} at a time, "
        f"{_MASKS} boxes each. Counted on the meta device, not run.",
        "",
        "GB, bfloat16 but for the autoencoder   weights  beside them",
        *[f"  {name:<37}{stage['weights']:7.1f}  {stage['beside']:11.1f}" for name, stage in drawing["stages"].items()],
        "",
        "GB on the GPU                          drawing  editing  drawing, --vae-slicing",
    ]
    for words, name in (
        ("all weights", "all_on_the_device"),
        ("--offload model", "offload_model"),
        ("--offload sequential, at least", "offload_sequential"),
    ):
        editing = found["gigabytes"]["editing"][name]
        lines.append(f"  {words:<37}{drawing[name]:7.1f}  {editing:7.1f}  {sliced[name]:22.1f}")
    return "\n".join(lines)


def _gb(size: int) -> float:
    return round(size / _GB, 1)
