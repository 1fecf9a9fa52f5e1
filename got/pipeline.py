"""`GoTPipeline`: prompt -> chain -> layout -> conditions -> image, as a diffusers pipeline."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from got.model.adapter import merge_adapter
from got.model.config import CONFIGS, GoTConfig, GuidanceConfig
from got.model.networks import SemanticProjector
from got.model.outputs import GoTOutput, Sampling, Turn, finish, fresh_generators, stack_images, to_pil, unscale_latents
from got.model.reasoner import Reasoner, ReasonerOutput
from got.model.ssgm import (
    Conditions,
    Denoiser,
    Switches,
    image_conditions,
    semantic_conditions,
    time_ids,
    vae_batch_size,
)
from got.model.validation import at_least_one, check_length, check_words, finite, part_of_one, per_prompt, upright
from got.plan.chain import Chain
from got.util.hub import locate, read_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class GoTPipeline(DiffusionPipeline):
    """Writes a chain of thought for each prompt, then draws it.

    Args:
        vae: Images to latents and back.
        unet: SDXL's conditioning, three times the latent channels as input: noisy, reference, spatial.
        scheduler: Any diffusers scheduler.
        mllm: The reasoner's language model.
        tokenizer: Its tokenizer, with the image tokens.
        projector: From the reasoner's states to the UNet's conditioning.
        image_processor: For source images; may be missing in a text-to-image pipeline.
        scale: Name of an entry of `got.model.config.CONFIGS`: sampling defaults and the size of source images.
        adapter: Folder beside ``mllm`` with a LoRA that loading merges (see `got.released.convert`).
        chains: False if it was trained without chains: image tokens then follow a prompt at once, unless one is given.
        layout: False if its UNet was trained without the chain's boxes: spatial guidance is then always off.
    """

    model_cpu_offload_seq = "mllm->projector->unet->vae"
    _optional_components: ClassVar[list[str]] = ["image_processor"]  # the library adds it to a list
    _callback_tensor_inputs = ("latents",)
    _usual_turns = 1

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
        adapter: str | None = None,
        chains: bool = True,
        layout: bool = True,
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
        self.register_to_config(scale=scale, adapter=adapter, chains=chains, layout=layout)
        if scale not in CONFIGS:
            raise ValueError(f"Expected scale to be one of {', '.join(CONFIGS)} but got {scale!r}")

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> GoTPipeline:
        """Load as any diffusers pipeline, and merge the reasoner's LoRA if it was kept apart.

        ``"mini"`` and ``"got/mini"`` are the embedded weights, in every working directory. All networks get one
        precision, float32 unless ``dtype`` says otherwise: left to themselves, those of transformers would take the
        files'.

        Raises:
            CheckpointError: If there is nothing under that name, the hub cannot be reached, or it is another pipeline's
                folder or none; a `ValueError` of one line.
        """
        if "torch_dtype" not in options:  # the name that older callers use
            options.setdefault("dtype", torch.float32)
        download = {name: options.pop(name) for name in _DOWNLOAD_OPTIONS if name in options}
        folder = locate(path, **download)
        read_index(folder, {GoTPipeline.__name__, cls.__name__})  # diffusers would say little of what is no GoTPipeline
        pipeline = super().from_pretrained(folder, local_files_only=True, **options)
        if pipeline.config.adapter is not None:
            merge_adapter(pipeline.mllm, Path(pipeline.mllm.name_or_path).parent / pipeline.config.adapter)
            pipeline.register_to_config(adapter=None)
        return pipeline

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """As in any diffusers pipeline; ``"auto"``, half the heads, is one by one where a level has a single head."""
        heads = [module.heads for module in self.unet.modules() if isinstance(module, Attention)]
        super().enable_attention_slicing("max" if slice_size == "auto" and min(heads) < 2 else slice_size)

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
            device=self._execution_device,
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
        images = upright(per_prompt(image, Image.Image, len(prompts), "image"))
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
        guidance_interval: tuple[float, float] | None = None,
        semantic: bool = True,
        spatial: bool = True,
        reference: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        max_new_tokens: int | None = None,
        max_turns: int | None = None,
        callback_on_step_end: Callable[[GoTPipeline, int, int, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
        | None = None,
    ) -> GoTOutput:
        """Draw one image per prompt, or several where a prompt takes several steps.

        Args:
            prompt: A caption, or an editing instruction where there is an image; a list is one batch.
            image: Source image of each prompt, for editing. Unless a size is given, a PIL result has its aspect ratio;
                arrays and tensors, which are one for all prompts, stay square.
            chain: Chains to draw instead of writing them; None in a list leaves that one to the reasoner.
            num_inference_steps: Denoising steps.
            height: Height in pixels, a multiple of the VAE's factor.
            width: Width in pixels, likewise.
            semantic_scale: a_t of the guidance formula.
            spatial_scale: a_s.
            reference_scale: a_r. At 1 the fully unconditional branch is not run.
            guidance_interval: Guide from this share of the steps to that, e.g. ``(0, 0.7)``; the other steps run the
                branch with all conditions alone, which costs a half or less. All steps unless given.
            semantic: False takes the image tokens away: their null form in every branch.
            spatial: False takes the layout away.
            reference: False takes the reference latent away (the source image's, or black).
            generator: One per prompt makes each image independent of its batch; noise is drawn on the generator's
                device.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"`` (normalised latents).
            max_new_tokens: Longest chain.
            max_turns: Most images per prompt, one unless told otherwise. With more, each image is the reference of
                the next, and the reasoner sees it if it asks to; it decides by itself when a prompt is done. Every turn
                starts from the same noise (where several prompts share a generator: as long as all of them go on).
            callback_on_step_end: Called after each step with (pipeline, step, timestep, {"latents": ...}); latents in
                the mapping that it returns replace ours.

        Returns:
            Images, chains and warnings, in the order of the prompts.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if output_type not in _OUTPUT_TYPES:
            raise ValueError(f"Expected output_type to be one of {', '.join(_OUTPUT_TYPES)} but got {output_type!r}")
        images = upright(per_prompt(image, Image.Image, len(prompts), "image"))
        chains = per_prompt(chain, (str, Chain), len(prompts), "chain", gaps_ok=True)
        self._check_texts(prompts, chains)
        max_turns = at_least_one(max_turns, self._usual_turns, "max_turns")
        if generator is None and max_turns > 1:  # what no generator gives, no turn could start from again
            generator = fresh_generators(len(prompts))
        sampling = Sampling(
            size_px=self.size_px(width, height),
            steps=at_least_one(num_inference_steps, self._usual_steps, "num_inference_steps"),
            scales=self._scales(
                semantic_scale, spatial_scale, reference_scale, guidance_interval, edit=images is not None
            ),
            switches=Switches(semantic=semantic, spatial=spatial and self.config.layout, reference=reference),
            generators=per_prompt(generator, torch.Generator, len(prompts), "generator", alone_ok=True),
            # The model was trained on squares. An image of no given size is one, stretched to the source's aspect.
            stretch=width is None and height is None,
            output_type=output_type,
            max_turns=max_turns,
            max_new_tokens=max_new_tokens,
            callback=callback_on_step_end,
        )
        turns = self._answer(prompts, images, chains, sampling)
        self.maybe_free_model_hooks()
        last = [row[-1] for row in turns]
        return GoTOutput(
            images=stack_images([turn.image for turn in last]),
            chains=[turn.chain for turn in last],
            warnings=[tuple(dict.fromkeys(warning for turn in row for warning in turn.warnings)) for row in turns],
            turns=[tuple(row) for row in turns],
        )

    @property
    def _usual_steps(self) -> int:
        return self.got_config.steps

    def _answer(
        self,
        prompts: list[str],
        images: list[Image.Image] | None,
        chains: list[str | Chain | None] | None,
        sampling: Sampling,
    ) -> list[list[Turn]]:
        """Draw, and as long as the reasoner has more to say, show it the image and draw its next chain upon that."""
        thoughts = self._think(prompts, chains, images, sampling.max_new_tokens)
        turns: list[list[Turn]] = [[] for _ in prompts]
        rows, references, noise = list(range(len(prompts))), images, sampling.noise_states()
        while True:
            for generator, state in noise:
                generator.set_state(state)
            parsed = [Chain.parse(text) for text in thoughts.chains]
            latents = self.draw(thoughts.hidden, parsed, references, sampling.rows(rows))
            done = len(turns[rows[0]]) + 1 == sampling.max_turns
            decoded = None if done and sampling.output_type == "latent" else self._decode(latents)
            frames = [images[row] for row in rows] if images and sampling.stretch else None
            finished = finish(latents, decoded, sampling.output_type, frames)
            for row, image, chain, warnings in zip(rows, finished, parsed, thoughts.warnings, strict=True):
                turns[row].append(Turn(image=image, chain=chain.text, warnings=(*warnings, *chain.warnings)))
            if done or decoded is None:
                return turns
            shown = to_pil(decoded)
            thoughts, going, ends = self.reasoner.continue_after_image(
                thoughts.transcripts, shown, sampling.max_new_tokens
            )
            for row, why in zip(rows, ends, strict=True):
                last = turns[row][-1]
                turns[row][-1] = dataclasses.replace(last, warnings=(*last.warnings, *why))
            if not going:
                return turns
            rows, references = [rows[i] for i in going], [shown[i] for i in going]

    def _check_texts(self, prompts: Sequence[str], chains: Sequence[str | Chain | None] | None) -> None:
        if not prompts:
            raise ValueError("Expected at least one prompt but got an empty list")
        given = [None] * len(prompts) if chains is None else [None if chain is None else str(chain) for chain in chains]
        limit = self.mllm.config.get_text_config().max_position_embeddings
        for prompt, chain in zip(prompts, given, strict=True):
            check_words(prompt, "prompt")
            check_words(chain or "", "chain", empty_ok=True)
            check_length(self.tokenizer, prompt, chain, limit)

    def size_px(self, width: int | None = None, height: int | None = None) -> tuple[int, int]:
        """Width and height of an image; what is not given is the UNet's usual size.

        Raises:
            ValueError: If a side is not a multiple of the VAE's factor.
        """
        usual = self.unet.config.sample_size * self.vae_factor
        size = at_least_one(width, usual, "width"), at_least_one(height, usual, "height")
        if any(side % self.vae_factor for side in size):
            raise ValueError(f"Expected width and height to be multiples of {self.vae_factor} but got {size}")
        return size

    def _scales(
        self,
        semantic: float | None,
        spatial: float | None,
        reference: float | None,
        interval: tuple[float, float] | None,
        *,
        edit: bool,
    ) -> GuidanceConfig:
        given = {"semantic": semantic, "spatial": spatial, "reference": reference}
        default = self.got_config.edit if edit else self.got_config.text_to_image
        checked = {name: finite(value, f"{name}_scale") for name, value in given.items() if value is not None}
        span = default.interval if interval is None else part_of_one(interval, "guidance_interval")
        return dataclasses.replace(default, interval=span, **checked)

    def _think(
        self,
        prompts: list[str],
        chains: list[str | Chain | None] | None,
        images: list[Image.Image] | None,
        max_new_tokens: int | None,
    ) -> ReasonerOutput:
        """Write the chains that are not given, read the ones that are, and put both in order."""
        usual = None if self.config.chains else ""
        given = [usual if chain is None else str(chain) for chain in chains or [None] * len(prompts)]
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
        return ReasonerOutput(
            chains=[text for part in parts for text in part.chains],
            hidden=torch.cat([part.hidden for part in parts]),
            warnings=[warning for part in parts for warning in part.warnings],
            transcripts=[transcript for part in parts for transcript in part.transcripts],
        )[place]

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
        device, generators = self._execution_device, sampling.generators
        self.scheduler.set_timesteps(sampling.steps, device=device)
        latents = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        latents = latents * self.scheduler.init_noise_sigma
        takes_noise = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generators} if takes_noise else {}
        count = len(self.scheduler.timesteps)  # more than the steps where a scheduler is of second order
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            guided = denoiser(self.scheduler.scale_model_input(latents, timestep), timestep, step / count)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False, **extra)[0]
            if sampling.callback is not None:
                replaced = sampling.callback(self, step, int(timestep), {"latents": latents}) or {}
                latents = replaced.get("latents", latents)
        return latents

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) in [0, 1]."""
        size_px = (latents.shape[-1] * self.vae_factor, latents.shape[-2] * self.vae_factor)
        parts = unscale_latents(self.vae, latents).to(self.vae.dtype).split(vae_batch_size(size_px))
        decoded = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in parts])
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def _keep_exact(vae: AutoencoderKL) -> None:
    """Put an autoencoder that overflows in float16 back into float32, as SDXL's own pipeline does."""
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.to(dtype=torch.float32)
