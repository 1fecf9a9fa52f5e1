"""Where images come from: GoT, the icon world's own renderer, a folder, or any diffusers pipeline.

Only this folder of the benchmarks imports the model. Nothing heavy is imported before a generator is made. A factory
is called with `GeneratorOptions`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.backends import ICON_WORLD, Backend, Registry, local_place
from evals.core.records import UserError
from got.model.config import CONFIGS
from got.model.schedulers import SCHEDULERS
from got.util.hub import CheckpointError, local_folder

if TYPE_CHECKING:
    from evals.core.backends import Generator
    from evals.generators.folder_images import Assignment
    from got.model.config import GoTConfig

GUIDANCE = (
    "semantic", "spatial", "reference", "semantic_scale", "spatial_scale", "reference_scale", "guidance_interval",
    "chain",
)  # fmt: skip
PLACE = ("offload", "compile")
"""Flags that only some generators heed: `GUIDANCE` is about what is drawn, `PLACE` about where it is computed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """What a person may decide about a generator. None leaves a number to the model's own config."""

    model: str
    """The generator's name, for a factory that makes several."""
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
    guidance_interval: tuple[float, ...] | None = None
    """In which part of the steps there is guidance; None keeps the checkpoint's."""
    scheduler: str | None = None
    """GoT's sampler, one of `got.model.schedulers.SCHEDULERS`; None keeps the checkpoint's."""
    reference_compat: bool = False
    """Whether GoT does as its released code does, see `got.released.reference`."""
    own_size: bool = False
    """Whether edits keep the model's own size."""
    offload: str | None = None
    """Where weights wait, see `got.checkpoint.place`."""
    compiled: bool = False
    """Whether the denoising network is compiled."""
    prompts: tuple[str, ...] = ()
    """Of the whole run, in order: captions that a generator may think about together, whichever it is to draw."""
    folder: Assignment | None = None
    """Which file is which image, for ``--model folder:PATH``."""


def checkpoint_folder(checkpoint: str) -> Path | None:
    """Where a checkpoint lies on this machine; None if it is a hub id, or gone."""
    try:
        return local_folder(checkpoint)
    except CheckpointError:  # gone since the run was made: `make_got` says so, where it is needed
        return None


_DATASET_IMAGES: Backend[Generator] = Backend(factory="evals.generators.folder:make_dataset_images", world=ICON_WORLD)

GENERATORS = Registry["Generator"](
    "a model",
    "got_evals.generators",
    {
        "got": Backend(
            factory="evals.generators.got:make_got",
            heeds=("checkpoint", "scheduler", "reference_compat", "own_size", "steps", *GUIDANCE, *PLACE),
            weights=checkpoint_folder,
        ),
        "oracle": Backend(factory="evals.generators.oracle:make_oracle", world=ICON_WORLD),
        **dict.fromkeys(("identity", "target", "released"), _DATASET_IMAGES),
        "folder": Backend(factory="evals.generators.folder:make_folder", argument="PATH", batch_size=16),
        "diffusers": Backend(
            factory="evals.generators.diffusers_pipeline:make_diffusers",
            argument="ID|PATH",
            batch_size=4,
            heeds=("steps", "own_size", *PLACE),
            weights=local_place,
        ),
    },
)
"""Name before the colon -> record."""
DRAWN_ALREADY = ("folder", "identity", "target", "released")
"""Generators whose images exist before the run."""


def batch_size(model: str, checkpoint: str) -> int:
    """How many images are drawn together; of a GoT that is larger than mini, or of an unknown size, 4.

    >>> batch_size("got", "mini"), batch_size("got", "owner/got-6b")
    (32, 4)
    """
    return GENERATORS[model].batch_size if model != "got" or _is_mini(checkpoint) else 4


def draws_icons(model: str, checkpoint: str) -> bool:
    """Whether a generator draws the icon world: the renderer, and a GoT that is of mini's scale by its own index.

    What can be no checkpoint at all passes: loading it says so.

    >>> draws_icons("oracle", "mini"), draws_icons("got", "mini"), draws_icons("got", "no/such/folder")
    (True, True, True)
    >>> draws_icons("got", "owner/got-6b"), draws_icons("folder", "mini"), draws_icons("diffusers", "mini")
    (False, False, False)
    """
    if model != "got":
        return GENERATORS[model].world == ICON_WORLD
    try:
        folder = local_folder(checkpoint)
    except CheckpointError:
        return True
    return folder is not None and (_is_mini(checkpoint) or not (folder / "model_index.json").is_file())


def _is_mini(checkpoint: str) -> bool:
    """Whether a checkpoint on this machine says that its scale is mini's."""
    folder = checkpoint_folder(checkpoint)
    index = None if folder is None else folder / "model_index.json"
    return index is not None and index.is_file() and '"scale": "mini"' in index.read_text(errors="replace")


def usual(model: str, place: str, *, edit: bool) -> dict[str, Any]:
    """What a generator does where no flag says otherwise, as far as its files on this machine tell.

    Args:
        model: Its name.
        place: Its checkpoint, a name, folder or hub id.
        edit: Whether it edits images.

    >>> usual("got", "mini", edit=False)["steps"], usual("got", "owner/got-6b", edit=False)
    (6, {})
    """
    folder = checkpoint_folder(place) if model in ("got", "diffusers") else None
    try:
        if folder is None:
            return {}
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        if model == "diffusers":
            return _usual_of_diffusers(index["_class_name"])
        return _usual_of_got(folder, CONFIGS[index["scale"]], edit=edit)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no checkpoint: loading it says so
        return {}


def _usual_of_got(folder: Path, config: GoTConfig, *, edit: bool) -> dict[str, Any]:
    scales = config.edit if edit else config.text_to_image
    sampler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    return {
        "steps": config.steps,
        "scheduler": next((name for name, kind in SCHEDULERS.items() if kind == sampler), sampler),
        **{f"{name}_scale": getattr(scales, name) for name in ("semantic", "spatial", "reference")},
    }


def _usual_of_diffusers(kind: str) -> dict[str, Any]:
    import diffusers

    pipeline = getattr(diffusers, kind, None)
    steps = pipeline and inspect.signature(pipeline.__call__).parameters.get("num_inference_steps")
    return {"steps": steps.default} if steps and isinstance(steps.default, int) else {}


def parse_model(text: str) -> tuple[str, str]:
    """Splits ``--model`` into a generator's name and its argument.

    >>> parse_model("got"), parse_model("folder:a/b:c")
    (('got', ''), ('folder', 'a/b:c'))
    """
    name = text.partition(":")[0]
    if name in GENERATORS and (fault := GENERATORS.broken(name)):
        raise UserError(f"--model {text}: {fault}")
    try:
        _, argument = GENERATORS.find(text)
    except UserError as error:
        raise UserError(f"--model {text} is unknown; expected one of {GENERATORS.written()}") from error
    return name, argument


def known_schedulers() -> tuple[str, ...]:
    """The values of ``--scheduler``.

    >>> known_schedulers()
    ('ddpm', 'ddim', 'dpm++', 'unipc')
    """
    return tuple(SCHEDULERS)
