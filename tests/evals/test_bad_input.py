"""What people and models send by mistake: each is a clear error or does what the documentation says."""

import math
import shutil

import got_kit
import numpy as np
import pytest
import torch
from PIL import Image

from got import checkpoint
from got.model.schedulers import SCHEDULERS, make_scheduler
from got.model.validation import per_prompt
from got.plan.chain import BOX_END, BOX_START, MASK_COLORS, Chain, format_box
from got.util.hub import CheckpointError

QUICK = {"num_inference_steps": 1, "max_new_tokens": 3, "output_type": "np"}


@pytest.fixture(scope="module")
def pipe():
    return got_kit.pipeline()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    checkpoint.save_fp16(got_kit.pipeline(), path)
    return path


def draw(pipe, prompt="a red apple", chain=got_kit.APPLE, **options):
    return pipe(prompt, chain=chain, generator=got_kit.generator(0), **QUICK, **options).images[0]


# -------------------------------------------------------------------------------------------------------------- prompts
@pytest.mark.parametrize("prompt", ["", " \n", "a\x00dog", "a\x1b[31mdog", "\x7f", "half \ud83d of a pair"])
def test_prompts_that_no_one_can_have_meant_are_refused(pipe, prompt):
    for call in (lambda: pipe(prompt, **QUICK), lambda: pipe.think(prompt), lambda: pipe(["dogs", prompt], **QUICK)):
        with pytest.raises(ValueError, match="Expected a prompt"):
            call()


@pytest.mark.parametrize(
    "prompt", ["ein roter Apfel", "一只蓝色的狗", "كلب أزرق", "a 🐕 dog", "tabs\tand\nlines", "'\"\\{}%s"]
)
def test_any_language_is_drawn(pipe, prompt):
    assert np.isfinite(draw(pipe, prompt)).all()
    assert isinstance(pipe.think(prompt, max_new_tokens=2), Chain)


def test_a_prompt_beyond_the_context_is_refused_before_it_is_computed(pipe):
    limit = pipe.mllm.config.get_text_config().max_position_embeddings
    with pytest.raises(ValueError, match=rf"at most {limit - 400} tokens together but got {limit}"):
        pipe(" ".join(["dogs"] * limit), **QUICK)
    assert np.isfinite(draw(pipe, "dogs " * 300)).all()


@pytest.mark.parametrize("prompt", [[], [3], [None]])
def test_prompts_that_are_none_are_refused(pipe, prompt):
    with pytest.raises(ValueError, match="Expected"):
        pipe(prompt, **QUICK)


# --------------------------------------------------------------------------------------------------------------- chains
def test_inverted_outside_and_flat_boxes_are_drawn_as_documented(pipe):
    inverted = got_kit.APPLE.replace("(120,300),(480,660)", "(480,660),(120,300)")
    outside = got_kit.APPLE.replace("(480,660)", "(4800,6600)")
    flat = got_kit.APPLE.replace("(480,660)", "(120,300)")
    np.testing.assert_array_equal(*(images(pipe, chain) for chain in (inverted, got_kit.APPLE)))
    for odd in (outside, flat):
        assert np.isfinite(draw(pipe, chain=odd)).all()
    assert pipe("a red apple", chain=outside, **QUICK).warnings[0][0].startswith("box reaches outside")


def images(pipe, chain):
    """The layout that the chain gives, as numbers."""
    from got.plan.layout import draw_layout

    return np.stack([np.asarray(mask) for mask in draw_layout(Chain.parse(chain), 32, 32)])


def test_a_hundred_boxes_are_drawn_and_thousands_are_refused(pipe):
    boxes = [format_box((i % 990, 5, i % 990 + 9, 90), MASK_COLORS[i % 26]) for i in range(3000)]
    assert np.isfinite(draw(pipe, chain=" ".join(boxes[:100]))).all()
    with pytest.raises(ValueError, match="tokens together but got"):
        draw(pipe, chain=" ".join(boxes))


def test_thousands_of_torn_boxes_are_parsed_in_time_and_each_is_warned_of():
    text = f"{BOX_START}(1,1),(2 {BOX_END}" * 5000
    assert len(Chain.parse(text).warnings) == 5000


