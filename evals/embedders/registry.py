"""CLIPs and DINOs: images (and a CLIP's texts) as unit vectors; GenEval's way of naming a colour with them.

A factory is called with its argument and a torch device. `label` makes the encoder's part of a metric's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.backends import ICON_WORLD, PHOTOGRAPHS, Backend, Registry, local_place
from evals.core.records import UserError
from got.util import weight_files

if TYPE_CHECKING:
    from evals.core.backends import Embedder, ImageEmbedder

SQUASH = "+squash"
"""Behind an encoder's name: images are squeezed to its square instead of cut to it."""
ICON_EMBEDDER, PHOTO_EMBEDDER = "icon", "openclip:ViT-L-14/openai"
"""The companions of detectors of either world."""


def _openclip_weights(argument: str) -> Path | None:
    """``FOLDER``, or the file of ``MODEL/FILE``."""
    file = Path(argument.partition("/")[2])
    return file if file.is_file() and not Path(argument).exists() else local_place(argument)


OPENCLIP_CONFIG = "open_clip_config.json"


def openclip_fault(model: str) -> str | None:
    """Why the folder named by ``openclip:`` was not saved by open_clip; None if it was, or if it may be a model's name.

    >>> openclip_fault("ViT-L-14/openai") is None
    True
    >>> openclip_fault("/no/such/folder")
    'openclip:/no/such/folder: there is no folder /no/such/folder'
    """
    folder = Path(model)
    if model and folder.is_dir() and not (folder / OPENCLIP_CONFIG).is_file():
        return (
            f"openclip:{model}: {folder} has no {OPENCLIP_CONFIG}; expected a folder that open_clip saved, with "
            f"{OPENCLIP_CONFIG} and open_clip_model.safetensors (of weights alone: openclip:MODEL/FILE, such as "
            "openclip:ViT-L-14/FILE)"
        )
    if model.startswith(("/", "./", "../", "~")) and not folder.is_dir():
        return f"openclip:{model}: there is no folder {folder}"
    return None


EMBEDDERS = Registry["Embedder"](
    "an embedder",
    "got_evals.embedders",
    {
        "icon": Backend(
            factory="evals.embedders.clip:make_icon_clip",
            world=ICON_WORLD,
            weights=lambda _: Path(__file__).parents[1] / "assets" / "icon_clip.safetensors",
        ),
        "openclip": Backend(
            factory="evals.embedders.clip:load_openclip",
            argument="[MODEL/PRETRAINED|FOLDER]",
            world=PHOTOGRAPHS,
            weights=_openclip_weights,
            fault=openclip_fault,
        ),
    },
)
IMAGE_EMBEDDERS = Registry["ImageEmbedder"](
    "an image embedder",
    "got_evals.image_embedders",
    {
        "dino": Backend(
            factory="evals.embedders.dino:load_dino", argument="ID|FOLDER", world=PHOTOGRAPHS, weights=local_place
        )
    },
)
"""The embedders that read no text."""


def find_embedder(spec: str) -> tuple[Backend[Embedder], str]:
    """The record that ``--embedder`` names, and its argument.

    Raises:
        UserError: No such kind, or a folder that open_clip did not save.
    """
    return EMBEDDERS.find(spec.removesuffix(SQUASH))


def make_embedder(spec: str, device: str = "cpu") -> Embedder:
    """A CLIP by name.

    Args:
        spec: `icon` (embedded, icon world), `openclip:MODEL/PRETRAINED` with a tag of open_clip or a weights file
            (OpenAI's weights from a file want the model's `-quickgelu` variant), `openclip:FOLDER` with a model
            saved by open_clip, or `openclip` alone for ViT-L-14 of OpenAI, GenEval's own. With `+squash` behind it,
            images are squeezed to the model's square as InstructPix2Pix does, instead of cut to it.
        device: torch device.

    Raises:
        UserError: no such model, or its weights cannot be had here.
    """
    plain = spec.removesuffix(SQUASH)
    record, argument = find_embedder(spec)
    embedder = record.build(argument, device)
    if plain != spec:
        if not hasattr(embedder, "squash"):
            raise UserError(f"{spec}: {plain} cannot squash")
        embedder.squash()
    return embedder


def make_image_embedder(spec: str, device: str = "cpu") -> ImageEmbedder:
    """A DINO or a CLIP by name.

    Args:
        spec: `dino:ID` or `dino:FOLDER`, a DINO or DINOv2 of transformers (Emu Edit and MagicBrush take
            `dino:facebook/dino-vits16`); or what `make_embedder` knows.
        device: torch device.

    Raises:
        UserError: no such model, or its weights cannot be had here.
    """
    if spec.partition(":")[0] not in IMAGE_EMBEDDERS:
        return make_embedder(spec, device)
    record, argument = IMAGE_EMBEDDERS.find(spec)
    return record.build(argument, device)


def label(name: str) -> str:
    """The encoder's part of a metric's name; weights from this machine are told apart by their content.

    >>> label("openclip:ViT-B-32/openai"), label("openclip:ViT-B-32/laion2b_s34b_b79k"), label("icon")
    ('ViT-B-32', 'ViT-B-32/laion2b_s34b_b79k', 'icon')
    >>> label("dino:facebook/dino-vits16"), label("openclip:ViT-L-14/openai+squash")
    ('dino-vits16', 'ViT-L-14+squash')
    """
    kind, _, model = name.partition(":")
    plain = model.removesuffix(SQUASH)
    suffix = model[len(plain) :]
    head, _, tail = plain.partition("/")
    if plain and Path(plain).is_dir():
        return f"{Path(plain).resolve().name}#{weight_files.digest_of(weight_files.below(Path(plain)))}{suffix}"
    if tail and Path(tail).is_file():
        return f"{head}#{weight_files.digest_of([Path(tail)])}{suffix}"
    if kind == "dino":
        return plain.rpartition("/")[2]
    return (plain.removesuffix("/openai") or kind) + suffix
