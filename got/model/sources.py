"""Source images in the forms that diffusers takes them in, as upright RGB images of Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from got.model.validation import per_prompt
from got.util.images import as_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence


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
