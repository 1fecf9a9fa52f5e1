import dataclasses

import got_kit
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from got.model import ssgm
from got.model.config import GuidanceConfig
from got.model.ssgm import (
    Conditions,
    Denoiser,
    Switches,
    branch_weights,
    image_conditions,
    semantic_conditions,
    time_ids,
)
from got.plan.chain import Chain, format_box
from got.plan.layout import black_image, draw_layout

SIZE = (32, 32)
ALL = Switches()
SCALES = GuidanceConfig(semantic=7.5, spatial=4.0, reference=1.5)
scales = st.builds(GuidanceConfig, **dict.fromkeys(("semantic", "spatial", "reference"), st.floats(-20, 20)))
switches = st.builds(Switches, **dict.fromkeys(("semantic", "spatial", "reference"), st.booleans()))


@pytest.fixture(scope="module")
def conditions():
    values = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=values)  # noqa: E731
    return Conditions(
        context=draw(2, 64, 16),
        null_context=draw(1, 64, 16),
        pooled=draw(2, 16),
        time_ids=time_ids(32, 32),
        spatial=draw(2, 4, 8, 8),
        reference=draw(2, 4, 8, 8),
    )


@pytest.fixture(scope="module")
def noisy():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def plain_terms(unet, conditions, noisy, timestep):
    """What the paper's formula starts from and what each scale multiplies, from four separate passes."""
    null_context = conditions.null_context.expand(2, -1, -1)
    zeros = torch.zeros_like(noisy)

    def e(semantic, spatial, reference):
        return unet(
            torch.cat([noisy, reference, spatial], 1),
            timestep,
            encoder_hidden_states=semantic,
            added_cond_kwargs={"text_embeds": conditions.pooled, "time_ids": conditions.time_ids.expand(2, -1)},
        ).sample

    t, s, r = conditions.context, conditions.spatial, conditions.reference
    return {
        "start": e(null_context, zeros, zeros),
        "semantic": e(t, zeros, r) - e(null_context, zeros, r),
        "spatial": e(t, s, r) - e(t, zeros, r),
        "reference": e(null_context, zeros, r) - e(null_context, zeros, zeros),
    }


def plain_formula(unet, conditions, scales, noisy, timestep):
    terms = plain_terms(unet, conditions, noisy, timestep)
    return terms.pop("start") + sum(getattr(scales, name) * term for name, term in terms.items())


