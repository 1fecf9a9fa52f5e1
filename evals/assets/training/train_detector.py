"""Train the icon world's detector and write its weights, its numbers and its model card.

    python -m evals.assets.training.train_detector

It takes its `--minutes` and some more for the measurements; stopped, it resumes with the same command. On a GPU, let
`--workers` draw the images: as many as there are cores to spare.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.assets.training import cards, command, detector_loss, detector_report, icon_scenes
from evals.detectors.icon import WEIGHTS, IconDetector, build, config_sha256, points, predict, read_config
from evals.detectors.icon_network import IconNetwork
from got.util.precision import bf16

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
    return detector_loss.loss(logits.float(), boxes.float(), truth, labels, centres, strides)


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
