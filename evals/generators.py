"""Where images come from: GoT, the icon world's own renderer, a folder, or any diffusers pipeline.

The only file of the benchmarks that imports the model. Nothing heavy is imported before a generator is made.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.given import PICTURES, make_given
from evals.records import Generated, UserError
from got.files import why
from got.hub import MINI_PATH, CheckpointError, local_folder
from got.schedulers import SCHEDULERS, make_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from evals.folder_images import Assignment
    from evals.protocols import Generator
    from evals.records import EditCase, Sample


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """What a person may decide about a generator. None leaves a number to the model's own config."""

    argument: str
    """What stands behind the colon of ``--model folder:PATH``; empty elsewhere."""
    checkpoint: str
    steps: int | None
    semantic: bool
    spatial: bool
    reference: bool
    semantic_scale: float | None
    spatial_scale: float | None
    reference_scale: float | None
    chain: str
    """Whose plan is drawn: ``own``, ``none``, ``oracle``, or the oracle's made wrong, as in ``jitter:0.1``."""
    device: str
    dtype: str
    scheduler: str | None = None
    """GoT's sampler, one of `got.schedulers.SCHEDULERS`; None keeps the checkpoint's."""
    reference_compat: bool = False
    """Whether GoT does as its released code does, see `got.reference`."""
    offload: str | None = None
    """Where weights wait, see `got.checkpoint.place`."""
    compiled: bool = False
    """Whether the denoising network is compiled."""
    folder: Assignment | None = None
    """Of ``--model folder:PATH``, which of its files is which image."""


# ---------------------------------------------------------------------------------------------------------------- GoT
class GoTGenerator:
    """Text to chain to image with a `got.pipeline.GoTPipeline`."""

    name = "got"

    def __init__(self, pipe: Any, options: GeneratorOptions) -> None:
        self._pipe, self._options = pipe, options

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
        drawn = self._pipe(
            [sample.case.prompt for sample in samples],
            image=sources,
            chain=given,
            num_inference_steps=options.steps,
            semantic=options.semantic,
            spatial=options.spatial,
            reference=options.reference,
            semantic_scale=options.semantic_scale,
            spatial_scale=options.spatial_scale,
            reference_scale=options.reference_scale,
            generator=[torch.Generator("cpu").manual_seed(sample.seed) for sample in samples],
            output_type="pil",
            max_turns=turns,
        )
        return [
            Generated(image=image, chain=chain, warnings=tuple(warnings))
            for image, chain, warnings in zip(drawn.images, drawn.chains, drawn.warnings, strict=True)
        ]


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
    return iconworld.spoil(chain, how, float(amount), iconworld.stable_rng("spoil", sample.seed))


