"""DINO and DINOv2 of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import UserError
from evals.embedders.clip import _batched
from got.util.weight_files import why

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image


class DinoEmbedder:
    """A DINO or DINOv2 of transformers: the class token after the last norm. It reads no text."""

    def __init__(self, name: str, network: torch.nn.Module, crop_px: int, device: str) -> None:
        from torchvision import transforms

        self.name = name
        self.network: Any = network.to(device).eval()
        self._device = device
        # MagicBrush's preprocessing: shorter side to 256 by bicubic, centre 224 of it, ImageNet's mean and spread.
        self._preprocess = transforms.Compose(
            [
                transforms.Resize(crop_px * 256 // 224, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(crop_px),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""
        import torch

        def encode(chunk: Sequence[Image.Image]) -> torch.Tensor:
            pixels = torch.stack([self._preprocess(image.convert("RGB")) for image in chunk])
            seen = self.network(pixel_values=pixels.to(self._device)).last_hidden_state[:, 0]  # (n, d)
            return torch.nn.functional.normalize(seen.float(), dim=-1)

        return _batched(encode, images)


def load_dino(model: str, device: str = "cpu") -> DinoEmbedder:
    """A DINO (`ViTModel`) or DINOv2 by hub id or folder.

    Raises:
        UserError: it cannot be loaded, or is another kind of model.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(model)
        kind = config.model_type
        if kind not in ("vit", "dinov2", "dinov2_with_registers"):
            raise UserError(f"Expected a DINO or DINOv2 but {model} is a {kind}")
        # The pooling layer is no part of DINO, and its weights are in no checkpoint of it.
        network = AutoModel.from_pretrained(model, **({"add_pooling_layer": False} if kind == "vit" else {}))
    except UserError:
        raise
    except Exception as error:  # transformers, hub and safetensors each raise their own
        raise UserError(f"dino:{model} cannot be loaded: {why(model, error)}") from error
    return DinoEmbedder(f"dino:{model}", network, config.image_size if kind == "vit" else 224, device)
