"""Train the icon world's detector and write its weights, its numbers and its model card.

    python -m evals.assets.training.train_detector

It takes its `--minutes` and some more for the measurements; stopped, it goes on with the same command. On a GPU, let
`--workers` draw the pictures: as many as there are cores to spare.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.assets.training import cards, detector_loss, detector_report, icon_scenes
from evals.assets.training import trainer as training
from evals.detectors.icon import WEIGHTS, IconDetector, build, config_sha256, points, predict, read_config
from evals.detectors.icon_network import IconNetwork
from got.util.cli import may_be_cut_off

BATCH = 32
LR = 2e-3
EMA_DECAY = 0.998
PRIOR = 0.01
"""Probability of any class at any point before training."""


def new_network(seed: int) -> IconNetwork:
    """The config's network with weights fixed by a seed."""
    network = build()
    training.initialize(network, torch.Generator().manual_seed(seed))
    head: Any = network.bbox_head
    for classify, regress in zip(head.rtm_cls, head.rtm_reg, strict=True):
        torch.nn.init.normal_(classify.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        torch.nn.init.constant_(classify.bias, float(np.log(PRIOR / (1 - PRIOR))))
        torch.nn.init.normal_(regress.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    return network.to(memory_format=torch.channels_last)


def train(args: argparse.Namespace) -> training.Trainer:
    """Train for the given time, on scenes that are drawn as they are needed."""
    network = new_network(args.seed)
    trainer = training.Trainer(network, args, "icon_detector", lr=LR, ema_decay=EMA_DECAY)
    size_px = read_config()["image_size_px"]
    centres, strides = points(network.strides, size_px, args.device)
    short = training.multiplies_bf16(args.device)
    network.train()
    batches = training.stream(functools.partial(icon_scenes.training_batch, args.batch, size_px), trainer, args)
    while trainer.running:
        batch = next(batches)
        images, truth, labels = (t.to(args.device) for t in (batch.images, batch.boxes, batch.labels))
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=short):
            logits, boxes = predict(network, images, centres)
        trainer.update(detector_loss.loss(logits.float(), boxes.float(), truth, labels, centres, strides), args.batch)
    return trainer


def export(trainer: training.Trainer, args: argparse.Namespace, path: Path) -> None:
    """Calibrate and measure the averaged weights, then write them with their numbers."""
    import safetensors.torch

    state = training.half(trainer.average)
    network = build()
    network.load_state_dict(state)
    numbers = detector_report.report(IconDetector(network, device=args.device), args.scenes)
    metadata = {
        "format": "pt",
        "config_sha256": config_sha256(),
        "calibration": json.dumps(numbers["calibration"]),
        "seed": str(args.seed),
    }
    safetensors.torch.save_file(state, path, metadata)
    training.write_numbers(path, trainer, args, network, numbers)


@may_be_cut_off()
def main() -> int:
    """Train, export, measure; or only measure again."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.assets.training.train_detector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    training.add_arguments(parser, minutes=14, batch=BATCH)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = (args.output or WEIGHTS.parent) / WEIGHTS.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if args.report_only:
        everything = json.loads(training.numbers_path(path).read_text())
        everything |= detector_report.report(IconDetector.load(path), args.scenes)
        training.write_json(training.numbers_path(path), everything)
    else:
        export(train(args), args, path)
        everything = json.loads(training.numbers_path(path).read_text())
    path.with_suffix(".md").write_text(cards.detector_card(everything))
    training.say(f"wrote {path}")
    shown = {key: everything[key] for key in ("map50", "map50_degraded", "oracle_geneval", "empty_pictures")}
    print(json.dumps(shown))  # noqa: T201 - the last line of a command is its result
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
