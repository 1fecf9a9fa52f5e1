"""The four stages of training the embedded model: what each sees, minimises and checks."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from got import losses, models
from got.chain import MASK_COLORS
from got.iconworld import bank as banks
from got.iconworld.glyphs import CLASSES
from got.iconworld.reader import read_objects
from got.iconworld.scenes import COLORS, MAX_OBJECTS, Scene, stable_rng
from got.layout import draw_mask
from got.pipeline import scale_latents, unscale_latents
from got.reasoner import IMAGE_TOKENS
from got.ssgm import Conditions, Denoiser, Switches, time_ids
from got.train import Fit, Plan, averaged, bf16

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from got.config import GoTConfig

_OBJECT_WEIGHT = 3.0  # a pixel of an object counts this much more than the ground, whose texture nobody can predict
_ANCHOR_WEIGHT, _KL_WEIGHT = 0.1, 1e-3  # per latent number
_FLAT_SHARE = 8  # one picture in this many is a mask or black: the layout and the null reference pass the VAE as well


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all stages share."""

    config: GoTConfig
    folder: Path
    scenes: int
    seed: int
    device: str = "cpu"
    workers: int = 0

    def bank(self) -> banks.Bank:
        """The training scenes."""
        return banks.make_bank(self.scenes, self.seed, self.config.image_size_px, self.folder / "bank.npz")

    def held_out(self, count: int) -> banks.Bank:
        """Scenes that no stage trains on."""
        return banks.make_bank(count, self.seed + 1_000_003, self.config.image_size_px)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (b, h, w, 3) to float32 (b, 3, h, w) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def gaussian(shape: tuple[int, ...], rng: np.random.Generator, device: str) -> torch.Tensor:
    """Standard normal numbers, drawn on the device from the generator's next seed."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return torch.randn(shape, generator=generator, device=device)


# --- vae -------------------------------------------------------------------------------------------------------------


@functools.cache
def _flat_pictures(size_px: int) -> np.ndarray:
    """Layout masks in all colours and sizes, and black, uint8 (n, size, size, 3)."""
    rng = stable_rng("flat", size_px)
    pictures: list[np.ndarray] = [np.zeros((size_px, size_px, 3), np.uint8)] * 16
    for _ in range(1024):
        (x1, x2), (y1, y2) = np.sort(rng.integers(0, 1000, (2, 2)), axis=1).tolist()
        pictures.append(np.asarray(draw_mask((x1, y1, x2, y2), str(rng.choice(MASK_COLORS)), size_px, size_px)))
    return np.stack(pictures)


def train_vae(plan: Plan, setup: Setup) -> None:
    """Reconstruct scenes and masks, with latents that look like small pictures and a pull to a standard normal.

    Left to itself the encoder spreads fine detail over the latents in ways that a small UNet needs very long to learn.
    """
    bank, held_out = setup.bank(), setup.held_out(512)
    images, objects, flat = (
        torch.from_numpy(array).to(setup.device)
        for array in (bank.images, bank.foreground, _flat_pictures(setup.config.image_size_px))
    )
    with models.seeded(setup.seed):
        vae = models.build_vae(setup.config)
    fit = Fit(plan, {"vae": vae}, setup.folder, setup.device)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("vae", setup.seed, step)
        rows, flats = rng.integers(0, len(images), plan.batch), plan.batch // _FLAT_SHARE
        chosen, foreground = images[rows], objects[rows, None].float()
        chosen[:flats], foreground[:flats] = flat[rng.integers(0, len(flat), flats)], 0
        pixels = to_pixels(chosen)
        noise = gaussian((plan.batch, *_latent_shape(setup.config)), rng, setup.device)
        with bf16(setup.device):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = losses.reconstruction_loss(decoded, pixels, foreground)
        anchor = losses.anchor_loss(posterior.mean[flats:], pixels[flats:], foreground[flats:])
        kl = posterior.kl().mean() / noise[0].numel()
        loss = reconstruction + _ANCHOR_WEIGHT * anchor + _KL_WEIGHT * kl
        return {"loss": loss, "reconstruction": reconstruction, "anchor": anchor, "kl": kl}

    def check() -> dict[str, float]:
        pixels = to_pixels(torch.from_numpy(held_out.images).to(setup.device))
        decoded = torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in pixels.split(64)])
        front = torch.from_numpy(held_out.foreground).to(setup.device)[:, None].expand_as(pixels)
        error = (decoded.clamp(-1, 1) - pixels).square() / 4
        return {"psnr": _psnr(error.mean()), "psnr_foreground": _psnr(error[front].mean())}

    fit.run(loss_of, check)


def _psnr(mse: torch.Tensor) -> float:
    return float(-10 * torch.log10(mse))


def _latent_shape(config: GoTConfig) -> tuple[int, int, int]:
    side = config.image_size_px // 2 ** (len(config.vae_channels) - 1)
    return config.latent_channels, side, side


# --- unet ------------------------------------------------------------------------------------------------------------


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
        self.name = nn.Embedding(len(CLASSES), width)
        self.color = nn.Embedding(len(COLORS), width)
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


def describe(scenes: Sequence[Scene]) -> torch.Tensor:
    """Scenes as numbers, float32 (b, 6, 7): is there, class, colour, box in [0, 1]."""
    rows = np.zeros((len(scenes), MAX_OBJECTS, 7), np.float32)
    for row, scene in zip(rows, scenes, strict=True):
        for slot, item in zip(row, scene.objects, strict=False):
            slot[:3] = 1, CLASSES.index(item.name), COLORS.index(item.color)
            slot[3:] = np.array(item.box_1000) / 1000
    return torch.from_numpy(rows)


def encode_pictures(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Posterior means of uint8 pictures (n, h, w, 3), unscaled float32 (n, c, h', w'), on the VAE's device."""
    with torch.inference_mode(), bf16(vae.device):
        chunks = (torch.from_numpy(pictures[i : i + 128]).to(vae.device) for i in range(0, len(pictures), 128))
        parts = [vae.encode(to_pixels(chunk)).latent_dist.mode() for chunk in chunks]
    return torch.cat(parts).float().clone()


