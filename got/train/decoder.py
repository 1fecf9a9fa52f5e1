"""The last stage: the decoder learns to draw sharp images of the latents that it gets; nothing else changes.

A mean error alone teaches it to blur where the latents leave open what was there, and those that the UNet draws leave
more open than the encoder's. So it sees both kinds, and a critic besides, as the autoencoders of latent diffusion do
(arXiv 2012.09841, section 3.1).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from got.iconworld.reader import read_objects
from got.iconworld.scenes import chain_text, stable_rng
from got.model import networks as models
from got.model.outputs import scale_latents, unscale_latents
from got.model.ssgm import Conditions, Denoiser, Switches, time_ids
from got.train import losses
from got.train.reasoner import drawing_networks, reading_networks
from got.train.trainer import Fit, Plan, averaged
from got.train.unet import denoised, describe, spatial_latents
from got.train.vae import (
    contact_sheet,
    encode_images,
    fingerprint,
    finished_vae,
    flat_images,
    gaussian,
    kept,
    psnr,
    to_pixels,
    to_uint8,
)
from got.util.errors import UserError
from got.util.precision import bf16

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from got.iconworld.bank import Bank
    from got.iconworld.scenes import Scene
    from got.train.unet import SceneTokens
    from got.train.vae import Setup

_DRAWN, _DRAWN_SHARE = 4096, 0.5
"""How many scenes the UNet draws, and their share of a batch."""
_DRAWN_FROM = (3, 8)  # of 10 steps; before the third it is open what an object looks like, and an image is another one
_FLAT_SHARE = 16  # one image in this many is a mask or black, which the decoder has to keep plain; not for the critic
_ALONE_STEPS = 300
"""Steps in which the critic learns alone: an untrained one would be fooled at once, and never learn."""
_RIM = 3
"""Pixels around an object count like its own: an overshoot there, a light rim, would otherwise be cheap."""
_CRITIC_WEIGHT = 0.3
CRITIC_LR = 4.0
"""The critic's learning rate, as a multiple of the decoder's."""


def build_critic(seed: int) -> nn.Sequential:
    """A critic of images (b, 3, h, w) in [-1, 1]: what it says of each patch, (b, 1, h / 8, w / 8).

    Higher is more like a rendered scene. After that of pix2pix (arXiv 1611.07004), with group norm: batches are small.
    """
    layers: list[nn.Module] = []
    with models.seeded(seed):
        for width, wide, kernel, stride in ((3, 32, 4, 2), (32, 64, 4, 2), (64, 128, 4, 2), (128, 128, 3, 1)):
            layers += [nn.Conv2d(width, wide, kernel, stride, 1), nn.GroupNorm(8, wide), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Conv2d(128, 1, 3, 1, 1))


def with_rim(foreground: torch.Tensor) -> torch.Tensor:
    """Masks of objects (b, 1, h, w), 0 or 1, with the pixels close around them.

    >>> with_rim(torch.eye(9)[None, None, :, :1]).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    return functional.max_pool2d(foreground, 2 * _RIM + 1, stride=1, padding=_RIM)


def against(
    critic: nn.Sequential, decoded: torch.Tensor, pixels: torch.Tensor, reconstruction: torch.Tensor, last: nn.Parameter
) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder's loss from a critic, weighted, and the critic's own; neither reaches the other's weights.

    The weight makes the critic's gradient at the decoder's last layer `_CRITIC_WEIGHT` times the reconstruction's, at
    most: a critic whose gradient is small has little to say.

    Args:
        critic: Of `build_critic`.
        decoded: (b, 3, h, w), about [-1, 1].
        pixels: What it should be, (b, 3, h, w) in [-1, 1].
        reconstruction: Loss of the decoder without a critic, scalar.
        last: The decoder's last weight.
    """
    frozen = {name: weight.detach() for name, weight in critic.named_parameters()}
    fooled = -torch.func.functional_call(critic, frozen, (decoded,)).float().mean()
    ours, critics = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, fooled))
    weight = (ours / (critics + 1e-4)).clamp(max=1)
    return _CRITIC_WEIGHT * weight * fooled, opinion(critic, decoded, pixels)


def opinion(critic: nn.Sequential, decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The critic's own loss, scalar; nothing of it reaches what was decoded."""
    return losses.critic_loss(critic(pixels).float(), critic(decoded.detach()).float())


