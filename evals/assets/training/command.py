"""The command that both trainings are: train on fresh scenes, measure, write weights, numbers and card."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from got.train.trainer import Fit, Plan
from got.util import precision
from got.util.cli import Parser, number, run_command, whole
from got.util.errors import UserError
from got.util.files import read_lines, read_object, write_json

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """What is trained, and all that the two trainings do not share."""

    name: str
    about: str
    """For `--help`."""
    weights: Path
    minutes: float
    batch: int
    lr: float
    ema_decay: float
    start: Callable[[int], nn.Module]
    """Seed -> what is trained."""
    batches: Callable[[int], Callable[[np.random.Generator], Any]]
    """Images per step -> what draws a batch."""
    losses: Callable[[nn.Module, Any, str], dict[str, torch.Tensor]]
    """What is trained, a batch and the device -> the losses; their sum is minimised."""
    exported: Callable[[nn.Module], nn.Module]
    """The part of it that is written to disk."""
    measure: Callable[[Path | dict[str, torch.Tensor], int, str], dict[str, Any]]
    """Weights, number of held-out scenes, device -> the numbers of the card."""
    metadata: Callable[[dict[str, Any]], dict[str, str]]
    """Numbers -> what the weights file says of itself."""
    card: Callable[[dict[str, Any]], str]
    shown: tuple[str, ...]
    """Numbers that end the command."""


def _parser(asset: Asset) -> argparse.ArgumentParser:
    prog = f"python -m evals.assets.training.train_{asset.name.removeprefix('icon_')}"
    parser = Parser(prog=prog, description=asset.about)
    add = parser.add_argument
    add("--minutes", type=number(0), default=asset.minutes, help="training time (default: %(default)s)")
    add("--threads", type=whole(), default=2, help="CPU threads (default: %(default)s)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="where to train (default: %(default)s)")
    add("--workers", type=whole(0), default=0, help="processes that draw images ahead (default: none, draw in turn)")
    add("--batch", type=whole(), default=asset.batch, help="images per step (default: %(default)s)")
    add("--seed", type=whole(0), default=1, help="scenes and initial weights (default: %(default)s)")
    add("--folder", type=Path, default=Path("runs/assets"), help="checkpoints (default: %(default)s)")
    add("--report-only", action="store_true", help="only measure the weights again")
    add("--scenes", type=whole(), default=1500, help="held-out scenes to measure on (default: %(default)s)")
    add("--note", default="", help="a sentence for the card, e.g. what changed while it was trained")
    add("--output", type=Path, help="where weights, numbers and card go (default: beside this script)")
    return parser


def main(asset: Asset) -> int:
    """Trains, exports, measures; or only measures again."""
    return run_command(lambda: _run(asset), interrupted="interrupted; the same command resumes")


def _run(asset: Asset) -> dict[str, Any]:
    args = _parser(asset).parse_args()
    torch.set_num_threads(args.threads)
    path = (args.output or asset.weights.parent) / asset.weights.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if args.report_only:
        numbers = read_object(numbers_path(path), UserError) | asset.measure(path, args.scenes, args.device)
    else:
        numbers = _trained(asset, args, path)
    write_json(numbers_path(path), numbers, indent=1, allow_nan=True)
    path.with_suffix(".md").write_text(asset.card(numbers))
    return {"output": str(path), **{key: numbers[key] for key in asset.shown}}


def _trained(asset: Asset, args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Writes the averaged weights; returns what the card says of them and of their training."""
    import safetensors.torch

    module = asset.start(args.seed)
    plan = Plan(
        stage=asset.name,
        minutes=args.minutes,
        batch=args.batch,
        lr=asset.lr,
        ema_decay=asset.ema_decay,
        weight_decay=0.05,
        decay_vectors=False,
        average_buffers=True,
        clip=5.0,
        warmup_steps=150,
        betas=(0.9, 0.99),
    )
    fit = Fit(plan, {"network": module}, args.folder, args.device)
    module.train()
    draw = functools.partial(_drawn, asset.batches(args.batch), args.seed)
    batches = precision.stream(draw, fit.step, 1, args.workers)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        losses = asset.losses(module, next(batches), args.device)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    fit.run(loss_of, None)
    state = fit.checked(lambda: _half(asset.exported(module).state_dict()))
    numbers = asset.measure(state, args.scenes, args.device)
    safetensors.torch.save_file(state, path, {"format": "pt", "seed": str(args.seed), **asset.metadata(numbers)})
    short = precision.has_native_dtype(torch.bfloat16, args.device)
    recipe = {
        "seed": args.seed,
        "minutes": round(fit.seconds / 60, 1),
        "steps": fit.step,
        "pictures": fit.step * args.batch,
        "batch": args.batch,
        "device": "CPU cores" if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "products": "bf16" if short else "float32",
        "lr": asset.lr,
        "ema_decay": asset.ema_decay,
        "note": args.note,
    }
    parameters = sum(weight.numel() for weight in asset.exported(module).parameters())
    curves = read_lines(fit.curve)[0]
    return {"recipe": recipe, "parameters": parameters, "curves": curves, **numbers}


def _drawn(make: Callable[[np.random.Generator], Any], seed: int, step: int) -> list[Any]:
    """The batch of a step: a resumed training draws new scenes."""
    return [make(np.random.default_rng([seed, step]))]


def _half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they are stored: floating point in 16 bits."""
    return {key: (v.half() if v.is_floating_point() else v.clone()).cpu().contiguous() for key, v in state.items()}


def numbers_path(weights: Path) -> Path:
    """The file of numbers beside a weights file."""
    return weights.with_name(f"{weights.stem}_numbers.json")


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Weights from our own generator, so that a seed fixes the training's start.

    He-normal for convolutions; a standard deviation of 1 / sqrt(inputs) for other matrices; vectors stay as they are.
    """
    convolutions = {id(m.weight) for m in network.modules() if isinstance(m, nn.Conv2d)}
    for parameter in network.parameters():
        if id(parameter) in convolutions:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu", generator=generator)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
