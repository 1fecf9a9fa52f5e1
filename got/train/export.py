"""A training folder's weights as a finished pipeline, and a finished pipeline as a training folder to go on from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from got.checkpoint import load, save_fp16
from got.model import networks as models
from got.model.ssgm import time_ids
from got.pipeline import GoTPipeline
from got.train.reasoner import drawing_networks, reading_networks, warm_start
from got.train.trainer import UNPACKED, averaged, keep_modules
from got.train.unet import load_tokens, save_tokens
from got.train.vae import MOMENTS, finished_vae, note_normalised
from got.util.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import UNet2DConditionModel
    from torch import nn

    from got.train.vae import Setup


def export(setup: Setup, output: Path, mean_with: Path | None = None) -> None:
    """Put the averaged weights of all stages together as a pipeline in half precision, with the curves beside it.

    With `mean_with`, an earlier pipeline, the trained weights are half its and half this training's: of two ends of
    one training the middle is often better than both ("Model soups", arXiv 2203.05482).

    Raises:
        UserError: If the earlier pipeline has other parts or another vocabulary.
    """
    tokenizer, networks = reading_networks(setup)
    networks |= {"unet": models.build_unet(setup.config)}
    averaged(setup.folder, "joint", networks)
    if mean_with is not None:
        move_to_middle(networks, load(mean_with).components, mean_with)
    pipeline = GoTPipeline(
        vae=finished_vae(setup).cpu(),
        scheduler=models.build_scheduler(setup.config),
        tokenizer=tokenizer,
        image_processor=models.build_image_processor(setup.config),
        scale="mini",
        **networks,
    )
    save_fp16(pipeline, output)
    save_tokens(drawing_networks(setup)["tokens"], output)
    curves = output / "curves"
    curves.mkdir(exist_ok=True)
    for path in sorted(setup.folder.glob("*.jsonl")):
        shutil.copy(path, curves / path.name)


def move_to_middle(networks: dict[str, nn.Module], others: dict[str, Any], where: Path) -> None:
    """Average networks with others of the same names and shapes; changed in place, all or none.

    Raises:
        UserError: If the others are not alike; names the first weight that is not, and `where` they are from.
    """
    pairs = []
    for name, network in networks.items():
        ours, theirs = dict(network.named_parameters()), dict(others[name].named_parameters())  # tied ones once
        for key in sorted(ours.keys() | theirs.keys()):
            shapes = [tuple(state[key].shape) if key in state else None for state in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{where} has {name}.{key} as {shapes[1]}, expected {shapes[0]}: only weights of one architecture"
                    " and vocabulary have a mean"
                )
            pairs.append((ours[key], theirs[key]))
    for mine, other in pairs:
        mine.data.lerp_(other.data.to(mine), 0.5)


def unpack(setup: Setup, start: Path) -> None:
    """Fill a new training folder, so that every stage finds there what the stages before it would have left.

    A pipeline of another image size lacks the autoencoder, which ``vae --start`` teaches the same latents.

    Raises:
        UserError: If the folder has weights of its own.
    """
    # moments alone are what a kill in here left
    if there := sorted(path for path in setup.folder.glob("*.pt") if path.name != MOMENTS):
        raise UserError(f"Expected a new folder but {there[0]} is there: name another one with --folder")
    pipeline = load(start)
    tokens = load_tokens(setup.config, start)
    setup.folder.mkdir(parents=True, exist_ok=True)
    note_normalised(setup)
    tokenizer, networks = reading_networks(setup)
    warm_start(networks, tokenizer, start)
    visual = networks["mllm"].model.visual
    visual.load_state_dict(pipeline.mllm.model.visual.state_dict())
    modules = {**networks, "visual": visual, "unet": pipeline.unet, "tokens": tokens}
    before, now = pipeline.vae.config.sample_size, setup.config.image_size_px
    if before == now:
        modules["vae"] = pipeline.vae
    else:
        keep_size(pipeline.unet, before, now)
    keep_modules(setup.folder / UNPACKED, modules)


def keep_size(unet: UNet2DConditionModel, before_px: int, now_px: int) -> None:
    """Have a UNet see under one square image size what it saw under another; changed in place.

    The size was the same in all its training: what it adds to the embedding is a constant.
    """
    seen = [unet.add_time_proj(time_ids(size, size)).flatten() for size in (before_px, now_px)]
    layer = unet.add_embedding.linear_1
    layer.bias.data += layer.weight.data[:, -len(seen[0]) :] @ (seen[0] - seen[1])
