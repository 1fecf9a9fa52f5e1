"""How noise becomes latents with any scheduler of diffusers, and which of them can do that for a model.

A scheduler that does not fit a model does not say so: it draws noise. Here each is tried before it is used, at the
steps that it is asked for, on data whose best denoiser is known exactly: independent values of one normal distribution.
What it then draws must have the mean and the deviation that DDIM gives on the model's own noise schedule. That finds
another prediction type, clipped latents, samplers for flow matching, and those of second order that lose their way
where a schedule begins at almost pure noise (Heun on mini's: it works with ``timestep_spacing="leading"``).
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler

from got.util.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import SchedulerMixin

_MEAN, _DEVIATION, _FIRST_ERROR = 2.0, 0.5, 0.1
_FURTHEST = 0.35
"""Most that mean and deviation may differ together from DDIM's. Those of diffusers that work differ by 0.32."""
_FEWEST_STEPS = 4
"""Fewest steps that are compared: with fewer, samplers that agree at more steps differ."""
_OTHER_NOISE = 0.1
"""Most that the share of the image in a noisy one may differ from the model's schedule, in [0, 1]."""
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions that schedulers of other models raise."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Where a scheduler is asked to stop on its way."""

    count: int
    timesteps: tuple[float, ...] | None = None
    """Its own choice if not given, and so with the sigmas."""
    sigmas: tuple[float, ...] | None = None

    def start(self, scheduler: SchedulerMixin, device: torch.device | str) -> None:
        """Set a scheduler to its beginning.

        Raises:
            ValueError: If it has no timesteps or sigmas but its own.
        """
        given = {name: getattr(self, name) for name in ("timesteps", "sigmas")}
        asked: dict[str, Any] = {name: list(value) for name, value in given.items() if value is not None}
        unknown = sorted(asked.keys() - inspect.signature(scheduler.set_timesteps).parameters.keys())
        if unknown:
            raise ValueError(f"Expected a scheduler that takes {unknown[0]} but {type(scheduler).__name__} does not")
        scheduler.set_timesteps(**(asked or {"num_inference_steps": self.count}), device=device)
        if hasattr(scheduler, "set_begin_index"):  # or it searches for the first timestep, which may be there twice
            scheduler.set_begin_index(0)


def noise_options(
    scheduler: SchedulerMixin, generators: torch.Generator | Sequence[torch.Generator] | None
) -> dict[str, Any]:
    """What makes a scheduler's own noise come from the generators: arguments of its `step`."""
    if generators is not None and hasattr(scheduler, "noise_sampler_seed"):  # torchsde's, which takes whole numbers
        several = [generators] if isinstance(generators, torch.Generator) else generators
        seeds = [int(torch.randint(2**62, (), generator=one, device=one.device)) for one in several]
        scheduler.noise_sampler_seed = seeds if len(seeds) > 1 else seeds[0]
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes_noise else {}


def check_scheduler(scheduler: SchedulerMixin, trained: SchedulerMixin, steps: Steps) -> None:
    """Refuse a scheduler that would not draw what DDIM draws.

    Args:
        scheduler: Any of diffusers; it is not changed.
        trained: One with the noise schedule and the prediction type that the model was trained with.
        steps: The steps that will be asked for.

    Raises:
        ValueError: If it has another noise schedule, or ends elsewhere.
    """
    name, alphas = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    own = getattr(trained, "alphas_cumprod", None)
    if alphas is None or own is None or alphas.shape != own.shape or (alphas - own).abs().max() > _OTHER_NOISE:
        raise ValueError(
            f"Expected a scheduler of the model's noise schedule, as DDIMScheduler.from_config(pipe.scheduler.config) "
            f"is, but {name} has {'none' if alphas is None else 'another'}"
        )
    enough = steps if steps.count >= _FEWEST_STEPS else dataclasses.replace(steps, count=_FEWEST_STEPS)
    try:
        ends = _trial(copy.deepcopy(scheduler), trained, enough)
        apart = float((ends - _trial(_ddim(trained), trained, Steps(count=enough.count))).abs().sum())
    except _FAILURES as error:
        raise ValueError(f"Expected a scheduler for this model but {name} fails: {first_line(error)}") from error
    if not apart <= _FURTHEST:
        raise ValueError(
            f"Expected a scheduler that ends near DDIM but {name} with {steps.count} steps ends {apart:.2g} from it, "
            f"where {_FURTHEST} is the most; other steps, or timestep_spacing='leading', may do"
        )


def _ddim(trained: SchedulerMixin) -> DDIMScheduler:
    known = inspect.signature(DDIMScheduler.__init__).parameters
    return DDIMScheduler(**{name: value for name, value in trained.config.items() if name in known})


def _trial(scheduler: SchedulerMixin, trained: SchedulerMixin, steps: Steps) -> torch.Tensor:
    """Mean and deviation of what a scheduler draws, (2,)."""
    generator = torch.Generator().manual_seed(0)
    steps.start(scheduler, "cpu")
    drawn = torch.randn(1, 4, 16, 16, generator=generator) * scheduler.init_noise_sigma
    extra = noise_options(scheduler, generator)
    for number, timestep in enumerate(scheduler.timesteps):
        # A network's first guess is rough; a sampler that multiplies its error cannot be used.
        predicted = _predict(scheduler.scale_model_input(drawn, timestep), float(timestep), trained, error=not number)
        drawn = scheduler.step(predicted, timestep, drawn, return_dict=False, **extra)[0]
    return torch.stack([drawn.mean(), drawn.std()])


def _predict(noisy: torch.Tensor, timestep: float, trained: SchedulerMixin, *, error: bool) -> torch.Tensor:
    """What the best denoiser of the normal distribution predicts, in the form of the model's predictions."""
    odds = torch.logit(trained.alphas_cumprod.double(), eps=1e-12)
    place = min(max(timestep, 0.0), len(odds) - 1.0)  # some schedulers stop between two timesteps
    before, after = odds[int(place)], odds[min(int(place) + 1, len(odds) - 1)]
    share = torch.sigmoid(before + (after - before) * (place - int(place)))
    signal, noise = share.sqrt(), (1 - share).sqrt()
    variance = _DEVIATION**2
    gain = signal * variance / (share * variance + 1 - share)
    clean = _MEAN + gain * (noisy.double() - signal * _MEAN) + _FIRST_ERROR * error
    added = (noisy.double() - signal * clean) / noise
    forms = {"epsilon": added, "sample": clean, "v_prediction": signal * added - noise * clean}
    return forms[trained.config.prediction_type].float()
