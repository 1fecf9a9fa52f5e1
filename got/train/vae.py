"""What the stages of training the embedded model share, and the first of them: the autoencoder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from got.checkpoint import load
from got.iconworld import bank as banks
from got.iconworld.scenes import stable_rng
from got.model import networks
from got.plan.chain import MASK_COLORS
from got.plan.layout import draw_mask
from got.train import losses
from got.train.trainer import Fit, Plan, averaged
from got.util.files import replacing
from got.util.images import laid_out
from got.util.precision import bf16

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL

    from got.model.config import GoTConfig

_ANCHOR_WEIGHT, _KL_WEIGHT = 0.1, 1e-3  # per latent number
_FLAT_SHARE = 8  # one image in this many is a mask or black: the layout and the null reference pass the VAE as well

_SPREAD_WEIGHT = 0.01
MOMENTS = "moments.pt"
"""The latents' moments in a training folder."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all stages share."""

    config: GoTConfig
    folder: Path
    scenes: int
    seed: int
    device: str = "cpu"
    workers: int = 0
    start: Path | None = None
    """A saved pipeline that a stage goes on from."""
    fixed_tokens: bool = False
    """Whether the stage with edits leaves the scene tokens as they are."""

    def bank(self) -> banks.Bank:
        """The training scenes."""
        return banks.make_bank(self.scenes, self.seed, self.config.image_size_px, self.folder / "bank.npz")

    def edit_bank(self) -> banks.EditBank:
        """The training edits."""
        return banks.make_edit_bank(self.scenes, self.seed, self.config.image_size_px, self.folder / "edit_bank.npz")

    def held_out_edits(self, count: int) -> banks.EditBank:
        """Edits that no stage trains on, at most as many as it trains on."""
        return banks.make_edit_bank(min(count, self.scenes), self.seed + 1_000_003, self.config.image_size_px)

    def held_out(self, count: int) -> banks.Bank:
        """Scenes that no stage trains on, at most as many as it trains on."""
        return banks.make_bank(min(count, self.scenes), self.seed + 1_000_003, self.config.image_size_px)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (b, h, w, 3) to float32 (b, 3, h, w) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def to_uint8(decoded: torch.Tensor) -> np.ndarray:
    """Decoded images (b, 3, h, w), about [-1, 1], to uint8 (b, h, w, 3)."""
    images = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(images.cpu().numpy())


