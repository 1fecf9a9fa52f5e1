"""Train the icon world's detector and write its weights, its numbers and its model card.

    python -m evals.assets.training.train_detector

It takes its `--minutes` and some more for the measurements; stopped, it resumes with the same command. On a GPU, let
`--workers` draw the images: as many as there are cores to spare.

RTMDet's own loss asks a class score to predict the overlap of its box, so that small icons score 0.8 however clear they
are, and GenEval counts objects above 0.9. Here a score is the probability of the class. The assignment is by geometry
alone and runs on the whole batch at once, which takes a fifth of the time of the dynamic one on a CPU.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss

from evals.assets.training import cards, command, detector_report, icon_scenes
from evals.detectors.icon import WEIGHTS, IconDetector, IconNetwork, build, config_sha256, points, predict, read_config
from got.util.precision import bf16

# ----------------------------------------------------------------------------------------------------------------- loss
SPANS = {8: (0.0, 36.0), 16: (28.0, 80.0), 32: (60.0, 1e9)}
"""Stride -> range of sqrt(width * height) in pixels that its level answers for. They overlap."""
RADIUS = 1.25
"""A point answers for an icon whose centre is within so many strides along both axes."""
FOCUS = 1.5
"""Exponent of the focal factor |target - p|."""
BOX_WEIGHT = 2.0


def levels(boxes: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
    """Whether each stride answers for each box, bool (..., strides).

    A level whose cells are wider than a thin icon may have no point inside it: then a finer level answers too.

    >>> boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 100, 100], [0, 0, 120, 12]])
    >>> levels(boxes, torch.tensor([8.0, 16, 32])).tolist()
    [[True, False, False], [False, False, True], [True, False, False]]
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    size, thin = sides.prod(-1).sqrt(), sides.amin(-1)
    chosen = []
    for stride in strides.tolist():
        low, high = SPANS[int(stride)]
        fits = (size >= low) & (size < high)
        too_thin_above = (size >= high) & (thin < 2 * stride)
        reachable = (thin >= stride) | (stride == float(strides.min()))
        chosen.append((fits | too_thin_above) & reachable & (size > 0))
    return torch.stack(chosen, -1)


def assign(
    boxes: torch.Tensor, labels: torch.Tensor, centres: torch.Tensor, strides: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The icon each grid point answers for; the smallest one if several claim it.

    Args:
        boxes: (n, k, 4) pixels.
        labels: (n, k), -1 for no object.
        centres: (p, 2) grid points.
        strides: (p,) their strides.

    Returns:
        index into k (n, p), and whether the point answers for any icon at all, bool (n, p).
    """
    unique, level = strides.unique(return_inverse=True)
    right_level = levels(boxes, unique)[..., level]  # (n, k, p)
    left_top = centres - boxes[:, :, None, :2]  # (n, k, p, 2)
    right_bottom = boxes[:, :, None, 2:] - centres
    inside = torch.minimum(left_top, right_bottom).amin(-1) > 0
    near = ((left_top - right_bottom).abs() / 2).amax(-1) <= RADIUS * strides
    claims = right_level & inside & near & (labels >= 0)[..., None]
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[..., None].expand_as(claims)
    chosen = area.masked_fill(~claims, torch.inf).argmin(1)
    return chosen, claims.any(1)


def loss(
    logits: torch.Tensor,
    predicted: torch.Tensor,
    boxes: torch.Tensor,
    labels: torch.Tensor,
    centres: torch.Tensor,
    strides: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Focal classification loss, cross-entropy between the classes, and GIoU loss, all per answering point.

    The focal loss judges each class by itself, "is it a dog or not", which makes scores probabilities; telling 80
    classes from each other is learned much faster from the cross-entropy of the same logits, "which of the 80 is it".

    Args:
        logits: (n, p, classes)
        predicted: (n, p, 4) boxes in pixels.
        boxes: (n, k, 4) true boxes in pixels.
        labels: (n, k), -1 for no object.
        centres: (p, 2) grid points.
        strides: (p,) their strides.
    """
    chosen, positive = assign(boxes, labels, centres, strides)
    count = positive.sum().clamp(min=1)
    target = torch.zeros_like(logits)
    image, point = positive.nonzero(as_tuple=True)
    icon = chosen[image, point]
    target[image, point, labels[image, icon]] = 1.0
    focus = (target - logits.sigmoid()).abs() ** FOCUS
    class_loss = (focus * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum() / count
    name_loss = F.cross_entropy(logits[image, point], labels[image, icon], reduction="sum") / count
    box_loss = generalized_box_iou_loss(predicted[image, point], boxes[image, icon], reduction="sum") / count
    return {"class": class_loss, "name": name_loss, "box": BOX_WEIGHT * box_loss}


PRIOR = 0.01
"""Probability of any class at any point before training."""


def new_network(seed: int) -> IconNetwork:
    """The config's network with weights fixed by a seed."""
    network = build()
    command.initialize(network, torch.Generator().manual_seed(seed))
    head: Any = network.bbox_head
    for classify, regress in zip(head.rtm_cls, head.rtm_reg, strict=True):
        torch.nn.init.normal_(classify.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        torch.nn.init.constant_(classify.bias, float(np.log(PRIOR / (1 - PRIOR))))
        torch.nn.init.normal_(regress.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    return network.to(memory_format=torch.channels_last)


def losses(network: Any, batch: icon_scenes.Batch, device: str) -> dict[str, torch.Tensor]:
    """All losses of a batch."""
    centres, strides = points(network.strides, read_config()["image_size_px"], device)
    images, truth, labels = (t.to(device) for t in (batch.images, batch.boxes, batch.labels))
    with bf16(device):
        logits, boxes = predict(network, images, centres)
    return loss(logits.float(), boxes.float(), truth, labels, centres, strides)


def measure(weights: Path | dict[str, torch.Tensor], scenes: int, device: str) -> dict[str, Any]:
    """The numbers of the card, the calibration among them."""
    if isinstance(weights, Path):
        return detector_report.report(IconDetector.load(weights), scenes)
    network = build()
    network.load_state_dict(weights)
    return detector_report.report(IconDetector(network, device=device), scenes)


ASSET = command.Asset(
    name="icon_detector",
    about=__doc__ or "",
    weights=WEIGHTS,
    minutes=14,
    batch=32,
    lr=2e-3,
    ema_decay=0.998,
    start=new_network,
    batches=lambda count: functools.partial(icon_scenes.training_batch, count, read_config()["image_size_px"]),
    losses=losses,
    exported=lambda network: network,
    measure=measure,
    metadata=lambda numbers: {
        "config_sha256": config_sha256(),
        "calibration": json.dumps(numbers["calibration"]),
    },
    card=cards.detector_card,
    shown=("map50", "map50_degraded", "oracle_geneval", "empty_pictures"),
)

if __name__ == "__main__":
    raise SystemExit(command.main(ASSET))
