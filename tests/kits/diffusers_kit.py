"""Whole pipelines of diffusers' own classes at the smallest size, for tests of what takes any pipeline."""

import json
from pathlib import Path

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def save_pipeline(folder: Path, name: str) -> Path:
    """A Stable Diffusion, or an InstructPix2Pix: random weights, 16 px; its tokenizer spells words out."""
    channels = 8 if "Pix2Pix" in name else 4  # noisy latents, and those of the image to edit
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
        pipe = getattr(diffusers, name)(
            vae=diffusers.AutoencoderKL(
                block_out_channels=(8, 8),
                norm_num_groups=4,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
            ),
            text_encoder=CLIPTextModel(config),
            tokenizer=CLIPTokenizer.from_pretrained(folder, model_max_length=77),
            unet=diffusers.UNet2DConditionModel(
                sample_size=8,
                in_channels=channels,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                layers_per_block=1,
                cross_attention_dim=16,
                attention_head_dim=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            ),
            scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"
