"""How one stage of a training runs: plan, optimizer, averaged weights, clock, checkpoints, curve. Knows no stage.

The embedded model's stages run this way, and so do the trainings of the benchmarks' detector and CLIP.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers.training_utils import EMAModel

from got.util.errors import UserError
from got.util.files import append_lines, replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


LOG_SECONDS = 20.0
CHECKPOINT_SECONDS = 90.0
CHECK_SECONDS = 300.0
_LONGEST_STEP_SECONDS = 30.0
"""What exceeds it is a pause (a stopped process, a sleeping laptop), which is no training time."""
UNPACKED = "unpacked.pt"
"""Weights of a finished pipeline in a training folder, by module."""
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one stage is run."""

    stage: str
    minutes: float
    """Running time of the stage, over all its sittings."""
    steps: int | None = None
    """How many steps the stage takes, in place of a time."""
    batch: int
    lr: float
    ema_decay: float
    weight_decay: float = 0.01
    decay_vectors: bool = True
    """Whether the decay pulls at biases and scales too, or at matrices alone."""
    average_buffers: bool = False
    """Whether the average has the running statistics of batch normalisation, too."""
    clip: float = 1.0
    """Longest gradient; longer ones are shortened to it."""
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.98)
    lr_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    """Modules that learn faster, or slower, than at the rate `lr`, and by how much."""
    eps: float = 1e-8
    """Far below the gradients: those of rare words' embeddings are small."""
    gates: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the check at the end should reach, at least. Below it the next stage is not worth starting."""


def learning_rate(plan: Plan, step: int, progress: float) -> float:
    """Linear warm-up by steps, then a cosine over the stage.

    >>> plan = Plan(stage="vae", minutes=1, batch=1, lr=1.0, ema_decay=0.9, warmup_steps=10)
    >>> learning_rate(plan, 5, 0.0), round(learning_rate(plan, 100, 1.0), 3)
    (0.5, 0.01)
    """
    warm = min(1.0, step / plan.warmup_steps)
    return plan.lr * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def gate_lines(plan: Plan, measured: dict[str, float]) -> list[str]:
    """Whether a stage has learned enough, a line per gate.

    >>> plan = Plan(stage="unet", minutes=1, batch=1, lr=1.0, ema_decay=0.9, gates={"class": 0.8, "color": 0.8})
    >>> for line in gate_lines(plan, {"class": 0.31, "color": 0.86}):
    ...     print(line)
    unet gate missed: class is 0.310, expected at least 0.8; look at the curve before you go on
    unet gate passed: color is 0.860, expected at least 0.8
    """
    lines = []
    for name, least in plan.gates.items():
        value = measured.get(name, math.nan)
        words = ("passed", "") if value >= least else ("missed", "; look at the curve before you go on")
        lines.append(f"{plan.stage} gate {words[0]}: {name} is {value:.3f}, expected at least {least:g}{words[1]}")
    return lines


_TOO_SHORT = "the learning rate never reaches its peak"


class Fit:
    """One stage's state: modules, optimizer, averaged weights, clock; written to disk and read back on the next run."""

    def __init__(self, plan: Plan, modules: dict[str, nn.Module], folder: Path, device: str = "cpu") -> None:
        self.plan = plan
        self.modules = {name: module.to(device) for name, module in modules.items()}
        self.step, self.seconds = 0, 0.0
        self.weights: list[torch.Tensor] = [p for m in modules.values() for p in m.parameters()]
        self.parameters = [p for p in self.weights if p.requires_grad]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, module in self.modules.items():
            for weight in module.parameters():
                decay = plan.weight_decay if plan.decay_vectors or weight.ndim > 1 else 0.0
                groups.setdefault((plan.lr_factors.get(name, 1.0), decay), []).append(weight)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": learning, "factor": factor, "weight_decay": decay}
                for (factor, decay), group in groups.items()
                if (learning := [weight for weight in group if weight.requires_grad])
            ],
            lr=plan.lr,
            betas=plan.betas,
            eps=plan.eps,
            fused=True,
        )
        if plan.average_buffers:
            # As views that ask for gradients: diffusers copies what does not, instead of averaging it.
            buffers = (b for m in modules.values() for b in m.buffers() if b.is_floating_point())
            self.weights += [buffer.detach().requires_grad_() for buffer in buffers]
        self.ema = EMAModel(self.weights, decay=plan.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.path = folder / f"{plan.stage}.pt"
        self.curve = folder / f"{plan.stage}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._load(torch.load(self.path, map_location=device, weights_only=True))
        else:
            self.curve.unlink(missing_ok=True)
        if plan.steps is not None and plan.steps <= plan.warmup_steps:
            self._say(f"{plan.steps} steps are no longer than the warm-up of {plan.warmup_steps}: {_TOO_SHORT}")

    def _load(self, state: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._say(f"resumes after {self.seconds / 60:.1f} minutes, step {self.step}")

    def save(self) -> None:
        """Write everything, in one move, so that a kill leaves the last whole checkpoint."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replacing(self.path) as part:
            torch.save(state, part)

    @property
    def progress(self) -> float:
        """Share of the stage that is done."""
        return self.step / self.plan.steps if self.plan.steps else self.seconds / max(60 * self.plan.minutes, 1e-9)

    def run(
        self, loss_of: Callable[[int], dict[str, torch.Tensor]], check: Callable[[], dict[str, float]] | None
    ) -> None:
        """Step until the stage is done. `loss_of(step)` gives the terms; "loss" among them is minimised."""
        logged = saved = looked = last = time.monotonic()
        sums: dict[str, torch.Tensor] = {}
        steps, first = 0, self.step + 1
        while self.progress < 1:
            terms = loss_of(self.step)
            for group in self.optimizer.param_groups:
                factor = group.get("factor", 1.0)  # older checkpoints have none
                group["lr"] = factor * learning_rate(self.plan, self.step + 1, self.progress)
            self.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
            if norm.isfinite():  # one bad gradient would otherwise spoil every weight
                self.optimizer.step()
            self.ema.step(self.weights)
            self.step, steps = self.step + 1, steps + 1
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + value.detach()  # a number would wait for the device
            now = time.monotonic()
            self.seconds, last = self.seconds + min(now - last, _LONGEST_STEP_SECONDS), now
            if now - logged > LOG_SECONDS or self.step == first or self.progress >= 1:  # the first: it is alive
                means = {key: float(value) / steps for key, value in sums.items()}
                self.log(means | {"samples_per_s": steps * self.plan.batch / (now - logged)})
                logged, sums, steps = now, {}, 0
            if now - saved > CHECKPOINT_SECONDS or self.progress >= 1:
                if check is not None and (now - looked > CHECK_SECONDS or self.progress >= 1):
                    measured = self.checked(check)
                    self.log(measured)
                    looked = time.monotonic()
                    if self.progress >= 1:
                        print("\n".join(gate_lines(self.plan, measured)), file=sys.stderr, flush=True)
                self.save()  # behind the check: a stage that is saved as done will not be checked again
                saved = last = time.monotonic()
                logged += last - now  # the pause does not count in the rate
        if self.plan.steps is None and 0 < self.step <= self.plan.warmup_steps:
            self._say(f"ended in its warm-up, after {self.step} of {self.plan.warmup_steps} steps: {_TOO_SHORT}")

    def checked(self, check: Callable[[], _T]) -> _T:
        """What a function returns while the modules have the averaged weights."""
        self.ema.store(self.weights)
        self.ema.copy_to(self.weights)
        try:
            with torch.no_grad():
                return check()
        finally:
            self.ema.restore(self.weights)

    def log(self, values: dict[str, float]) -> None:
        """One line on the curve and on standard error."""
        row = {"step": self.step, "minutes": round(self.seconds / 60, 2), **{k: round(v, 5) for k, v in values.items()}}
        append_lines(self.curve, [row], durable=False, allow_nan=True)
        self._say(json.dumps(row))

    def _say(self, text: str) -> None:
        print(self.plan.stage, text, file=sys.stderr, flush=True)


def averaged(folder: Path, stage: str, modules: dict[str, Any]) -> dict[str, Any]:
    """Load the averaged weights of a finished stage into its modules, or the first of them, in the stage's order.

    A stage that was not run here left them in the pipeline that the folder was unpacked from, if any.
    """
    path = folder / f"{stage}.pt"
    if not path.exists() and (unpacked := folder / UNPACKED).exists():
        state = torch.load(unpacked, map_location="cpu", weights_only=True)
        if modules.keys() <= state.keys():
            for name, module in modules.items():
                module.load_state_dict(state[name])
            return modules
    if not path.exists():
        raise UserError(f"{path} is missing: run `python -m got.train {stage} --folder {folder}` first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    weights = [p for m in modules.values() for p in m.parameters()]
    for weight, average in zip(weights, state["ema"]["shadow_params"], strict=False):
        weight.data.copy_(average)
    return modules


def keep_modules(path: Path, modules: dict[str, nn.Module]) -> None:
    """Write weights for `averaged`, in one move."""
    with replacing(path) as part:
        torch.save({name: module.state_dict() for name, module in modules.items()}, part)
