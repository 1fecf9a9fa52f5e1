"""Shapes of the two scales. Frozen, no defaults, and no torch: `--help` and the docs can read it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceConfig:
    """Scales of the multi-guidance formula (GoT paper, section 5.2): a_t, a_s, a_r."""

    semantic: float
    spatial: float
    reference: float
    interval: tuple[float, float] = (0.0, 1.0)
    """Share of the denoising that is done when guidance begins and when it ends; before and after, the prediction with
    all conditions stands alone (Kynkaanniemi et al., arXiv 2404.07724, counted in steps)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GoTConfig:
    """One scale of GoT: image size, network shapes and sampling defaults."""

    image_size_px: int
    latent_channels: int
    vae_channels: tuple[int, ...]
    """Channels per resolution; the VAE shrinks by 2 ** (len - 1)."""
    unet_channels: tuple[int, ...]
    unet_heads: tuple[int, ...]
    """Attention heads per resolution."""
    unet_top_context: bool
    """Whether the last blocks, at full resolution, attend to the context as well (SDXL's do not)."""
    cross_attention_dim: int
    pooled_dim: int
    time_ids_dim: int
    """Width of each of the six sinusoidal time ids."""
    prediction_type: str
    hidden_dim: int
    """Width of the reasoner."""
    reasoner_layers: int
    reasoner_heads: int
    reasoner_kv_heads: int
    reasoner_mlp_dim: int
    image_tokens: int
    vision_image_px: int
    """Source images enter the vision tower at this size, squashed to a square."""
    steps: int
    text_to_image: GuidanceConfig
    """Mini's semantic and spatial scales are equal, so the branch between them has no weight and is not run."""
    edit: GuidanceConfig


CONFIGS = {
    "mini": GoTConfig(
        image_size_px=128,
        latent_channels=4,
        vae_channels=(16, 32, 64, 96),
        unet_channels=(64, 128, 192),
        unet_heads=(1, 2, 4),
        unet_top_context=True,
        cross_attention_dim=128,
        pooled_dim=128,
        time_ids_dim=16,
        prediction_type="v_prediction",
        hidden_dim=192,
        reasoner_layers=4,
        reasoner_heads=6,
        reasoner_kv_heads=2,
        reasoner_mlp_dim=512,
        image_tokens=64,
        vision_image_px=64,
        steps=6,
        text_to_image=GuidanceConfig(semantic=2.5, spatial=2.5, reference=1.0),
        edit=GuidanceConfig(semantic=2.5, spatial=2.5, reference=1.5),
    ),
    "got-6b": GoTConfig(
        image_size_px=1024,
        latent_channels=4,
        vae_channels=(128, 256, 512, 512),
        unet_channels=(320, 640, 1280),
        unet_heads=(5, 10, 20),
        unet_top_context=False,
        cross_attention_dim=2048,
        pooled_dim=1280,
        time_ids_dim=256,
        prediction_type="epsilon",
        hidden_dim=2048,
        reasoner_layers=36,
        reasoner_heads=16,
        reasoner_kv_heads=2,
        reasoner_mlp_dim=11008,
        image_tokens=64,
        vision_image_px=448,
        steps=50,
        text_to_image=GuidanceConfig(semantic=7.5, spatial=4.0, reference=1.0),
        edit=GuidanceConfig(semantic=4.0, spatial=3.0, reference=1.5),
    ),
}
