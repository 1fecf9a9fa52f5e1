"""LoRA weights of the UNet, loaded and saved as by diffusers' own pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from diffusers.loaders import StableDiffusionLoraLoaderMixin

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from diffusers import UNet2DConditionModel


class UNetLoraMixin(StableDiffusionLoraLoaderMixin):
    """`load_lora_weights`, `save_lora_weights`, `set_adapters`, `fuse_lora` and the rest, for the UNet alone.

    The reasoner's LoRA is merged when a pipeline is loaded, see `got.model.adapter`.
    """

    unet: UNet2DConditionModel
    _lora_loadable_modules: ClassVar[list[str]] = ["unet"]

    def load_lora_weights(
        self, weights: str | Path | dict[str, torch.Tensor], adapter_name: str | None = None, **options: Any
    ) -> None:
        """Add a LoRA to the UNet; several can be there, weighed by `set_adapters`.

        Args:
            weights: A folder or file of safetensors, a hub id, or tensors; in diffusers' or kohya's names.
            adapter_name: What it is called from then on.
            options: As of diffusers, e.g. ``weight_name`` or ``hotswap``. Pickles are never read.

        Raises:
            ValueError: If there are no weights of a UNet's LoRA.
        """
        hotswap = options.pop("hotswap", False)
        options |= {"use_safetensors": True, "return_lora_metadata": True, "unet_config": self.unet.config}
        state, alphas, metadata = self.lora_state_dict(
            dict(weights) if isinstance(weights, dict) else weights, **options
        )
        if not any(name.startswith(f"{self.unet_name}.") and "lora" in name for name in state):
            some = next(iter(state), "nothing")
            raise ValueError(f"Expected LoRA weights of a UNet, unet.*.lora_*, but got {some}")
        self.load_lora_into_unet(
            state, alphas, self.unet, adapter_name, _pipeline=self, hotswap=hotswap, metadata=metadata
        )

    def fuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Add the LoRA to the UNet's own weights, where it costs nothing; `unfuse_lora` takes it out again."""
        super().fuse_lora(components=components or ["unet"], **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Take a fused LoRA out of the UNet's weights."""
        super().unfuse_lora(components=components or ["unet"], **options)
