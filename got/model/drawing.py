"""The drawing half of `GoTPipeline`: from the reasoner's states and a chain to latents and pixels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor

from got.model.outputs import scale_latents, to_pil, unscale_latents
from got.model.sampling import check_scheduler, noise_options
from got.model.shortcuts import Shortcuts
from got.model.ssgm import (
    CALLBACK_TENSORS,
    Conditions,
    Denoiser,
    Switches,
    image_conditions,
    semantic_conditions,
    time_ids,
    vae_batch_size,
)
from got.model.validation import at_least_one
from got.util.cores import can_split, on_cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from PIL import Image

    from got.model.networks import SemanticProjector
    from got.model.outputs import Sampling
    from got.model.sampling import Steps
    from got.plan.chain import Chain


# ----------------------------------------------------------------------------------------------------- LoRA of the UNet
class UNetLoraMixin(StableDiffusionLoraLoaderMixin):
    """`load_lora_weights`, `save_lora_weights`, `set_adapters`, `fuse_lora` and the rest, for the UNet alone.

    The reasoner's LoRA is merged when a pipeline is loaded, see `got.model.adapter`.
    """

    unet: UNet2DConditionModel
    _lora_loadable_modules: ClassVar[list[str]] = ["unet"]

    def load_lora_weights(
        self, weights: str | Path | dict[str, torch.Tensor], adapter_name: str | None = None, **options: Any
    ) -> None:
        """Add a LoRA to the UNet; several can be there, weighed by `set_adapters`.

        Args:
            weights: A folder or file of safetensors, a hub id, or tensors; in diffusers' or kohya's names.
            adapter_name: What it is called from then on.
            options: As of diffusers, e.g. ``weight_name`` or ``hotswap``. Pickles are never read.

        Raises:
            ValueError: If there are no weights of a UNet's LoRA.
        """
        hotswap = options.pop("hotswap", False)
        options |= {"use_safetensors": True, "return_lora_metadata": True, "unet_config": self.unet.config}
        state, alphas, metadata = self.lora_state_dict(
            dict(weights) if isinstance(weights, dict) else weights, **options
        )
        if not any(name.startswith(f"{self.unet_name}.") and "lora" in name for name in state):
            some = next(iter(state), "nothing")
            raise ValueError(f"Expected LoRA weights of a UNet, unet.*.lora_*, but got {some}")
        self.load_lora_into_unet(
            state, alphas, self.unet, adapter_name, _pipeline=self, hotswap=hotswap, metadata=metadata
        )

    def fuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Add the LoRA to the UNet's own weights, where it costs nothing; `unfuse_lora` takes it out again."""
        super().fuse_lora(components=components or ["unet"], **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Take a fused LoRA out of the UNet's weights."""
        super().unfuse_lora(components=components or ["unet"], **options)


class DrawingPipeline(DiffusionPipeline, UNetLoraMixin):
    """A pipeline that has networks and a scheduler, and draws with them."""

    vae: AutoencoderKL
    projector: SemanticProjector
    scheduler: SchedulerMixin
    _callback_tensor_inputs = ("latents", *CALLBACK_TENSORS)
    _trained_scheduler: SchedulerMixin
    _tried: tuple[SchedulerMixin, Steps] | None = None
    _guidance_scale = 1.0
    _interrupt = False
    _num_timesteps = 0

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def guidance_scale(self) -> float:
        """The semantic scale of the call that runs or ran last.

        A callback may set `_guidance_scale`, as diffusers' own do; 1 or less ends all guidance.
        """
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """How often the scheduler steps in the call that runs or ran last."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: the image is then finished from the latents as they are."""
        return self._interrupt

    def size_px(self, width: int | None = None, height: int | None = None) -> tuple[int, int]:
        """Width and height of an image; what is not given is the UNet's usual size.

        Raises:
            ValueError: If a side is not a multiple of the VAE's factor.
        """
        usual = self.unet.config.sample_size * self.vae_scale_factor
        size = at_least_one(width, usual, "width"), at_least_one(height, usual, "height")
        if any(side % self.vae_scale_factor for side in size):
            raise ValueError(f"Expected width and height to be multiples of {self.vae_scale_factor} but got {size}")
        return size

    def _check_latents(self, sampling: Sampling, count: int) -> None:
        width, height = (side // self.vae_scale_factor for side in sampling.size_px)
        shape, latents = (count, self.vae.config.latent_channels, height, width), sampling.latents
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"Expected latents of shape {shape} but got {tuple(latents.shape)}")

    def _check_scheduler(self, steps: Steps) -> None:
        """Try a scheduler once for the steps that it is asked for, before a chain is written in vain."""
        if self._tried is None or self._tried[0] is not self.scheduler or self._tried[1] != steps:
            check_scheduler(self.scheduler, self._trained_scheduler, steps)
            self._tried = (self.scheduler, steps)

    def draw(
        self,
        hidden: torch.Tensor,
        chains: Sequence[Chain],
        references: Sequence[Image.Image] | None,
        sampling: Sampling,
    ) -> torch.Tensor:
        """From the image-token states (batch, 64, hidden_dim) and chains to normalised latents (batch, channels, h, w).

        Args:
            hidden: What the reasoner thinks of each image.
            chains: The layouts.
            references: The images to start from; None stands for black ones.
            sampling: Everything else.
        """
        _keep_exact(self.vae)
        switches, (width, height) = sampling.switches, sampling.size_px
        context, null_context, pooled = semantic_conditions(self.projector, hidden, switches)
        spatial, reference = image_conditions(
            self.vae, chains, references, sampling.size_px, switches, device=self._execution_device
        )
        conditions = Conditions(
            context=context,
            null_context=null_context,
            pooled=pooled,
            time_ids=time_ids(height_px=height, width_px=width),
            spatial=spatial,
            reference=reference,
        )
        denoiser = Denoiser(self.unet, conditions, sampling.scales, switches)
        return self._denoise(denoiser, spatial.shape, sampling)

    def _denoise(self, denoiser: Denoiser, shape: torch.Size, sampling: Sampling) -> torch.Tensor:
        """From noise to normalised latents, in float32 whatever the UNet's dtype."""
        device, generators, latents = self._execution_device, sampling.generators, sampling.latents
        sampling.steps.start(self.scheduler, device)
        if latents is None:
            latents = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        extra = noise_options(self.scheduler, generators)
        self._num_timesteps = len(self.scheduler.timesteps)  # more than the steps if a scheduler is of second order
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self._interrupt:
                break
            done = step / self._num_timesteps
            guided = denoiser(self.scheduler.scale_model_input(latents, timestep), timestep, done)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False, **extra)[0]
            if sampling.callback is not None:
                latents = self._call_back(step, timestep, latents, denoiser, sampling)
        return latents

    def _call_back(
        self, step: int, timestep: torch.Tensor, latents: torch.Tensor, denoiser: Denoiser, sampling: Sampling
    ) -> torch.Tensor:
        """Let the callback see the tensors it asks for, and go on with what it changed."""
        shown = {
            name: latents if name == "latents" else getattr(denoiser.conditions, CALLBACK_TENSORS[name])
            for name in sampling.callback_inputs
        }
        replaced = sampling.callback(self, step, timestep, shown) or {}  # type: ignore[misc]
        denoiser.forget()  # it may have changed weights, as of a LoRA
        if replaced.keys() & CALLBACK_TENSORS:
            denoiser.replace(replaced)
        scale = self._guidance_scale
        if scale != sampling.scales.semantic:
            interval = sampling.scales.interval if scale > 1 else (0.0, 0.0)
            denoiser.scales = dataclasses.replace(sampling.scales, semantic=scale, interval=interval)
        return replaced.get("latents", latents)

    @torch.inference_mode()
    def show_conditions(
        self, chain: Chain, image: Image.Image | None = None, width: int | None = None, height: int | None = None
    ) -> tuple[Image.Image, Image.Image]:
        """Layout and reference as the UNet sees them: their latents, decoded again by the autoencoder.

        Args:
            chain: The plan.
            image: The source image; none is black.
            width: As in a call.
            height: Likewise.
        """
        sources, size_px = None if image is None else [image], self.size_px(width, height)
        both = Switches(semantic=True, spatial=True, reference=True)
        latents = image_conditions(self.vae, [chain], sources, size_px, both, device=self._execution_device)
        spatial, reference = (to_pil(self.decode(scale_latents(self.vae, one)))[0] for one in latents)
        return spatial, reference

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """From normalised latents to images (batch, 3, height, width) in [0, 1]."""
        size_px = (latents.shape[-1] * self.vae_scale_factor, latents.shape[-2] * self.vae_scale_factor)
        at_a_time = vae_batch_size(size_px, latents.device.type)
        parts = unscale_latents(self.vae, latents).to(self.vae.dtype).split(at_a_time)
        split = can_split(self.vae)
        with Shortcuts(self.vae).taken():
            decoded = torch.cat(on_cores(lambda part: self.vae.decode(part, return_dict=False)[0], parts, split=split))
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def _keep_exact(vae: AutoencoderKL) -> None:
    """Put an autoencoder that overflows in float16 back into float32, as SDXL's own pipeline does."""
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.to(dtype=torch.float32)