def test_an_empty_chain_is_drawn_without_a_layout(pipe):
    assert np.isfinite(draw(pipe, chain="")).all()


@pytest.mark.parametrize("chain", ["a\x00dog", "a \ud83d dog"])
def test_chains_with_control_characters_are_refused(pipe, chain):
    with pytest.raises(ValueError, match="Expected a chain in plain text"):
        draw(pipe, chain=chain)


@pytest.mark.parametrize("chain", [3, [3], {"a": 1}, ["a", "b"]])
def test_chains_that_are_none_are_refused(pipe, chain):
    with pytest.raises(ValueError, match="Expected"):
        draw(pipe, chain=chain)


# -------------------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize("name", ["semantic_scale", "spatial_scale", "reference_scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "4", True, 10**400, 1e39, -1e6])
def test_scales_that_are_no_numbers_are_refused(pipe, name, value):
    with pytest.raises(ValueError, match=f"{name} to be a finite number"):
        draw(pipe, **{name: value})


@pytest.mark.parametrize("size", [{"width": 32.0}, {"height": -4}, {"width": 30}, {"height": 0}, {"width": "32"}])
def test_sizes_that_are_none_are_refused(pipe, size):
    with pytest.raises(ValueError, match=r"multiples of 4|(width|height) to be a whole number from 1 up but got"):
        draw(pipe, **size)


@pytest.mark.parametrize("name", ["num_inference_steps", "max_turns"])
@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, "4", True])
def test_counts_that_are_none_are_refused(pipe, name, value):
    with pytest.raises(ValueError, match=f"{name} to be a whole number from 1 up but got"):
        pipe("dogs", chain=got_kit.APPLE, **{name: value})


@pytest.mark.parametrize("value", [0.5, (0.7, 0.2), (0, 1.5), (-0.1, 1), (0, math.nan), "01", (0, True), (0, 0.5, 1)])
def test_intervals_that_are_none_are_refused(pipe, value):
    with pytest.raises(ValueError, match="guidance_interval to be two numbers from 0 to 1"):
        draw(pipe, guidance_interval=value)


def test_no_interval_of_guidance_is_no_guidance(pipe):
    ones = dict.fromkeys(("semantic_scale", "spatial_scale", "reference_scale"), 1)
    never, unguided = draw(pipe, guidance_interval=(0.5, 0.5)), draw(pipe, **ones)
    assert np.array_equal(never, unguided)
    assert np.array_equal(draw(pipe, guidance_interval=(0, 1)), draw(pipe))
    assert not np.array_equal(never, draw(pipe))


def test_numbers_of_numpy_are_numbers(pipe):
    numbers = {"semantic_scale": np.float32(2.0), "width": np.int64(32), "max_turns": np.int32(1)}
    plain = {"semantic_scale": 2.0, "width": 32, "max_turns": 1}
    assert np.array_equal(draw(pipe, **numbers), draw(pipe, **plain))


# ------------------------------------------------------------------------------------------------------------- images
@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "RGBA", "I;16", "1"])
def test_a_source_of_any_kind_is_edited_as_its_rgb_form(pipe, mode):
    source = Image.effect_mandelbrot((20, 20), (-2, -1, 1, 1), 20)
    if mode == "I;16":
        source = Image.fromarray(np.asarray(source).astype(np.uint16) * 257)
    assert np.isfinite(draw(pipe, image=source if mode == "I;16" else source.convert(mode))).all()
    if mode == "I;16":
        plain = Image.effect_mandelbrot((20, 20), (-2, -1, 1, 1), 20).convert("RGB")
        np.testing.assert_allclose(draw(pipe, image=source), draw(pipe, image=plain), atol=1e-5)


def test_a_single_pixel_is_edited_as_a_flat_image(pipe):
    dot, square = (Image.new("RGB", (side, side), "teal") for side in (1, 32))
    np.testing.assert_allclose(draw(pipe, image=dot), draw(pipe, image=square), atol=1e-5)


@pytest.mark.parametrize(
    "image", ["photo.png", np.zeros((4, 4, 2)), torch.zeros(5, 4, 4), [None], [Image.new("RGB", (4, 4))] * 2]
)
def test_images_that_are_none_are_refused(pipe, image):
    with pytest.raises(ValueError, match="Expected"):
        draw(pipe, image=image)


