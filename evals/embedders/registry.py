"""CLIPs and DINOs: pictures (and a CLIP's texts) as unit vectors; GenEval's way of naming a colour with them.

`label` makes the encoder's part of a metric's name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core import weights
from evals.core.records import UserError
from evals.embedders.clip import PHOTO_MODEL, SQUASH, folder_fault, load_icon_clip, load_openclip
from evals.embedders.dino import load_dino

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.protocols import Embedder, ImageEmbedder


def check_embedder(spec: str) -> None:
    """Refuses a name that can stand for no CLIP here; loads nothing, and asks no hub.

    Raises:
        UserError: No such kind, or a folder that open_clip did not save.
    """
    plain = spec.removesuffix(SQUASH)
    kind, _, model = plain.partition(":")
    if (kind == "icon" and model) or kind not in ("icon", "openclip"):
        raise UserError(f"Expected an embedder among icon, openclip:MODEL/PRETRAINED, openclip:FOLDER but got {spec!r}")
    if kind == "openclip" and (fault := folder_fault(model)):
        raise UserError(f"{plain}: {fault}")


def make_embedder(spec: str, device: str = "cpu") -> Embedder:
    """A CLIP by name.

    Args:
        spec: `icon` (embedded, icon world), `openclip:MODEL/PRETRAINED` with a tag of open_clip or a weights file
            (OpenAI's weights from a file want the model's `-quickgelu` variant), `openclip:FOLDER` with a model
            saved by open_clip, or `openclip` alone for ViT-L-14 of OpenAI, GenEval's own. With `+squash` behind it,
            pictures are squeezed to the model's square as InstructPix2Pix does, instead of cut to it.
        device: torch device.

    Raises:
        UserError: no such model, or its weights cannot be had here.
    """
    check_embedder(spec)
    plain = spec.removesuffix(SQUASH)
    kind, _, model = plain.partition(":")
    embedder = load_icon_clip(device=device) if kind == "icon" else load_openclip(model or PHOTO_MODEL, device=device)
    if plain != spec:
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
    kind, _, model = spec.partition(":")
    if kind != "dino":
        return make_embedder(spec, device)
    if not model:
        raise UserError("Expected dino:ID or dino:FOLDER but got 'dino'")
    return load_dino(model, device=device)


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
        return f"{Path(plain).resolve().name}#{_digest(_weight_files(Path(plain)))}{suffix}"
    if tail and Path(tail).is_file():
        return f"{head}#{_digest([Path(tail)])}{suffix}"
    if kind == "dino":
        return plain.rpartition("/")[2]
    return (plain.removesuffix("/openai") or kind) + suffix


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256("".join(sorted(map(weights.sha256, files))).encode()).hexdigest()[:8]


def _weight_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in {".safetensors", ".bin", ".pt", ".pth"}]
