import json
import shutil

import got_kit
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from got import checkpoint
from got.model.outputs import scale_latents, to_pil, unscale_latents
from got.pipeline import GoTPipeline
from got.plan.chain import Chain
from got.util.hub import CheckpointError, quiet
from got.util.precision import lay_out_for_cpu

CHAINS = [got_kit.BOTH, got_kit.APPLE, "no boxes here"]
PROMPTS = ["a red apple and a blue dog", "a red apple", "dogs"]


def draw(pipe, rows, **options):
    options = {"num_inference_steps": 3, "output_type": "np"} | options
    generators = [got_kit.generator(100 + row) for row in rows]
    chains = [CHAINS[row] for row in rows]
    return pipe([PROMPTS[row] for row in rows], chain=chains, generator=generators, **options).images


@pytest.fixture(scope="module")
def pipe():
    return got_kit.pipeline()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save_fp16(got_kit.pipeline(), path)
    return path


@pytest.fixture
def copy_of_saved(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_image_does_not_depend_on_its_batch(pipe):
    together = draw(pipe, [0, 1, 2])
    for row in range(3):
        np.testing.assert_allclose(draw(pipe, [row])[0], together[row], atol=1e-4)
    np.testing.assert_allclose(draw(pipe, [2, 0]), together[[2, 0]], atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


@torch.inference_mode()
def test_images_are_decoded_a_few_at_a_time_and_come_out_as_together(monkeypatch):
    pipe, sizes = got_kit.make_pipeline(), []
    latents = torch.randn(5, 4, 4, 4, generator=got_kit.generator(0))
    together = pipe.decode(latents)
    handle = pipe.vae.decoder.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr("got.model.drawing.vae_batch_size", lambda size_px, kind: 2)
    lay_out_for_cpu(pipe)
    apart = pipe.decode(latents)
    handle.remove()
    assert sizes == [2, 2, 1]
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)


def test_a_loaded_pipeline_is_laid_out_for_the_cpu_but_for_its_encoder(saved):
    loaded, plain = checkpoint.load(saved), GoTPipeline.from_pretrained(saved)
    for pipe in (loaded, plain):
        weights = {
            "unet": pipe.unet.conv_in.weight,
            "decoder": pipe.vae.decoder.conv_in.weight,
            "encoder": pipe.vae.encoder.conv_in.weight,
        }
        ordered = {name for name, one in weights.items() if one.is_contiguous(memory_format=torch.channels_last)}
        assert ordered == {"unet", "decoder"}


def test_the_same_seed_draws_the_same_and_global_seeds_are_left_alone(pipe):
    before = torch.random.get_rng_state()
    first, second = draw(pipe, [0]), draw(pipe, [0])
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert torch.equal(before, torch.random.get_rng_state())


def test_written_chains_are_returned_and_can_be_given_back(pipe):
    output = pipe(PROMPTS[:2], num_inference_steps=2, max_new_tokens=4, generator=got_kit.generator(0))
    assert len(output.images) == len(output.chains) == len(output.warnings) == 2
    assert output.images[0].size == (32, 32)
    assert any("did not end" in warning for warning in output.warnings[0])


def test_given_and_written_chains_mix_in_order(pipe):
    options = {"num_inference_steps": 2, "max_new_tokens": 4, "output_type": "np"}
    mixed = pipe(
        PROMPTS,
        chain=[None, Chain.parse(got_kit.APPLE), None],
        generator=[*map(got_kit.generator, range(3))],
        **options,
    )
    given = pipe(PROMPTS[1], chain=got_kit.APPLE, generator=got_kit.generator(1), **options)
    written = pipe(PROMPTS[2], generator=got_kit.generator(2), **options)
    assert str(mixed.chains[1]) == got_kit.APPLE
    assert mixed.chains[2] == written.chains[0]
    np.testing.assert_allclose(mixed.images[1], given.images[0], atol=1e-4)
    np.testing.assert_allclose(mixed.images[2], written.images[0], atol=1e-4)


def test_words_that_the_model_does_not_know_are_named(pipe):
    prompts = ["a red apple", "a red spaceship"]
    output = pipe(prompts, chain=[got_kit.APPLE] * 2, num_inference_steps=1, generator=got_kit.generator(0))
    assert output.warnings == [(), ("not in the model's vocabulary: spaceship",)]
    assert "not in the model's vocabulary: spaceship" in pipe.think(prompts[1], max_new_tokens=2).warnings


def test_what_was_reasoned_is_drawn_as_in_one_call_by_rows(pipe):
    def drawn(rows, **given):
        generators = [got_kit.generator(row) for row in rows]
        options = {"num_inference_steps": 2, "output_type": "np", "max_new_tokens": 4} | given
        return pipe([PROMPTS[row] for row in rows], generator=generators, **options)

    whole, reasoned = drawn([0, 1, 2]), pipe.reason(PROMPTS, max_new_tokens=4)
    assert len(reasoned) == 3
    for rows in ([0, 1, 2], [2, 0]):
        again = drawn(rows, chain=reasoned[rows])
        np.testing.assert_allclose(again.images, whole.images[rows], atol=1e-4)
        assert again.chains == [whole.chains[row] for row in rows]
        assert again.warnings == [whole.warnings[row] for row in rows]
    with pytest.raises(ValueError, match="a row of chain for each of 1 prompts but got 3"):
        drawn([0], chain=reasoned)


def test_a_chain_that_the_grammar_does_not_know_is_drawn_with_a_warning(pipe):
    chain = got_kit.APPLE.replace("(red)", "(reddish)") + " <|box_start|>(1,2),(3<|box_end|>"
    output = pipe("a red apple", chain=chain, num_inference_steps=1, generator=got_kit.generator(0))
    assert [str(one) for one in output.chains] == [chain]
    assert len(output.warnings[0]) == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers: numpy of a tensor
@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_any_scheduler_serves_and_keeps_samples_apart(scheduler):
    pipe = got_kit.make_pipeline()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    together = draw(pipe, [0, 1])
    np.testing.assert_allclose(draw(pipe, [1])[0], together[1], atol=1e-3)
    assert np.isfinite(together).all()


@pytest.mark.parametrize("part", ["semantic", "spatial", "reference"])
def test_each_guidance_changes_the_image_when_switched_or_scaled(pipe, part):
    plain = draw(pipe, [0], reference_scale=1.5)
    off = draw(pipe, [0], reference_scale=1.5, **{part: False})
    loud = draw(pipe, [0], **{"reference_scale": 1.5, f"{part}_scale": 9.0})
    assert np.abs(plain - off).max() > 1e-4
    assert np.abs(plain - loud).max() > 1e-4


def test_without_spatial_and_semantic_guidance_the_chain_does_not_matter(pipe):
    options = {"semantic": False, "spatial": False, "num_inference_steps": 2, "output_type": "np"}
    images = [pipe("dogs", chain=c, generator=got_kit.generator(0), **options).images for c in CHAINS[:2]]
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)