@pytest.mark.parametrize(
    "scales",
    [
        SCALES,
        GuidanceConfig(semantic=7.5, spatial=4.0, reference=1.0),
        GuidanceConfig(semantic=1.0, spatial=1.0, reference=1.0),
        GuidanceConfig(semantic=0.0, spatial=0.0, reference=0.0),
    ],
)
@torch.no_grad()
def test_the_guided_prediction_is_the_papers_formula(conditions, noisy, scales):
    unet, timestep = got_kit.pipeline().unet, torch.tensor(500)
    guided = Denoiser(unet, conditions, scales, ALL)(noisy, timestep)
    torch.testing.assert_close(guided, plain_formula(unet, conditions, scales, noisy, timestep), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("done", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["semantic", "spatial", "reference"])
@torch.no_grad()
def test_a_scale_multiplies_its_own_term_at_every_step(conditions, noisy, name, done):
    """A change of the formula fails here under the name of the term that changed, and from which step on it did."""
    unet, timestep = got_kit.pipeline().unet, torch.tensor(500)
    more = dataclasses.replace(SCALES, **{name: getattr(SCALES, name) + 3})
    louder, usual = (Denoiser(unet, conditions, scales, ALL)(noisy, timestep, done) for scales in (more, SCALES))
    expected = 3 * plain_terms(unet, conditions, noisy, timestep)[name]
    assert expected.abs().max() > 1e-2
    share = float((louder - usual).flatten() @ expected.flatten() / expected.flatten().square().sum())
    assert share == pytest.approx(1, abs=1e-3), f"the {name} scale counts {share:.3f} times, {done:.0%} of the way"
    torch.testing.assert_close(louder - usual, expected, atol=4e-5, rtol=1e-3, msg=f"the {name} term is another one")


@torch.no_grad()
def test_outside_its_interval_guidance_is_the_conditions_alone(conditions, noisy):
    unet, rows, timestep = got_kit.pipeline().unet, [], torch.tensor(500)
    denoise = Denoiser(unet, conditions, dataclasses.replace(SCALES, interval=(0.25, 0.75)), ALL)
    handle = unet.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    guided = [denoise(noisy, timestep, done) for done in (0.0, 0.25, 0.5, 0.75)]
    handle.remove()
    assert rows == [2, 8, 8, 2]
    alone = plain_formula(unet, conditions, GuidanceConfig(semantic=1, spatial=1, reference=1), noisy, timestep)
    full = plain_formula(unet, conditions, SCALES, noisy, timestep)
    for found, expected in zip(guided, (alone, full, full, alone), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("off", ["semantic", "spatial", "reference"])
@torch.no_grad()
def test_a_switched_off_condition_is_the_formula_with_its_null_form(conditions, noisy, off):
    nulls = {
        "semantic": {"context": conditions.null_context.expand(2, -1, -1)},
        "spatial": {"spatial": torch.zeros_like(noisy)},
        "reference": {"reference": torch.zeros_like(noisy)},
    }
    unet, timestep = got_kit.pipeline().unet, torch.tensor(500)
    guided = Denoiser(unet, conditions, SCALES, Switches(**{off: False}))(noisy, timestep)
    without = dataclasses.replace(conditions, **nulls[off])
    torch.testing.assert_close(guided, plain_formula(unet, without, SCALES, noisy, timestep), atol=2e-5, rtol=1e-4)
    # Its scale has nothing left to scale.
    louder = Denoiser(unet, conditions, dataclasses.replace(SCALES, **{off: 99.0}), Switches(**{off: False}))
    torch.testing.assert_close(louder(noisy, timestep), guided, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_all_branches_run_in_one_call_and_weightless_ones_not_at_all(conditions, noisy):
    unet, rows = got_kit.pipeline().unet, []
    handle = unet.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    for reference in (1.5, 1.0):
        scales = GuidanceConfig(semantic=7.5, spatial=4.0, reference=reference)
        Denoiser(unet, conditions, scales, ALL)(noisy, torch.tensor(500))
    Denoiser(unet, conditions, GuidanceConfig(semantic=1, spatial=1, reference=1), ALL)(noisy, torch.tensor(500))
    Denoiser(unet, conditions, SCALES, Switches(semantic=False, spatial=False, reference=False))(
        noisy, torch.tensor(500)
    )
    handle.remove()
    assert rows == [8, 6, 2, 2]


@given(scales, switches)
def test_branch_weights_sum_to_one_and_none_is_zero(scales, switches):
    weights = branch_weights(scales, switches)
    assert sum(weights.values()) == pytest.approx(1)
    assert 0 not in weights.values()
    for branch in weights:
        assert all(on or not seen for on, seen in zip((switches.semantic, switches.spatial), branch, strict=False))


def test_branch_weights_of_the_paper():
    assert branch_weights(SCALES, ALL) == {
        (True, True, True): 4.0,
        (True, False, True): 3.5,
        (False, False, True): -6.0,
        (False, False, False): -0.5,
    }


@torch.no_grad()
def test_null_semantics_are_projected_zeros():
    projector = got_kit.pipeline().projector
    hidden = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(0))
    context, null_context, pooled = semantic_conditions(projector, hidden, ALL)
    torch.testing.assert_close(null_context, projector(torch.zeros(1, 64, 48))[0])
    torch.testing.assert_close(pooled, projector.output_projector_add(hidden).mean(1))
    assert null_context.abs().sum() > 0
    off_context, _, off_pooled = semantic_conditions(projector, hidden, Switches(semantic=False))
    torch.testing.assert_close(off_context, null_context.expand(2, -1, -1))
    torch.testing.assert_close(off_pooled, projector.output_projector_add.bias.expand(2, -1))
    assert not torch.allclose(context, off_context)


def encode_alone(image):
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())[None] / 255
    return got_kit.pipeline().vae.encode((pixels - 0.5) / 0.5).latent_dist.mode()[0]


@torch.no_grad()
def test_spatial_latents_are_means_over_masks_and_not_scaled():
    chains = [Chain.parse(got_kit.BOTH), Chain.parse("no boxes"), Chain.parse(got_kit.APPLE)]
    source = Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 20)
    spatial, reference = image_conditions(got_kit.pipeline().vae, chains, None, SIZE, ALL)
    for row, chain in zip(spatial, chains, strict=True):
        masks = torch.stack([encode_alone(mask) for mask in draw_layout(chain, *SIZE)])
        torch.testing.assert_close(row, masks.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reference[2], encode_alone(black_image(*SIZE)), atol=1e-4, rtol=1e-4)
    _, edited = image_conditions(got_kit.pipeline().vae, chains[:1], [source], SIZE, ALL)
    resized = source.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    torch.testing.assert_close(edited[0], encode_alone(resized), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_equal_images_pass_the_vae_once_and_all_in_one_call():
    vae, rows = got_kit.pipeline().vae, []
    handle = vae.encoder.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    chains = [Chain.parse(text) for text in (got_kit.BOTH, got_kit.APPLE, "no boxes", got_kit.BOTH)]
    for chosen in (ALL, Switches(spatial=False), Switches(reference=False), Switches(spatial=False, reference=False)):
        image_conditions(vae, chains, None, SIZE, chosen)
    handle.remove()
    assert rows == [3, 1, 3]  # two masks and black; black; two masks and black; nothing


@torch.no_grad()
def test_large_images_pass_the_vae_a_few_at_a_time_and_nothing_else_changes(monkeypatch):
    vae, rows = got_kit.pipeline().vae, []
    chains = [Chain.parse(got_kit.BOTH)]
    expected = image_conditions(vae, chains, None, SIZE, ALL)
    monkeypatch.setattr(ssgm, "vae_batch_size", lambda size_px, kind: 2)
    handle = vae.encoder.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    parts = image_conditions(vae, chains, None, SIZE, ALL)
    handle.remove()
    assert rows == [2, 1]
    torch.testing.assert_close(parts, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_masks_are_drawn_when_it_is_their_turn(monkeypatch):
    """Thousands of boxes of a large image would not fit into memory together."""
    vae, drawn, waiting = got_kit.pipeline().vae, [], []
    draw_mask = ssgm.draw_mask
    monkeypatch.setattr(ssgm, "draw_mask", lambda *box: drawn.append(box) or draw_mask(*box))
    monkeypatch.setattr(ssgm, "vae_batch_size", lambda size_px, kind: 4)
    handle = vae.encoder.register_forward_pre_hook(lambda _module, inputs: waiting.append(len(drawn)))
    boxes = " ".join(f"a dog {format_box((i, i, i + 500, i + 500), 'red')}" for i in range(10))
    image_conditions(vae, [Chain.parse(boxes)], None, SIZE, Switches(reference=False))
    handle.remove()
    assert waiting == [4, 8, 10]


@torch.no_grad()
def test_conditions_that_are_off_are_zeros():
    chains = [Chain.parse(got_kit.BOTH), Chain.parse("")]
    vae = got_kit.pipeline().vae
    spatial, reference = image_conditions(vae, chains, None, SIZE, Switches(spatial=False))
    assert not spatial.any()
    assert reference.any()
    assert spatial.shape == reference.shape == (2, 4, 8, 8)
    spatial, reference = image_conditions(vae, chains, None, SIZE, Switches(reference=False))
    assert spatial.any()
    assert not reference.any()
