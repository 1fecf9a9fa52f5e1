"""Samplers by name. No diffusers until one is made: `--help` lists them.

>>> sorted(SCHEDULERS)
['ddim', 'ddpm', 'dpm++', 'unipc']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names on the command line and the classes of diffusers that they stand for: DDPM is the released code's sampler; DDIM
is its deterministic form; DPM-Solver++ (second order) and UniPC need fewer steps."""


def make_scheduler(name: str, like: Any) -> SchedulerMixin:
    """A sampler on the noise schedule of another one.

    Args:
        name: One of `SCHEDULERS`.
        like: The scheduler that a pipeline has; its betas, prediction type and spacing of timesteps are kept.

    Returns:
        A scheduler to put in its place: ``pipe.scheduler = make_scheduler("unipc", pipe.scheduler)``.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"Expected a scheduler of {', '.join(SCHEDULERS)} but got {name!r}")
    import diffusers

    scheduler: SchedulerMixin = getattr(diffusers, SCHEDULERS[name]).from_config(like.config)
    return scheduler
