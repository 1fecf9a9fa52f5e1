"""Generic degradations of images: softness, noise, compression, light. What trains the embedded detector and CLIP.

They stand for whatever a generator may do to an icon, without ever showing a generator's image.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def to_tensor(images: NDArray[Any]) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [0, 255]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def rescale(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Down to 0.4-0.8 of the size and up again."""
    size = images.shape[-1]
    small = max(12, round(size * rng.uniform(0.4, 0.8)))
    down = F.interpolate(images, (small, small), mode="bilinear", antialias=True)
    mode = str(rng.choice(["bilinear", "bicubic"]))
    return F.interpolate(down, (size, size), mode=mode, align_corners=False).clamp(0, 255)


def blur(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gaussian blur, sigma of 0.3 to 1.3 % of the size."""
    sigma = images.shape[-1] * rng.uniform(0.003, 0.013)
    radius = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (taps / taps.sum()).repeat(3, 1, 1, 1)  # (3, 1, 1, k)
    rows = F.conv2d(F.pad(images, (radius,) * 4, mode="replicate"), kernel, groups=3)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=3)


def noise(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """White or blotchy Gaussian noise, 2 to 16 grey levels."""
    n, _, size, _ = images.shape
    side = size // int(rng.choice([1, 2, 4]))
    grains = torch.from_numpy(rng.standard_normal((n, 3, side, side), np.float32))
    if side != size:
        grains = F.interpolate(grains, (size, size), mode="bilinear")
    return (images + grains * rng.uniform(2, 16)).clamp(0, 255)


def jpeg(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """JPEG at quality 20 to 85."""
    pixels = images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    out = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(20, 86)))
        out[i] = np.asarray(Image.open(buffer))
    return to_tensor(out)


def light(images: torch.Tensor, rng: np.random.Generator, strength: float = 1.0) -> torch.Tensor:
    """Brightness, contrast and saturation, a few per cent each; small enough that a colour keeps its name."""
    n = len(images)

    def factors(spread: float) -> torch.Tensor:
        low, high = 1 - spread * strength, 1 + spread * strength
        return torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * factors(0.2)
    middle = images.mean((1, 2, 3), keepdim=True)
    return (((images - middle) * factors(0.15) + middle) * factors(0.1)).clamp(0, 255)


def recolor(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mix the channels at random: any tint. For the detector, which is to see shapes, not colours."""
    mix = rng.uniform(-0.25, 0.25, (len(images), 3, 3)) + np.eye(3)
    mix /= mix.sum(2, keepdims=True)
    mixed = torch.einsum("nij,njhw->nihw", torch.from_numpy(mix.astype(np.float32)), images)
    return mixed.clamp(0, 255)


def some(
    operation: Callable[[torch.Tensor, np.random.Generator], torch.Tensor],
    images: torch.Tensor,
    share: float,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Apply an operation to a random share of a batch, in two groups of different strength."""
    chosen = np.flatnonzero(rng.random(len(images)) < share)
    for group in (chosen[::2], chosen[1::2]):
        if len(group):
            index = torch.from_numpy(group)
            images[index] = operation(images[index], rng)
    return images


def degrade(images: torch.Tensor, rng: np.random.Generator, amount: float = 1.0) -> torch.Tensor:
    """All degradations, each on a part of the batch.

    Args:
        images: float (n, 3, h, w) in [0, 255]; changed in place.
        rng: fixes everything.
        amount: multiplies the share of images that each degradation touches, in [0, 1].
    """
    for operation, share in ((light, 0.6), (blur, 0.3), (rescale, 0.3), (noise, 0.3), (jpeg, 0.15)):
        images = some(operation, images, share * amount, rng)
    return images