def train_decoder(plan: Plan, setup: Setup) -> None:
    """Teach the decoder with latents of the encoder and of the UNet, on scenes and on the targets of edits.

    Raises:
        UserError: If a batch is too small for both, or a stage before is missing.
    """
    if plan.batch < 2:
        raise UserError(f"Expected a --batch of at least 2, for what is encoded and what is drawn, got {plan.batch}")
    bank, edits, held_out = setup.bank(), setup.edit_bank(), setup.held_out(512)
    vae = finished_vae(setup)
    networks = reading_networks(setup)[1] | {"unet": models.build_unet(setup.config)}
    unet = averaged(setup.folder, "joint", networks)["unet"].to(setup.device).requires_grad_(False)
    tokens = drawing_networks(setup)["tokens"].to(setup.device).requires_grad_(False)
    drawn, wanted = _kept_drawn(vae, unet, tokens, bank, setup), held_out.scenes[:64]
    shown = drawn_latents(vae, unet, tokens, held_out.images[:64], wanted, setup)
    bank_images = np.concatenate([bank.images, edits.targets])
    foregrounds = np.concatenate([bank.foreground, edits.changed])
    images, objects, flat = (
        torch.from_numpy(array).to(setup.device)
        for array in (bank_images, foregrounds, flat_images(setup.config.image_size_px))
    )
    parts = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv, "critic": build_critic(setup.seed)}
    for part in parts.values():
        part.requires_grad_(True)
    fit = Fit(plan, parts, setup.folder, setup.device)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("decoder", setup.seed, step)
        count = round(_DRAWN_SHARE * plan.batch)
        seen, flats = plan.batch - count, -(-plan.batch // _FLAT_SHARE)
        rows = np.concatenate([rng.integers(0, len(images), seen), rng.integers(0, len(drawn), count)])
        chosen, foreground = images[rows], with_rim(objects[rows, None].float())
        chosen[:flats], foreground[:flats] = flat[rng.integers(0, len(flat), flats)], 0
        pixels, alone = to_pixels(chosen), step < _ALONE_STEPS
        with bf16(setup.device):
            with torch.no_grad():
                posterior = vae.encode(pixels[:seen]).latent_dist
                noise = gaussian(posterior.mean.shape, rng, setup.device)
                latents = torch.cat([(posterior.mean + 0.5 * posterior.std * noise).float(), drawn[rows[seen:]]])
            with torch.set_grad_enabled(not alone):
                decoded = vae.decode(latents).sample
            reconstruction = losses.reconstruction_loss(decoded, pixels, foreground)
            seen_by_critic = parts["critic"], decoded[flats:], pixels[flats:]
            if alone:
                fooled, own = torch.zeros_like(reconstruction), opinion(*seen_by_critic)
            else:
                fooled, own = against(*seen_by_critic, reconstruction, vae.decoder.conv_out.weight)
        return {"loss": reconstruction + own + fooled, "reconstruction": reconstruction, "critic": own}

    def check() -> dict[str, float]:
        decoded = torch.cat([vae.decode(latents).sample for latents in shown.split(32)])
        sheet = to_uint8(decoded)
        contact_sheet(sheet, columns=8).save(setup.folder / "decoder.png")
        return psnr(vae, held_out, setup.device) | read_objects(sheet, wanted)

    fit.run(loss_of, check)


def _kept_drawn(
    vae: AutoencoderKL, unet: UNet2DConditionModel, tokens: SceneTokens, bank: Bank, setup: Setup
) -> torch.Tensor:
    """`drawn_latents` of the bank's first scenes, made once and kept on disk."""
    count = min(_DRAWN, len(bank.scenes))

    def make() -> tuple[torch.Tensor]:
        parts = []
        for row in range(0, count, 1024):
            rows = slice(row, min(row + 1024, count))
            parts.append(drawn_latents(vae, unet, tokens, bank.images[rows], bank.scenes[rows], setup))
            sys.stderr.write(f"decoder: the UNet has drawn {rows.stop} of {count} scenes\n")
            sys.stderr.flush()
        return (torch.cat(parts),)

    of = fingerprint(vae.encoder, vae.quant_conv, unet, tokens, bank.images[:count])
    return kept(setup.folder / "drawn.pt", of, setup.device, make)[0]


def drawn_latents(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    tokens: SceneTokens,
    images: np.ndarray,
    scenes: list[Scene],
    setup: Setup,
) -> torch.Tensor:
    """Latents of scenes as a UNet draws them, float32 (n, c, h', w'), as the decoder gets them.

    They are to show the very image that the scene was rendered to: each begins with the encoder's latents under
    noise, and the last two to seven of ten steps of sampling take the noise away, with guidance as in use.

    Args:
        vae: The finished one.
        unet: Draws.
        tokens: What it draws from.
        images: Rendered scenes, uint8 (n, h, w, 3).
        scenes: What they show.
        setup: Of the stage.
    """
    device, size = setup.device, setup.config.image_size_px
    scheduler = models.build_scheduler(setup.config)
    scheduler.set_timesteps(10, device=device)
    black = encode_images(vae, np.zeros((1, size, size, 3), np.uint8))
    parts = []
    with torch.inference_mode(), bf16(device):
        for row in range(0, len(scenes), 64):
            rows = slice(row, row + 64)
            rng = stable_rng("drawn", setup.seed, scenes[row].seed)
            clean = scale_latents(vae, encode_images(vae, images[rows]))
            context, pooled = tokens(describe(scenes[rows]).to(device))
            conditions = Conditions(
                context=context, null_context=tokens.null.expand(1, context.shape[1], -1), pooled=pooled,
                spatial=spatial_latents(vae, [chain_text(scene) for scene in scenes[rows]], size),
                reference=black.expand_as(clean), time_ids=time_ids(size, size),
            )  # fmt: skip
            first = int(rng.integers(*_DRAWN_FROM))
            noisy = scheduler.add_noise(clean, gaussian(clean.shape, rng, device), scheduler.timesteps[first])
            denoise = Denoiser(unet, conditions, setup.config.text_to_image, Switches())
            parts.append(unscale_latents(vae, denoised(denoise, scheduler, noisy, first)).float())
    return torch.cat(parts).clone()
