"""A whole GoT of real classes at the smallest size that runs, with random weights; shared by the model's tests."""

import dataclasses
import functools

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from got.model import networks
from got.model.config import CONFIGS
from got.model.tokenizer import IMAGE_START, build_tokenizer, token_id
from got.pipeline import GoTPipeline

CONFIG = dataclasses.replace(
    CONFIGS["mini"],
    image_size_px=32,
    vae_channels=(8, 8, 8),
    unet_channels=(16, 32),
    unet_heads=(1, 2),
    cross_attention_dim=16,
    pooled_dim=16,
    time_ids_dim=8,
    hidden_dim=48,
    reasoner_layers=2,
    reasoner_heads=3,
    reasoner_kv_heads=1,
    reasoner_mlp_dim=64,
)
WORDS = ("a photo of", "red apple", "blue dog", "computer mouse", "to the left of", "and", "dogs")
APPLE = "a photo of a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red)"
BOTH = f"{APPLE} to the left of a blue dog <|box_start|>(520,310),(900,720)<|box_end|> (green)"


def make_tokenizer():
    return build_tokenizer(WORDS)


def make_mllm(tokenizer, seed=3):
    with networks.seeded(seed):
        mllm = networks.build_mllm(CONFIG, tokenizer).eval()
    # Wide enough margins that greedy choices do not hang on the last bit.
    for parameter in mllm.parameters():
        parameter.data.mul_(2)
    return mllm


@functools.cache
def pipeline():
    """One pipeline for all read-only tests."""
    return make_pipeline()


def make_pipeline():
    tokenizer = make_tokenizer()
    with networks.seeded(0):
        pipe = GoTPipeline(
            vae=networks.build_vae(CONFIG, latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(0.5, 2.0, 1.0, 1.5)).eval(),
            unet=networks.build_unet(CONFIG).eval(),
            scheduler=networks.build_scheduler(CONFIG),
            mllm=make_mllm(tokenizer),
            tokenizer=tokenizer,
            projector=networks.build_projector(CONFIG),
            image_processor=networks.build_image_processor(CONFIG),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed):
    return torch.Generator().manual_seed(seed)


class StopSometime(LogitsProcessor):
    """Lets a random model end its chain at a length that depends on what it wrote, and never on the batch."""

    def __init__(self, tokenizer, every=7):
        self.start = token_id(tokenizer, IMAGE_START)
        self.every = every
        self.words = len(tokenizer)

    def __call__(self, input_ids, scores):
        scores[:, self.words :] = -1e9  # rows of the embedding beyond the vocabulary decode to nothing
        scores[:, self.start] = torch.where(input_ids.sum(1) % self.every == 0, 1e9, -1e9)
        return scores


def stop_sometime(tokenizer, every=7):
    return LogitsProcessorList([StopSometime(tokenizer, every)])
