"""The last stage of training: a decoder against a critic, on latents that the UNet drew."""

import json

import numpy as np
import pytest
import torch

from got.checkpoint import load
from got.iconworld.bank import make_bank, make_edit_bank
from got.model import networks
from got.model.config import CONFIGS
from got.model.outputs import scale_latents
from got.train import decoder, losses
from got.train.__main__ import main
from got.train.decoder import against, build_critic, drawn_latents
from got.train.export import export, unpack
from got.train.trainer import averaged
from got.train.unet import Drawing, load_tokens
from got.train.vae import Setup, encode_images, finished_vae, flat_images, to_pixels, to_uint8
from got.util.hub import MINI_PATH

CONFIG = CONFIGS["mini"]


def decoded_pair():
    """An image of a fresh autoencoder, and what it should be."""
    with networks.seeded(0):
        vae = networks.build_vae(CONFIG)
    side = CONFIG.image_size_px // 2 ** (len(CONFIG.vae_channels) - 1)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, CONFIG.latent_channels, side, side, generator=generator)
    pixels = torch.rand(2, 3, CONFIG.image_size_px, CONFIG.image_size_px, generator=generator) * 2 - 1
    return vae, vae.decode(latents).sample, pixels


def test_images_survive_the_way_to_numbers_and_back():
    images = flat_images(16)[:20]
    assert np.array_equal(to_uint8(to_pixels(torch.from_numpy(images))), images)


def test_the_critic_judges_patches_and_a_batch_has_room_for_both_kinds(tmp_path, capsys):
    assert build_critic(0)(torch.zeros(2, 3, 64, 128)).shape == (2, 1, 8, 16)
    assert main(["decoder", "--folder", str(tmp_path), "--batch", "1"]) == 2
    assert "Expected a --batch of at least 2" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_decoder_and_the_critic_have_each_their_own_loss():
    vae, decoded, pixels = decoded_pair()
    critic = build_critic(0)
    last = vae.decoder.conv_out.weight
    reconstruction = losses.reconstruction_loss(decoded, pixels, torch.ones_like(pixels[:, :1]))
    fooled, own = against(critic, decoded, pixels, reconstruction, last)
    fooled.backward(retain_graph=True)
    assert all(weight.grad is None for weight in critic.parameters())
    assert last.grad.abs().sum() > 0
    before = last.grad.clone()
    own.backward()
    assert torch.equal(last.grad, before)
    assert all(weight.grad is not None for weight in critic.parameters())


def test_the_critics_word_counts_a_fixed_share_of_the_reconstruction():
    """Its gradient at the last layer is 0.3 times the other's, however loud the critic is."""
    vae, decoded, pixels = decoded_pair()
    last = vae.decoder.conv_out.weight
    reconstruction = losses.reconstruction_loss(decoded, pixels, torch.ones_like(pixels[:, :1]))
    theirs = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    for loudness in (100, 1000):
        critic = build_critic(0)
        critic[-1].weight.data *= loudness
        fooled, _ = against(critic, decoded, pixels, reconstruction, last)
        share = torch.autograd.grad(fooled, last, retain_graph=True)[0].norm() / theirs
        assert share == pytest.approx(0.3, rel=0.02)


def test_a_critic_learns_what_is_blurred():
    pixels = to_pixels(torch.from_numpy(flat_images(32)[16:24]))
    blurred = torch.nn.functional.avg_pool2d(pixels, 5, 1, 2)
    critic = build_critic(0)
    optimizer = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    first = None
    for _ in range(30):
        loss = losses.critic_loss(critic(pixels), critic(blurred))
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 1.5
    assert float(loss.detach()) < 0.5 * first
    assert critic(pixels).mean() > critic(blurred).mean()


def test_what_the_unet_draws_shows_its_scene_with_less_detail():
    setup = Setup(config=CONFIG, folder=MINI_PATH, scenes=4, seed=1, start=MINI_PATH)
    bank, pipeline = setup.held_out(4), load(MINI_PATH)
    tokens = load_tokens(CONFIG, MINI_PATH)
    drawn = drawn_latents(pipeline.vae, pipeline.unet, tokens, bank.images, bank.scenes, setup)
    seen = encode_images(pipeline.vae, bank.images)
    assert drawn.shape == seen.shape
    apart = (drawn - seen).square().mean((1, 2, 3))
    assert (apart > 1e-4).all()
    assert (apart < 0.3 * (seen - seen.roll(1, 0)).square().mean((1, 2, 3))).all()


