"""`GoTPipeline`: prompt -> chain -> layout -> conditions -> image, as a diffusers pipeline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.attention_processor import Attention
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from got.model.adapter import merge_adapter
from got.model.config import CONFIGS, GoTConfig, GuidanceConfig
from got.model.drawing import DrawingPipeline
from got.model.networks import SemanticProjector
from got.model.outputs import GoTOutput, Sampling, Turn, finish, fresh_generators, source_images, stack_images, to_pil
from got.model.reasoner import Reasoner, ReasonerOutput
from got.model.sampling import Steps
from got.model.ssgm import Switches
from got.model.validation import (
    at_least_one,
    check_length,
    check_words,
    finite,
    given_once,
    one_of,
    part_of_one,
    per_prompt,
    places,
)
from got.plan.chain import Chain
from got.util.hub import locate, read_index
from got.util.precision import lay_out_for_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class GoTPipeline(DrawingPipeline):
    """Writes a chain of thought for each prompt, then draws it.

    Args:
        vae: Images to latents and back.
        unet: SDXL's conditioning, three times the latent channels as input: noisy, reference, spatial.
        scheduler: The one that the UNet was trained with. Any of diffusers can be put in its place, see
            `got.model.sampling`.
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
        self._trained_scheduler = scheduler

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
        if "device_map" not in options and pipeline.unet.device.type == "cpu":
            lay_out_for_cpu(pipeline)  # as `got.checkpoint.place` does: pixels are the same to the last bit
        return pipeline

    def to_json_string(self) -> str:
        """The index of a saved pipeline. Its class has its module: diffusers' error then says what to import."""
        index = json.loads(super().to_json_string())
        return json.dumps(index | {"_class_name": _full_name(type(self))}, indent=2, sort_keys=True) + "\n"

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """As in any diffusers pipeline; ``"auto"``, half the heads, is one by one where a level has a single head."""
        heads = [module.heads for module in self.unet.modules() if isinstance(module, Attention)]
        super().enable_attention_slicing("max" if slice_size == "auto" and min(heads) < 2 else slice_size)

    @property
    def got_config(self) -> GoTConfig:
        """Sampling defaults of this pipeline's scale."""
        return CONFIGS[self.config.scale]

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

    def think(
        self,
        prompt: str | Sequence[str],
        image: Any = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> Chain | list[Chain]:
        """Write the chain of a prompt without drawing it, to look at it, change it and draw it with ``chain=``.

        Args:
            prompt: As in a call; a list is one batch.
            image: Source image of each prompt, or one for all, for editing; as in a call.
            max_new_tokens: Longest chain.
            generate_kwargs: Passed on to the language model's `generate`, e.g. ``do_sample=True``.

        Returns:
            The chain, or a list of them for a list of prompts. What went wrong while writing is among its warnings.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        chains = _with_warnings(self.reason(prompts, image, max_new_tokens, **generate_kwargs))
        return chains[0] if isinstance(prompt, str) else chains

    @torch.inference_mode()
    def reason(
        self, prompts: Sequence[str], image: Any = None, max_new_tokens: int | None = None, **generate_kwargs: Any
    ) -> ReasonerOutput:
        """Write chains with all that drawing them takes: ``chain=`` of one call or, by rows, of several.

        Args:
            prompts: One batch.
            image: As in `think`.
            max_new_tokens: Longest chain.
            generate_kwargs: As in `think`.

        Returns:
            One row per prompt. A call with some of its rows draws what a call with these prompts would draw, if the
            pipeline writes chains (``config.chains``).

        Raises:
            ValueError: If the arguments do not fit together.
        """
        images = source_images(image, len(prompts))
        self._check_texts(prompts, None)
        outputs = self.reasoner.write(prompts, images, max_new_tokens, **generate_kwargs)
        self.maybe_free_model_hooks()
        return outputs

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any = None,
        chain: str | Chain | Sequence[str | Chain | None] | ReasonerOutput | None = None,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        semantic_scale: float | None = None,
        spatial_scale: float | None = None,
        reference_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        semantic: bool = True,
        spatial: bool = True,
        reference: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        max_new_tokens: int | None = None,
        max_turns: int | None = None,
        callback_on_step_end: Callable[[GoTPipeline, int, torch.Tensor, dict[str, torch.Tensor]], Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        callback_on_chains: Callable[[list[Chain]], object] | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        negative_prompt: None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        latents: torch.Tensor | None = None,
        return_dict: bool = True,
        own_size: bool = False,
    ) -> GoTOutput:
        """Draw one image per prompt, or several where a prompt takes several steps.

        Args:
            prompt: A caption, or an editing instruction where there is an image; a list is one batch.
            image: Source image of each prompt, or one for all, for editing: of Pillow, or an array or tensor with
                numbers in [0, 1] or bytes. Unless a size is given, a PIL result has its size; arrays and tensors that
                are returned stay square.
            chain: Chains to draw instead of writing them; None in a list leaves that one to the reasoner. Or what
                `reason` has made of these prompts, a row each.
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
            generator: One per image makes each independent of its batch; noise is drawn on the generator's device.
                Without one it comes from torch's global random state, as in all pipelines of diffusers. Everything
                that keeps what it draws (commands, `got.conversation`, benchmarks) has seeds, 42 unless given.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"`` (normalised latents).
            max_new_tokens: Longest chain.
            max_turns: Most images per prompt, one unless told otherwise. With more, each image is the reference of
                the next, and the reasoner sees it if it asks to; it decides by itself when a prompt is done. Every turn
                starts from the same noise (where several prompts share a generator: as long as all of them go on).
            callback_on_step_end: Called after each step with (pipeline, step, timestep, {name: tensor}); what it
                returns replaces ours. diffusers' own work, and setting `_interrupt` ends the denoising.
            callback_on_step_end_tensor_inputs: Names of the tensors that it is given.
            num_images_per_prompt: Images of each prompt, from one chain, next to each other in the result.
            guidance_scale: Another name of semantic_scale.
            negative_prompt: Refused: the model has no place for one.
            timesteps: The scheduler's stops, in place of its own, if it takes them.
            sigmas: Likewise, as noise levels.
            latents: The noise to start from, (images, channels, height, width) in latents, of deviation 1.
            return_dict: False gives the output's fields as a tuple.
            own_size: A PIL result with a source keeps the length of the model's side, and has the source's aspect.
            callback_on_chains: Called before the images of a turn are denoised, with the chains that they are drawn
                from; of a prompt that is done there is none.

        Returns:
            Images, chains and warnings, in the order of the prompts.

        Raises:
            ValueError: If the arguments do not fit together, or the scheduler does not fit the model.
        """
        if negative_prompt is not None:
            raise ValueError(
                "Expected no negative_prompt: GoT's null branch is a learned vector, not a prompt; leave out of the "
                f"plan (chain=) what is not wanted, but got {negative_prompt!r}"
            )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        images = source_images(image, len(prompts))
        reasoned = chain if isinstance(chain, ReasonerOutput) else None
        if reasoned is not None and len(reasoned) != len(prompts):
            raise ValueError(f"Expected a row of chain for each of {len(prompts)} prompts but got {len(reasoned)}")
        chains = None if reasoned else per_prompt(chain, (str, Chain), len(prompts), "chain", gaps_ok=True)
        self._check_texts(prompts, chains)
        max_turns = at_least_one(max_turns, self._usual_turns, "max_turns")
        copies = at_least_one(num_images_per_prompt, 1, "num_images_per_prompt")
        count = len(prompts) * copies
        if generator is None and max_turns > 1:  # what no generator gives, no turn could start from again
            generator = fresh_generators(count)
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        semantic_scale = given_once(semantic_scale, guidance_scale, "semantic_scale", "guidance_scale")
        sampling = Sampling(
            size_px=self.size_px(width, height),
            steps=self._steps(num_inference_steps, timesteps, sigmas),
            scales=self._scales(
                semantic_scale, spatial_scale, reference_scale, guidance_interval, edit=images is not None
            ),
            switches=Switches(semantic=semantic, spatial=spatial and self.config.layout, reference=reference),
            generators=per_prompt(generator, torch.Generator, count, "generator", alone_ok=True),
            latents=latents,
            copies=copies,
            # The model was trained on squares. An image of no given size is one, stretched to the source's size.
            stretch=width is None and height is None,
            own_size=own_size,
            output_type=one_of(output_type, _OUTPUT_TYPES, "output_type"),
            max_turns=max_turns,
            max_new_tokens=max_new_tokens,
            callback=callback_on_step_end,
            callback_inputs=tuple(
                one_of(name, self._callback_tensor_inputs, "callback_on_step_end_tensor_inputs")
                for name in callback_on_step_end_tensor_inputs
            ),
            on_chains=callback_on_chains,
        )
        self._check_latents(sampling, count)
        self._guidance_scale, self._interrupt = sampling.scales.semantic, False
        turns = self._answer(prompts, images, reasoned or chains, sampling)
        self.maybe_free_model_hooks()
        last = [row[-1] for row in turns]
        output = GoTOutput(
            images=stack_images([turn.image for turn in last]),
            chains=[turn.chain for turn in last],
            warnings=[tuple(dict.fromkeys(warning for turn in row for warning in turn.warnings)) for row in turns],
            turns=[tuple(row) for row in turns],
        )
        return output if return_dict else output.to_tuple()

    @property
    def _usual_steps(self) -> int:
        return self.got_config.steps

    def _steps(self, count: int | None, timesteps: Any, sigmas: Any) -> Steps:
        if timesteps is not None and sigmas is not None:
            raise ValueError("Expected timesteps or sigmas but got both")
        given = timesteps if sigmas is None else sigmas
        if given is None:
            return Steps(count=at_least_one(count, self._usual_steps, "num_inference_steps"))
        stops = places(given, "timesteps" if sigmas is None else "sigmas")
        return Steps(count=len(stops), **{"timesteps" if sigmas is None else "sigmas": stops})

    def _answer(
        self,
        prompts: list[str],
        images: list[Image.Image] | None,
        chains: list[str | Chain | None] | ReasonerOutput | None,
        sampling: Sampling,
    ) -> list[list[Turn]]:
        """Draw, and as long as the reasoner has more to say, show it the image and draw its next chain upon that."""
        self._check_scheduler(sampling.steps)
        copied = [row for row in range(len(prompts)) for _ in range(sampling.copies)]
        if isinstance(chains, ReasonerOutput):
            outputs = chains
        else:
            outputs = self._think(prompts, chains, images, sampling.max_new_tokens)
        if sampling.copies > 1:
            outputs, images = outputs[copied], images and [images[row] for row in copied]
        turns: list[list[Turn]] = [[] for _ in copied]
        rows, references, noise = list(range(len(copied))), images, sampling.noise_states()
        while True:
            for generator, state in noise:
                generator.set_state(state)
            parsed = _with_warnings(outputs)
            if sampling.on_chains is not None:
                sampling.on_chains(parsed)
            latents = self.draw(outputs.hidden, parsed, references, sampling.rows(rows))
            done = len(turns[rows[0]]) + 1 == sampling.max_turns
            decoded = None if done and sampling.output_type == "latent" else self.decode(latents)
            frames = [images[row] for row in rows] if images and sampling.stretch else None
            finished = finish(latents, decoded, sampling.output_type, frames, own_size=sampling.own_size)
            for row, image, chain in zip(rows, finished, parsed, strict=True):
                turns[row].append(Turn(image=image, chain=chain, warnings=chain.warnings))
            if done or decoded is None or self._interrupt:
                return turns
            drawn = to_pil(decoded)
            outputs, going, ends = self.reasoner.continue_after_image(
                outputs.transcripts, drawn, sampling.max_new_tokens
            )
            for row, why in zip(rows, ends, strict=True):
                last = turns[row][-1]
                turns[row][-1] = dataclasses.replace(last, warnings=(*last.warnings, *why))
            if not going:
                return turns
            rows, references = [rows[i] for i in going], [drawn[i] for i in going]

    def _check_texts(self, prompts: Sequence[str], chains: Sequence[str | Chain | None] | None) -> None:
        if not prompts:
            raise ValueError("Expected at least one prompt but got an empty list")
        given = [None] * len(prompts) if chains is None else [None if chain is None else str(chain) for chain in chains]
        limit = self.mllm.config.get_text_config().max_position_embeddings
        for prompt, chain in zip(prompts, given, strict=True):
            check_words(prompt, "prompt")
            check_words(chain or "", "chain", empty_ok=True)
            check_length(self.tokenizer, prompt, chain, limit)

    def _scales(
        self,
        semantic: float | None,
        spatial: float | None,
        reference: float | None,
        interval: Sequence[float] | None,
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
        return ReasonerOutput.joined(parts)[place]


def _with_warnings(outputs: ReasonerOutput) -> list[Chain]:
    """The chains, with what went wrong while writing them among their warnings."""
    parsed = [Chain.parse(text) for text in outputs.chains]
    return [
        dataclasses.replace(chain, warnings=(*warnings, *chain.warnings))
        for chain, warnings in zip(parsed, outputs.warnings, strict=True)
    ]


def _full_name(pipeline_class: type) -> str:
    return f"{pipeline_class.__module__}.{pipeline_class.__name__}"


# `DiffusionPipeline.from_pretrained` looks for the class of a folder here.
for _name in (GoTPipeline.__name__, _full_name(GoTPipeline)):
    setattr(diffusers, _name, GoTPipeline)
