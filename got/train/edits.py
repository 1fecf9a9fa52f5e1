"""The stage in which the UNet learns to edit, while it goes on drawing from nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from got.iconworld.reader import read_objects
from got.iconworld.scenes import Scene, chain_text, stable_rng
from got.model import networks
from got.train.trainer import Fit, Plan, averaged
from got.train.unet import Drawing, SceneTokens, describe, describe_edits, drop_semantic, sample_drops, spatial_latents
from got.train.vae import Setup, contact_sheet, encode_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.iconworld.bank import EditBank
    from got.iconworld.scenes import SceneObject

EDIT_SHARE = 0.6
"""Of the samples of a batch; the others are drawn from a prompt alone."""
_HELD_OUT = 70


def mixed_rows(scenes: int, edits: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a batch in the two banks, one behind the other: first those of scenes."""
    share = round(batch * EDIT_SHARE)
    return np.concatenate([rng.integers(0, scenes, batch - share), scenes + rng.integers(0, edits, share)])


def train_edits(plan: Plan, setup: Setup) -> None:
    """The UNet on both tasks, from true tokens of what changes: its reference says the rest."""
    scenes, edits = setup.bank(), setup.edit_bank()
    held_out, held_out_scenes = setup.held_out_edits(_HELD_OUT), setup.held_out(48).scenes
    unet, tokens = networks.build_unet(setup.config), SceneTokens(setup.config)
    averaged(setup.folder, "unet", {"unet": unet, "tokens": tokens})
    tokens.requires_grad_(not setup.fixed_tokens)
    fit = Fit(plan, {"unet": unet, "tokens": tokens}, setup.folder, setup.device)
    drawing = Drawing.of(unet, scenes, setup).with_edits(edits)
    things = torch.cat([describe(scenes.scenes), describe_edits(edits.edits)]).to(setup.device)
    size = setup.config.image_size_px
    spatial = spatial_latents(drawing.vae, [chain_text(scene) for scene in held_out_scenes], size)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("edits", setup.seed, step)
        rows = mixed_rows(len(scenes.scenes), len(edits.edits), plan.batch, rng)
        keep = sample_drops(plan.batch, rng)
        context, pooled = drop_semantic(tokens(things[rows]), (tokens.null, tokens.null_pooled), keep, rng)
        return {"loss": drawing.loss(rows, context, pooled, keep, rng)}

    def check() -> dict[str, float]:
        context, pooled = tokens(describe(held_out_scenes).to(setup.device))
        drawn = drawing.judge(drawing.draw(context, tokens.null, pooled, spatial), held_out_scenes, "edits_scenes")
        context, pooled = tokens(describe_edits(held_out.edits).to(setup.device))
        return drawn | judge_edits(drawing, held_out, context, tokens.null, pooled)

    fit.run(loss_of, check)


def judge_edits(
    drawing: Drawing, bank: EditBank, context: torch.Tensor, null: torch.Tensor, pooled: torch.Tensor
) -> dict[str, float]:
    """Draw edits along their true chains; what can be read of new and kept objects, and errors against the target.

    Errors are root mean squares in grey levels: over what changes (`error_changed`; the untouched source has
    `floor_changed`) and over the rest (`error_rest`).
    """
    size = drawing.setup.config.image_size_px
    spatial = spatial_latents(drawing.vae, [edit.chain for edit in bank.edits], size)
    images = drawing.draw(context, null, pooled, spatial, encode_images(drawing.vae, bank.sources))
    triples = np.stack([bank.sources, images, bank.targets], 1).reshape(-1, *images.shape[1:])
    contact_sheet(triples, columns=15).save(drawing.setup.folder / "edits.png")
    measured: dict[str, float] = {}
    for name, items in (("new", [e.drawn for e in bank.edits]), ("kept", [e.kept for e in bank.edits])):
        read = read_objects(images, [_only(e.target, o) for e, o in zip(bank.edits, items, strict=True)])
        measured |= {f"{name}_{key}": value for key, value in read.items()}
    differs = np.abs(bank.sources.astype(int) - bank.targets).max(-1) > 8
    for name, first, where in (
        ("error_changed", images, differs),
        ("floor_changed", bank.sources, differs),
        ("error_rest", images, ~differs),
    ):
        squares = (first.astype(float) - bank.targets) ** 2
        measured[name] = float(np.sqrt(squares[where].mean()))
    return measured


def _only(scene: Scene, objects: Sequence[SceneObject]) -> Scene:
    return dataclasses.replace(scene, objects=tuple(objects))
