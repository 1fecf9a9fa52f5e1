"""The stage in which the UNet learns to draw from true scene tokens, and what the stages behind it share with it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from got.iconworld.reader import read_objects
from got.iconworld.scenes import MAX_OBJECTS, Scene, chain_text, stable_rng
from got.iconworld.vocabulary import CLASSES, COLORS
from got.model import networks
from got.model.outputs import scale_latents, unscale_latents
from got.model.reasoner import IMAGE_TOKENS
from got.model.ssgm import Conditions, Denoiser, Switches, time_ids
from got.plan.chain import Chain
from got.plan.layout import draw_layout
from got.train import losses
from got.train.trainer import Fit, Plan
from got.train.vae import Setup, contact_sheet, encode_images, fingerprint, finished_vae, gaussian, kept, to_uint8
from got.util.errors import UserError
from got.util.precision import bf16

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from got.iconworld.bank import Bank, EditBank
    from got.iconworld.edits import Edit
    from got.model.config import GoTConfig

_TOKENS_FILE = "training/scene_tokens.safetensors"  # no part of the pipeline
_OBJECT_WEIGHT = 3.0  # a pixel of an object counts this much more than the background, whose texture nobody can predict
_ERASED, _BACKGROUND, _NO_COLOR = len(CLASSES), len(CLASSES) + 1, len(COLORS)
"""Beyond the classes and colours of objects: what an edit takes away, the background, and the colour of neither."""


class SceneTokens(nn.Module):
    """The true condition of a scene, which the UNet learns to draw from before the reasoner is there.

    One token per object (class + colour + box + slot, through a small network) and a learned null token for every
    empty slot; the six slots are repeated until all 64 tokens are filled. (One copy among 58 null tokens hardly gets
    any attention at first: the UNet then learns blobs.) The pooled embedding is the mean over the objects. Only used in
    training.
    """

    def __init__(self, config: GoTConfig) -> None:
        super().__init__()
        width = config.cross_attention_dim
        self.name = nn.Embedding(len(CLASSES) + 2, width)  # and _ERASED, _BACKGROUND
        self.color = nn.Embedding(len(COLORS) + 1, width)  # and _NO_COLOR
        self.slot = nn.Embedding(MAX_OBJECTS, width)
        self.box = nn.Linear(4, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )
        self.pool = nn.Linear(width, config.pooled_dim)
        self.null = nn.Parameter(torch.zeros(width))
        self.null_pooled = nn.Parameter(torch.zeros(config.pooled_dim))

    def forward(self, things: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (b, 64, c) and pooled embedding (b, p) of scenes as `describe` gives them, (b, 6, 7)."""
        there = things[..., :1]
        names, colors = things[..., 1].long(), things[..., 2].long()
        order = torch.arange(MAX_OBJECTS, device=things.device)
        tokens = self.name(names) + self.color(colors) + self.slot(order) + self.box(things[..., 3:] * 2 - 1)
        tokens = self.mix(tokens)
        pooled = self.pool((tokens * there).sum(1) / there.sum(1).clamp(min=1))
        slots = torch.where(there > 0, tokens, self.null)
        return slots[:, torch.arange(IMAGE_TOKENS, device=things.device) % MAX_OBJECTS], pooled


def save_tokens(tokens: SceneTokens, pipeline: Path) -> None:
    """Keep scene tokens in half precision in a saved pipeline, to train other reasoners for its UNet."""
    path = pipeline / _TOKENS_FILE
    path.parent.mkdir(exist_ok=True)
    save_file({name: weight.detach().half().cpu() for name, weight in tokens.state_dict().items()}, path)


def load_tokens(config: GoTConfig, pipeline: Path) -> SceneTokens:
    """The scene tokens that a saved pipeline's UNet learned to draw from.

    Raises:
        UserError: If it has none, or not of this config.
    """
    tokens, path = SceneTokens(config), pipeline / _TOKENS_FILE
    try:
        tokens.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"Expected scene tokens in {path}, as `python -m got.train export` saves them: {error}"
        ) from None
    return tokens.eval().requires_grad_(False)


