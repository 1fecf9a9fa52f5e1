"""Semantic-spatial guidance: the three conditions, their null forms, and how the branches are mixed.

With (semantic, spatial, reference) as arguments of the denoiser e, and 0 for a condition's null form, the guided
prediction is (GoT paper, section 5.2)

    e(0,0,0) + a_t [e(t,0,r) - e(0,0,r)] + a_s [e(t,s,r) - e(t,0,r)] + a_r [e(0,0,r) - e(0,0,0)]

A condition that is switched off takes its null form in every branch. Its own term then vanishes and branches that have
become equal are run once; nothing else about the formula changes. `branch_weights` is the formula, collected by
branch; it is told how far the denoising is, so a guidance that changes on the way is a change there alone.

Null forms: semantic, the projection of zeros (the bias), for the pooled embedding too when semantic is off (while it is
on, all branches share the pooled embedding); spatial and reference, zero latents.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from got.model.shortcuts import Shortcuts
from got.plan.layout import black_image, draw_mask
from got.util.cores import on_cores, row_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from diffusers import AutoencoderKL, UNet2DConditionModel

    from got.model.config import GuidanceConfig
    from got.model.networks import SemanticProjector
    from got.plan.chain import Chain

CALLBACK_TENSORS = {
    "prompt_embeds": "context",
    "negative_prompt_embeds": "null_context",
    "add_text_embeds": "pooled",
    "pooled_prompt_embeds": "pooled",
    "add_time_ids": "time_ids",
}
"""diffusers' names of conditions that a callback may see and replace, and ours."""

Branch = tuple[bool, bool, bool]
"""Which of (semantic, spatial, reference) a branch of the denoiser sees."""
_Formula = tuple[tuple[Branch, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """Which guidances take part."""

    semantic: bool = True
    spatial: bool = True
    reference: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """Everything the denoiser is told about a batch of images; h and w are latent sizes."""

    context: torch.Tensor
    """(batch, tokens, cross_attention_dim)"""
    null_context: torch.Tensor
    """(1, tokens, cross_attention_dim); one token, expanded, where all are alike."""
    pooled: torch.Tensor
    """(batch, pooled_dim)"""
    time_ids: torch.Tensor
    """(6,): height, width, crop top and left, height, width, in pixels."""
    spatial: torch.Tensor
    """G_s, (batch, channels, h, w)"""
    reference: torch.Tensor
    """G_r, (batch, channels, h, w)"""

    def part(self, rows: slice) -> Conditions:
        """The conditions of some of the images."""
        names = ("context", "pooled", "spatial", "reference")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})


