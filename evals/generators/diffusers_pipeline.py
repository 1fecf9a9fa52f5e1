"""Any pipeline of diffusers."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from evals.core.records import Generated, UserError
from evals.generators.registry import GeneratorOptions, checkpoint_folder
from got.util.hub import MINI_PATH, missing_model, unreachable
from got.util.weight_files import why

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.backends import Generator
    from evals.core.records import Sample


_OWN_CLASS = (
    "code that lies with weights is not run: draw with your class into a folder, which folder:PATH scores "
    "(--export-prompts writes its prompts), or make it a generator (CONTRIBUTING.md)"
)
"""What goes where a pipeline's class is none of diffusers'."""


class DiffusersGenerator:
    """Any text-to-image pipeline of diffusers; for editing suites any that edits by instruction."""

    name = "diffusers"

    def __init__(self, pipe: Any, steps: int | None, *, own_size: bool = False) -> None:
        self._pipe, self._own_size = pipe, own_size
        self._arguments = {} if steps is None else {"num_inference_steps": steps}

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One image per sample; noise comes from one CPU generator per sample."""
        import torch

        edits = [sample.case.edit for sample in samples if sample.case.edit is not None]
        if edits and "image" not in inspect.signature(self._pipe.__call__).parameters:
            raise UserError(f"{type(self._pipe).__name__} does not edit images; give one that takes an image")
        sources = [edit.source.load() for edit in edits]
        if len({source.size for source in sources}) > 1:  # a pipeline's batch has one size
            return [made for sample in samples for made in self.generate([sample])]
        with warnings.catch_warnings():
            # NaN, as half precision leaves them where it overflows, would else become a black image without a word.
            warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
            try:
                drawn = self._pipe(
                    prompt=[sample.case.prompt for sample in samples],
                    generator=[torch.Generator("cpu").manual_seed(sample.seed) for sample in samples],
                    output_type="pil",
                    **({"image": sources} if edits else {}),
                    **self._arguments,
                )
            except RuntimeWarning as error:
                raise ValueError("the pipeline's image is not a number (NaN); another --dtype may help") from error
        images = drawn.images
        if edits and not self._own_size:
            images = [image.resize(source.size) for image, source in zip(images, sources, strict=True)]
        # A safety checker replaces an image by a black one: that is no image of the model.
        blanked = getattr(drawn, "nsfw_content_detected", None) or [False] * len(samples)
        return [
            Generated(image=None, error="blanked by the pipeline's safety checker")
            if black
            else Generated(image=image, warnings=self._cut(sample.case.prompt))
            for sample, image, black in zip(samples, images, blanked, strict=True)
        ]

    def _cut(self, prompt: str) -> tuple[str, ...]:
        """What the encoder that reads most of a prompt cuts off, as a warning; nothing where it reads all."""
        encoders: list[Any] = [getattr(self._pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        read = [one for one in encoders if hasattr(one, "tokenize") and hasattr(one, "model_max_length")]
        if not read:
            return ()
        longest = max(read, key=lambda one: one.model_max_length)
        room = longest.model_max_length
        if len(prompt) + 2 <= room:  # a token has at least one character
            return ()
        count = len(longest.tokenize(prompt)) + longest.num_special_tokens_to_add()
        return (f"beyond what the text encoder reads: {count} tokens, {room} are read",) if count > room else ()


def make_diffusers(options: GeneratorOptions) -> Generator:
    """A pipeline folder or hub id; safetensors only, and no code from the hub."""
    if checkpoint_folder(options.argument) == MINI_PATH:
        raise UserError(f"--model diffusers:{options.argument} is GoT's embedded checkpoint: use --model got")
    if fault := missing_model(options.argument) or unreachable(options.argument):
        raise UserError(f"--model diffusers:{options.argument} cannot be loaded: {fault}")
    import torch
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from safetensors import SafetensorError

    from got import checkpoint

    loading = {"dtype": getattr(torch, options.dtype), "use_safetensors": True}
    try:
        checkpoint.check_place(options.device, options.offload, compiled=options.compiled)
        try:
            pipe = AutoPipelineForText2Image.from_pretrained(options.argument, **loading)
        except ValueError:
            # Not among the families that diffusers files under text-to-image: take its own class.
            pipe = DiffusionPipeline.from_pretrained(options.argument, **loading)
        checkpoint.place(pipe, options.device, options.offload, compiled=options.compiled)
    except checkpoint.PlaceError as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, SafetensorError) as error:
        words = why(options.argument, error)
        if str(error).startswith("module diffusers has no attribute"):
            words += f"; {_OWN_CLASS}"
        raise UserError(f"--model diffusers:{options.argument} cannot be loaded: {words}") from error
    if "prompt" not in inspect.signature(pipe.__call__).parameters:
        raise UserError(f"--model diffusers:{options.argument} is a {type(pipe).__name__}, which takes no prompt")
    pipe.set_progress_bar_config(disable=True)
    return DiffusersGenerator(pipe, options.steps, own_size=options.own_size)