def describe(scenes: Sequence[Scene]) -> torch.Tensor:
    """Scenes as numbers, float32 (b, 6, 7): is there, class, colour, box in [0, 1]."""
    rows = np.zeros((len(scenes), MAX_OBJECTS, 7), np.float32)
    for row, scene in zip(rows, scenes, strict=True):
        for slot, item in zip(row, scene.objects, strict=False):
            slot[:3] = 1, CLASSES.index(item.name), COLORS.index(item.color)
            slot[3:] = np.array(item.box_1000) / 1000
    return torch.from_numpy(rows)


def describe_edits(edits: Sequence[Edit]) -> torch.Tensor:
    """What edits change, as numbers, float32 (b, 6, 7): boxes that become empty, new objects, a background's colour.

    What stays is not described: the reference shows it.
    """
    rows = np.zeros((len(edits), MAX_OBJECTS, 7), np.float32)
    for row, edit in zip(rows, edits, strict=True):
        slots = [(_ERASED, _NO_COLOR, item.box_1000) for item in edit.erased if edit.kind not in {"recolor", "global"}]
        slots += [(CLASSES.index(item.name), COLORS.index(item.color), item.box_1000) for item in edit.drawn]
        if edit.target.ground_color not in (None, edit.source.ground_color):
            slots += [(_BACKGROUND, COLORS.index(edit.target.ground_color), (0, 0, 1000, 1000))]
        for slot, (name, color, box) in zip(row, slots, strict=False):
            slot[:3] = 1, name, color
            slot[3:] = np.array(box) / 1000
    return torch.from_numpy(rows)


def spatial_latents(vae: AutoencoderKL, chains: Sequence[str], size_px: int) -> torch.Tensor:
    """G_s of the chains' boxes: the mean over the masks' latents, (n, c, h', w')."""
    parts = []
    for start in range(0, len(chains), 256):
        masks = [draw_layout(Chain.parse(text), size_px, size_px) for text in chains[start : start + 256]]
        latents = encode_images(vae, np.stack([np.asarray(mask) for one in masks for mask in one]))
        parts += [one.mean(0) for one in latents.split([len(one) for one in masks])]
    return torch.stack(parts)