def branch_weights(scales: GuidanceConfig, switches: Switches, done: float = 0.0) -> dict[Branch, float]:
    """The formula collected by branch: the weight of every branch that has to be run; the weights sum to one.

    Args:
        scales: a_t, a_s, a_r, and in which part of the denoising they guide.
        switches: Which conditions take part.
        done: Share of the denoising that is done, in [0, 1).

    >>> from got.model.config import GuidanceConfig
    >>> scales = GuidanceConfig(semantic=7.5, spatial=4.0, reference=1.0)
    >>> branch_weights(scales, Switches())
    {(True, True, True): 4.0, (True, False, True): 3.5, (False, False, True): -6.5}
    >>> branch_weights(scales, Switches(spatial=False))
    {(True, False, True): 7.5, (False, False, True): -6.5}
    >>> branch_weights(GuidanceConfig(semantic=2.5, spatial=2.5, reference=1.0), Switches())
    {(True, True, True): 2.5, (False, False, True): -1.5}
    >>> late = GuidanceConfig(semantic=7.5, spatial=4.0, reference=1.0, interval=(0.5, 1.0))
    >>> branch_weights(late, Switches(), done=0.25)
    {(True, True, True): 1.0}
    """
    start, end = scales.interval
    if not start <= done < end:
        return {(switches.semantic, switches.spatial, switches.reference): 1.0}
    a_t, a_s, a_r = scales.semantic, scales.spatial, scales.reference
    formula: tuple[tuple[Branch, float], ...] = (
        ((True, True, True), a_s),
        ((True, False, True), a_t - a_s),
        ((False, False, True), a_r - a_t),
        ((False, False, False), 1 - a_r),
    )
    on = (switches.semantic, switches.spatial, switches.reference)
    weights: dict[Branch, float] = {}
    for (semantic, spatial, reference), weight in formula:
        branch = (semantic and on[0], spatial and on[1], reference and on[2])
        weights[branch] = weights.get(branch, 0.0) + weight
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def semantic_conditions(
    projector: SemanticProjector, hidden: torch.Tensor, switches: Switches
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Context, null context and pooled embedding of the image-token states (batch, tokens, hidden_dim)."""
    context, pooled = projector(hidden if switches.semantic else torch.zeros_like(hidden))
    # Through `forward`, and not from the bias: an offloaded projector has its weights elsewhere between calls.
    null_context = projector(torch.zeros_like(hidden[:1, :1]))[0].expand(-1, hidden.shape[1], -1)
    return context, null_context, pooled


def time_ids(height_px: int, width_px: int) -> torch.Tensor:
    """SDXL's size conditioning for an uncropped image, (6,)."""
    return torch.tensor([height_px, width_px, 0, 0, height_px, width_px], dtype=torch.float32)


def image_conditions(
    vae: AutoencoderKL,
    chains: Sequence[Chain],
    references: Sequence[Image.Image | None] | None,
    size_px: tuple[int, int],
    switches: Switches,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """G_s and G_r of a batch: every different image passes the VAE once, as many as `vae_batch_size` in a call.

    Args:
        vae: Its posterior means are used as they are, without the scaling of the noise latents.
        chains: One per image; G_s is the mean over the masks of its regions.
        references: Source images, resized to the image (bicubic); None stands for a black one, or for black ones.
        size_px: Width and height of the images.
        switches: A condition that is off becomes zeros and costs nothing.
        device: Where to compute, if the VAE is offloaded and cannot say it.

    Returns:
        Two tensors (batch, channels, h, w).
    """
    images: dict[Hashable, Image.Image | Callable[[], Image.Image]] = {}
    mask_keys = [_add_masks(images, chain, size_px) if switches.spatial else [] for chain in chains]
    sources: Sequence[Image.Image | None] = [None] * len(chains) if references is None else references
    source_keys = [_add_reference(images, source, size_px) if switches.reference else None for source in sources]
    device = device or vae.device
    null = _null_latents(vae, size_px, device)
    if not images:
        zeros = null.expand(len(chains), -1, -1, -1)
        return zeros, zeros
    latents = dict(zip(images, vae_means(vae, list(images.values()), size_px, device), strict=True))
    spatial = [torch.stack([latents[key] for key in keys]).mean(0) if keys else null[0] for keys in mask_keys]
    reference = [null[0] if key is None else latents[key] for key in source_keys]
    return torch.stack(spatial), torch.stack(reference)


def vae_means(
    vae: AutoencoderKL,
    images: Sequence[Image.Image | Callable[[], Image.Image]],
    size_px: tuple[int, int],
    device: torch.device | None = None,
) -> torch.Tensor:
    """Posterior means of images, (n, channels, h, w), not scaled. Images of another size are resized (bicubic).

    Those that are yet to be drawn are drawn when it is their turn.
    """
    device = device or vae.device
    means, at_a_time = [], vae_batch_size(size_px, device.type)
    for start in range(0, len(images), at_a_time):  # part by part: as floats, large images are dearer than latents
        part = [image() if callable(image) else image for image in images[start : start + at_a_time]]
        pixels = pixels_of(part, size_px).to(device).to(vae.dtype)
        means.append(vae.encode((pixels / 255 - 0.5) / 0.5).latent_dist.mode())
    return torch.cat(means)


def vae_batch_size(size_px: tuple[int, int], kind: str = "cuda") -> int:
    """How many images of a size pass the VAE together.

    On a device of its own two of 1024 px, for which the encoder takes 5 GB. On a CPU four of 128 px: what a layer
    makes of them stays in the caches, and 32 at a time take 1.7 times as long for each.

    Args:
        size_px: Width and height.
        kind: Of the device, as torch calls it.

    >>> vae_batch_size((128, 128)), vae_batch_size((1024, 1024)), vae_batch_size((4096, 4096))
    (128, 2, 1)
    >>> vae_batch_size((128, 128), "cpu"), vae_batch_size((1024, 1024), "cpu")
    (4, 1)
    """
    together = 4 * 128**2 if kind == "cpu" else 2 * 1024**2
    return max(1, together // (size_px[0] * size_px[1]))


def pixels_of(images: Sequence[Image.Image], size_px: tuple[int, int]) -> torch.Tensor:
    """Images in one size, uint8 (n, 3, height, width)."""
    resized = [
        image if image.size == size_px else image.resize(size_px, Image.Resampling.BICUBIC)
        for image in (image.convert("RGB") for image in images)
    ]
    # Contiguous, or convolutions add up in another order: on flat images, where the group norms divide by almost
    # nothing, that moves latents by 1e-3.
    channels_first = np.stack([np.asarray(image) for image in resized]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(channels_first))


class Denoiser:
    """The guided denoiser of one batch: the branches of a step in one UNet call, mixed by the formula.

    What does not change from step to step is computed once, branch by branch.
    """

    def __init__(
        self, unet: UNet2DConditionModel, conditions: Conditions, scales: GuidanceConfig, switches: Switches
    ) -> None:
        self._unet, self._switches = unet, switches
        self.conditions, self.scales = conditions, scales
        self._shortcuts = Shortcuts(unet)
        self._mixes: dict[tuple[_Formula, int, int], _Mix] = {}

    def __call__(self, noisy: torch.Tensor, timestep: torch.Tensor, done: float = 0.0) -> torch.Tensor:
        """The guided prediction.

        Args:
            noisy: Latents (batch, channels, h, w).
            timestep: Of the scheduler.
            done: Share of the denoising that is done, in [0, 1).

        Returns:
            The prediction for each of the latents, in their shape and dtype.
        """
        formula = tuple(branch_weights(self.scales, self._switches, done).items())
        parts = row_parts(self._unet, len(noisy), len(formula))
        mixes = [self._mix(formula, part) for part in parts]

        def predict(number: int) -> torch.Tensor:
            mix, latents = mixes[number], noisy[parts[number]]
            inputs = torch.cat([latents.to(mix.images.dtype).repeat(len(formula), 1, 1, 1), mix.images], dim=1)
            predicted = self._unet(
                inputs, timestep, encoder_hidden_states=mix.context, added_cond_kwargs=mix.added, return_dict=False
            )[0]
            # In the latents' precision: weights of opposite sign would magnify the rounding of half precision.
            by_branch = predicted.to(noisy.dtype).unflatten(0, (len(formula), -1))
            return torch.tensordot(mix.weights.to(noisy.dtype), by_branch, dims=1)

        with self._shortcuts.taken():
            return torch.cat(on_cores(predict, range(len(parts))))

    def _mix(self, formula: _Formula, part: slice) -> _Mix:
        key = formula, part.start, part.stop
        if key not in self._mixes:
            mix = self._mixes[key] = _Mix.of(formula, self.conditions.part(part), self._unet.dtype)
            self._shortcuts.know(mix.context, mix.different)
        return self._mixes[key]

    def forget(self) -> None:
        """Compute anew what is kept over the steps, after weights may have changed."""
        self._mixes.clear()
        self._shortcuts.forget()

    def replace(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on with other conditions, of `CALLBACK_TENSORS`.

        Raises:
            ValueError: If one has another shape than before.
        """
        changed: dict[str, torch.Tensor] = {}
        for name, field in CALLBACK_TENSORS.items():
            old = getattr(self.conditions, field)
            new = tensors.get(name, old)
            if new.shape == old.shape:
                changed |= {} if new is old else {field: new}
            elif not torch.equal(new, old[-len(new) :]):  # diffusers' cutoffs drop unconditional rows, which are apart
                raise ValueError(f"Expected {name} of shape {tuple(old.shape)} but got {tuple(new.shape)}")
        if changed:
            self.conditions = dataclasses.replace(self.conditions, **changed)
            self.forget()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Mix:
    """The branches of a formula as the UNet sees them: (branches * batch) rows, branch by branch."""

    weights: torch.Tensor
    """(branches,)"""
    context: torch.Tensor
    different: int
    """So many rows of the context come first; each token of all others is the same."""
    images: torch.Tensor
    """Reference and spatial latents, (rows, 2 * channels, h, w)."""
    added: dict[str, torch.Tensor]

    @classmethod
    def of(cls, formula: _Formula, conditions: Conditions, dtype: torch.dtype) -> _Mix:
        branches, batch, device = [branch for branch, _ in formula], len(conditions.context), conditions.spatial.device
        # Not the UNet's device: an offloaded one waits elsewhere for its call.
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        null_context = conditions.null_context.expand(batch, -1, -1)
        alike = null_context.stride(1) == 0  # one token, repeated; comparing values would wait for a GPU
        without = [alike and not branch[0] for branch in branches]
        zeros = torch.zeros_like(conditions.spatial)
        spatial = torch.cat([conditions.spatial if branch[1] else zeros for branch in branches])
        reference = torch.cat([conditions.reference if branch[2] else zeros for branch in branches])
        return cls(
            weights=torch.tensor([weight for _, weight in formula], device=device),
            context=torch.cat([conditions.context if branch[0] else null_context for branch in branches]).to(**like),
            different=batch * without.count(False),  # branches without meaning are the formula's last
            images=torch.cat([reference, spatial], dim=1).to(**like),
            added={
                "text_embeds": conditions.pooled.to(**like).repeat(len(branches), 1),
                "time_ids": conditions.time_ids.to(**like).expand(len(branches) * batch, -1),
            },
        )


def _add_masks(
    images: dict[Hashable, Image.Image | Callable[[], Image.Image]], chain: Chain, size_px: tuple[int, int]
) -> list[Hashable]:
    """Put a chain's masks among the images, each different one once; returns the key of each region's mask."""
    keys: list[Hashable] = []
    for region in chain.regions:
        keys.append((region.box_1000, region.color.lower()))
        if keys[-1] not in images:
            images[keys[-1]] = functools.partial(draw_mask, region.box_1000, region.color, *size_px)
    return keys or [_add_reference(images, None, size_px)]


def _add_reference(
    images: dict[Hashable, Image.Image | Callable[[], Image.Image]],
    source: Image.Image | None,
    size_px: tuple[int, int],
) -> Hashable:
    key: Hashable = "black" if source is None else id(source)
    if key not in images:
        images[key] = black_image(*size_px) if source is None else source
    return key


def _null_latents(vae: AutoencoderKL, size_px: tuple[int, int], device: torch.device) -> torch.Tensor:
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    width, height = (side // factor for side in size_px)
    return torch.zeros(1, vae.config.latent_channels, height, width, device=device, dtype=vae.dtype)
