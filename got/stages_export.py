"""A training folder's weights as a finished pipeline, and a finished pipeline as a training folder to go on from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch

from got import models
from got.checkpoint import load, save_fp16
from got.pipeline import GoTPipeline
from got.ssgm import time_ids
from got.stages import MOMENTS, finished_vae, keep_moments
from got.stages_reasoner import drawing_networks, reading_networks, warm_start
from got.stages_unet import load_tokens, save_tokens
from got.train import UNPACKED, averaged, keep_modules

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import UNet2DConditionModel

    from got.stages import Setup


def export(setup: Setup, output: Path) -> None:
    """Put the averaged weights of all stages together as a pipeline in half precision, with the curves beside it."""
    tokenizer, networks = reading_networks(setup)
    networks |= {"unet": models.build_unet(setup.config)}
    averaged(setup.folder, "joint", networks)
    pipeline = GoTPipeline(
        vae=finished_vae(setup).cpu(),
        scheduler=models.build_scheduler(setup.config),
        tokenizer=tokenizer,
        image_processor=models.build_image_processor(setup.config),
        scale="mini",
        **networks,
    )
    save_fp16(pipeline, output)
    save_tokens(drawing_networks(setup, "edits")["tokens"], output)
    curves = output / "curves"
    curves.mkdir(exist_ok=True)
    for path in sorted(setup.folder.glob("*.jsonl")):
        shutil.copy(path, curves / path.name)


def unpack(setup: Setup, start: Path) -> None:
    """Fill a new training folder, so that every stage finds there what the stages before it would have left.

    A pipeline of another picture size lacks the autoencoder, which ``vae --start`` teaches the same latents.

    Raises:
        SystemExit: If the folder has weights of its own.
    """
    # moments alone are what a kill in here left
    if there := sorted(path for path in setup.folder.glob("*.pt") if path.name != MOMENTS):
        raise SystemExit(f"Expected a new folder but {there[0]} is there: name another one with --folder")
    pipeline = load(start)
    tokens = load_tokens(setup.config, start)
    setup.folder.mkdir(parents=True, exist_ok=True)
    keep_moments(setup, torch.zeros(setup.config.latent_channels), torch.ones(setup.config.latent_channels))
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
    """Have a UNet see under one square picture size what it saw under another; changed in place.

    The size was the same in all its training: what it adds to the embedding is a constant.
    """
    seen = [unet.add_time_proj(time_ids(size, size)).flatten() for size in (before_px, now_px)]
    layer = unet.add_embedding.linear_1
    layer.bias.data += layer.weight.data[:, -len(seen[0]) :] @ (seen[0] - seen[1])
