"""Train the icon world's CLIP and write its weights, its numbers and its model card.

    python -m evals.assets.training.train_clip

It takes its `--minutes` and some more for the measurements; stopped, it resumes with the same command. On a GPU, let
`--workers` draw the images: as many as there are cores to spare.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from evals.assets.training import augment, cards, command, icon_scenes
from evals.core.vocabulary import CLASSES, COLORS
from evals.embedders.clip import CONFIG, WEIGHTS, OpenClipEmbedder, WordTokenizer, build_icon_clip, load_icon_clip
from evals.suite.objects import classify_colors
from got import iconworld
from got.util.files import sha256
from got.util.precision import bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evals.core.backends import Embedder

CHOICES = 50


def _images(batch: icon_scenes.Batch) -> list[Image.Image]:
    return [Image.fromarray(p) for p in batch.images.round().byte().permute(0, 2, 3, 1).numpy()]


def color_accuracy(embedder: Embedder, scenes: int, *, degraded: bool) -> dict[str, Any]:
    """Share of icons whose colour is named right, in all and by colour, in [0, 1]. Crops are the true boxes."""
    crops, names, truth = [], [], []
    for batch in icon_scenes.held_out(scenes, 64, seed=5, degraded=degraded):
        for scene, image, boxes in zip(batch.scenes, _images(batch), batch.boxes.tolist(), strict=True):
            for item, box in zip(scene.objects, boxes, strict=False):
                crops.append(image.crop(tuple(round(v) for v in box)))
                names.append(item.name)
                truth.append(item.color)
    right = np.array(classify_colors(embedder, crops, names, COLORS)) == np.array(truth)
    per_color = {color: float(right[np.array(truth) == color].mean()) for color in COLORS if color in truth}
    return {"overall": float(right.mean()), "per_color": per_color}


def retrieval(embedder: Embedder, scenes: int) -> dict[str, float]:
    """R@1 among 50 in both directions, in [0, 1]: is the own caption the nearest, and the own image?"""
    rng = np.random.default_rng(20_313)
    hits: dict[str, list[float]] = {"image_to_text": [], "text_to_image": []}
    for batch in icon_scenes.held_out(max(CHOICES, scenes // CHOICES * CHOICES), 64, seed=6):
        captions = [iconworld.caption(scene, rng) for scene in batch.scenes]
        similar = embedder.embed_images(_images(batch)) @ embedder.embed_texts(captions).T
        own = np.arange(len(captions))
        hits["image_to_text"].append(float((similar.argmax(1) == own).mean()))
        hits["text_to_image"].append(float((similar.argmax(0) == own).mean()))
    return {direction: float(np.mean(shares)) for direction, shares in hits.items()}


def report(embedder: Embedder, scenes: int = 1500) -> dict[str, Any]:
    """All numbers of the model card."""
    return {
        "color_accuracy": color_accuracy(embedder, scenes, degraded=False),
        "color_accuracy_degraded": color_accuracy(embedder, scenes, degraded=True)["overall"],
        "retrieval": retrieval(embedder, scenes),
    }


CROP_SHARE = 4
"""One image in so many of a batch is a crop of one icon, the others are whole scenes."""
SIZE_PX = 64
MEAN = STD = 127.5
"""As in the config's preprocessing, in grey levels."""
PAIRS = {pair: i for i, pair in enumerate(itertools.product(CLASSES, COLORS))}
"""Number of each (class, colour)."""
PAIR_SCALE = 20.0
"""Inverse temperature of the training-time classifier of pairs."""
TEMPLATES = (
    ("a photo of a {color} {name}", True, True),
    ("a photo of a {color}-colored {name}", True, True),
    ("a photo of a {color} object", True, False),
    ("a photo of a {name}", False, True),
)
"""Caption of a crop, and whether it names the colour, and the class."""