def _latents_of_bank(vae: AutoencoderKL, bank: Bank, setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw image latents and G_s of the training scenes, kept on disk."""
    chains = [chain_text(scene) for scene in bank.scenes]
    images, spatial = kept(
        setup.folder / "latents.pt",
        fingerprint(_encoder(vae), bank.images, chains),
        setup.device,
        lambda: (encode_images(vae, bank.images), spatial_latents(vae, chains, setup.config.image_size_px)),
    )
    return images, spatial


def _encoder(vae: AutoencoderKL) -> nn.Module:
    """The encoder's weights, which the kept latents depend on (they do not depend on the decoder)."""
    return nn.ModuleList([vae.encoder, vae.quant_conv])


def _object_share(foreground: np.ndarray, side: int) -> torch.Tensor:
    """Foreground (n, size, size) at the size of the latents, float32 (n, 1, side, side)."""
    cells = foreground.reshape(len(foreground), side, foreground.shape[1] // side, side, -1)
    return torch.from_numpy(cells.mean((2, 4), dtype=np.float32))[:, None]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What the two stages that train the UNet share: latents of the bank, and the noise-prediction loss."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    images: torch.Tensor
    spatial: torch.Tensor
    reference: torch.Tensor
    """Different references, raw latents; the first is the black one."""
    reference_row: torch.Tensor
    """Which of them each image has, int64 (n,)."""
    objects: torch.Tensor
    """Share of each latent pixel that belongs to an object, (n, 1, h', w')."""
    scheduler: DDIMScheduler
    setup: Setup

    @classmethod
    def of(cls, unet: UNet2DConditionModel, bank: Bank, setup: Setup, vae: AutoencoderKL | None = None) -> Drawing:
        """Encode the bank with an autoencoder, the folder's own unless one is given, or read its latents from disk."""
        vae = finished_vae(setup) if vae is None else vae
        images, spatial = _latents_of_bank(vae, bank, setup)
        size = setup.config.image_size_px
        return cls(
            vae=vae,
            unet=unet,
            images=scale_latents(vae, images),
            spatial=spatial,
            reference=encode_images(vae, np.zeros((1, size, size, 3), np.uint8)),
            reference_row=torch.zeros(len(images), dtype=torch.long, device=setup.device),
            objects=_object_share(bank.foreground, images.shape[-1]).to(setup.device),
            scheduler=networks.build_scheduler(setup.config),
            setup=setup,
        )

    def with_edits(self, bank: EditBank) -> Drawing:
        """The same with the images of a bank of edits after those of the scenes."""
        chains = [edit.chain for edit in bank.edits]
        sources, targets, spatial = kept(
            self.setup.folder / "edit_latents.pt",
            fingerprint(_encoder(self.vae), bank.sources, bank.targets, chains),
            self.setup.device,
            lambda: (
                *(encode_images(self.vae, images) for images in (bank.sources, bank.targets)),
                spatial_latents(self.vae, chains, self.setup.config.image_size_px),
            ),
        )
        rows = torch.arange(1, 1 + len(sources), device=self.setup.device)
        changed = _object_share(bank.changed, targets.shape[-1]).to(self.setup.device)
        return dataclasses.replace(
            self,
            images=torch.cat([self.images, scale_latents(self.vae, targets)]),
            spatial=torch.cat([self.spatial, spatial]),
            reference=torch.cat([self.reference[:1], sources]),
            reference_row=torch.cat([self.reference_row, rows]),
            objects=torch.cat([self.objects, changed]),
        )

    def loss(
        self,
        rows: np.ndarray,
        context: torch.Tensor,
        pooled: torch.Tensor,
        keep: torch.Tensor,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Noise loss of the bank's rows under a semantic condition; `keep` (b, 3) says which conditions stay."""
        scheduler, device = self.scheduler, self.setup.device
        clean, spatial = self.images[rows], self.spatial[rows]
        reference = self.reference[self.reference_row[rows]]
        noise = gaussian(clean.shape, rng, device)
        times = torch.from_numpy(rng.integers(0, scheduler.config.num_train_timesteps, len(rows))).to(device)
        keep_spatial, keep_reference = keep.to(device)[:, 1:, None, None, None].unbind(1)
        noisy = scheduler.add_noise(clean, noise, times)
        inputs = torch.cat([noisy, reference * keep_reference, spatial * keep_spatial], 1)
        ids = time_ids(self.setup.config.image_size_px, self.setup.config.image_size_px).to(device)
        ids = ids.expand(len(rows), -1)
        with bf16(device):
            predicted = self.unet(
                inputs, times, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}
            ).sample
        target = losses.denoising_target(scheduler, clean, noise, times)
        return losses.denoising_loss(predicted, target, 1 + _OBJECT_WEIGHT * self.objects[rows])

    def draw(
        self,
        context: torch.Tensor,
        null: torch.Tensor,
        pooled: torch.Tensor,
        spatial: torch.Tensor,
        reference: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Guided samples with mini's defaults, uint8 (b, h, w, 3); of edits where there is a reference."""
        config, scheduler, device = self.setup.config, networks.build_scheduler(self.setup.config), self.setup.device
        conditions = Conditions(
            context=context, null_context=null.expand(1, IMAGE_TOKENS, -1), pooled=pooled, spatial=spatial,
            time_ids=time_ids(config.image_size_px, config.image_size_px),
            reference=self.reference[:1].expand_as(spatial) if reference is None else reference,
        )  # fmt: skip
        scales = config.text_to_image if reference is None else config.edit
        denoise = Denoiser(self.unet, conditions, scales, Switches())
        latents = torch.from_numpy(stable_rng("draw").standard_normal(spatial.shape, np.float32)).to(device)
        scheduler.set_timesteps(config.steps, device=device)
        with torch.inference_mode(), bf16(device):
            latents = denoised(denoise, scheduler, latents)
            return to_uint8(self.vae.decode(unscale_latents(self.vae, latents)).sample)

    def judge(self, images: np.ndarray, scenes: list[Scene], name: str) -> dict[str, float]:
        """Share of objects whose class and colour can be read in the planned box; a contact sheet for the eye."""
        contact_sheet(images, columns=8).save(self.setup.folder / f"{name}.png")
        return read_objects(images, scenes)


def denoised(denoise: Denoiser, scheduler: DDIMScheduler, latents: torch.Tensor, first: int = 0) -> torch.Tensor:
    """What a scheduler's steps, from the `first` on, make of noisy latents (b, c, h, w)."""
    for time in scheduler.timesteps[first:]:
        latents = scheduler.step(denoise(latents, time).float(), time, latents).prev_sample
    return latents


_DROPS = np.array([(1, 1, 1), (1, 0, 1), (0, 0, 1), (0, 0, 0), (1, 1, 0)], np.float32)
_DROP_SHARES = (0.77, 0.10, 0.06, 0.05, 0.02)
"""Which of (semantic, spatial, reference) a training sample keeps, and how often: guidance's four branches, and one
without a reference, so that its null form is not a sign of all being null."""
_POOLED_DROP = 0.25  # of the samples without context lose the pooled embedding as well; in guidance it stays


def sample_drops(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Conditions that each of so many samples keeps, float32 (count, 3) of 0 and 1: semantic, spatial, reference."""
    return torch.from_numpy(_DROPS[rng.choice(len(_DROPS), count, p=_DROP_SHARES)])


def drop_semantic(
    given: tuple[torch.Tensor, torch.Tensor],
    null: tuple[torch.Tensor, torch.Tensor],
    keep: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context (b, tokens, c) and pooled embedding (b, p), null where `keep` (b, 3) says that semantics are dropped."""
    kept = keep[:, 0].to(given[0].device) > 0
    pooled = kept | torch.from_numpy(rng.random(len(keep)) >= _POOLED_DROP).to(kept.device)
    return torch.where(kept[:, None, None], given[0], null[0]), torch.where(pooled[:, None], given[1], null[1])


def train_unet(plan: Plan, setup: Setup) -> None:
    """The UNet alone, on true scene tokens: mini's stand-in for SDXL's pretraining."""
    bank, held_out = setup.bank(), setup.held_out(48).scenes
    with networks.seeded(setup.seed):
        unet, tokens = networks.build_unet(setup.config), SceneTokens(setup.config)
    fit = Fit(plan, {"unet": unet, "tokens": tokens}, setup.folder, setup.device)
    drawing = Drawing.of(unet, bank, setup)
    things, wanted = (describe(scenes).to(setup.device) for scenes in (bank.scenes, held_out))
    spatial = spatial_latents(drawing.vae, [chain_text(scene) for scene in held_out], setup.config.image_size_px)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("unet", setup.seed, step)
        rows = rng.integers(0, len(things), plan.batch)
        keep = sample_drops(plan.batch, rng)
        context, pooled = drop_semantic(tokens(things[rows]), (tokens.null, tokens.null_pooled), keep, rng)
        return {"loss": drawing.loss(rows, context, pooled, keep, rng)}

    def check() -> dict[str, float]:
        if fit.step < 600:
            return {}
        context, pooled = tokens(wanted)
        return drawing.judge(drawing.draw(context, tokens.null, pooled, spatial), held_out, "unet")

    fit.run(loss_of, check)
