"""What both trainings share: the clock, the rate, the average of weights, checkpoints and the log."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

LOG_SECONDS = 20.0
CHECKPOINT_SECONDS = 60.0
WARMUP_STEPS = 150
LONGEST_STEP_SECONDS = 30.0
"""What exceeds it is a pause (a stopped process, a sleeping laptop), which is no training time."""


def multiplies_bf16(device: str | torch.device) -> bool:
    """Whether half precision pay; a processor without AVX512 emulates it, many times as slow as float32."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def add_arguments(parser: argparse.ArgumentParser, minutes: float, batch: int) -> None:
    """The flags of a training command."""
    parser.add_argument("--minutes", type=float, default=minutes, help="training time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw pictures ahead (default: none, draw in turn)"
    )
    parser.add_argument("--batch", type=int, default=batch, help="pictures per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="scenes and initial weights (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/assets"), help="checkpoints (default: %(default)s)")
    parser.add_argument("--report-only", action="store_true", help="only measure the weights again")
    parser.add_argument("--scenes", type=int, default=1500, help="held-out scenes to measure on (default: %(default)s)")
    parser.add_argument("--note", default="", help="a sentence for the card, e.g. what changed while it was trained")
    parser.add_argument("--output", type=Path, help="where weights, numbers and card go (default: beside this script)")


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up by steps, then a cosine over the training's time, down to a hundredth.

    >>> learning_rate(1.0, 10_000, 0.0), round(learning_rate(1.0, 10_000, 1.0), 4)
    (1.0, 0.01)
    """
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


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


def stream(make: Callable[[np.random.Generator], Any], trainer: Trainer, args: argparse.Namespace) -> Iterator[Any]:
    """What `make` gives for the generators of the steps to come: a resumed training goes on with new scenes."""
    return iter(
        DataLoader(
            _Made(make, args.seed),
            batch_size=None,
            sampler=range(trainer.step, sys.maxsize),
            num_workers=args.workers,
            collate_fn=lambda made: made,
        )
    )


class _Made(Dataset[Any]):
    def __init__(self, make: Callable[[np.random.Generator], Any], seed: int) -> None:
        self.make, self.seed = make, seed

    def __getitem__(self, step: int) -> Any:
        return self.make(np.random.default_rng([self.seed, step]))


class Trainer:
    """AdamW with a clock: rate by time spent, averaged weights, checkpoints that a new process goes on from."""

    def __init__(self, network: nn.Module, args: argparse.Namespace, name: str, *, lr: float, ema_decay: float) -> None:
        args.folder.mkdir(parents=True, exist_ok=True)
        self.network = network.to(args.device)
        self.average = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self._device = args.device
        self.seconds = 0.0
        self.step = 0
        self.samples = 0
        self._budget = args.minutes * 60
        self.lr, self.decay = lr, ema_decay
        self._checkpoint = args.folder / f"{name}.pt"
        self._curves = args.folder / f"{name}_curves.jsonl"
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)
        self._losses: list[dict[str, torch.Tensor]] = []
        if self._checkpoint.exists():
            self._resume()
        else:
            self._curves.unlink(missing_ok=True)
        self._tick = self._logged = self._saved = time.monotonic()
        self._samples_logged = self.samples

    @property
    def running(self) -> bool:
        """Is there time left?"""
        return bool(self.seconds < self._budget)

    def update(self, losses: dict[str, torch.Tensor], samples: int) -> None:
        """One step on the sum of losses; then the clock, the average, the log and the checkpoint."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.lr, self.step, self.seconds / self._budget)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += samples
        self._accumulate()
        self._losses.append({key: value.detach() for key, value in losses.items()})
        now = time.monotonic()
        self.seconds += min(now - self._tick, LONGEST_STEP_SECONDS)
        self._tick = now
        if now - self._logged > LOG_SECONDS or not self.running:
            self._log(now)
        if now - self._saved > CHECKPOINT_SECONDS or not self.running:
            self._save()
            self._saved = now

    def _accumulate(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()
        numbers = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[k] for k in numbers], [state[k].detach() for k in numbers], 1 - decay)
        for key in state.keys() - numbers:
            self.average[key].copy_(state[key])

    def _log(self, now: float) -> None:
        means = {
            key: round(float(torch.stack([loss[key] for loss in self._losses]).mean()), 4) for key in self._losses[0]
        }
        rate = (self.samples - self._samples_logged) / max(now - self._logged, 1e-9)
        line = {"minutes": round(self.seconds / 60, 2), "step": self.step, "samples": self.samples, **means}
        say(json.dumps({**line, "samples_per_second": round(rate, 1)}))
        with self._curves.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._losses, self._logged, self._samples_logged = [], now, self.samples

    def curves(self) -> list[dict[str, float]]:
        """The log so far."""
        return [json.loads(line) for line in self._curves.read_text().split("\n")[:-1]] if self._curves.exists() else []

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "clock": {"seconds": self.seconds, "step": self.step, "samples": self.samples},
        }
        part = self._checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.seconds, self.step, self.samples = (state["clock"][key] for key in ("seconds", "step", "samples"))
        say(f"goes on after {self.seconds / 60:.1f} minutes, step {self.step}")


def numbers_path(weights: Path) -> Path:
    """The file of numbers beside a weights file."""
    return weights.with_name(f"{weights.stem}_numbers.json")


def write_numbers(
    path: Path, trainer: Trainer, args: argparse.Namespace, network: nn.Module, numbers: dict[str, Any]
) -> None:
    """Write what the card says of a finished training, beside its weights.

    Args:
        path: The weights file.
        trainer: What trained them.
        args: The command's flags.
        network: As it is used, to count its parameters.
        numbers: What was measured.
    """
    recipe = {
        "seed": args.seed,
        "minutes": round(trainer.seconds / 60, 1),
        "steps": trainer.step,
        "pictures": trainer.samples,
        "batch": args.batch,
        "device": device_name(args.device),
        "products": "bf16" if multiplies_bf16(args.device) else "float32",
        "lr": trainer.lr,
        "ema_decay": trainer.decay,
        "note": args.note,
    }
    parameters = sum(p.numel() for p in network.parameters())
    write_json(numbers_path(path), {"recipe": recipe, "parameters": parameters, "curves": trainer.curves(), **numbers})


def device_name(device: str) -> str:
    """What a training ran on, for its card.

    >>> device_name("cpu")
    'CPU cores'
    """
    return "CPU cores" if device == "cpu" else torch.cuda.get_device_name(device)


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they are stored: floating point in 16 bits."""
    return {key: (v.half() if v.is_floating_point() else v).cpu().contiguous() for key, v in state.items()}


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_json(path: Path, value: Any) -> None:
    """A file of numbers that a person can read."""
    path.write_text(json.dumps(value, indent=1) + "\n")
