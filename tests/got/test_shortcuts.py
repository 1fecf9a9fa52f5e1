"""Passes that leave out what is known before, against passes that do not."""

import contextlib
import dataclasses

import got_kit
import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig
from torch import nn

from got.model import networks
from got.model.config import GuidanceConfig
from got.model.shortcuts import Shortcuts
from got.model.ssgm import Conditions, Denoiser, Switches, time_ids

SCALES = GuidanceConfig(semantic=2.5, spatial=2.0, reference=1.5)
STEP = torch.tensor(500)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["mini", "sdxl"])
def unet(request):
    """As mini's, whose top blocks attend to the context twice, and as SDXL's; weights that matter."""
    with networks.seeded(1):
        built = networks.build_unet(dataclasses.replace(got_kit.CONFIG, unet_top_context=request.param)).eval()
    for parameter in built.parameters():
        parameter.data.add_(0.02 * draw(*parameter.shape, seed=2))
    return built


@pytest.fixture
def conditions():
    return Conditions(
        context=draw(3, 64, 16),
        null_context=draw(1, 1, 16, seed=3).expand(1, 64, 16),
        pooled=draw(3, 16),
        time_ids=time_ids(32, 32),
        spatial=draw(3, 4, 8, 8),
        reference=draw(3, 4, 8, 8, seed=4),
    )


@pytest.fixture
def noisy():
    return draw(3, 4, 8, 8, seed=5)


def plain(unet, conditions, noisy, switches=Switches()):  # noqa: B008
    denoise = Denoiser(unet, conditions, SCALES, switches)
    denoise._shortcuts.taken = contextlib.nullcontext
    return denoise(noisy, STEP)


def keys_of_contexts(unet, rows):
    """Notes the rows of all contexts that are projected to keys; those of self-attention have other widths."""
    for module in unet.modules():
        if (
            isinstance(getattr(module, "to_k", None), nn.Linear)
            and module.to_k.in_features == 16
            and module.is_cross_attention
        ):
            usual = module.to_k.forward
            module.to_k.forward = lambda states, usual=usual: (rows.append(len(states)), usual(states))[1]


@pytest.mark.parametrize("switches", [Switches(), Switches(semantic=False), Switches(spatial=False, reference=False)])
@torch.inference_mode()
def test_a_guided_step_is_the_same_with_shortcuts(unet, conditions, noisy, switches):
    denoise = Denoiser(unet, conditions, SCALES, switches)
    for _ in range(2):
        torch.testing.assert_close(denoise(noisy, STEP), plain(unet, conditions, noisy, switches), atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_keys_are_computed_once_and_of_rows_with_meaning_alone(unet, conditions, noisy):
    rows, denoise = [], Denoiser(unet, conditions, SCALES, Switches())
    keys_of_contexts(unet, rows)
    denoise(noisy, STEP)
    layers = len(rows)
    assert rows == [6] * layers
    assert layers >= 4
    denoise(noisy, STEP)
    assert len(rows) == layers
    denoise.forget()
    denoise(noisy, STEP)
    assert len(rows) == 2 * layers


@torch.inference_mode()
def test_a_null_context_with_meaning_is_attended_to(unet, conditions, noisy):
    replaced = dataclasses.replace(conditions, null_context=draw(1, 64, 16, seed=9))
    found = Denoiser(unet, replaced, SCALES, Switches())(noisy, STEP)
    torch.testing.assert_close(found, plain(unet, replaced, noisy), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(found, plain(unet, conditions, noisy), atol=1e-3)


@torch.inference_mode()
def test_the_network_is_as_it_was_afterwards(unet):
    def state():
        return [(type(getattr(one, "processor", None)), "forward" in one.__dict__) for one in unet.modules()]

    before, shortcuts = state(), Shortcuts(unet)
    with shortcuts.taken():
        assert sum(found != usual for found, usual in zip(state(), before, strict=True)) >= 5
    assert state() == before
    with pytest.raises(KeyError), shortcuts.taken():
        raise KeyError
    assert state() == before


def lora(unet, seed):
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v", "to_q", "conv"], init_lora_weights=False), "extra")
    for number, (name, parameter) in enumerate(unet.named_parameters()):
        if "lora" in name:
            parameter.data.copy_(0.3 * draw(*parameter.shape, seed=seed + number))


@torch.inference_mode(False)
@torch.no_grad()
def test_changed_weights_are_noticed(unet, conditions, noisy):
    """A LoRA beside the weights, changed in strength, added to them, and weights that are overwritten in place."""
    usual, steps = plain(unet, conditions, noisy), []
    lora(unet, 100)

    def check():
        steps.append(Denoiser(unet, conditions, SCALES, Switches())(noisy, STEP))
        torch.testing.assert_close(steps[-1], plain(unet, conditions, noisy), atol=5e-5, rtol=1e-3)

    check()
    for module in unet.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("extra", 0.5)
    check()
    unet.fuse_lora()
    check()
    unet.unload_lora()
    check()
    for parameter in unet.parameters():
        parameter.data.mul_(1.05)
    check()
    with_lora, weaker, fused, unloaded, other = steps
    torch.testing.assert_close(unloaded, fused, atol=5e-5, rtol=1e-3)
    for one, before in ((with_lora, usual), (weaker, with_lora), (other, unloaded)):
        assert (one - before).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1)])
