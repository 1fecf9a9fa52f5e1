"""The stage in which the reasoner's vision tower learns to see icons: mini's stand-in for Qwen's pretrained tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from got import models
from got.iconworld.glyphs import CLASSES
from got.iconworld.scenes import COLORS, stable_rng
from got.train import Fit, Plan, bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Qwen2VLImageProcessor

    from got.iconworld.scenes import Scene
    from got.stages import Setup

_BOX_WEIGHT = 5.0
_NO_OBJECT = -1


class SceneReader(nn.Module):
    """Reads off a tower's tokens what is in the part of the picture that each of them covers. Only used in training."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.there = nn.Linear(hidden_dim, 1)
        self.name = nn.Linear(hidden_dim, len(CLASSES))
        self.color = nn.Linear(hidden_dim, len(COLORS))
        self.box = nn.Linear(hidden_dim, 4)


def cells(scenes: Sequence[Scene], side: int) -> np.ndarray:
    """What a tower's `side` x `side` tokens are to say, float32 (n, side * side, 6): class, colour, box in [0, 1].

    A token answers for the object whose centre it covers; its class is -1 if there is none.
    """
    rows = np.full((len(scenes), side * side, 6), _NO_OBJECT, np.float32)
    for row, scene in zip(rows, scenes, strict=True):
        for item in scene.objects:
            x1, y1, x2, y2 = (value / 1000 for value in item.box_1000)
            column, line = (min(int((low + high) / 2 * side), side - 1) for low, high in ((x1, x2), (y1, y2)))
            row[line * side + column] = CLASSES.index(item.name), COLORS.index(item.color), x1, y1, x2, y2
    return rows


def train_vision(plan: Plan, setup: Setup) -> None:
    """Class, colour and box of every object, from the token that covers its centre."""
    scenes, edits = setup.bank(), setup.edit_bank()
    held_out = setup.held_out(512)
    shown = [*scenes.scenes, *(edit.source for edit in edits.edits)]
    images = np.concatenate([scenes.images, edits.sources])
    with models.seeded(setup.seed):
        visual = models.build_visual(setup.config)
        reader = SceneReader(setup.config.hidden_dim)
    processor = models.build_image_processor(setup.config)
    fit = Fit(plan, {"visual": visual, "reader": reader}, setup.folder, setup.device)
    side = setup.config.vision_image_px // (processor.patch_size * processor.merge_size)
    wanted, held_out_cells = (torch.from_numpy(cells(s, side)).to(setup.device) for s in (shown, held_out.scenes))

    def terms(pictures: np.ndarray, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        with bf16(setup.device):
            tokens = look(visual, processor, pictures).unflatten(0, (len(pictures), -1))
            there, name, color, box = (
                layer(tokens).float() for layer in (reader.there, reader.name, reader.color, reader.box)
            )
        full = truth[..., 0] != _NO_OBJECT
        losses = {
            "there": functional.binary_cross_entropy_with_logits(there[..., 0], full.float()),
            "class": functional.cross_entropy(name[full], truth[full][:, 0].long()),
            "color": functional.cross_entropy(color[full], truth[full][:, 1].long()),
            "box": _BOX_WEIGHT * functional.l1_loss(box[full].sigmoid(), truth[full][:, 2:]),
        }
        right = {
            "right_there": ((there[..., 0] > 0) == full).float().mean(),
            "right_class": (name[full].argmax(-1) == truth[full][:, 0]).float().mean(),
            "right_color": (color[full].argmax(-1) == truth[full][:, 1]).float().mean(),
            "box_error": (box[full].sigmoid() - truth[full][:, 2:]).abs().mean(),
        }
        return {"loss": sum(losses.values(), torch.zeros((), device=setup.device)), **losses, **right}

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rows = stable_rng("vision", setup.seed, step).integers(0, len(images), plan.batch)
        return terms(images[rows], wanted[rows])

    def check() -> dict[str, float]:
        return {f"held_out_{k}": float(v) for k, v in terms(held_out.images, held_out_cells).items()}

    fit.run(loss_of, check)


def look(visual: nn.Module, processor: Qwen2VLImageProcessor, pictures: np.ndarray) -> torch.Tensor:
    """What the language model gets to see of uint8 pictures (n, size, size, 3): (n * tokens, hidden_dim)."""
    device = next(visual.parameters()).device
    patches = processor(images=list(pictures), return_tensors="pt").to(device)
    output = visual(patches["pixel_values"], grid_thw=patches["image_grid_thw"])
    tokens: torch.Tensor = output.pooler_output
    return tokens
