"""Where images come from: GoT, the icon world's own renderer, a folder, or any diffusers pipeline.

Only this folder of the benchmarks imports the model. Nothing heavy is imported before a generator is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.generators.dataset_images import PICTURES, make_given
from evals.generators.diffusers_pipeline import make_diffusers
from evals.generators.folder import make_folder
from evals.generators.got import make_got
from evals.generators.options import GeneratorOptions, checkpoint_folder
from evals.generators.oracle import make_oracle
from got.model.schedulers import SCHEDULERS
from got.util.hub import CheckpointError, local_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from evals.core.protocols import Generator


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
    folder = checkpoint_folder(checkpoint)
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
        return checkpoint_folder(checkpoint)
    place = Path(argument) if model == "diffusers" else None
    return place if place is not None and place.exists() else None
