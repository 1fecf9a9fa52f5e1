"""Training stages with the reasoner: chains and image tokens, then everything end to end; and the finished pipeline."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from got import losses, models
from got.chain import Chain
from got.checkpoint import save_fp16
from got.iconworld.scenes import (
    Scene,
    caption,
    chain_text,
    parse_phrase,
    relation,
    sample_scene,
    stable_rng,
    vocabulary,
)
from got.pipeline import GoTPipeline
from got.reasoner import Reasoner, TrainingBatch, encode_training_batch, teacher_forced
from got.stages import Drawing, SceneTokens, Setup, describe, drop_semantic, finished_vae, spatial_latents
from got.tokens import build_tokenizer
from got.train import Fit, Plan, averaged, bf16, stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

_HELD_OUT = 96
_POOL = 16  # batches that are drawn at once and sorted by number of objects, so that little of a batch is padding


def chain_is_right(text: str, wanted: Scene, prompt: str) -> bool:
    """Whether a written chain names what a caption asks for: classes, numbers, named colours, and the relation."""
    regions = Chain.parse(text).regions
    found = [named for region in regions if (named := parse_phrase(region.text)) is not None]
    if Counter(name for name, _ in found) != Counter(item.name for item in wanted.objects):
        return False
    if any(item.color in prompt.split() and (item.name, item.color) not in found for item in wanted.objects):
        return False
    asked = next((r for r in ("left of", "right of", "above", "below") if f" {r} " in prompt), None)
    return asked is None or relation(regions[0].box_1000, regions[1].box_1000, margin=0.5) == asked


def _reading_networks(setup: Setup) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """Tokenizer, and the untrained reasoner with its projector."""
    tokenizer = build_tokenizer(vocabulary())
    with models.seeded(setup.seed):
        mllm, projector = models.build_mllm(setup.config, tokenizer), models.build_projector(setup.config)
    return tokenizer, {"mllm": mllm, "projector": projector}


def _drawing_networks(setup: Setup) -> dict[str, Any]:
    unet, tokens = models.build_unet(setup.config), SceneTokens(setup.config)
    return averaged(setup.folder, "unet", {"unet": unet, "tokens": tokens})


def _fix_nulls(projector: models.SemanticProjector, tokens: SceneTokens) -> None:
    """The projection of zeros is the bias: it has to be what the UNet knows as no condition."""
    for layer, null in (
        (projector.output_projector, tokens.null),
        (projector.output_projector_add, tokens.null_pooled),
    ):
        layer.bias.data.copy_(null.data)
        layer.bias.requires_grad_(False)


def _share_right(reasoner: Reasoner, captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    written = reasoner.write(captions, max_new_tokens=220)
    right = [chain_is_right(c, s, p) for c, s, p in zip(written.chains, scenes, captions, strict=True)]
    return {"chains_right": float(np.mean(right)), "chains_ended": float(np.mean([not w for w in written.warnings]))}


_Batch = tuple[TrainingBatch, torch.Tensor]
"""Sequences, and what `describe` says of their scenes."""


def _pool(tokenizer: PreTrainedTokenizerBase, seed: int, batch: int, number: int) -> list[_Batch]:
    """Batches of scenes with captions; those of one batch have about the same number of objects."""
    rng = stable_rng("reasoner", seed, number)
    pairs = [(scene, caption(scene, rng)) for scene in (sample_scene(rng) for _ in range(_POOL * batch))]
    pairs.sort(key=lambda pair: len(pair[0].objects))
    batches = [pairs[i * batch : (i + 1) * batch] for i in rng.permutation(_POOL)]
    return [_encoded(tokenizer, [scene for scene, _ in one], [text for _, text in one]) for one in batches]


def _encoded(tokenizer: PreTrainedTokenizerBase, scenes: Sequence[Scene], captions: Sequence[str]) -> _Batch:
    return encode_training_batch(tokenizer, captions, [chain_text(scene) for scene in scenes]), describe(scenes)


def train_reasoner(plan: Plan, setup: Setup) -> None:
    """Chains by cross-entropy, and image tokens that say to the UNet what its scene tokens said."""
    tokenizer, networks = _reading_networks(setup)
    mllm, projector = networks["mllm"], networks["projector"]
    tokens = _drawing_networks(setup)["tokens"].eval().requires_grad_(False)
    _fix_nulls(projector, tokens)
    tokens.to(setup.device)
    fit = Fit(plan, networks, setup.folder, setup.device)
    rng = stable_rng("held out captions", setup.seed)
    held_out = [sample_scene(rng) for _ in range(_HELD_OUT)]
    prompts = [caption(scene, rng) for scene in held_out]
    pools = functools.partial(_pool, tokenizer, setup.seed, plan.batch)
    batches = stream(pools, fit.step, _POOL, setup.workers)

    def terms(batch: _Batch) -> dict[str, torch.Tensor]:
        with bf16(setup.device):
            forced = teacher_forced(mllm, batch[0].to(setup.device))
        context, pooled = projector(forced.hidden.float())
        alignment = losses.alignment_loss(context, pooled, *tokens(batch[1].to(setup.device)))
        return {"loss": alignment + forced.loss, "alignment": alignment, "cross_entropy": forced.loss}

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        return terms(next(batches))

    def check() -> dict[str, float]:
        measured = {f"held_out_{k}": float(v) for k, v in terms(_encoded(tokenizer, held_out, prompts)).items()}
        return measured | _share_right(Reasoner(mllm=mllm, tokenizer=tokenizer), prompts, held_out)

    fit.run(loss_of, check)


def train_joint(plan: Plan, setup: Setup) -> None:
    """The paper's training: cross-entropy plus noise loss, which flows through the image tokens into the reasoner."""
    bank = setup.bank()
    tokenizer, reading = _reading_networks(setup)
    networks = averaged(setup.folder, "reasoner", reading) | {"unet": _drawing_networks(setup)["unet"]}
    mllm, projector, unet = networks["mllm"], networks["projector"], networks["unet"]
    for layer in (projector.output_projector, projector.output_projector_add):
        layer.bias.requires_grad_(False)
    fit = Fit(plan, networks, setup.folder, setup.device)
    drawing = Drawing.of(unet, bank, setup)
    held_out = setup.held_out(512).scenes[:_HELD_OUT]
    rng = stable_rng("held out captions", setup.seed)
    prompts = [caption(scene, rng) for scene in held_out]
    spatial = spatial_latents(drawing.vae, held_out, setup.config.image_size_px)
    nulls = (projector.output_projector.bias, projector.output_projector_add.bias)

    def batch_of(step: int) -> list[tuple[np.ndarray, _Batch]]:
        rng = stable_rng("joint captions", setup.seed, step)
        rows = rng.integers(0, len(bank.scenes), plan.batch)
        scenes = [bank.scenes[row] for row in rows]
        return [(rows, _encoded(tokenizer, scenes, [caption(scene, rng) for scene in scenes]))]

    batches = stream(batch_of, fit.step, 1, setup.workers)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("joint", setup.seed, step)
        rows, (sequences, _) = next(batches)
        with bf16(setup.device):
            forced = teacher_forced(mllm, sequences.to(setup.device))
        context, pooled = drop_semantic(projector(forced.hidden.float()), nulls, rng)
        noise = drawing.loss(rows, context, pooled, rng)
        return {"loss": forced.loss + noise, "cross_entropy": forced.loss, "noise": noise}

    def check() -> dict[str, float]:
        reasoner = Reasoner(mllm=mllm, tokenizer=tokenizer)
        hidden = reasoner.read(prompts, [chain_text(scene) for scene in held_out]).hidden
        context, pooled = projector(hidden)
        pictures = drawing.draw(context, nulls[0], pooled, spatial)
        return drawing.judge(pictures, held_out, "joint") | _share_right(reasoner, prompts, held_out)

    fit.run(loss_of, check)


def export(setup: Setup, output: Path) -> None:
    """Put the averaged weights of all stages together as a pipeline in half precision, with the curves beside it."""
    tokenizer, networks = _reading_networks(setup)
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
    curves = output / "curves"
    curves.mkdir(exist_ok=True)
    for path in sorted(setup.folder.glob("*.jsonl")):
        shutil.copy(path, curves / path.name)
