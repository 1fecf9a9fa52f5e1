"""Where the pipeline runs: weights kept elsewhere, compiled networks, a frugal autoencoder. None of it needs a GPU."""

import got_kit
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers.models.attention_processor import AttnProcessor2_0

CHAINS = [got_kit.BOTH, got_kit.APPLE]


@pytest.fixture
def pipe():
    return got_kit.make_pipeline()


def draw(pipe, **options):
    prompts = ["a red apple and a blue dog", "a red apple"]
    generators = [got_kit.generator(seed) for seed in (5, 6)]
    options = {"num_inference_steps": 2, "output_type": "np", "chain": CHAINS, **options}
    return pipe(prompts, generator=generators, **options).images


def keep_elsewhere(pipe):
    for name in pipe.model_cpu_offload_seq.split("->"):
        cpu_offload(getattr(pipe, name), torch.device("cpu"))
    assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"meta"}


def test_networks_whose_weights_wait_elsewhere_draw_the_same(pipe):
    """What sequential offload does on a GPU: a network has weights only inside its own forward call."""
    expected = draw(pipe)
    keep_elsewhere(pipe)
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-5)


def test_a_chain_is_written_with_weights_that_wait_elsewhere(pipe):
    expected = pipe.think("a red apple", max_new_tokens=5)
    keep_elsewhere(pipe)
    assert pipe.think("a red apple", max_new_tokens=5) == expected


def test_the_order_of_offload_names_every_network(pipe):
    networks = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == networks


def test_the_unet_compiles_as_one_graph(pipe):
    """With the graph captured by torch.compile and run as it is: a break or a wrong guard shows, speed does not."""
    expected = draw(pipe)
    pipe.unet.compile(backend="eager", fullgraph=True)
    try:
        np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)
    finally:
        torch._dynamo.reset()


def test_attention_is_torchs_own(pipe):
    assert pipe.mllm.config._attn_implementation == "sdpa"
    assert {type(processor) for processor in pipe.unet.attn_processors.values()} == {AttnProcessor2_0}


def test_the_autoencoder_can_work_in_slices(pipe):
    expected = draw(pipe)
    pipe.vae.enable_slicing()
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-5)


def test_the_autoencoder_can_work_in_tiles(pipe):
    pipe.vae.enable_tiling()
    tiled = draw(pipe, height=64, width=96)
    assert tiled.shape == (2, 64, 96, 3)
    assert np.isfinite(tiled).all()