def gaussian(shape: tuple[int, ...], rng: np.random.Generator, device: str) -> torch.Tensor:
    """Standard normal numbers, drawn on the device from the generator's next seed."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return torch.randn(shape, generator=generator, device=device)


@functools.cache
def flat_images(size_px: int) -> np.ndarray:
    """Layout masks in all colours and sizes, and black, uint8 (n, size, size, 3)."""
    rng = stable_rng("flat", size_px)
    images: list[np.ndarray] = [np.zeros((size_px, size_px, 3), np.uint8)] * 16
    for _ in range(1024):
        (x1, x2), (y1, y2) = np.sort(rng.integers(0, 1000, (2, 2)), axis=1).tolist()
        images.append(np.asarray(draw_mask((x1, y1, x2, y2), str(rng.choice(MASK_COLORS)), size_px, size_px)))
    return np.stack(images)


def train_vae(plan: Plan, setup: Setup) -> None:
    """Reconstruct scenes and masks, with latents that look like small images and a pull to a standard normal.

    Left to itself the encoder spreads fine detail over the latents in ways that a small UNet needs very long to learn.
    With a pipeline to start from, the latents are those of its autoencoder, see `distillation_loss`.
    """
    bank, held_out = setup.bank(), setup.held_out(512)
    images, objects, flat = (
        torch.from_numpy(array).to(setup.device)
        for array in (bank.images, bank.foreground, flat_images(setup.config.image_size_px))
    )
    with networks.seeded(setup.seed):
        vae = networks.build_vae(setup.config)
    teacher = None if setup.start is None else load(setup.start).vae.to(setup.device).requires_grad_(False)
    if teacher is not None:
        take_over(vae, teacher)
        note_normalised(setup)
    elif not (setup.folder / "vae.pt").exists():
        (setup.folder / MOMENTS).unlink(missing_ok=True)  # of an unpacked autoencoder, which this one replaces
    fit = Fit(plan, {"vae": vae}, setup.folder, setup.device)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("vae", setup.seed, step)
        rows, flats = rng.integers(0, len(images), plan.batch), plan.batch // _FLAT_SHARE
        chosen, foreground = images[rows], objects[rows, None].float()
        chosen[:flats], foreground[:flats] = flat[rng.integers(0, len(flat), flats)], 0
        pixels = to_pixels(chosen)
        noise = gaussian((plan.batch, *_latent_shape(setup.config)), rng, setup.device)
        if teacher is not None:
            return distillation_loss(vae, teacher, pixels, foreground, noise)
        with bf16(setup.device):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = losses.reconstruction_loss(decoded, pixels, foreground)
        anchor = losses.anchor_loss(posterior.mean[flats:], pixels[flats:], foreground[flats:])
        kl = posterior.kl().mean() / noise[0].numel()
        loss = reconstruction + _ANCHOR_WEIGHT * anchor + _KL_WEIGHT * kl
        return {"loss": loss, "reconstruction": reconstruction, "anchor": anchor, "kl": kl}

    def check() -> dict[str, float]:
        return psnr(vae, held_out, setup.device)

    fit.run(loss_of, check)


def take_over(vae: AutoencoderKL, teacher: AutoencoderKL) -> None:
    """Takes over another autoencoder's weights wherever they fit; that one has at most as many levels."""
    extra = len(vae.config.block_out_channels) - len(teacher.config.block_out_channels)
    own = vae.state_dict()
    for name, weight in teacher.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "down_blocks"]:  # counted from the image; all else is counted from the latents
            parts[2] = str(int(parts[2]) + extra)
        if own.get(deeper := ".".join(parts), torch.empty(0)).shape == weight.shape:
            own[deeper] = weight
    vae.load_state_dict(own)


