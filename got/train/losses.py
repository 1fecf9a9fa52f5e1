"""What the stages of training minimise. Pure functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def reconstruction_loss(
    decoded: torch.Tensor, pixels: torch.Tensor, foreground: torch.Tensor, foreground_weight: float = 3.0
) -> torch.Tensor:
    """Mean absolute plus squared error of a decoded image, objects counting more than the background.

    Args:
        decoded: (b, 3, h, w), about [-1, 1].
        pixels: (b, 3, h, w) in [-1, 1].
        foreground: (b, 1, h, w), 1 on objects and 0 elsewhere.
        foreground_weight: how many times more a pixel of an object counts, on top of 1.

    >>> x = torch.zeros(1, 3, 2, 2)
    >>> reconstruction_loss(x, x, torch.ones(1, 1, 2, 2)).item()
    0.0
    """
    error = decoded.float() - pixels
    weight = 1 + foreground_weight * foreground
    return ((error.abs() + error.square()) * weight).sum() / (weight.sum() * pixels.shape[1])


def anchor_loss(latents: torch.Tensor, pixels: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of latents from the shrunken image (three channels) and the share of objects (fourth).

    Args:
        latents: (b, 4, h', w').
        pixels: (b, 3, h, w) in [-1, 1].
        foreground: (b, 1, h, w), 1 on objects and 0 elsewhere.

    >>> anchor_loss(torch.zeros(1, 4, 1, 1), torch.zeros(1, 3, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item()
    0.0
    """
    small = functional.adaptive_avg_pool2d(
        torch.cat([2 * pixels, 4 * foreground - 2], 1), (latents.shape[-2], latents.shape[-1])
    )
    return functional.mse_loss(latents.float(), small)


def critic_loss(real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Hinge loss of a critic, any shapes: above 1 for what is real, below -1 for what is not, costs nothing.

    >>> critic_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.0])).item()
    0.5
    """
    return functional.relu(1 - real).mean() + functional.relu(1 + drawn).mean()


def denoising_target(
    scheduler: SchedulerMixin, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the UNet is to predict for noised latents (b, c, h, w): the noise, or the velocity."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error of a predicted noise or velocity; scalar.

    All timesteps count alike. Min-SNR weights (Hang et al. 2023) would take nearly everything from the noisy ones, and
    there it is decided what an object becomes: class and colour would be learned much later.

    Args:
        predicted: (b, c, h, w).
        target: (b, c, h, w).
        weight: (b, 1, h, w), at least 0 and not all 0.

    >>> denoising_loss(torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, 1)).item()
    1.0
    """
    error = (predicted.float() - target).square().mean(dim=1, keepdim=True)
    return (error * weight).sum() / weight.sum()


def alignment_loss(
    context: torch.Tensor, pooled: torch.Tensor, wanted_context: torch.Tensor, wanted_pooled: torch.Tensor
) -> torch.Tensor:
    """Distance of the projected image tokens from the condition that the UNet learned; scalar.

    Token error is relative to the variance of the wanted tokens, so it reads as a fraction; pooled counts 0.3.

    Args:
        context: (b, tokens, c).
        pooled: (b, p).
        wanted_context: (b, tokens, c).
        wanted_pooled: (b, p).
    """
    token_error = functional.mse_loss(context.float(), wanted_context) / wanted_context.var().clamp(min=1e-8)
    pooled_error = functional.mse_loss(pooled.float(), wanted_pooled) / wanted_pooled.var().clamp(min=1e-8)
    return token_error + 0.3 * pooled_error