def test_output_types_and_sizes(pipe):
    tall = {"height": 48, "width": 24}
    latents = draw(pipe, [0], output_type="latent", **tall)
    pixels = draw(pipe, [0], output_type="pt", **tall)
    array = draw(pipe, [0], output_type="np", **tall)
    (image,) = draw(pipe, [0], output_type="pil", **tall)
    assert latents.shape == (1, 4, 12, 6)
    assert pixels.shape == (1, 3, 48, 24)
    assert image.size == (24, 48)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), array[0], atol=1e-5)
    # Bytes are truncated, not rounded.
    assert np.abs(np.asarray(image) - np.floor(array[0] * 255)).max() <= 1


def test_latents_are_normalised_by_the_vaes_moments_or_its_factor():
    vae, latents = got_kit.make_pipeline().vae, torch.randn(2, 4, 3, 3, generator=got_kit.generator(0))
    torch.testing.assert_close(scale_latents(vae, latents)[:, 1], (latents[:, 1] + 0.2) / 2.0)
    torch.testing.assert_close(unscale_latents(vae, scale_latents(vae, latents)), latents)
    vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=0.5)
    torch.testing.assert_close(scale_latents(vae, latents), latents * 0.5)
    torch.testing.assert_close(unscale_latents(vae, latents), latents / 0.5)