@pytest.mark.usefixtures("precision")
def test_latents_are_made_again_when_what_they_show_has_changed(tmp_path):
    """Another bank of the same folder, or an autoencoder that went on learning."""
    setup, vae = Setup(config=CONFIG, folder=tmp_path, scenes=6, seed=1), load(MINI_PATH).vae
    bank, fewer, edits = setup.bank(), make_bank(4, 1, 128), make_edit_bank(4, 1, 128)
    first, again = (Drawing.of(None, bank, setup, vae) for _ in range(2))
    assert torch.equal(first.images, again.images)
    written = (tmp_path / "latents.pt").stat().st_mtime_ns
    drawing = Drawing.of(None, fewer, setup, vae).with_edits(edits)
    assert (tmp_path / "latents.pt").stat().st_mtime_ns > written
    assert len(drawing.images) == len(drawing.objects) == len(drawing.reference_row) == 8
    shown = encode_images(vae, edits.targets)
    assert torch.equal(drawing.images[4:], scale_latents(vae, shown))
    with torch.no_grad():
        vae.quant_conv.bias += 1
    assert torch.allclose(Drawing.of(None, fewer, setup, vae).images[:, 0], drawing.images[:4, 0] + 1, atol=1e-5)


@pytest.mark.usefixtures("precision")
def test_moments_are_measured_again_for_another_autoencoder_and_older_files_are_read(tmp_path):
    """A file of before has two tensors and no name; an unpacked folder's hold for whatever comes of it."""
    setup = Setup(config=CONFIG, folder=tmp_path, scenes=6, seed=1)
    unpack(setup, MINI_PATH)
    plain = finished_vae(setup).state_dict()
    path = tmp_path / "moments.pt"
    made = torch.load(path, weights_only=True)["made"]
    torch.save(tuple(made), path)
    assert all(torch.equal(weight, plain[name]) for name, weight in finished_vae(setup).state_dict().items())
    torch.save({"of": "another one", "made": made}, path)
    latents = encode_images(finished_vae(setup), setup.bank().images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(len(made[0])), atol=1e-4, rtol=0)
    assert torch.load(path, weights_only=True)["of"] not in ("", "another one")


@pytest.mark.slow
def test_the_stage_changes_the_decoder_alone_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    words = ["--folder", str(tmp_path), "--scenes", "16", "--batch", "8", "--threads", "1"]
    setup = Setup(config=CONFIG, folder=tmp_path, scenes=16, seed=1)
    unpack(setup, MINI_PATH)
    before = load(MINI_PATH)
    assert main(["decoder", *words, "--minutes", "0.02"]) == 0
    started, vae = finished_vae(setup).decoder.state_dict(), before.vae.decoder.state_dict()
    assert all(torch.equal(weight, started[name]) for name, weight in vae.items()), "the critic learns alone at first"
    monkeypatch.setattr(decoder, "_ALONE_STEPS", 1)
    drawn = (tmp_path / "drawn.pt").stat().st_mtime_ns
    steps = torch.load(tmp_path / "decoder.pt", weights_only=True)["step"]
    assert main(["decoder", *words, "--minutes", "0.04"]) == 0
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["step"] > steps
    assert (tmp_path / "drawn.pt").stat().st_mtime_ns == drawn
    assert "decoder gate" in capsys.readouterr().err
    assert {"psnr", "psnr_foreground", "class", "color"} <= json.loads(
        (tmp_path / "decoder.jsonl").read_text().splitlines()[-1]
    ).keys()
    export(setup, tmp_path / "mini")
    after = load(tmp_path / "mini")
    for part in ("mllm", "projector", "unet", "vae"):
        there, here = (getattr(pipe, part).state_dict() for pipe in (before, after))
        changed = {name for name, weight in there.items() if not torch.equal(weight, here[name])}
        assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed), part
        assert bool(changed) == (part == "vae")
    vae = networks.build_vae(CONFIG)
    parts = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    averaged(tmp_path, "decoder", parts)
    for name, weight in finished_vae(setup).decoder.named_parameters():
        assert torch.equal(weight, vae.decoder.get_parameter(name))
