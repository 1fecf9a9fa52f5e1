"""The stage in which the reasoner's vision tower learns to see icons: mini's stand-in for Qwen's pretrained tower.

Qwen's tower speaks the language of its language model. So does this one: what a token shows is read off by the language
model's own word vectors, and boxes by their digits, which is how the language model will have to say them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from got.checkpoint import load
from got.iconworld.scenes import stable_rng
from got.iconworld.vocabulary import CLASSES, COLORS
from got.model import networks as models
from got.train.reasoner import reading_networks
from got.train.trainer import Fit, Plan
from got.util.precision import bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessor

    from got.iconworld.scenes import Scene
    from got.train.vae import Setup

_BOX_WEIGHT = 5.0
_DIGIT_WEIGHTS = (1.0, 0.3)  # of the hundreds and of the tens: an image of 64 px does not show more
_NO_OBJECT = -1


class SceneReader(nn.Module):
    """Reads off a tower's tokens what is in the part of the image that each of them covers. Only used in training."""

    def __init__(self, words: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take over the language model's word vectors (vocabulary, hidden_dim); they stay as they are."""
        super().__init__()
        hidden_dim = words.shape[1]
        self.there = nn.Linear(hidden_dim, 1)
        self.box = nn.Linear(hidden_dim, 4)
        self.digits = nn.Linear(hidden_dim, 4 * len(_DIGIT_WEIGHTS) * 10)
        self.scale = nn.Parameter(torch.full((2,), 20.0))
        self.names: torch.Tensor
        self.colors: torch.Tensor
        for kind, names in (("names", CLASSES), ("colors", COLORS)):
            vectors = [words[tokenizer(name, add_special_tokens=False).input_ids].mean(0) for name in names]
            self.register_buffer(kind, _told_apart(torch.stack(vectors).detach().float()))

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of ``there`` (..., 1), ``name``, ``color``, ``digits`` (..., 4, 2, 10), and of ``box`` (..., 4)."""
        unit = functional.normalize(tokens.float(), dim=-1)
        return {
            "there": self.there(tokens),
            "box": self.box(tokens),
            "digits": self.digits(tokens).unflatten(-1, (4, len(_DIGIT_WEIGHTS), 10)),
            "name": self.scale[0] * unit @ self.names.T,
            "color": self.scale[1] * unit @ self.colors.T,
        }


def _told_apart(vectors: torch.Tensor) -> torch.Tensor:
    """Directions in which word vectors (n, d) differ: those of a trained model have most of their length in common."""
    centred = vectors - vectors.mean(0)
    common = torch.linalg.svd(centred, full_matrices=False).Vh[:1]
    return functional.normalize(centred - centred @ common.T @ common, dim=-1)


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
    """Class, colour and box of every object, from the token that covers its centre; see the module."""
    scenes, edits = setup.bank(), setup.edit_bank()
    held_out = setup.held_out(512)
    shown = [*scenes.scenes, *(edit.source for edit in edits.edits)]
    images = np.concatenate([scenes.images, edits.sources])
    tokenizer, networks = reading_networks(setup)
    visual, words = networks["mllm"].model.visual, networks["mllm"].get_input_embeddings().weight
    if setup.start is not None:
        started = load(setup.start)
        tokenizer, words = started.tokenizer, started.mllm.get_input_embeddings().weight
        visual.load_state_dict(started.mllm.model.visual.state_dict())
    with models.seeded(setup.seed):
        reader = SceneReader(words, tokenizer)
    processor = models.build_image_processor(setup.config)
    fit = Fit(plan, {"visual": visual, "reader": reader}, setup.folder, setup.device)
    side = setup.config.vision_image_px // (processor.patch_size * processor.merge_size)
    wanted, held_out_cells = (torch.from_numpy(cells(s, side)).to(setup.device) for s in (shown, held_out.scenes))

    def terms(images: np.ndarray, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        with bf16(setup.device):
            tokens = look(visual, processor, images).unflatten(0, (len(images), -1))
            read = {key: value.float() for key, value in reader(tokens).items()}
        there, name, color, box = (read[key] for key in ("there", "name", "color", "box"))
        full = truth[..., 0] != _NO_OBJECT
        wanted_digits = digits_of(truth[full][:, 2:])
        digit_losses = [
            weight
            * functional.cross_entropy(read["digits"][full][:, :, i].flatten(0, 1), wanted_digits[..., i].flatten())
            for i, weight in enumerate(_DIGIT_WEIGHTS)
        ]
        losses = {
            "there": functional.binary_cross_entropy_with_logits(there[..., 0], full.float()),
            "class": functional.cross_entropy(name[full], truth[full][:, 0].long()),
            "color": functional.cross_entropy(color[full], truth[full][:, 1].long()),
            "box": _BOX_WEIGHT * functional.l1_loss(box[full].sigmoid(), truth[full][:, 2:]),
            "digits": sum(digit_losses, torch.zeros((), device=setup.device)),
        }
        right = {
            "right_there": ((there[..., 0] > 0) == full).float().mean(),
            "right_class": (name[full].argmax(-1) == truth[full][:, 0]).float().mean(),
            "right_color": (color[full].argmax(-1) == truth[full][:, 1]).float().mean(),
            "right_hundreds": (read["digits"][full][:, :, 0].argmax(-1) == wanted_digits[..., 0]).float().mean(),
            "box_error": (box[full].sigmoid() - truth[full][:, 2:]).abs().mean(),
        }
        return {"loss": sum(losses.values(), torch.zeros((), device=setup.device)), **losses, **right}

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rows = stable_rng("vision", setup.seed, step).integers(0, len(images), plan.batch)
        return terms(images[rows], wanted[rows])

    def check() -> dict[str, float]:
        return {f"held_out_{k}": float(v) for k, v in terms(held_out.images, held_out_cells).items()}

    fit.run(loss_of, check)


def digits_of(boxes: torch.Tensor) -> torch.Tensor:
    """Hundreds and tens of the thousandths of coordinates in [0, 1), long (..., 2).

    >>> digits_of(torch.tensor([0.57, 0.049])).tolist()
    [[5, 7], [0, 4]]
    """
    thousandths = (boxes * 1000).round().long().clamp(0, 999)
    return torch.stack([thousandths // 100, thousandths // 10 % 10], -1)


def look(visual: nn.Module, processor: Qwen2VLImageProcessor, images: np.ndarray) -> torch.Tensor:
    """What the language model gets to see of uint8 images (n, size, size, 3): (n * tokens, hidden_dim)."""
    device = next(visual.parameters()).device
    patches = processor(images=list(images), return_tensors="pt").to(device)
    output = visual(patches["pixel_values"], grid_thw=patches["image_grid_thw"])
    tokens: torch.Tensor = output.pooler_output
    return tokens