def test_a_strip_cannot_become_a_image(pipe):
    with pytest.raises(ValueError, match="the source image has 1 x 400"):
        draw(pipe, image=Image.new("RGB", (1, 400)))


def test_one_value_per_prompt_or_none():
    assert per_prompt(None, str, 2, "chain") is None
    assert per_prompt("a", str, 1, "chain") == ["a"]
    assert per_prompt(("a", None), str, 2, "chain", gaps_ok=True) == ["a", None]
    with pytest.raises(ValueError, match="type str but got NoneType"):
        per_prompt(["a", None], str, 2, "chain")


# ----------------------------------------------------------------------------------------------------------- checkpoint
@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "mllm/model.safetensors",
        "projector/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "mllm/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "image_processor/preprocessor_config.json",
        "model_index.json",
    ],
)
def test_a_checkpoint_cut_in_half_is_refused_in_one_line(saved, tmp_path, file):
    copy = shutil.copytree(saved, tmp_path / "copy")
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(copy)
    assert "\n" not in str(raised.value)
    assert file.split("/")[0] in str(raised.value) or str(copy) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
            "is a Git LFS pointer, not the weights",
        ),
        (b"<!DOCTYPE html><html></html>", "is a web page, not weights"),
        (b"", "is empty"),
    ],
)
def test_a_file_of_a_checkpoint_that_holds_no_weights_is_called_what_it_is(saved, tmp_path, content, what):
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=rf"diffusion_pytorch_model\.safetensors {what}"):
        checkpoint.load(copy)


# ----------------------------------------------------------------------------------------------------------- schedulers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers: numpy of a tensor
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_named_sampler_keeps_the_schedule_and_keeps_samples_apart(name):
    pipe = got_kit.make_pipeline()
    before = pipe.scheduler.config
    pipe.scheduler = make_scheduler(name, pipe.scheduler)
    assert type(pipe.scheduler).__name__ == SCHEDULERS[name]
    for key in ("num_train_timesteps", "beta_schedule", "prediction_type", "timestep_spacing"):
        assert pipe.scheduler.config[key] == before[key]
    options = {"num_inference_steps": 3, "output_type": "np"}
    chains = [got_kit.APPLE, got_kit.BOTH]
    both = pipe(["dogs"] * 2, chain=chains, generator=[got_kit.generator(i) for i in range(2)], **options).images
    alone = pipe("dogs", chain=chains[1], generator=got_kit.generator(1), **options).images
    assert np.isfinite(both).all()
    np.testing.assert_allclose(alone[0], both[1], atol=1e-3)


def test_an_unknown_sampler_is_refused(pipe):
    with pytest.raises(ValueError, match="scheduler of ddpm, ddim"):
        make_scheduler("euler", pipe.scheduler)


# ---------------------------------------------------------------------------------------------------------------- think
def test_a_plan_that_is_thought_is_the_one_that_would_be_drawn(pipe):
    drawn = pipe(["dogs", "a red apple"], generator=[got_kit.generator(i) for i in range(2)], **QUICK)
    chains = pipe.think(["dogs", "a red apple"], max_new_tokens=3)
    assert chains == drawn.chains
    assert [chain.warnings for chain in chains] == drawn.warnings


def test_the_image_follows_a_plan_that_was_changed(pipe):
    chain = Chain.parse(got_kit.BOTH)
    for changed in (
        chain.move(0, (0, 0, 900, 900)),
        chain.replace(1, "a computer mouse"),
        chain.add("dogs", (500, 500, 900, 900)),
        chain.remove(0),
    ):
        assert np.abs(draw(pipe, chain=changed) - draw(pipe, chain=chain)).max() > 1e-4


def test_a_plan_for_an_edit_sees_the_source(pipe):
    sources = [Image.new("RGB", (32, 32), color) for color in ("white", "navy")]
    logits = got_kit.stop_sometime(pipe.tokenizer)
    seen = pipe.think(["dogs", "dogs"], sources, max_new_tokens=12, logits_processor=logits)
    assert len({str(chain) for chain in seen}) == 2