def spatial_latents(vae: AutoencoderKL, scenes: list[Scene], size_px: int) -> torch.Tensor:
    """G_s of the scenes' true boxes: the mean over the masks' latents, (n, c, h', w')."""
    parts = []
    for start in range(0, len(scenes), 256):
        chunk = scenes[start : start + 256]
        masks = [
            np.asarray(draw_mask(item.box_1000, color, size_px, size_px))
            for scene in chunk
            for item, color in zip(scene.objects, MASK_COLORS, strict=False)
        ]
        latents = encode_pictures(vae, np.stack(masks)).split([len(scene.objects) for scene in chunk])
        parts += [one.mean(0) for one in latents]
    return torch.stack(parts)


def _latents_of_bank(vae: AutoencoderKL, bank: banks.Bank, setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw image latents and G_s of the training scenes, kept on disk."""
    path = setup.folder / "latents.pt"
    if path.exists():
        images, spatial = torch.load(path, map_location=setup.device, weights_only=True)
    else:
        images, spatial = (
            encode_pictures(vae, bank.images),
            spatial_latents(vae, bank.scenes, setup.config.image_size_px),
        )
        torch.save((images, spatial), path)
    return images, spatial


def finished_vae(setup: Setup) -> AutoencoderKL:
    """The trained autoencoder, whose latents have mean 0 and spread 1 in each channel over the training scenes.

    The layout and the reference enter the UNet as raw latents: left as they come out of training, their constant part
    (-4 in one channel, for black) would drown what differs between boxes.
    """
    vae = models.build_vae(setup.config).eval().requires_grad_(False)
    averaged(setup.folder, "vae", {"vae": vae})
    vae.to(setup.device)
    path = setup.folder / "moments.pt"
    if not path.exists():
        sample = encode_pictures(vae, setup.bank().images[:2048])
        torch.save((sample.mean((0, 2, 3)), sample.std((0, 2, 3))), path)
    fold_moments(vae, *torch.load(path, map_location=setup.device, weights_only=True))
    return vae


def fold_moments(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Change the last layer before and the first behind the latents, so that z becomes (z - mean) / std; pictures stay.

    Args:
        vae: Changed in place.
        mean: Of the posterior means, (channels,).
        std: Likewise, positive.
    """
    before, behind, channels = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # the posterior's log variance
    behind.bias += behind.weight[:, :, 0, 0] @ mean
    behind.weight *= std[None, :, None, None]


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
    black: torch.Tensor
    objects: torch.Tensor
    """Share of each latent pixel that belongs to an object, (n, 1, h', w')."""
    scheduler: DDIMScheduler
    setup: Setup

    @classmethod
    def of(cls, unet: UNet2DConditionModel, bank: banks.Bank, setup: Setup) -> Drawing:
        """Encode the bank, or read its latents from disk."""
        vae = finished_vae(setup)
        images, spatial = _latents_of_bank(vae, bank, setup)
        size = setup.config.image_size_px
        return cls(
            vae,
            unet,
            scale_latents(vae, images),
            spatial,
            encode_pictures(vae, np.zeros((1, size, size, 3), np.uint8)),
            _object_share(bank.foreground, images.shape[-1]).to(setup.device),
            models.build_scheduler(setup.config),
            setup,
        )

    def loss(
        self, rows: np.ndarray, context: torch.Tensor, pooled: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Noise loss of the bank's rows under the given semantic condition; conditions drop out at random."""
        scheduler, device = self.scheduler, self.setup.device
        clean, spatial = self.images[rows], self.spatial[rows]
        noise = gaussian(clean.shape, rng, device)
        times = torch.from_numpy(rng.integers(0, scheduler.config.num_train_timesteps, len(rows))).to(device)
        keep_spatial, keep_reference = (
            torch.from_numpy((rng.random((len(rows), 1, 1, 1)) > p).astype(np.float32)).to(device) for p in (0.13, 0.05)
        )
        noisy = scheduler.add_noise(clean, noise, times)
        inputs = torch.cat([noisy, self.black * keep_reference, spatial * keep_spatial], 1)
        ids = time_ids(self.setup.config.image_size_px, self.setup.config.image_size_px).to(device)
        ids = ids.expand(len(rows), -1)
        with bf16(device):
            predicted = self.unet(
                inputs, times, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}
            ).sample
        target = losses.denoising_target(scheduler, clean, noise, times)
        return losses.denoising_loss(predicted, target, 1 + _OBJECT_WEIGHT * self.objects[rows])

    def draw(
        self, context: torch.Tensor, null: torch.Tensor, pooled: torch.Tensor, spatial: torch.Tensor
    ) -> np.ndarray:
        """Guided samples with mini's defaults, uint8 (b, h, w, 3)."""
        config, scheduler, device = self.setup.config, models.build_scheduler(self.setup.config), self.setup.device
        conditions = Conditions(
            context=context, null_context=null.expand(1, IMAGE_TOKENS, -1), pooled=pooled, spatial=spatial,
            time_ids=time_ids(config.image_size_px, config.image_size_px), reference=self.black.expand_as(spatial),
        )  # fmt: skip
        denoise = Denoiser(self.unet, conditions, config.text_to_image, Switches())
        latents = torch.from_numpy(stable_rng("draw").standard_normal(spatial.shape, np.float32)).to(device)
        scheduler.set_timesteps(config.steps, device=device)
        with torch.inference_mode(), bf16(device):
            for time in scheduler.timesteps:
                latents = scheduler.step(denoise(latents, time).float(), time, latents).prev_sample
            decoded = self.vae.decode(unscale_latents(self.vae, latents)).sample.float()
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def judge(self, pictures: np.ndarray, scenes: list[Scene], name: str) -> dict[str, float]:
        """Share of objects whose class and colour can be read in the planned box; a contact sheet for the eye."""
        side = self.setup.config.image_size_px
        sheet = Image.new("RGB", (8 * side, -(-len(pictures) // 8) * side))
        for i, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (i % 8 * side, i // 8 * side))
        sheet.resize((sheet.width * 2, sheet.height * 2)).save(self.setup.folder / f"{name}.png")
        return read_objects(pictures, scenes)


def drop_semantic(
    given: tuple[torch.Tensor, torch.Tensor], null: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context and pooled embedding with dropout: 8 % lose the context (pooled stays, as in guidance), 3 % lose both."""
    draw = torch.from_numpy(rng.random(len(given[0])).astype(np.float32)).to(given[0].device)
    context = torch.where((draw < 0.11)[:, None, None], null[0], given[0])
    return context, torch.where((draw < 0.03)[:, None], null[1], given[1])


def train_unet(plan: Plan, setup: Setup) -> None:
    """The UNet alone, on true scene tokens: mini's stand-in for SDXL's pretraining."""
    bank, held_out = setup.bank(), setup.held_out(512).scenes[:48]
    with models.seeded(setup.seed):
        unet, tokens = models.build_unet(setup.config), SceneTokens(setup.config)
    fit = Fit(plan, {"unet": unet, "tokens": tokens}, setup.folder, setup.device)
    drawing = Drawing.of(unet, bank, setup)
    things, wanted = (describe(scenes).to(setup.device) for scenes in (bank.scenes, held_out))
    spatial = spatial_latents(drawing.vae, held_out, setup.config.image_size_px)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("unet", setup.seed, step)
        rows = rng.integers(0, len(things), plan.batch)
        context, pooled = drop_semantic(tokens(things[rows]), (tokens.null, tokens.null_pooled), rng)
        return {"loss": drawing.loss(rows, context, pooled, rng)}

    def check() -> dict[str, float]:
        if fit.step < 600:
            return {}
        context, pooled = tokens(wanted)
        return drawing.judge(drawing.draw(context, tokens.null, pooled, spatial), held_out, "unet")

    fit.run(loss_of, check)
