"""Teaching larger images to what draws smaller ones, with its latents and its UNet kept."""

import dataclasses

import got_kit
import pytest
import torch

from got.model import networks
from got.model.config import CONFIGS
from got.model.ssgm import time_ids
from got.train.export import keep_size
from got.train.vae import distillation_loss, take_over

LARGE = dataclasses.replace(CONFIGS["mini"], image_size_px=64)
SMALL = dataclasses.replace(LARGE, image_size_px=LARGE.image_size_px // 2, vae_channels=LARGE.vae_channels[1:])


def autoencoders():
    with networks.seeded(0):
        return networks.build_vae(LARGE).eval(), networks.build_vae(SMALL).eval().requires_grad_(False)


def test_an_autoencoder_with_one_level_more_begins_with_the_weights_of_the_other():
    vae, teacher = autoencoders()
    take_over(vae, teacher)
    deepest, first = vae.encoder.down_blocks[-1], teacher.encoder.down_blocks[-1]
    assert torch.equal(deepest.resnets[0].conv1.weight, first.resnets[0].conv1.weight)
    assert torch.equal(vae.encoder.mid_block.resnets[0].conv1.weight, teacher.encoder.mid_block.resnets[0].conv1.weight)
    assert torch.equal(
        vae.decoder.up_blocks[0].resnets[0].conv1.weight, teacher.decoder.up_blocks[0].resnets[0].conv1.weight
    )
    assert torch.equal(vae.post_quant_conv.weight, teacher.post_quant_conv.weight)
    assert vae.encoder.conv_in.weight.shape != teacher.encoder.conv_in.weight.shape


def test_teaching_brings_the_latents_together_and_leaves_the_teacher_alone():
    vae, teacher = autoencoders()
    take_over(vae, teacher)
    before = [weight.clone() for weight in teacher.parameters()]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, LARGE.image_size_px, LARGE.image_size_px, generator=generator) * 2 - 1
    side = LARGE.image_size_px // 2 ** (len(LARGE.vae_channels) - 1)
    noise = torch.randn(4, LARGE.latent_channels, side, side, generator=generator)
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3)
    seen = []
    for _ in range(12):
        terms = distillation_loss(vae, teacher, pixels, torch.ones_like(pixels[:, :1]), noise)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        seen.append({name: float(value.detach()) for name, value in terms.items()})
    assert seen[-1]["latents"] < 0.7 * seen[0]["latents"]
    assert seen[-1]["reconstruction"] < seen[0]["reconstruction"]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


@pytest.mark.parametrize("now", [64, 128, 256])
def test_a_unet_sees_the_new_size_as_it_saw_the_old_one(now):
    with networks.seeded(0):
        unet, changed = networks.build_unet(got_kit.CONFIG).eval(), networks.build_unet(got_kit.CONFIG).eval()
    changed.load_state_dict(unet.state_dict())
    keep_size(changed, 64, now)
    side, generator = unet.config.sample_size, torch.Generator().manual_seed(0)
    noisy = torch.randn(2, unet.config.in_channels, side, side, generator=generator)
    context = torch.randn(2, 64, unet.config.cross_attention_dim, generator=generator)
    pooled = torch.randn(2, got_kit.CONFIG.pooled_dim, generator=generator)

    def drawn(network, size):
        added = {"text_embeds": pooled, "time_ids": time_ids(size, size).expand(2, -1)}
        with torch.no_grad():
            return network(noisy, torch.tensor([10, 900]), context, added_cond_kwargs=added).sample

    assert torch.allclose(drawn(changed, now), drawn(unet, 64), atol=1e-5)
    assert now == 64 or not torch.allclose(drawn(unet, now), drawn(unet, 64), atol=1e-5)
