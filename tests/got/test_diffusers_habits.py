"""What people who know diffusers' pipelines expect of one."""

import subprocess
import sys
from pathlib import Path

import got_kit
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback, SDXLCFGCutoffCallback
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

import got
from got import checkpoint
from got.pipeline import GoTPipeline
from got.plan.chain import Chain
from got.util.hub import quiet

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers, with numpy 2
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde, of rounding
]

PROMPTS, CHAINS = ["a red apple", "dogs"], [got_kit.APPLE, "no boxes here"]


@pytest.fixture(scope="module")
def pipe():
    return got_kit.pipeline()


def draw(pipe, rows=(0, 1), seeds=None, **options):
    options = {"num_inference_steps": 3, "output_type": "np", "chain": [CHAINS[row] for row in rows]} | options
    generators = [got_kit.generator(seed) for seed in (seeds or [100 + row for row in rows])]
    return pipe([PROMPTS[row] for row in rows], **{"generator": generators} | options)


# ------------------------------------------------------------------------------------------------------- what is drawn
def test_several_images_of_a_prompt_lie_next_to_each_other(pipe):
    several = draw(pipe, seeds=[1, 2, 3, 4], num_images_per_prompt=2)
    assert [str(chain) for chain in several.chains] == [CHAINS[0]] * 2 + [CHAINS[1]] * 2
    assert len(several.images) == len(several.turns) == len(several.warnings) == 4
    for place, (row, seed) in enumerate([(0, 1), (0, 2), (1, 3), (1, 4)]):
        np.testing.assert_allclose(draw(pipe, [row], [seed]).images[0], several.images[place], atol=1e-4)


def test_several_edits_of_a_source_share_it_with_all_prompts(pipe):
    source = Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 20)
    several = draw(pipe, seeds=[1, 2, 3, 4], num_images_per_prompt=2, image=source, output_type="pil")
    assert [image.size for image in several.images] == [(32, 32)] * 4
    alone = draw(pipe, [1], [3], image=source, output_type="pil").images[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(several.images[2], int)).max() <= 1


def test_given_noise_is_the_noise_that_is_drawn_from(pipe):
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=got_kit.generator(100 + row)) for row in range(2)])
    np.testing.assert_array_equal(draw(pipe, latents=noise, generator=None).images, draw(pipe).images)
    with pytest.raises(ValueError, match=r"latents of shape \(2, 4, 8, 8\)"):
        draw(pipe, latents=noise[:1])


def test_a_tuple_has_the_outputs_fields(pipe):
    output, fields = draw(pipe), draw(pipe, return_dict=False)
    assert isinstance(fields, tuple)
    np.testing.assert_array_equal(fields[0], output.images)
    assert fields[1:3] == (output.chains, output.warnings)


def test_chains_are_chains_whose_text_is_theirs(pipe):
    (chain, _) = draw(pipe).chains
    assert isinstance(chain, Chain)
    assert str(chain) == CHAINS[0]
    assert [region.text for region in chain.regions] == ["a red apple"]
    assert draw(pipe).turns[0][0].chain == chain


# ------------------------------------------------------------------------------------------------------------- sources
def test_sources_may_be_arrays_and_tensors(pipe):
    image = Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 20).convert("RGB")
    bytes_ = np.asarray(image)
    floats, tensor = bytes_ / 255, torch.from_numpy(bytes_ / 255).permute(2, 0, 1).float()
    expected = draw(pipe, image=[image, image]).images
    for source in (image, bytes_, floats, tensor, tensor[None], tensor.half(), [tensor] * 2, np.stack([floats] * 2)):
        np.testing.assert_allclose(draw(pipe, image=source).images, expected, atol=0.02)
    np.testing.assert_array_equal(draw(pipe, image=bytes_).images, expected)
    assert np.abs(draw(pipe, image=np.zeros_like(bytes_)).images - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.full((8, 8, 3), 1.5), r"floats in \[0, 1\] but got 1.5"),
        (np.full((8, 8, 3), np.nan), "floats in"),
        (np.zeros((8, 8, 3), int), "bytes or floats"),
        (np.zeros((8, 8, 2)), "channels"),
        (np.zeros((0, 8, 3)), "channels"),
        (torch.zeros(8, 8), "channels"),
        ("photo.png", "images, arrays or tensors but got str"),
        ([Image.new("RGB", (8, 8))], r"one image per prompt \(2\) but got 1"),
    ],
)
def test_sources_that_are_no_images_are_refused(pipe, source, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, image=source)


# -------------------------------------------------------------------------------------------------------------- scales
def test_guidance_scale_is_the_semantic_scale(pipe):
    np.testing.assert_array_equal(draw(pipe, guidance_scale=6).images, draw(pipe, semantic_scale=6).images)
    assert pipe.guidance_scale == 6
    with pytest.raises(ValueError, match="semantic_scale or guidance_scale"):
        draw(pipe, guidance_scale=6, semantic_scale=5)


def test_a_negative_prompt_is_refused_with_the_reason(pipe):
    with pytest.raises(ValueError, match="null branch is a learned vector"):
        draw(pipe, negative_prompt="blurry")


