"""The networks of GoT, built untrained from a `GoTConfig`: every one is the real class of its library."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from got.model.tokenizer import END_OF_TEXT, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, token_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from got.model.config import GoTConfig

# Checkpoints name a class by its module, and older ones by this name.
sys.modules["got.models"] = sys.modules[__name__]

# Vision tower of the embedded reasoner: 64 px in patches of 8, merged 2 x 2, are 16 tokens.
_PATCH_PX = 8
_MERGE = 2
_VISION_WIDTH = 128
_VISION_LAYERS = 4
# Six objects with their boxes take about 200 tokens.
_MAX_CHAIN_TOKENS = 320


class SemanticProjector(ModelMixin, ConfigMixin):
    """Turns the reasoner's image-token states into the UNet's cross-attention context and pooled embedding."""

    @register_to_config
    def __init__(self, hidden_dim: int, cross_attention_dim: int, pooled_dim: int) -> None:
        super().__init__()
        self.output_projector = nn.Linear(hidden_dim, cross_attention_dim)
        self.output_projector_add = nn.Linear(hidden_dim, pooled_dim)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project states.

        Args:
            hidden: Last hidden states of the image tokens, (batch, tokens, hidden_dim), any float dtype.

        Returns:
            The context (batch, tokens, cross_attention_dim) and the pooled embedding (batch, pooled_dim).
        """
        hidden = hidden.to(self.output_projector.weight.dtype)
        return self.output_projector(hidden), self.output_projector_add(hidden).mean(dim=1)

    def null_context(self, tokens: int) -> torch.Tensor:
        """The context without semantic guidance: zeros projected, so the bias; (1, tokens, cross_attention_dim)."""
        return self.output_projector.bias.expand(1, tokens, -1)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise CPU weights reproducibly inside the block and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_vae(
    config: GoTConfig, latents_mean: Sequence[float] | None = None, latents_std: Sequence[float] | None = None
) -> AutoencoderKL:
    """Build the autoencoder. Latent channels have unlike spreads: give their mean and std once they are measured."""
    levels = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=config.image_size_px,
        scaling_factor=1.0,
        latents_mean=list(latents_mean) if latents_mean is not None else [0.0] * config.latent_channels,
        latents_std=list(latents_std) if latents_std is not None else [1.0] * config.latent_channels,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet(config: GoTConfig) -> UNet2DConditionModel:
    """Build the UNet: SDXL's conditioning, and 3 x latent_channels inputs (noisy, reference, spatial).

    With `unet_top_context` the decoder's last blocks attend to the context too (and only to it: attention among all
    pixels would cost half of the forward pass): a small UNet then learns sooner what belongs to which class.
    """
    lower = len(config.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=config.image_size_px // 2 ** (len(config.vae_channels) - 1),
        in_channels=3 * config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * lower,
        up_block_types=("CrossAttnUpBlock2D",) * lower
        + ("CrossAttnUpBlock2D" if config.unet_top_context else "UpBlock2D",),
        only_cross_attention=(config.unet_top_context,) + (False,) * lower,
        block_out_channels=config.unet_channels,
        layers_per_block=1,
        # In diffusers this argument is the number of heads, whatever its name says.
        attention_head_dim=config.unet_heads,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=config.time_ids_dim,
        projection_class_embeddings_input_dim=6 * config.time_ids_dim + config.pooled_dim,
    )


def build_scheduler(config: GoTConfig) -> DDIMScheduler:
    """Build the sampler's schedule (1,000 training steps, cosine betas)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type=config.prediction_type,
        timestep_spacing="trailing",
    )


def build_projector(config: GoTConfig) -> SemanticProjector:
    """Build the two linear maps from the reasoner to the UNet."""
    return SemanticProjector(config.hidden_dim, config.cross_attention_dim, config.pooled_dim)


def build_image_processor(config: GoTConfig) -> Qwen2VLImageProcessor:
    """Build the source-image processor; the image is a square of `vision_image_px` already."""
    return Qwen2VLImageProcessor(
        patch_size=_PATCH_PX,
        merge_size=_MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": config.vision_image_px**2, "longest_edge": config.vision_image_px**2},
    )


def _vision_config(config: GoTConfig) -> dict[str, Any]:
    return {
        "depth": _VISION_LAYERS,
        "hidden_size": _VISION_WIDTH,
        "intermediate_size": 2 * _VISION_WIDTH,
        "num_heads": 4,
        "patch_size": _PATCH_PX,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "window_size": config.vision_image_px,
        "fullatt_block_indexes": list(range(_VISION_LAYERS)),
        "out_hidden_size": config.hidden_dim,
    }


def build_mllm(config: GoTConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLForConditionalGeneration:
    """Build the reasoner for a tokenizer's vocabulary (rounded up to a multiple of 8 rows)."""
    eos = token_id(tokenizer, END_OF_TEXT)
    # M-RoPE shares half the head's width among time, height and width in the ratio 2 : 3 : 3 of the published model.
    half = config.hidden_dim // config.reasoner_heads // 2
    space = half * 3 // 8
    mllm_config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 8) * 8,
            "hidden_size": config.hidden_dim,
            "intermediate_size": config.reasoner_mlp_dim,
            "num_hidden_layers": config.reasoner_layers,
            "num_attention_heads": config.reasoner_heads,
            "num_key_value_heads": config.reasoner_kv_heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * space, space, space],
            },
            "bos_token_id": eos,
            "eos_token_id": eos,
            "pad_token_id": eos,
        },
        vision_config=_vision_config(config),
        image_token_id=token_id(tokenizer, IMAGE_PAD),
        video_token_id=token_id(tokenizer, VIDEO_PAD),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        # As in the published 3B model; so a chain can repeat any word of its caption once it can repeat one.
        tie_word_embeddings=True,
    )
    mllm = Qwen2_5_VLForConditionalGeneration(mllm_config)
    mllm.generation_config.max_new_tokens = _MAX_CHAIN_TOKENS
    return mllm