def make_got(options: GeneratorOptions) -> Generator:
    """GoT at any scale: the embedded mini, a folder, a hub id."""
    import torch

    from got import checkpoint

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
        raise UserError(f"--checkpoint {options.checkpoint} cannot be loaded: {_one_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    if options.scheduler is not None:
        pipe.scheduler = make_scheduler(options.scheduler, pipe.scheduler)
    return GoTGenerator(pipe, options)


# ------------------------------------------------------------------------------------------------------------- oracle
class OracleGenerator:
    """Draws exactly what the prompt's metadata ask for, or gives an edit's true target: the ceiling."""

    name = "oracle"

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """A flawless scene per sample, with the chain that a flawless reasoner would write."""
        from got import iconworld

        made = []
        for sample in samples:
            if sample.case.edit is not None:
                made.append(self._target(sample.case.edit))
                continue
            scene = iconworld.scene_from_include(sample.case.metadata["include"], sample.seed)
            made.append(Generated(image=draw(scene), chain=iconworld.chain_text(scene)))
        return made

    def _target(self, edit: EditCase) -> Generated:
        """The picture after the edit, as the data have it."""
        if edit.target is None:
            return Generated(image=None, error="this set has no picture after the edit")
        try:
            return Generated(image=edit.target.load(), chain=edit.extra.get("chain"))
        except ValueError as error:
            return Generated(image=None, error=str(error))


def oracle_render(chain_text: str, seed: int) -> Image.Image:
    """What a chain plans, drawn by the icon world's renderer instead of a model."""
    from got import iconworld

    return draw(iconworld.scene_from_chain(chain_text, seed))


def draw(scene: Any) -> Image.Image:
    """A scene of the icon world at mini's size."""
    from PIL import Image

    from got import iconworld
    from got.config import CONFIGS

    return Image.fromarray(iconworld.render(scene, CONFIGS["mini"].image_size_px).image)


def icon_world() -> Any:
    """The icon world's module, for what trains and checks the embedded detector and CLIP on its scenes."""
    from got import iconworld

    return iconworld


# ------------------------------------------------------------------------------------------------------------- folder
class FolderGenerator:
    """Images made elsewhere; `evals.folder_images` says which file is which image."""

    name = "folder"

    def __init__(self, folder: Assignment) -> None:
        self._folder = folder

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The image of each sample; a missing, damaged or foreign one is an error of that sample only."""
        return [self._read(sample) for sample in samples]

    def _read(self, sample: Sample) -> Generated:
        from PIL import Image

        place = f"{sample.case.id}/samples/{sample.index:04d}"
        if fault := self._folder.faults.get(sample.case.id):
            return Generated(image=None, error=fault)
        path = self._folder.files.get(sample.case.id, {}).get(sample.index)
        if path is None:
            return Generated(image=None, error=f"{place}: no such image")
        try:
            with Image.open(path) as image:
                image.load()
        # Pillow's decoders answer damaged files with many types, SyntaxError among them.
        except Exception as error:
            return Generated(image=None, error=f"{place}: not a readable image ({_one_line(error)})")
        return Generated(image=image)


def make_folder(options: GeneratorOptions) -> Generator:
    """A folder whose files have been matched with the suite's cases."""
    assert options.folder is not None, "a folder's files are matched with the cases before the run"
    return FolderGenerator(options.folder)


# ---------------------------------------------------------------------------------------------------------- diffusers
class DiffusersGenerator:
    """Any text-to-image pipeline of diffusers; for editing suites any that edits by instruction."""

    name = "diffusers"

    def __init__(self, pipe: Any, steps: int | None) -> None:
        self._pipe = pipe
        self._arguments = {} if steps is None else {"num_inference_steps": steps}

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """One image per sample; noise comes from one CPU generator per sample."""
        import torch

        edits = [sample.case.edit for sample in samples if sample.case.edit is not None]
        if edits and "image" not in inspect.signature(self._pipe.__call__).parameters:
            raise UserError(f"{type(self._pipe).__name__} does not edit pictures; give one that takes an image")
        sources = [edit.source.load() for edit in edits]
        if len({source.size for source in sources}) > 1:  # a pipeline's batch has one size
            return [made for sample in samples for made in self.generate([sample])]
        drawn = self._pipe(
            prompt=[sample.case.prompt for sample in samples],
            generator=[torch.Generator("cpu").manual_seed(sample.seed) for sample in samples],
            output_type="pil",
            **({"image": sources} if edits else {}),
            **self._arguments,
        )
        # A safety checker replaces a picture by a black one: that is no image of the model.
        blanked = getattr(drawn, "nsfw_content_detected", None) or [False] * len(samples)
        return [
            Generated(image=None, error="blanked by the pipeline's safety checker") if black else Generated(image=image)
            for image, black in zip(drawn.images, blanked, strict=True)
        ]


def make_diffusers(options: GeneratorOptions) -> Generator:
    """A pipeline folder or hub id; safetensors only, and no code from the hub."""
    import torch
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from safetensors import SafetensorError

    from got import checkpoint

    if _checkpoint_folder(options.argument) == MINI_PATH:
        raise UserError(f"--model diffusers:{options.argument} is GoT's embedded checkpoint: use --model got")
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
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"--model diffusers:{options.argument} cannot be loaded: {why(options.argument, error)}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return DiffusersGenerator(pipe, options.steps)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# ----------------------------------------------------------------------------------------------------------- registry
def make_oracle(options: GeneratorOptions) -> Generator:
    """The icon world's renderer; it has nothing to set."""
    del options
    return OracleGenerator()


GENERATORS: dict[str, Callable[[GeneratorOptions], Generator]] = {
    "got": make_got,
    "oracle": make_oracle,
    **{name: make_given(name) for name in PICTURES},
    "folder": make_folder,
    "diffusers": make_diffusers,
}
"""Name before the colon -> factory."""

WITH_ARGUMENT = {"folder": "PATH", "diffusers": "ID|PATH"}
"""Generators that need something behind the colon."""

BATCH_SIZES = {"got": 32, "oracle": 32, "folder": 16, "diffusers": 4, **dict.fromkeys(PICTURES, 32)}
"""Images drawn and observed together, unless told otherwise."""


def batch_size(model: str, checkpoint: str) -> int:
    """How many images are drawn together; of a GoT that is larger than mini, or of an unknown size, 4.

    >>> batch_size("got", "mini"), batch_size("got", "owner/got-6b")
    (32, 4)
    """
    return BATCH_SIZES[model] if model != "got" or _is_mini(checkpoint) else 4


def draws_icons(model: str, checkpoint: str) -> bool:
    """Whether a generator draws the icon world: the renderer, and a GoT that is of mini's scale by its own index.

    What can be no checkpoint at all passes: loading it says so.

    >>> draws_icons("oracle", "mini"), draws_icons("got", "mini"), draws_icons("got", "no/such/folder")
    (True, True, True)
    >>> draws_icons("got", "owner/got-6b"), draws_icons("folder", "mini"), draws_icons("diffusers", "mini")
    (False, False, False)
    """
    if model != "got":
        return model not in WITH_ARGUMENT
    try:
        folder = local_folder(checkpoint)
    except CheckpointError:
        return True
    return folder is not None and (_is_mini(checkpoint) or not (folder / "model_index.json").is_file())


def _is_mini(checkpoint: str) -> bool:
    """Whether a checkpoint on this machine says that its scale is mini's."""
    folder = _checkpoint_folder(checkpoint)
    index = None if folder is None else folder / "model_index.json"
    return index is not None and index.is_file() and '"scale": "mini"' in index.read_text(errors="replace")


def known_models() -> str:
    """The values of ``--model``, for people.

    >>> known_models()
    'got, oracle, identity, target, released, folder:PATH, diffusers:ID|PATH'
    """
    return ", ".join(name + (f":{WITH_ARGUMENT[name]}" if name in WITH_ARGUMENT else "") for name in GENERATORS)


def parse_model(text: str) -> tuple[str, str]:
    """Splits ``--model`` into a generator's name and its argument.

    >>> parse_model("got"), parse_model("folder:a/b:c")
    (('got', ''), ('folder', 'a/b:c'))
    """
    name, _, argument = text.partition(":")
    if name not in GENERATORS or bool(argument) != (name in WITH_ARGUMENT):
        raise UserError(f"--model {text} is unknown; expected one of {known_models()}")
    return name, argument


def known_schedulers() -> tuple[str, ...]:
    """The values of ``--scheduler``.

    >>> known_schedulers()
    ('ddpm', 'ddim', 'dpm++', 'unipc')
    """
    return tuple(SCHEDULERS)


def weights_place(model: str, argument: str, checkpoint: str) -> Path | None:
    """Where a generator's weights lie on this machine; None if it has none, or a hub id names them."""
    if model == "got":
        return _checkpoint_folder(checkpoint)
    place = Path(argument) if model == "diffusers" else None
    return place if place is not None and place.exists() else None


def _checkpoint_folder(checkpoint: str) -> Path | None:
    try:
        return local_folder(checkpoint)
    except CheckpointError:  # gone since the run was made: `make_got` says so, where it is needed
        return None