def test_the_callback_sees_every_step_and_can_replace_latents(pipe):
    seen = []

    def watch(owner, step, timestep, tensors):
        seen.append((owner, step, timestep, tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = draw(pipe, [0, 1], output_type="latent", callback_on_step_end=watch)
    assert [step for _, step, _, _ in seen] == [0, 1, 2]
    assert seen[0][0] is pipe
    assert seen[0][2] > seen[-1][2]
    assert not latents.any()


def test_an_edit_runs_on_the_same_path_and_has_the_sources_size_or_its_aspect(pipe):
    source = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 20)
    options = {"num_inference_steps": 2, "max_new_tokens": 4, "chain": got_kit.APPLE}
    edited = pipe("a red apple", image=source, generator=got_kit.generator(0), **options).images[0]
    assert edited.size == (60, 40)
    own = pipe("a red apple", image=source, generator=got_kit.generator(0), own_size=True, **options).images[0]
    assert own.size == (48, 32)
    dark = pipe("a red apple", image=Image.new("RGB", (60, 40)), generator=got_kit.generator(0), **options).images[0]
    assert np.abs(np.asarray(edited, float) - np.asarray(dark, float)).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 30}, "multiples of 4"),
        ({"width": 0, "height": -4}, "width to be a whole number from 1 up"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"chain": ["a", "b", "c"]}, "one chain per prompt"),
        ({"generator": [torch.Generator()] * 3}, "one generator per prompt"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(PROMPTS[:2], **options)


def test_no_prompt_is_refused(pipe):
    with pytest.raises(ValueError, match="at least one prompt"):
        pipe([])


def test_saving_and_loading_gives_the_same_images(pipe, tmp_path):
    with quiet():
        pipe.save_pretrained(tmp_path)
        again = GoTPipeline.from_pretrained(tmp_path)
        short = GoTPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {short.vae.dtype, short.unet.dtype, short.mllm.dtype, short.projector.dtype} == {torch.bfloat16}
    again.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(draw(again, [0, 1]), draw(pipe, [0, 1]), atol=1e-5)
    assert again.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
    assert again.config.scale == "mini"


def test_float16_files_are_loaded_in_float32_and_draw_nearly_the_same(pipe, saved):
    stored = load_file(saved / "unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = checkpoint.load(saved)
    with quiet():
        plainly = GoTPipeline.from_pretrained(saved)
    for one in (loaded, plainly):
        one.set_progress_bar_config(disable=True)
        assert {one.vae.dtype, one.unet.dtype, one.mllm.dtype, one.projector.dtype} == {torch.float32}
    np.testing.assert_allclose(draw(plainly, [0]), draw(loaded, [0]), atol=1e-5)
    assert pipe.unet.dtype == torch.float32
    np.testing.assert_allclose(draw(loaded, [0]), draw(pipe, [0]), atol=0.05)


@pytest.mark.parametrize(("scale", "reasoner_dtype"), [("mini", torch.float32), ("got-6b", torch.bfloat16)])
def test_another_precision_spares_the_vae_and_the_small_reasoner(copy_of_saved, scale, reasoner_dtype):
    index = json.loads((copy_of_saved / "model_index.json").read_text())
    (copy_of_saved / "model_index.json").write_text(json.dumps(index | {"scale": scale}))
    loaded = checkpoint.load(str(copy_of_saved), dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.vae.dtype, loaded.unet.dtype) == (torch.float32, torch.bfloat16)
    assert loaded.mllm.dtype == loaded.projector.dtype == reasoner_dtype
    assert np.isfinite(draw(loaded, [0])).all()


def drop_tensor(path):
    file = path / "mllm/model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def change_shape(path):
    file = path / "projector/diffusion_pytorch_model.safetensors"
    save_file({key: tensor[:-1].contiguous() for key, tensor in load_file(file).items()}, file)


def drop_unet_tensor(path):
    file = path / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file)


def change_class(path):
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | {"_class_name": "OtherPipeline"}))


def test_a_trainings_folder_is_told_where_its_pipeline_lies(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a saved pipeline; .*model is one"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model_index.json").unlink(), "no model_index.json"),
        (lambda path: (path / "model_index.json").write_text("{"), "not valid JSON"),
        (change_class, "OtherPipeline"),
        (lambda path: shutil.rmtree(path / "vae"), "no folder vae"),
        (lambda path: (path / "vae/diffusion_pytorch_model.safetensors").unlink(), "vae"),
        (lambda path: (path / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"torn"), "unet"),
        (lambda path: (path / "tokenizer/tokenizer.json").unlink(), "Cannot load"),
        (drop_tensor, r"missing_keys .*norm\.weight"),
        (drop_unet_tensor, "conv_in.weight"),
        (change_shape, "projector"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(copy_of_saved, damage, message):
    damage(copy_of_saved)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.load(copy_of_saved)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_image(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        to_pil(torch.full((1, 3, 2, 2), value))