@torch.inference_mode()
def test_a_doubled_grid_is_convolved_as_a_small_one(size):
    layer = nn.Sequential(Upsample2D(6, use_conv=True, out_channels=3))
    image = draw(2, 6, *size)
    expected, shortcuts = layer(image), Shortcuts(layer)
    with shortcuts.taken():
        found, odd = layer(image), layer[0](image, (2 * size[0] - 1, 2 * size[1]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(odd, layer[0](image, (2 * size[0] - 1, 2 * size[1])), atol=0, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_values_and_gates_are_computed_apart(bias):
    layer, states = GEGLU(6, 10, bias=bias), draw(2, 7, 6)
    expected, given = layer(states), states.clone()
    with Shortcuts(nn.Sequential(layer)).taken():
        assert ("forward" in layer.__dict__) == bias
        torch.testing.assert_close(layer(states), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(states, given, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["gradients", "autocast", "compiled", "around", "hook", "offloaded", "half"])
def test_others_networks_pass_as_they_are(kind):
    layer = nn.Sequential(Upsample2D(4, use_conv=True))
    network: nn.Module = layer
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(kind == "gradients"))
        if kind == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        if kind == "compiled":
            layer[0].compile(backend="eager")
        if kind == "around":
            network = torch.compile(layer, backend="eager")
        if kind == "hook":
            layer[0].conv.register_forward_hook(lambda *_: None)
        if kind == "offloaded":
            layer[0]._hf_hook = object()
        if kind == "half":
            layer.bfloat16()
        stack.enter_context(Shortcuts(network).taken())
        assert "forward" not in layer[0].__dict__


def test_gradients_reach_the_weights_after_passes_without():
    layer = nn.Sequential(Upsample2D(4, use_conv=True))
    shortcuts, image = Shortcuts(layer), draw(1, 4, 3, 3)
    with torch.no_grad(), shortcuts.taken():
        layer(image)
    with shortcuts.taken():
        layer(image).sum().backward()
    assert layer[0].conv.weight.grad is not None


@torch.inference_mode()
def test_other_ways_of_attention_stay(unet, conditions, noisy):
    unet.set_attention_slice("max")
    sliced = {type(one) for one in unet.attn_processors.values()}
    assert AttnProcessor2_0 not in sliced
    with Shortcuts(unet).taken():
        assert {type(one) for one in unet.attn_processors.values()} == sliced


def test_a_callback_may_change_weights_between_steps():
    """Its pictures are those of a pipeline that takes no shortcuts."""
    options = {"num_inference_steps": 2, "output_type": "np", "chain": got_kit.APPLE}

    def louder(pipe, step, timestep, tensors):
        for parameter in pipe.unet.parameters():
            parameter.data.mul_(1.5)
        return {}

    def drawn(change, *, quick):
        pipe = got_kit.make_pipeline()
        with pytest.MonkeyPatch.context() as patch:
            if not quick:
                patch.setattr(Shortcuts, "taken", lambda self: contextlib.nullcontext())
            made = pipe("dogs", generator=got_kit.generator(0), callback_on_step_end=change, **options).images
        return torch.from_numpy(made)

    changed = drawn(louder, quick=True)
    torch.testing.assert_close(changed, drawn(louder, quick=False), atol=1e-4, rtol=0)
    assert (changed - drawn(None, quick=True)).abs().max() > 1e-3
