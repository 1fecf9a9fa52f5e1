"""The stage in which the reasoner learns to say what it sees: names, then places. It stands for Qwen's pretraining.

Short answers and no image tokens: many times as many objects per second as conversations that end in images.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from got.iconworld.edits import described
from got.iconworld.referring import told_apart
from got.iconworld.scenes import caption, chain_text, stable_rng
from got.iconworld.vocabulary import parse_phrase
from got.model import networks as models
from got.model.teacher_forcing import Conversation, TrainingBatch, encode_conversations, teacher_forced
from got.plan.chain import Chain, iou
from got.train.reasoner import pointing_words, reading_networks, reasoner_of, warm_start
from got.train.trainer import Fit, Plan, averaged
from got.util.precision import bf16, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.iconworld.bank import Bank
    from got.iconworld.scenes import Scene, SceneObject
    from got.model.reasoner import Reasoner
    from got.train.vae import Setup

KINDS = ("names", "boxes", "place", "prompt")
"""What a batch asks for: all names, all names with boxes, the boxes of named objects; or the chain of a caption,
so that writing from words is not forgotten."""
_SHARES = (0.05, 0.1, 0.7, 0.15)
_HELD_OUT = 96


def reading_order(scene: Scene) -> Scene:
    """The same scene with its objects listed from the upper left to the lower right.

    An image does not show in which order its objects were thought of.
    """

    def place(item: SceneObject) -> tuple[int, int]:
        x1, y1, x2, y2 = item.box_1000
        return (y1 + y2) // 500, x1 + x2

    return dataclasses.replace(scene, objects=tuple(sorted(scene.objects, key=place)))


def question(scene: Scene, image: np.ndarray, kind: str, rng: np.random.Generator) -> Conversation:
    """A question of one of `KINDS` about an image, with its answer."""
    if kind == "prompt":
        return Conversation(prompt=caption(scene, rng), chains=(chain_text(scene),), drawn=False)
    seen = reading_order(scene)
    if kind == "names":
        prompt, answer = "the image", f"the image shows {described(seen)}"
    elif kind == "boxes":
        prompt, answer = "the picture", chain_text(seen)
    else:
        named = told_apart(seen, rng)
        if not named:
            return question(scene, image, "boxes", rng)
        prompt, answer = pointing_words(named)
    return Conversation(prompt=prompt, chains=(answer,), images=(image,), drawn=False)


def train_grounding(plan: Plan, setup: Setup) -> None:
    """Cross-entropy of short answers about images of both banks."""
    scenes, edits = setup.bank(), setup.edit_bank()
    held_out = setup.held_out(_HELD_OUT)
    shown = [*scenes.scenes, *(edit.source for edit in edits.edits)]
    images = np.concatenate([scenes.images, edits.sources])
    tokenizer, networks = reading_networks(setup)
    if setup.start is not None:
        warm_start(networks, tokenizer, setup.start)
    mllm = networks["mllm"]
    averaged(setup.folder, "vision", {"visual": mllm.model.visual})
    processor = models.build_image_processor(setup.config)
    fit = Fit(plan, {"mllm": mllm}, setup.folder, setup.device)

    def make(step: int) -> list[tuple[str, TrainingBatch]]:
        rng = stable_rng("grounding", setup.seed, step)
        kind = str(rng.choice(KINDS, p=_SHARES))
        rows = rng.integers(0, len(shown), plan.batch)
        asked = [question(shown[row], images[row], kind, rng) for row in rows]
        return [(kind, encode_conversations(tokenizer, asked, processor).placed(mllm))]

    batches = stream(make, fit.step, 1, setup.workers)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        kind, batch = next(batches)
        with bf16(setup.device):
            loss = teacher_forced(mllm, batch.to(setup.device)).loss
        return {"loss": loss, kind: loss}

    def check() -> dict[str, float]:
        reasoner = reasoner_of(setup, networks, tokenizer)
        looks = [Image.fromarray(image) for image in held_out.images]
        told = judge(reasoner.write(["the picture"] * len(looks), looks, max_new_tokens=120).chains, held_out.scenes)
        return told | {"pointed": pointing(reasoner, held_out, stable_rng("pointing", setup.seed))}

    fit.run(loss_of, check)


def pointing(reasoner: Reasoner, bank: Bank, rng: np.random.Generator) -> float:
    """How often the box is right that is written for one object among others, with IoU of 0.5 or more."""
    pairs = zip(bank.scenes, bank.images, strict=True)
    rows = [(named[0], image) for scene, image in pairs if len(scene.objects) > 1 and (named := told_apart(scene, rng))]
    looks = [Image.fromarray(image) for _, image in rows]
    chains = reasoner.write([words for (words, _), _ in rows], looks, max_new_tokens=60).chains
    boxes = [[region.box_1000 for region in Chain.parse(text).regions] for text in chains]
    right = [any(iou(b, i.box_1000) >= 0.5 for b in found) for found, ((_, i), _) in zip(boxes, rows, strict=True)]
    return float(np.mean(right))


def judge(chains: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of the scenes' objects whose class, colour, and box (IoU of 0.5 or more) the reasoner names right."""
    found: dict[str, list[bool]] = {"told_class": [], "told_color": [], "told_box": []}
    for text, scene in zip(chains, scenes, strict=True):
        told = [(parse_phrase(region.text), region.box_1000) for region in Chain.parse(text).regions]
        for item in reading_order(scene).objects:
            named = [box for name, box in told if name is not None and name[0] == item.name]
            found["told_class"].append(bool(named))
            found["told_color"].append((item.name, item.color) in [name for name, _ in told])
            found["told_box"].append(any(iou(box, item.box_1000) >= 0.5 for box in named))
    return {name: float(np.mean(values)) for name, values in found.items()}
