"""What is trained: language model, projector and UNet as one network, whose two losses meet in the image tokens.

It starts from Qwen2.5-VL and SDXL, put together as an untrained GoT.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional

from got.checkpoint import load_network
from got.data.records import TASKS
from got.iconworld.scenes import stable_rng
from got.model.adapter import LORA_TARGETS, SAVED_IN_FULL
from got.model.networks import SemanticProjector, seeded
from got.model.outputs import scale_latents
from got.model.ssgm import Switches, image_conditions, semantic_conditions, time_ids, vae_means
from got.model.teacher_forcing import IGNORED_LABEL, TrainingBatch, teacher_forced
from got.pipeline import GoTPipeline
from got.released.convert import blueprint, write_sums
from got.train import losses
from got.util.files import replacing_folder
from got.util.hub import CheckpointError, locate, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    from got.finetune.feed import Batch
    from got.finetune.recipes import Recipe

_SLICED_FROM_PX = 512  # from this size on the autoencoder takes one image at a time: masks are many


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noised:
    """Images to denoise, and everything the UNet is told about them but the image tokens. n images."""

    noisy: torch.Tensor
    """(n, channels, h, w)"""
    target: torch.Tensor
    """What is to be predicted, (n, channels, h, w)."""
    times: torch.Tensor
    """(n,)"""
    reference: torch.Tensor
    """G_r, (n, channels, h, w)"""
    spatial: torch.Tensor
    """G_s, (n, channels, h, w)"""
    keep: torch.Tensor
    """Which of (semantic, spatial, reference) each image keeps, bool (n, 3)."""
    time_ids: torch.Tensor
    """(n, 6)"""


class Noiser:
    """Encodes images and adds noise. All chance depends on the number of the sample, and is drawn on the CPU."""

    def __init__(self, pipeline: GoTPipeline, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.vae: AutoencoderKL = pipeline.vae.to(device).eval().requires_grad_(False)
        self.size_px = pipeline.size_px()
        if max(self.size_px) >= _SLICED_FROM_PX:
            self.vae.enable_slicing()
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.recipe, self.seed, self.device = recipe, seed, device

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Noised:
        """Noise for the images of a batch that are drawn."""
        latents = vae_means(self.vae, batch.targets, self.size_px, self.device)
        clean = scale_latents(self.vae, latents).float()
        spatial, reference = image_conditions(
            self.vae,
            batch.chains,
            batch.references,
            self.size_px,
            Switches(spatial=self.recipe.layout),
            self.device,
        )
        drawn = [self._draw(key, clean.shape[1:]) for key in batch.keys]
        times = torch.tensor([time for time, _, _ in drawn], device=self.device)
        noise = torch.from_numpy(np.stack([noise for _, noise, _ in drawn])).to(self.device)
        width, height = self.size_px
        return Noised(
            noisy=self.scheduler.add_noise(clean, noise, times),
            target=losses.denoising_target(self.scheduler, clean, noise, times),
            times=times,
            reference=reference.float(),
            spatial=spatial.float(),
            keep=torch.tensor([keep for _, _, keep in drawn], device=self.device),
            time_ids=time_ids(height, width).to(self.device).expand(len(drawn), -1),
        )

    def _draw(self, key: tuple[int, int], shape: torch.Size) -> tuple[int, np.ndarray, tuple[bool, bool, bool]]:
        """Timestep, noise and what is kept, of one image."""
        rng = stable_rng("noise", self.seed, *key)
        time = int(rng.integers(self.scheduler.config.num_train_timesteps))
        keep = kept(self.recipe, rng.random())
        noise = rng.standard_normal(tuple(shape), np.float32)
        offset = rng.standard_normal((shape[0], 1, 1), np.float32)
        return time, noise + np.float32(self.recipe.noise_offset) * offset, keep


def kept(recipe: Recipe, lot: float) -> tuple[bool, bool, bool]:
    """Which of (semantic, spatial, reference) a sample keeps.

    Args:
        recipe: Its `drops` share out [0, 1) from the left.
        lot: A number in [0, 1).

    >>> from got.finetune.recipes import PRETRAIN
    >>> kept(PRETRAIN, 0.02), kept(PRETRAIN, 0.5)
    ((True, False, True), (True, True, True))
    """
    for combination, share in recipe.drops:
        if lot < share:
            return combination
        lot -= share
    return True, True, True


class Joint(nn.Module):
    """Language model, projector and UNet; one forward pass gives what both losses need."""

    def __init__(self, mllm: nn.Module, projector: SemanticProjector, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.mllm = mllm
        self.projector = projector
        self.unet = unet

    @classmethod
    def of(cls, pipeline: GoTPipeline, recipe: Recipe) -> Joint:
        """A pipeline's networks, ready to be trained; the pipeline keeps sharing them and can draw at any time."""
        if recipe.lora_rank:
            pipeline.mllm = untied(pipeline.mllm)
            mllm = with_lora(pipeline.mllm, recipe)
        else:
            mllm = pipeline.mllm.requires_grad_(True)
        unet = pipeline.unet.requires_grad_(True).to(memory_format=torch.contiguous_format)  # FSDP takes no other
        joint = cls(mllm, pipeline.projector.requires_grad_(True), unet)
        if recipe.gradient_checkpointing:
            joint.reader.activation_checkpointing_enable({"use_reentrant": False})
            joint.reader.disable_input_require_grads()  # only reentrant checkpoints need what that does to words
            joint.unet.enable_gradient_checkpointing()
        return joint.train()

    @property
    def reader(self) -> Qwen2_5_VLForConditionalGeneration:
        """The language model without PEFT's wrapper."""
        return self.mllm.get_base_model() if isinstance(self.mllm, PeftModel) else self.mllm

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that change, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def freeze_in(self, dtype: torch.dtype) -> None:
        """Keep frozen weights in half precision; under autocast their matrix products come out the same."""
        for weight in self.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)

    def load_trained(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights that change.

        Raises:
            ValueError: If they are not this network's.
        """
        trained = self.trained()
        if differing := trained.keys() ^ state.keys():
            raise ValueError(f"Expected weights of this recipe, but {len(differing)} differ, such as {min(differing)}")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(state[name])

    def merged(self) -> Qwen2_5_VLForConditionalGeneration:
        """The language model with LoRA added to the weights; this network is of no use afterwards."""
        return self.mllm.merge_and_unload() if isinstance(self.mllm, PeftModel) else self.mllm

    def forward(
        self,
        sequences: TrainingBatch,
        blank: tuple[torch.Tensor, torch.Tensor] | None,
        drawn: torch.Tensor,
        noised: Noised,
    ) -> dict[str, torch.Tensor]:
        """One pass.

        Args:
            sequences: Whole conversations, with m images that are made.
            blank: Patches and grid of an image without a meaning, see `got.finetune.feed.Batch`.
            drawn: Which of the m images go through the UNet, (n,).
            noised: These n images.

        Returns:
            ``token_losses``, (labelled tokens,), cross-entropies in nats; ``predicted``, (n, channels, h, w).
        """
        forced = teacher_forced(self.reader, sequences, blank)
        hidden = forced.hidden[drawn]
        context, null_context, pooled = semantic_conditions(self.projector, hidden, Switches())
        semantic, spatial, reference = noised.keep[:, :, None, None, None].unbind(1)
        predicted = self.unet(
            # The order of the channels is that of `got.model.ssgm.Denoiser`, and so are the null forms: zero latents.
            torch.cat(
                [noised.noisy, torch.where(reference, noised.reference, 0), torch.where(spatial, noised.spatial, 0)], 1
            ),
            noised.times,
            # While sampling, the branches without image tokens keep the pooled embedding, so it is never dropped.
            encoder_hidden_states=torch.where(semantic[..., 0], context, null_context),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": noised.time_ids},
            return_dict=False,
        )[0]
        token_losses = functional.cross_entropy(forced.logits.float(), forced.targets, reduction="none")
        return {"token_losses": token_losses, "predicted": predicted}


def token_rows(sequences: TrainingBatch) -> torch.Tensor:
    """The conversation of each of `Joint`'s token losses, (labelled tokens,)."""
    return (sequences.labels[:, 1:] != IGNORED_LABEL).nonzero()[:, 0]


def with_lora(mllm: Qwen2_5_VLForConditionalGeneration, recipe: Recipe) -> PeftModel:
    """Add LoRA where the released checkpoint has it, and copies of what it trains in full; all else is frozen."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_rank,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(LORA_TARGETS),
        modules_to_save=list(SAVED_IN_FULL),
    )
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that it will drop
        wrapped = get_peft_model(mllm, config)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return wrapped


def untied(mllm: Qwen2_5_VLForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """The language model with an output layer apart from its word embedding, as in the release: both are trained.

    One that is so already is returned as it is.
    """
    if not mllm.config.tie_word_embeddings:
        return mllm
    config = copy.deepcopy(mllm.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    with seeded(0):
        apart = type(mllm)(config).to(mllm.dtype)
    apart.load_state_dict(mllm.state_dict())
    apart.generation_config = mllm.generation_config
    return apart.train(mllm.training)


def widened(unet: UNet2DConditionModel, inputs: int = 3) -> UNet2DConditionModel:
    """A UNet that takes so many times the latent channels: it predicts what it did before, whatever the new ones hold.

    Args:
        unet: SDXL's own, or any other with as many input as latent channels.
        inputs: Noisy latents, reference and spatial latents are 3.

    Raises:
        ValueError: If the UNet has more inputs already.
    """
    old = unet.conv_in
    if unet.config.in_channels != unet.config.out_channels:
        raise ValueError(
            f"Expected a UNet with {unet.config.out_channels} input channels but got {unet.config.in_channels}"
        )
    unet.register_to_config(in_channels=inputs * unet.config.in_channels)
    # The bias is kept: with zero weights it is what the new channels must not change.
    weight = torch.cat([old.weight.detach(), *[torch.zeros_like(old.weight)] * (inputs - 1)], 1)
    with torch.device(weight.device), seeded(0):
        conv: Any = nn.Conv2d(
            unet.config.in_channels, old.out_channels, old.kernel_size, padding=old.padding, dtype=weight.dtype
        )
    conv.weight.data, conv.bias.data = weight, old.bias.detach()
    unet.conv_in = conv
    return unet


def means(sums: torch.Tensor) -> dict[str, float]:
    """Means over everything and per task, of sums each followed by its number, (tasks, 4)."""
    table = {"": sums.sum(0), **{f"/{task}": row for task, row in zip(TASKS, sums, strict=True)}}
    found = {}
    for suffix, row in table.items():
        for name, total, count in (("cross_entropy", row[0], row[1]), ("noise", row[2], row[3])):
            if count:
                found[name + suffix] = float(total / count)
    return found


# ------------------------------------------------------------------------------------------------------------ the start
_SCALE = "got-6b"


def start(qwen: str | Path, sdxl: str | Path, output: str | Path) -> Path:
    """Write a pipeline to start a training from.

    The language model is Qwen's, with GoT's tokens in the tokenizer and an output layer apart from the embedding; the
    UNet is SDXL's, with eight more input channels that are zero; the projector is new.

    Args:
        qwen: Folder (or hub id) of Qwen2.5-VL.
        sdxl: Folder (or hub id) of SDXL.
        output: The folder to write; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        CheckpointError: If a file is missing or weights do not fit. Nothing has been written then.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise CheckpointError(f"Expected a new or empty folder but {output} exists")
    qwen = locate(qwen, allow_patterns=["*.json", "*.txt", "*.jinja", "*.safetensors"])
    weights = ["unet/*.safetensors*", "vae/*.safetensors*"]
    sdxl = locate(sdxl, allow_patterns=["scheduler/*", "unet/config.json", "vae/config.json", *weights])
    with quiet():
        empty, others = blueprint(qwen, sdxl)
        mllm = untied(load_network(qwen, torch.float32, "mllm"))
        mllm.generation_config = others.pop("generation")
        with seeded(0):
            sizes = empty["projector"].config
            projector = SemanticProjector(sizes.hidden_dim, sizes.cross_attention_dim, sizes.pooled_dim)
        pipeline = GoTPipeline(
            vae=load_network(sdxl / "vae", torch.float32, "vae"),
            unet=widened(load_network(sdxl / "unet", torch.float32, "unet")),
            mllm=mllm,
            projector=projector,
            scale=_SCALE,
            **others,
        )
        with replacing_folder(output) as folder:
            pipeline.save_pretrained(folder)
            write_sums(folder)
    return output
