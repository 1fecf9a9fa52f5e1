"""`GoTPipeline`: prompt -> chain -> layout -> conditions -> image, as a diffusers pipeline."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from got.chain import Chain
from got.checks import check_length, check_words, finite, upright
from got.checks import per_prompt as _per_prompt
from got.config import CONFIGS, GoTConfig, GuidanceConfig
from got.models import SemanticProjector
from got.reasoner import Reasoner, Thoughts
from got.ssgm import Conditions, Denoiser, Switches, picture_conditions, semantic_conditions, time_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_CALLBACK_TENSORS = ("latents",)


@dataclasses.dataclass
class GoTOutput(BaseOutput):
    """What a call returns: one entry per prompt in every field."""

    images: Any
    """PIL images; or an array (n, height, width, 3) or a tensor (n, 3, height, width) in [0, 1]; or latents."""
    chains: list[str]
    """The chains, exactly as written."""
    warnings: list[tuple[str, ...]]
    """What was odd about each chain; empty for a clean one."""


class GoTPipeline(DiffusionPipeline):
    """Writes a chain of thought for each prompt, then draws it.

    Args:
        vae: Pictures to latents and back.
        unet: SDXL's conditioning, three times the latent channels as input: noisy, reference, spatial.
        scheduler: Any diffusers scheduler.
        mllm: The reasoner's language model.
        tokenizer: Its tokenizer, with the image tokens.
        projector: From the reasoner's states to the UNet's conditioning.
        image_processor: For source images; may be missing in a text-to-image pipeline.
        scale: Name of an entry of `got.config.CONFIGS`: sampling defaults and the size of source images.
    """

    model_cpu_offload_seq = "mllm->projector->unet->vae"
    _optional_components = ("image_processor",)
    _callback_tensor_inputs = _CALLBACK_TENSORS

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        mllm: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        projector: SemanticProjector,
        image_processor: Qwen2VLImageProcessor | None = None,
        scale: str = "mini",
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            scheduler=scheduler,
            mllm=mllm,
            tokenizer=tokenizer,
            projector=projector,
            image_processor=image_processor,
        )
        self.register_to_config(scale=scale)
        if scale not in CONFIGS:
            raise ValueError(f"Expected scale to be one of {', '.join(CONFIGS)} but got {scale!r}")

    @property
    def got_config(self) -> GoTConfig:
        """Sampling defaults of this pipeline's scale."""
        return CONFIGS[self.config.scale]

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def reasoner(self) -> Reasoner:
        """The language side on its own: writes chains without drawing them."""
        return Reasoner(
            mllm=self.mllm,
            tokenizer=self.tokenizer,
            image_processor=self.image_processor,
            vision_image_px=self.got_config.vision_image_px,
        )

    @torch.inference_mode()
    def think(
        self,
        prompt: str | Sequence[str],
        image: Image.Image | Sequence[Image.Image] | None = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> Chain | list[Chain]:
        """Write the chain of a prompt without drawing it, to look at it, change it and draw it with ``chain=``.

        Args:
            prompt: As in a call; a list is one batch.
            image: Source image of each prompt, for editing.
            max_new_tokens: Longest chain.
            generate_kwargs: Passed on to the language model's `generate`, e.g. ``do_sample=True``.

        Returns:
            The chain, or a list of them for a list of prompts. What went wrong while writing is among its warnings.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        images = upright(_per_prompt(image, Image.Image, len(prompts), "image"))
        self._check_texts(prompts, None)
        thoughts = self.reasoner.write(prompts, images, max_new_tokens, **generate_kwargs)
        self.maybe_free_model_hooks()
        chains = [Chain.parse(text) for text in thoughts.chains]
        chains = [
            dataclasses.replace(chain, warnings=(*warnings, *chain.warnings))
            for chain, warnings in zip(chains, thoughts.warnings, strict=True)
        ]
        return chains[0] if isinstance(prompt, str) else chains

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Image.Image | Sequence[Image.Image] | None = None,
        chain: str | Chain | Sequence[str | Chain | None] | None = None,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        semantic_scale: float | None = None,
        spatial_scale: float | None = None,
        reference_scale: float | None = None,
        semantic: bool = True,
        spatial: bool = True,
        reference: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        max_new_tokens: int | None = None,
        callback_on_step_end: Callable[[GoTPipeline, int, int, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
        | None = None,
    ) -> GoTOutput:
        """Draw one picture per prompt.

        Args:
            prompt: A caption, or an editing instruction where there is an image; a list is one batch.
            image: Source image of each prompt, for editing. Unless a size is given, the result has its aspect ratio.
            chain: Chains to draw instead of writing them; None in a list leaves that one to the reasoner.
            num_inference_steps: Denoising steps.
            height: Height in pixels, a multiple of the VAE's factor.
            width: Width in pixels, likewise.
            semantic_scale: a_t of the guidance formula.
            spatial_scale: a_s.
            reference_scale: a_r. At 1 the fully unconditional branch is not run.
            semantic: False takes the image tokens away: their null form in every branch.
            spatial: False takes the layout away.
            reference: False takes the reference latent away (the source image's, or black).
            generator: One per prompt makes each picture independent of its batch; noise is drawn on the generator's
                device.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"`` (normalised latents).
            max_new_tokens: Longest chain.
            callback_on_step_end: Called after each step with (pipeline, step, timestep, {"latents": ...}); latents in
                the mapping that it returns replace ours.

        Returns:
            Images, chains and warnings, in the order of the prompts.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("Expected at least one prompt but got an empty list")
        images = _per_prompt(image, Image.Image, len(prompts), "image")
        chains = _per_prompt(chain, (str, Chain), len(prompts), "chain", gaps_ok=True)
        images = upright(images)
        self._check_texts(prompts, chains)
        generators = _per_prompt(generator, torch.Generator, len(prompts), "generator", alone_ok=True)
        size = self._size_px(width, height, output_type)
        steps = self.got_config.steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"Expected num_inference_steps to be at least 1 but got {steps}")
        scales = self._scales(semantic_scale, spatial_scale, reference_scale, edit=images is not None)
        switches = Switches(semantic=semantic, spatial=spatial, reference=reference)

        thoughts = self._think(prompts, chains, images, max_new_tokens)
        parsed = [Chain.parse(text) for text in thoughts.chains]
        conditions = self._conditions(thoughts.hidden, parsed, images, size, switches)
        denoiser = Denoiser(self.unet, conditions, scales, switches)
        latents = self._denoise(denoiser, conditions.spatial.shape, steps, generators, callback_on_step_end)
        self.maybe_free_model_hooks()
        return GoTOutput(
            images=self._to_images(latents, output_type, images if width is None and height is None else None),
            chains=thoughts.chains,
            warnings=[(*warnings, *chain.warnings) for warnings, chain in zip(thoughts.warnings, parsed, strict=True)],
        )

    def _check_texts(self, prompts: Sequence[str], chains: Sequence[str | Chain | None] | None) -> None:
        if not prompts:
            raise ValueError("Expected at least one prompt but got an empty list")
        given = [None] * len(prompts) if chains is None else [None if chain is None else str(chain) for chain in chains]
        limit = self.mllm.config.get_text_config().max_position_embeddings
        for prompt, chain in zip(prompts, given, strict=True):
            check_words(prompt, "prompt")
            check_words(chain or "", "chain", empty_ok=True)
            check_length(self.tokenizer, prompt, chain, limit)

    def _size_px(self, width: int | None, height: int | None, output_type: str) -> tuple[int, int]:
        usual = self.unet.config.sample_size * self.vae_factor
        size = (usual if width is None else width, usual if height is None else height)
        if any(not isinstance(side, int) or side <= 0 or side % self.vae_factor for side in size):
            raise ValueError(f"Expected width and height to be multiples of {self.vae_factor} but got {size}")
        if output_type not in _OUTPUT_TYPES:
            raise ValueError(f"Expected output_type to be one of {', '.join(_OUTPUT_TYPES)} but got {output_type!r}")
        return size

    def _scales(
        self, semantic: float | None, spatial: float | None, reference: float | None, *, edit: bool
    ) -> GuidanceConfig:
        given = {"semantic": semantic, "spatial": spatial, "reference": reference}
        default = self.got_config.edit if edit else self.got_config.text_to_image
        checked = {name: finite(value, f"{name}_scale") for name, value in given.items() if value is not None}
        return dataclasses.replace(default, **checked)

    def _think(
        self,
        prompts: list[str],
        chains: list[str | Chain | None] | None,
        images: list[Image.Image] | None,
        max_new_tokens: int | None,
    ) -> Thoughts:
        """Write the chains that are not given, read the ones that are, and put both in order."""
        given = [None] * len(prompts) if chains is None else [None if chain is None else str(chain) for chain in chains]
        rows_to_write = [i for i, text in enumerate(given) if text is None]
        rows_to_read = [i for i, text in enumerate(given) if text is not None]
        parts = []
        if rows_to_write:
            shown = None if images is None else [images[i] for i in rows_to_write]
            parts.append(self.reasoner.write([prompts[i] for i in rows_to_write], shown, max_new_tokens))
        if rows_to_read:
            shown = None if images is None else [images[i] for i in rows_to_read]
            texts = [str(given[i]) for i in rows_to_read]
            parts.append(self.reasoner.read([prompts[i] for i in rows_to_read], texts, shown))
        order = rows_to_write + rows_to_read
        place = sorted(range(len(order)), key=order.__getitem__)
        chain_texts = [text for part in parts for text in part.chains]
        warnings = [warning for part in parts for warning in part.warnings]
        return Thoughts(
            chains=[chain_texts[i] for i in place],
            hidden=torch.cat([part.hidden for part in parts])[place],
            warnings=[warnings[i] for i in place],
        )

    def _conditions(
        self,
        hidden: torch.Tensor,
        chains: list[Chain],
        images: list[Image.Image] | None,
        size_px: tuple[int, int],
        switches: Switches,
    ) -> Conditions:
        context, null_context, pooled = semantic_conditions(self.projector, hidden, switches)
        spatial, reference = picture_conditions(self.vae, chains, images, size_px, switches)
        return Conditions(
            context=context,
            null_context=null_context,
            pooled=pooled,
            time_ids=time_ids(height_px=size_px[1], width_px=size_px[0]),
            spatial=spatial,
            reference=reference,
        )

    def _denoise(
        self,
        denoiser: Denoiser,
        shape: torch.Size,
        steps: int,
        generators: torch.Generator | list[torch.Generator] | None,
        callback: Callable[..., dict[str, torch.Tensor]] | None,
    ) -> torch.Tensor:
        """From noise to normalised latents, in float32 whatever the UNet's dtype."""
        device = self._execution_device
        self.scheduler.set_timesteps(steps, device=device)
        latents = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        latents = latents * self.scheduler.init_noise_sigma
        takes_noise = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generators} if takes_noise else {}
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            guided = denoiser(self.scheduler.scale_model_input(latents, timestep), timestep)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False, **extra)[0]
            if callback is not None:
                latents = (callback(self, step, int(timestep), {"latents": latents}) or {}).get("latents", latents)
        return latents

    def _to_images(self, latents: torch.Tensor, output_type: str, sources: list[Image.Image] | None) -> Any:
        if output_type == "latent":
            return latents
        decoded = self.vae.decode(unscale_latents(self.vae, latents).to(self.vae.dtype), return_dict=False)[0]
        pixels = (decoded.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return pixels
        array = pixels.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "np":
            return array
        # Truncated, not rounded, as in the released code.
        pictures = [Image.fromarray(picture) for picture in (array * 255).astype(np.uint8)]
        if sources is None:
            return pictures
        return [_with_aspect_of(source, picture) for source, picture in zip(sources, pictures, strict=True)]


def scale_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """From the VAE's latents (batch, channels, h, w) to the normalised ones that the UNet denoises."""
    moments = _latent_moments(vae, latents)
    return latents * vae.config.scaling_factor if moments is None else (latents - moments[0]) / moments[1]


def unscale_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `scale_latents`."""
    moments = _latent_moments(vae, latents)
    return latents / vae.config.scaling_factor if moments is None else latents * moments[1] + moments[0]


def _latent_moments(vae: AutoencoderKL, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if mean is None or std is None:
        return None
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


def _with_aspect_of(source: Image.Image, picture: Image.Image) -> Image.Image:
    """Stretch a picture to the source's aspect ratio; its shorter side keeps its length."""
    width, height = picture.size
    if source.width < source.height:
        height = int(height * source.height / source.width)
    else:
        width = int(width * source.width / source.height)
    return picture if picture.size == (width, height) else picture.resize((width, height))
