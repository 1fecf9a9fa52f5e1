"""What a call of the pipeline is asked for and what it returns; images in the forms it takes and returns them in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from got.model.validation import per_prompt
from got.util.images import as_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffusers import AutoencoderKL

    from got.model.config import GuidanceConfig
    from got.model.sampling import Steps
    from got.model.ssgm import Switches
    from got.plan.chain import Chain


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """One image of a conversation."""

    image: Any
    """A PIL image; or an array (height, width, 3) or a tensor (3, height, width) in [0, 1]; or latents."""
    chain: Chain
    """The chain that it was drawn from; `str` gives its text."""
    warnings: tuple[str, ...]
    """What was odd about the chain, or about how the conversation ended."""


@dataclasses.dataclass
class GoTOutput(BaseOutput):
    """What a call returns: one entry per image in every field, prompt by prompt."""

    images: Any
    """PIL images; or an array (n, height, width, 3) or a tensor (n, 3, height, width) in [0, 1]; or latents."""
    chains: list[Chain]
    """The chains; `str` gives each exactly as written."""
    warnings: list[tuple[str, ...]]
    """What was odd about each chain; empty if nothing was."""
    turns: list[tuple[Turn, ...]]
    """Every image on the way, in order; the last one is the entry of the other fields."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampling:
    """How prompts are answered: the checked arguments of a call."""

    size_px: tuple[int, int]
    """Width and height."""
    steps: Steps
    scales: GuidanceConfig
    switches: Switches
    generators: torch.Generator | list[torch.Generator] | None
    latents: torch.Tensor | None = None
    """The noise to start from, (rows, channels, h, w); of the generators if not given."""
    copies: int = 1
    """Images per prompt, one row after the other."""
    stretch: bool = True
    """Whether PIL images take on the size of their sources."""
    own_size: bool = False
    """Whether PIL images take on the aspect ratio of their sources alone, and keep the length of the model's side."""
    output_type: str = "pil"
    max_turns: int = 1
    """Most images per prompt."""
    max_new_tokens: int | None = None
    """Longest chain."""
    callback: Callable[..., dict[str, torch.Tensor]] | None = None
    callback_inputs: tuple[str, ...] = ("latents",)
    """Names of the tensors that the callback is given."""
    on_chains: Callable[[list[Chain]], object] | None = None

    def rows(self, rows: Sequence[int]) -> Sampling:
        """The sampling arguments of some of the prompts."""
        several = self.generators
        return dataclasses.replace(
            self,
            generators=[several[row] for row in rows] if isinstance(several, list) else several,
            latents=None if self.latents is None else self.latents[list(rows)],
        )

    def noise_states(self) -> list[tuple[torch.Generator, torch.Tensor]]:
        """Where the generators stand, so that every turn can start from the same noise."""
        several = self.generators if isinstance(self.generators, list) else [self.generators]
        return [(generator, generator.get_state()) for generator in several if generator is not None]


def fresh_generators(count: int) -> list[torch.Generator]:
    """Generators whose seeds come from torch's global random state."""
    return [torch.Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in range(count)]


def to_pil(decoded: torch.Tensor) -> list[Image.Image]:
    """Images in [0, 1] as 8-bit images: truncated, not rounded, as in the released code.

    Raises:
        ValueError: If a value is not finite, as where half precision overflows.
    """
    if not torch.isfinite(decoded).all():
        raise ValueError("Expected an image of numbers but it holds NaN or infinity; another dtype may help")
    return [Image.fromarray(image) for image in (to_array(decoded) * 255).astype(np.uint8)]


def to_array(decoded: torch.Tensor) -> np.ndarray:
    """Images (batch, 3, height, width) as an array (batch, height, width, 3)."""
    return decoded.permute(0, 2, 3, 1).cpu().numpy()


def stack_images(images: list[Any]) -> Any:
    """PIL images as a list, arrays and tensors as one."""
    if isinstance(images[0], np.ndarray):
        return np.stack(images)
    return torch.stack(images) if isinstance(images[0], torch.Tensor) else images