def crop(image: NDArray[Any], box: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """One icon, cut out as a detector would: each side is off by up to a tenth of the box.

    Args:
        image: uint8 (h, w, 3)
        box: x1, y1, x2, y2 in pixels
        rng: fixes the cut.

    Returns:
        uint8 (SIZE_PX, SIZE_PX, 3)
    """
    height, width = image.shape[:2]
    sides = np.tile(box[2:] - box[:2], 2)
    moved = np.clip(np.round(box + sides * rng.uniform(-0.1, 0.1, 4)), 0, [width, height] * 2)
    x1, y1, x2, y2 = (int(v) for v in moved)
    cut = Image.fromarray(image).crop((x1, y1, max(x2, x1 + 2), max(y2, y1 + 2)))
    return np.asarray(cut.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def crop_batch(
    batch: icon_scenes.Batch, count: int, rng: np.random.Generator
) -> tuple[torch.Tensor, list[str], torch.Tensor, list[Any]]:
    """Crops of random icons of a batch, one caption each, and which caption is true of which crop.

    Returns:
        float (n, 3, size, size), n captions, bool (n, n), n scene objects
    """
    images = batch.images.round().byte().permute(0, 2, 3, 1).numpy()
    where = [(i, k) for i, scene in enumerate(batch.scenes) for k in range(len(scene.objects))]
    chosen = [where[j] for j in rng.choice(len(where), min(count, len(where)), replace=False)]
    things = [batch.scenes[i].objects[k] for i, k in chosen]
    crops = np.stack([crop(images[i], batch.boxes[i, k].numpy(), rng) for i, k in chosen])
    kinds = [TEMPLATES[j] for j in rng.integers(len(TEMPLATES), size=len(things))]
    texts = [text.format(color=t.color, name=t.name) for (text, _, _), t in zip(kinds, things, strict=True)]
    colors, names = np.array([t.color for t in things]), np.array([t.name for t in things])
    any_color = ~np.array([kind[1] for kind in kinds])
    any_name = ~np.array([kind[2] for kind in kinds])
    true = ((colors[:, None] == colors) | any_color) & ((names[:, None] == names) | any_name)
    return augment.to_tensor(crops), texts, torch.from_numpy(true), things


def contrast(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """CLIP's loss in both directions, where an image may have several true captions and the other way round.

    Args:
        images: (n, d) unit vectors.
        texts: (n, d) unit vectors.
        scale: inverse temperature.
        true: bool (n, n), whether caption j is true of image i; the diagonal is.
    """
    logits = scale * images @ texts.T
    target = true.float()
    by_image = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    by_text = F.cross_entropy(logits.T, target.T / target.sum(0)[:, None])
    return (by_image + by_text) / 2


def pair_shares(things: Sequence[Sequence[Any]]) -> torch.Tensor:
    """Which (class, colour) the icons of each image are: shares, (images, pairs)."""
    target = torch.zeros(len(things), len(PAIRS))
    for row, icons in zip(target, things, strict=True):
        for icon in icons:
            row[PAIRS[icon.name, icon.color]] += 1 / len(icons)
    return target


def name_all(images: torch.Tensor, classifier: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of naming class and colour of every icon in an image.

    Captions alone teach the classes slowly: count and colours often suffice to tell 96 captions apart.

    Args:
        images: (n, d) unit vectors.
        classifier: (pairs, d), of use in training only.
        target: (n, pairs), see `pair_shares`.
    """
    return F.cross_entropy(PAIR_SCALE * images @ F.normalize(classifier, dim=-1).T, target)


def training_batch(count: int, tokenizer: WordTokenizer, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Fresh scenes and crops with their captions.

    Returns:
        pixels (n, 3, size, size) in [0, 255], tokens (n, length), which crop caption is true of which crop, and the
        shares of (class, colour) in each image; scenes first, then crops.
    """
    crops_wanted = count // CROP_SHARE
    scenes = [iconworld.sample_scene(rng) for _ in range(count - crops_wanted)]
    batch = icon_scenes.draw(scenes, int(rng.choice(icon_scenes.TRAIN_SIZES_PX)), SIZE_PX)
    captions = [iconworld.caption(scene, rng) for scene in scenes]
    crops, crop_texts, true, things = crop_batch(batch, crops_wanted, rng)
    pixels = augment.degrade(torch.cat([batch.images, crops]), rng, amount=0.7)
    shares = pair_shares([*(scene.objects for scene in scenes), *([thing] for thing in things)])
    return pixels, tokenizer([*captions, *crop_texts]), true, shares


def losses(modules: Any, batch: Sequence[torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """All losses of a batch."""
    network = modules["clip"]
    pixels, tokens, true, shares = (tensor.to(device) for tensor in batch)
    with bf16(device):
        images, texts = network.encode_image((pixels - MEAN) / STD), network.encode_text(tokens)
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    scale = network.logit_scale.exp().clamp(max=100)
    scenes = len(pixels) - len(true)
    own = torch.eye(scenes, dtype=torch.bool, device=device)
    return {
        "scenes": contrast(images[:scenes], texts[:scenes], scale, own),
        "crops": contrast(images[scenes:], texts[scenes:], scale, true),
        "names": name_all(images, modules["pairs"].weight, shares),
    }


def start(seed: int) -> torch.nn.Module:
    """The config's network and the classifier of pairs, with weights fixed by a seed."""
    network: Any
    network, _, _ = build_icon_clip()
    pairs = torch.nn.Linear(network.text_projection.shape[-1], len(PAIRS), bias=False)
    modules = torch.nn.ModuleDict({"clip": network, "pairs": pairs})
    command.initialize(modules, torch.Generator().manual_seed(seed))
    return modules


def measure(weights: Path | dict[str, torch.Tensor], scenes: int, device: str) -> dict[str, Any]:
    """The numbers of the card, on the CPU."""
    del device
    if isinstance(weights, Path):
        return report(load_icon_clip(weights), scenes)
    network, transform, tokenizer = build_icon_clip()
    network.load_state_dict(weights)
    return report(OpenClipEmbedder("icon", network, transform, tokenizer, "cpu"), scenes)


ASSET = command.Asset(
    name="icon_clip",
    about=__doc__ or "",
    weights=WEIGHTS,
    minutes=7,
    batch=128,
    lr=2e-3,
    ema_decay=0.998,
    start=start,
    batches=lambda count: functools.partial(training_batch, count, build_icon_clip()[2]),
    losses=losses,
    exported=lambda modules: modules.get_submodule("clip"),
    measure=measure,
    metadata=lambda _: {"config_sha256": sha256(CONFIG)},
    card=cards.clip_card,
    shown=("color_accuracy", "color_accuracy_degraded", "retrieval"),
)

if __name__ == "__main__":
    raise SystemExit(command.main(ASSET))