def test_timesteps_and_sigmas_are_the_schedulers_stops():
    pipe = got_kit.make_pipeline()
    with pytest.raises(ValueError, match="takes timesteps but DDIMScheduler does not"):
        draw(pipe, timesteps=[999, 500])
    usual = pipe.scheduler.config
    pipe.scheduler = DDPMScheduler.from_config(usual)
    listed = draw(pipe, timesteps=[999, 749, 499, 249], output_type="latent").images
    assert pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert torch.equal(listed, draw(pipe, num_inference_steps=4, output_type="latent").images)
    pipe.scheduler = EulerDiscreteScheduler.from_config(usual)
    draw(pipe, sigmas=np.array([14.6, 3.0, 1.0, 0.3, 0.0]))
    assert pipe.num_timesteps == 4
    with pytest.raises(ValueError, match="timesteps or sigmas"):
        draw(pipe, timesteps=[1], sigmas=[1])
    with pytest.raises(ValueError, match="timesteps to be a list of numbers"):
        draw(pipe, timesteps="999")


# ----------------------------------------------------------------------------------------------------------- callbacks
def test_a_callback_can_interrupt_and_see_the_conditions(pipe):
    seen = []

    def stop(owner, step, timestep, tensors):
        seen.append((step, timestep, {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        owner._interrupt = step == 1
        return tensors

    names = ["latents", "prompt_embeds", "negative_prompt_embeds", "add_text_embeds", "add_time_ids"]
    options = {"callback_on_step_end_tensor_inputs": names, "num_inference_steps": 5}
    interrupted = draw(pipe, callback_on_step_end=stop, **options)
    assert [step for step, *_ in seen] == [0, 1]
    assert pipe.interrupt
    assert all(isinstance(timestep, torch.Tensor) for _, timestep, _ in seen)
    assert seen[0][2] == {
        "latents": (2, 4, 8, 8),
        "prompt_embeds": (2, 64, 16),
        "negative_prompt_embeds": (1, 64, 16),
        "add_text_embeds": (2, 16),
        "add_time_ids": (6,),
    }
    assert np.abs(interrupted.images - draw(pipe, num_inference_steps=5).images).max() > 1e-3
    assert not pipe.interrupt
    with pytest.raises(ValueError, match="tensor_inputs to be one of latents, prompt_embeds"):
        draw(pipe, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["image"])


def test_conditions_that_a_callback_replaces_are_used(pipe):
    def forget(owner, step, timestep, tensors):
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    options = {"callback_on_step_end": forget, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    assert np.abs(draw(pipe, **options).images - draw(pipe).images).max() > 1e-4
    options["callback_on_step_end"] = lambda owner, step, timestep, tensors: {"prompt_embeds": torch.zeros(1, 64, 16)}
    with pytest.raises(ValueError, match=r"prompt_embeds of shape \(2, 64, 16\)"):
        draw(pipe, **options)


@pytest.mark.parametrize("cutoff", [SDXLCFGCutoffCallback, SDCFGCutoffCallback])
def test_diffusers_own_cutoff_ends_guidance(pipe, cutoff):
    callback = MultiPipelineCallbacks([cutoff(cutoff_step_ratio=0.5)])
    cut = draw(pipe, callback_on_step_end=callback, num_inference_steps=4)
    assert pipe.guidance_scale == 0
    guided = draw(pipe, num_inference_steps=4, guidance_interval=(0, 0.75))  # it acts behind the third step
    np.testing.assert_allclose(cut.images, guided.images, atol=1e-5)
    assert pipe.guidance_scale == pipe.got_config.text_to_image.semantic


# ---------------------------------------------------------------------------------------------------- loading, weights
def test_a_lora_of_the_unet_is_saved_and_loaded_again(pipe, tmp_path):
    trained = got_kit.make_pipeline()
    trained.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(trained.unet)
    trained.save_lora_weights(tmp_path, unet_lora_layers=layers)
    loaded = got_kit.make_pipeline()
    loaded.load_lora_weights(tmp_path, adapter_name="style")
    plain, styled = draw(pipe).images, draw(trained).images
    assert np.abs(plain - styled).max() > 1e-3
    np.testing.assert_allclose(draw(loaded).images, styled, atol=1e-5)
    loaded.fuse_lora()
    np.testing.assert_allclose(draw(loaded).images, styled, atol=1e-4)
    loaded.unfuse_lora()
    loaded.unload_lora_weights()
    np.testing.assert_allclose(draw(loaded).images, plain, atol=1e-4)
    with pytest.raises(ValueError, match="LoRA weights of a UNet"):
        loaded.load_lora_weights({"text_encoder.layer.lora_A.weight": torch.zeros(1)})


def test_pickled_loras_are_never_read(pipe, tmp_path):
    torch.save({"unet.mid.lora_A.weight": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises((OSError, ValueError)):
        got_kit.make_pipeline().load_lora_weights(tmp_path)


def test_both_ways_of_loading_give_the_same_pixels(tmp_path):
    checkpoint.save_fp16(got_kit.pipeline(), tmp_path / "saved")
    with quiet():
        pipes = [checkpoint.load(tmp_path / "saved"), GoTPipeline.from_pretrained(tmp_path / "saved")]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(draw(pipes[0]).images, draw(pipes[1]).images)


def test_diffusers_itself_loads_a_folder_once_the_class_is_imported(tmp_path):
    checkpoint.save_fp16(got_kit.pipeline(), tmp_path / "saved")
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert isinstance(pipe, GoTPipeline)
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe).images.shape == (2, 32, 32, 3)


@pytest.mark.slow
def test_without_the_import_the_error_says_what_to_import():
    code = "from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained('got/mini')"
    root = Path(got.__file__).parent.parent
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert ended.stderr.strip().splitlines()[-1].endswith("has no attribute got.pipeline.GoTPipeline")