def with_aspect_of(size_px: tuple[int, int], image: Image.Image) -> Image.Image:
    """Stretch an image to an aspect ratio (width, height); where it is a square, its shorter side keeps its length."""
    width, height = image.size
    if size_px[0] < size_px[1]:
        height = int(height * size_px[1] / size_px[0])
    else:
        width = int(width * size_px[0] / size_px[1])
    return image if image.size == (width, height) else image.resize((width, height))


def scale_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """From the VAE's latents (batch, channels, h, w) to the normalised ones that the UNet denoises."""
    moments = _latent_moments(vae, latents)
    return latents * vae.config.scaling_factor if moments is None else (latents - moments[0]) / moments[1]


def unscale_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `scale_latents`."""
    moments = _latent_moments(vae, latents)
    return latents / vae.config.scaling_factor if moments is None else latents * moments[1] + moments[0]


def _latent_moments(vae: AutoencoderKL, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if mean is None or std is None:
        return None
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


def finish(
    latents: torch.Tensor,
    decoded: torch.Tensor | None,
    output_type: str,
    frames: Sequence[Image.Image] | None,
    *,
    own_size: bool = False,
) -> Any:
    """One result per image; PIL images are stretched to the size of their frame, if there is one, or to its aspect."""
    if output_type == "latent" or decoded is None:
        return latents
    if output_type == "pt":
        return decoded
    if output_type == "np":
        return to_array(decoded)
    images = to_pil(decoded)
    if frames is None:
        return images
    if own_size:
        return [with_aspect_of(frame.size, image) for frame, image in zip(frames, images, strict=True)]
    pairs = zip(frames, images, strict=True)
    return [image if image.size == frame.size else image.resize(frame.size) for frame, image in pairs]


# -------------------------------------------------------------------------------------------------------- source images
def source_images(value: Any, count: int) -> list[Image.Image] | None:
    """The source image of each prompt.

    Args:
        value: Images of Pillow, arrays (height, width, channels) or tensors (channels, height, width), each on its own,
            in a list, or stacked; numbers are bytes, or floats in [0, 1], which are rounded to bytes. One that is not
            in a list serves all prompts.
        count: How many prompts there are.

    Raises:
        ValueError: If there is not one for each prompt, or it is no image.
    """
    if value is None:
        return None
    images = _images_in(value)
    if not isinstance(value, list | tuple) and len(images) == 1:
        images *= count
    return upright(per_prompt(images, Image.Image, count, "image"))


def upright(images: Sequence[Image.Image] | None) -> list[Image.Image] | None:
    """Source images as `got.util.images.as_rgb` makes them; one that is given several times stays one object."""
    if images is None:
        return None
    made = {id(image): as_rgb(image, "the source image") for image in images}
    return [made[id(image)] for image in images]


def _images_in(value: Any) -> list[Image.Image]:
    if isinstance(value, Image.Image):
        return [value]
    if isinstance(value, torch.Tensor):
        if value.ndim not in (3, 4):
            raise ValueError(f"Expected a source image (channels, height, width) but got a tensor {tuple(value.shape)}")
        value = value.detach().cpu().movedim(-3, -1)
        return _images_in((value.float() if value.is_floating_point() else value).numpy())
    if isinstance(value, np.ndarray):
        return [_from_array(array) for array in (value if value.ndim == 4 else value[None])]
    if isinstance(value, list | tuple):
        return [image for one in value for image in _images_in(one)]
    raise ValueError(f"Expected source images as images, arrays or tensors but got {type(value).__name__}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)) or not array.size:
        raise ValueError(f"Expected a source image (height, width, 1, 3 or 4 channels) but got {array.shape}")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
            raise ValueError(f"Expected a source image of floats in [0, 1] but got {array.min():g} to {array.max():g}")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"Expected a source image of bytes or floats in [0, 1] but got {array.dtype}")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
