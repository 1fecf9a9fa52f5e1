"""GoT at any scale, through `got.pipeline.GoTPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.records import Generated, UserError
from evals.generators.registry import GeneratorOptions
from got.model.schedulers import make_scheduler
from got.util.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.backends import Generator
    from evals.core.records import Sample
    from got.model.reasoner import ReasonerOutput


_LOADING = ("model", "checkpoint", "device", "dtype", "offload", "compiled", "reference_compat")
"""Options that decide what is loaded, and how; all others are heeded image by image."""
_TOGETHER, _KEPT = 32, 2
"""Prompts whose chains are written at a time, and groups of them that are kept."""


class GoTGenerator:
    """Text to chain to image with a `got.pipeline.GoTPipeline`."""

    name = "got"

    def __init__(self, pipe: Any, options: GeneratorOptions, scheduler: Any = None) -> None:
        """Draws with a pipeline that others may use, too.

        Args:
            pipe: The pipeline.
            options: What a person has decided.
            scheduler: The checkpoint's own, where the pipeline may have another one by now.
        """
        self._pipe, self._options, self._own_scheduler = pipe, options, scheduler or pipe.scheduler
        self._scheduler = self._own_scheduler
        self._place_of = {prompt: place for place, prompt in enumerate(dict.fromkeys(options.prompts))}
        self._groups: dict[int, ReasonerOutput | None] = {}
        if options.scheduler is not None:
            self._scheduler = make_scheduler(options.scheduler, self._own_scheduler)

    def with_options(self, options: GeneratorOptions) -> GoTGenerator | None:
        """A generator with other options and the weights of this one; None where the options ask for others."""
        if any(getattr(options, name) != getattr(self._options, name) for name in _LOADING):
            return None
        return GoTGenerator(self._pipe, options, self._own_scheduler)

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One image and its chain per sample; noise comes from one CPU generator per sample."""
        import torch

        options = self._options
        edits = [sample.case.edit for sample in samples if sample.case.edit is not None]
        given: list[str] | None = [edit.extra["given_chain"] for edit in edits if "given_chain" in edit.extra] or None
        sources = [edit.source.load() for edit in edits] if edits and given is None else None
        turns = max((edit.extra.get("turns", 1) for edit in edits), default=1)
        if options.chain != "own" and turns > 1:
            raise UserError(f"--chain {options.chain} has no plan for every step of an instruction; leave it out")
        if options.chain != "own":
            given = [given_chain(options.chain, sample) for sample in samples]
        reasoned = None if edits or given else self._reason([sample.case.prompt for sample in samples])
        self._pipe.scheduler = self._scheduler
        drawn = self._pipe(
            [sample.case.prompt for sample in samples],
            image=sources,
            chain=reasoned or given,
            num_inference_steps=options.steps,
            semantic=options.semantic,
            spatial=options.spatial,
            reference=options.reference,
            semantic_scale=options.semantic_scale,
            spatial_scale=options.spatial_scale,
            reference_scale=options.reference_scale,
            guidance_interval=options.guidance_interval,
            generator=[torch.Generator("cpu").manual_seed(sample.seed) for sample in samples],
            output_type="pil",
            max_turns=turns,
            own_size=options.own_size,
        )
        return [
            Generated(image=image, chain=str(chain), warnings=tuple(warnings))
            for image, chain, warnings in zip(drawn.images, drawn.chains, drawn.warnings, strict=True)
        ]

    def _reason(self, prompts: Sequence[str]) -> ReasonerOutput | None:
        """Chains of captions, each written together with its neighbours in the run; None where that cannot be.

        A step of the language model takes hardly longer for many prompts than for those of one batch of images. Who is
        together is the same whatever the batches, shares and workers, and so is what is drawn.
        """
        unlike = self._options.reference_compat or not self._pipe.config.chains
        if unlike or any(prompt not in self._place_of for prompt in prompts):
            return None
        places = [divmod(self._place_of[prompt], _TOGETHER) for prompt in prompts]
        groups = {number: self._group(number) for number, _ in places}
        parts = []
        for prompt, (number, row) in zip(prompts, places, strict=True):
            group = groups[number]
            parts.append(self._pipe.reason([prompt]) if group is None else group[[row]])
        return parts[0].joined(parts)

    def _group(self, number: int) -> ReasonerOutput | None:
        if number not in self._groups:
            prompts = list(self._place_of)[number * _TOGETHER : (number + 1) * _TOGETHER]
            try:
                self._groups[number] = self._pipe.reason(prompts)
            except ValueError:  # of one prompt that cannot be drawn; one by one it is known which
                self._groups[number] = None
            if len(self._groups) > _KEPT:
                del self._groups[next(iter(self._groups))]
        return self._groups[number]


def given_chain(whose: str, sample: Sample) -> str:
    """The plan that GoT is to draw instead of its own."""
    from got import iconworld

    if whose == "none":
        return ""
    if sample.case.edit is not None:
        if "chain" not in sample.case.edit.extra:
            raise UserError(f"--chain {whose} needs the icon world's edition; a published set has no chains")
        chain = str(sample.case.edit.extra["chain"])
    else:
        chain = iconworld.chain_text(iconworld.scene_from_include(sample.case.metadata["include"], sample.seed))
    how, _, amount = whose.partition(":")
    if how == "oracle":
        return chain
    return iconworld.corrupted(chain, how, float(amount), iconworld.stable_rng("spoil", sample.seed))


def make_got(options: GeneratorOptions) -> Generator:
    """GoT at any scale: the embedded mini, a folder, a hub id."""
    import torch

    from got import checkpoint
    from got.util.precision import reuse_memory

    if options.device == "cpu":
        reuse_memory()  # a run makes batch after batch of one size
    try:
        pipe = checkpoint.load(
            options.checkpoint,
            device=options.device,
            dtype=getattr(torch, options.dtype),
            offload=options.offload,
            compiled=options.compiled,
            reference_compat=options.reference_compat,
        )
    except checkpoint.PlaceError as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"--checkpoint {options.checkpoint} cannot be loaded: {one_line(error, 300)}") from error
    pipe.set_progress_bar_config(disable=True)
    return GoTGenerator(pipe, options)