def distillation_loss(
    vae: AutoencoderKL, teacher: AutoencoderKL, pixels: torch.Tensor, foreground: torch.Tensor, noise: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Terms of the loss that teaches to encode as another autoencoder does, and to decode to larger images.

    So a UNet that draws the one's latents draws the other's.

    Args:
        vae: Learns.
        teacher: Sees the images shrunken to its own size.
        pixels: (b, 3, h, w) in [-1, 1].
        foreground: (b, 1, h, w), 1 on objects.
        noise: Standard normal, of the latents' shape.
    """
    factor = 2 ** (len(teacher.config.block_out_channels) - 1)
    with bf16(pixels.device):
        with torch.no_grad():
            side = (noise.shape[-2] * factor, noise.shape[-1] * factor)
            small = functional.interpolate(pixels, side, mode="bicubic", antialias=True)
            known = teacher.encode(small).latent_dist
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(known.mean + known.std * noise).sample
    reconstruction = losses.reconstruction_loss(decoded, pixels, foreground)
    latents = functional.mse_loss(posterior.mean.float(), known.mean.float())
    spread = functional.mse_loss(posterior.logvar.float(), known.logvar.float())
    loss = reconstruction + latents + _SPREAD_WEIGHT * spread
    return {"loss": loss, "reconstruction": reconstruction, "latents": latents, "spread": spread}


def psnr(vae: AutoencoderKL, bank: banks.Bank, device: str) -> dict[str, float]:
    """Peak signal-to-noise ratio of reconstructed scenes, and of their objects alone, in dB."""
    pixels = to_pixels(torch.from_numpy(bank.images).to(device))
    decoded = torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in pixels.split(64)])
    front = torch.from_numpy(bank.foreground).to(device)[:, None].expand_as(pixels)
    error = (decoded.clamp(-1, 1) - pixels).square() / 4
    kinds = {"psnr": error.mean(), "psnr_foreground": error[front].mean()}
    return {name: float(-10 * torch.log10(mse)) for name, mse in kinds.items()}


def _latent_shape(config: GoTConfig) -> tuple[int, int, int]:
    side = config.image_size_px // 2 ** (len(config.vae_channels) - 1)
    return config.latent_channels, side, side


def encode_images(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Posterior means of uint8 images (n, h, w, 3), unscaled float32 (n, c, h', w'), on the VAE's device.

    In float32 on every kind of processor, as the pipeline encodes: the latents are kept on disk and their moments are
    folded into weights, so rounding to half precision would stay, and differ from machine to machine.
    """
    with torch.inference_mode(), torch.autocast(vae.device.type, enabled=False):
        chunks = (torch.from_numpy(images[i : i + 128]).to(vae.device) for i in range(0, len(images), 128))
        parts = [vae.encode(to_pixels(chunk)).latent_dist.mode() for chunk in chunks]
    return torch.cat(parts).float().clone()


def finished_vae(setup: Setup) -> AutoencoderKL:
    """The trained autoencoder, whose latents have mean 0 and spread 1 in each channel over the training scenes.

    The layout and the reference enter the UNet as raw latents: left as they come out of training, their constant part
    (-4 in one channel, for black) would drown what differs between boxes.
    """
    vae = networks.build_vae(setup.config).eval().requires_grad_(False)
    averaged(setup.folder, "vae", {"vae": vae})
    vae.to(setup.device)
    path, of = setup.folder / MOMENTS, fingerprint(vae)
    state = torch.load(path, map_location=setup.device, weights_only=True) if path.exists() else None
    if isinstance(state, tuple):  # as older versions kept them
        state = {"of": "", "made": state}
    if state is None or state["of"] not in ("", of):
        sample = encode_images(vae, setup.bank().images[:2048])
        state = {"of": of, "made": (sample.mean((0, 2, 3)), sample.std((0, 2, 3)))}
        with replacing(path) as part:
            torch.save(state, part)
    fold_moments(vae, *state["made"])
    if (setup.folder / "decoder.pt").exists():  # of the last stage, which learned behind the folded encoder
        averaged(setup.folder, "decoder", {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    return vae


def note_normalised(setup: Setup) -> None:
    """Records for `finished_vae` that the latents are normalised already, whatever is trained later."""
    state = (torch.zeros(setup.config.latent_channels), torch.ones(setup.config.latent_channels))
    with replacing(setup.folder / MOMENTS) as part:
        torch.save({"of": "", "made": state}, part)


def fingerprint(*of: nn.Module | np.ndarray | Sequence[str]) -> str:
    """A hash of weights, images and texts: what latents on disk were made of."""
    digest = hashlib.sha256()
    for part in of:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, nn.Module):
            for weight in part.state_dict().values():
                digest.update(weight.detach().float().cpu().contiguous().numpy().data)
        else:
            digest.update("\x1f".join(part).encode())
    return digest.hexdigest()


def kept(path: Path, of: str, device: str, make: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Tensors that take long to make: from disk if they were made of the same things, else made and kept there.

    Args:
        path: Where they are kept.
        of: `fingerprint` of everything that they depend on.
        device: Where they go.
        make: Makes them.
    """
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        if isinstance(state, dict) and state["of"] == of:
            found: tuple[torch.Tensor, ...] = state["made"]
            return found
    made = make()
    with replacing(path) as part:
        torch.save({"of": of, "made": made}, part)
    return made


def fold_moments(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Change the last layer before and the first behind the latents, so that z becomes (z - mean) / std; images stay.

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


def contact_sheet(images: np.ndarray, columns: int) -> Image.Image:
    """Images (n, size, size, 3) side by side at twice their size."""
    sheet = laid_out([Image.fromarray(image) for image in images], columns, paper="black")
    return sheet.resize((sheet.width * 2, sheet.height * 2))
