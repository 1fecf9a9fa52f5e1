"""Every step against golden tensors of the released inference code (float32, CPU); see golden_kit for where they are.

Tolerances are those of the golden data's own description: a few times what another version of the libraries, or
another number of threads, moves.
"""

import json

import golden_kit
import numpy as np
import pytest
import torch
from golden_kit import all_cases, case_id
from PIL import Image

from got.model.config import GuidanceConfig
from got.model.outputs import Sampling, to_pil, unscale_latents, with_aspect_of
from got.model.sampling import Steps
from got.model.ssgm import Switches, branch_weights, image_conditions, pixels_of, time_ids, vae_means
from got.model.tokenizer import IMAGE_START, Transcript, token_id
from got.pipeline import GoTPipeline
from got.plan.chain import Chain
from got.plan.layout import black_image, draw_layout

ALL = Switches()


def having(suffix):
    return pytest.mark.parametrize(("name", "case"), all_cases(suffix), ids=case_id)


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def close_images(actual, expected):
    """At most one grey level off, and that almost nowhere."""
    off = np.abs(np.asarray(actual, int) - np.asarray(expected, int))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def transcript(case, key, sequence):
    return Transcript(ids=tuple(sequence.flatten().tolist()), images=tuple(case.shown(key)))


def scales_of(case):
    arguments = golden_kit.SCALES | case.arguments
    if not arguments.get("do_classifier_free_guidance", True):
        return GuidanceConfig(semantic=1, spatial=1, reference=1)
    values = [arguments[name] for name in golden_kit.SCALES]
    return GuidanceConfig(semantic=values[0], spatial=values[1], reference=values[2])


# ------------------------------------------------------------------------------------------------------- the reasoner


@having("prompt_input_ids")
def test_prompts_are_tokenized_alike(name, case):
    arguments = case.arguments
    edit = arguments.get("prompt_type") == "edit"
    made = golden_kit.pipeline(name).reasoner.transcript(arguments["text_input"], case.image, edit=edit)
    assert list(made.ids) == case["prompt_input_ids"][0].tolist()


@having("_in_len")
def test_rounds_are_written_alike(name, case):
    pipe, arguments = golden_kit.pipeline(name), case.arguments
    options = {key: arguments[key] for key in ("do_sample", "repetition_penalty") if key in arguments}
    for key in case.rounds:
        sequence = case[f"{key}_sequence"][0]
        begun = transcript(case, key, sequence[: case[f"{key}_in_len"]])
        assert list(pipe._round(begun, arguments["max_new_tokens"], options).ids) == sequence.tolist()


@having("_hidden64")
def test_states_and_what_is_projected_from_them(name, case):
    pipe = golden_kit.pipeline(name)
    for turn in case.turns:
        inputs = pipe.reasoner.batch([transcript(case, turn, case[f"{turn}_input_ids"])])
        if f"{turn}_position_ids" in case:
            assert torch.equal(inputs.position_ids, case[f"{turn}_position_ids"])
        states = pipe.reasoner.states(inputs)
        close(states[:, -64:], case[f"{turn}_hidden64"], 5e-5)
        if f"{turn}_last_hidden_all" in case:
            close(states, case[f"{turn}_last_hidden_all"], 5e-5)
        context, pooled = pipe.projector(case[f"{turn}_hidden64"])
        close(context, case[f"{turn}_gen_conditioning"], 5e-5)
        close(pooled, case[f"{turn}_pooled"], 1e-5)
        close(pipe.projector.output_projector_add(case[f"{turn}_hidden64"]), case[f"{turn}_gen_conditioning_add"], 5e-5)
        if f"{turn}_null_conditioning" in case:
            close(pipe.projector(torch.zeros_like(states[:, -64:]))[0], case[f"{turn}_null_conditioning"], 0)


@having("pixel_values")
def test_source_images_are_cut_into_the_same_patches(name, case):
    patches = golden_kit.pipeline(name).reasoner._image_input.patches([case.image])
    close(patches["pixel_values"], case["pixel_values"], 1e-6)
    assert torch.equal(patches["image_grid_thw"], case["t0_image_grid_thw"])


@having("t0_hidden64")
def test_our_own_batched_way_to_the_states_agrees_with_the_released_second_pass(name, case):
    """`write` reads the cache, `read` pads, `continue_after_image` shows the image: the states must be the same."""
    pipe, arguments = golden_kit.pipeline(name), case.arguments
    reasoner, prompt, images = pipe.reasoner, arguments["text_input"], case.image and [case.image]
    if "forced_eos_token_id" in arguments and not case["t0_parsed_boxes_json"].startswith("[{"):
        pytest.skip("this conversation has no prompt")
    if "got_input" not in arguments:
        thoughts = reasoner.write([prompt], images, 300, repetition_penalty=1.0)
        assert thoughts.chains[0] + IMAGE_START == case["t0_parsed_text"]
    else:
        ids = case["t0_input_ids"][0, case["prompt_input_ids"].shape[1] : -65]
        thoughts = reasoner.read([prompt], [pipe.tokenizer.decode(ids)], images)
    close(thoughts.hidden, case["t0_hidden64"], 5e-5)
    if "t1_hidden64" in case:
        reasoner.mllm.generation_config.repetition_penalty = 1.0
        more, rows, _ = reasoner.continue_after_image(thoughts.transcripts, [case.shown("t1")[-1]], 300)
        assert rows == [0]
        assert f"<|vision_end|>{more.chains[0]}{IMAGE_START}" == case["t1_parsed_text"]
        assert list(more.transcripts[0].ids) == case["t1_input_ids"][0].tolist()
        close(more.hidden, case["t1_hidden64"], 5e-5)
        _, rows, why = reasoner.continue_after_image(more.transcripts, [case.shown("t1")[-1]], 300)
        assert (rows, why) == ([], [()])
        reasoner.mllm.generation_config.repetition_penalty = 1.05


# --------------------------------------------------------------------------------------------------------- conditions


@having("_parsed_text")
def test_boxes_masks_and_latents(name, case):
    pipe = golden_kit.pipeline(name)
    for turn in case.turns:
        chain = Chain.parse(case[f"{turn}_parsed_text"])
        boxes = json.loads(case[f"{turn}_parsed_boxes_json"])
        assert [(*box["position"][0], *box["position"][1]) for box in boxes] == [r.box_1000 for r in chain.regions]
        assert [box["color"] for box in boxes] == [region.color for region in chain.regions]
        if f"{turn}_spatial_latent" not in case:
            continue
        arguments = case.arguments
        size = (arguments["width"], arguments["height"])
        masks = draw_layout(chain, *size)
        references = [*case.shown(turn)][-1:] or None
        given = {"mask_tensors": masks, "ref_image_tensor": references or [black_image(*size)]}
        for key in [key for key in given if f"{turn}_{key}" in case]:
            close((pixels_of(given[key], size) / 255 - 0.5) / 0.5, case[f"{turn}_{key}"], 1e-6)
        close(vae_means(pipe.vae, masks, size), case[f"{turn}_mask_latents"], 2e-5)
        spatial, reference = image_conditions(pipe.vae, [chain], references, size, ALL)
        close(spatial, case[f"{turn}_spatial_latent"], 2e-5)
        if f"{turn}_ref_latent" in case:
            close(reference, case[f"{turn}_ref_latent"], 2e-5)
            assert torch.equal(time_ids(size[1], size[0])[None], case[f"{turn}_time_ids"])


# ---------------------------------------------------------------------------------------------------------- denoising


@having("_noise_pred_step0")
def test_the_guidance_formula(name, case):
    scales = scales_of(case)
    branches = [(True, True, True), (True, False, True), (False, False, True), (False, False, False)]
    weights = branch_weights(scales, ALL)
    for turn in case.turns:
        predicted = case[f"{turn}_noise_pred_step0"]
        mixed = sum(weights.get(branch, 0.0) * row for branch, row in zip(branches, predicted, strict=False))
        close(mixed[None], case[f"{turn}_guided_noise_all"][0], 1e-4)


class Recorded:
    """Hands out guided noise that was recorded, and notes the latents it was asked about."""

    def __init__(self, guided):
        self.guided = list(guided)

    def __call__(self, noisy, timestep, done):
        return self.guided.pop(0)

    def forget(self):
        """Nothing is kept."""


@having("_guided_noise_all")
def test_noise_schedule_and_trajectory(name, case):
    """From the seed and the recorded guided noise to the final latents, all steps of them."""
    pipe, arguments = golden_kit.pipeline(name), case.arguments
    for turn in case.turns:
        steps, seen = [], []
        sampling = Sampling(
            size_px=(arguments["width"], arguments["height"]),
            steps=Steps(count=arguments["num_inference_steps"]),
            scales=scales_of(case),
            switches=ALL,
            generators=torch.Generator().manual_seed(arguments["random_seed"]),
            callback=lambda _pipe, _step, t, tensors, s=steps, n=seen: s.append(t) or n.append(tensors["latents"]),
        )
        noise = torch.Generator().manual_seed(arguments["random_seed"])
        shape = case[f"{turn}_init_noise"].shape
        assert torch.equal(torch.randn(shape, generator=noise), case[f"{turn}_init_noise"])
        latents = GoTPipeline._denoise(pipe, Recorded(case[f"{turn}_guided_noise_all"]), shape, sampling)
        assert steps == case[f"{turn}_timesteps"].tolist()
        close(torch.stack(seen), case[f"{turn}_latents_traj"], 1e-4)
        close(latents, case[f"{turn}_final_latents"], 1e-4)


@having("_final_latents")
@torch.inference_mode()
def test_decoding(name, case):
    pipe = golden_kit.pipeline(name)
    for turn in case.turns:
        latents = case[f"{turn}_final_latents"]
        if f"{turn}_decoded" in case:
            close(pipe.vae.decode(unscale_latents(pipe.vae, latents)).sample, case[f"{turn}_decoded"], 1e-4)
        close_images(to_pil(pipe.decode(latents))[0], case[f"{turn}_image"])


@having("image_out_0")
def test_the_last_stretching(name, case):
    for number, turn in enumerate(case.turns):
        image = Image.fromarray(case[f"{turn}_image"].numpy())
        aspect = case.image.size if case.image else image.size
        np.testing.assert_array_equal(with_aspect_of(aspect, image), case[f"image_out_{number}"])


# ------------------------------------------------------------------------------------------------------- whole calls


@having("got_text")
def test_texts_of_whole_calls(name, case):
    if name != "part":
        pytest.skip("compared with the images below")
    if not {"only_return_got", "got_input"} & {*case.arguments}:
        pytest.skip("its further rounds depend on images")
    fewer = {"num_inference_steps": 1, "height": 32, "width": 32}  # images are compared below
    arguments = case.arguments
    assert (
        golden_kit.pipeline(name).generate(**arguments | (fewer if "height" in arguments else {}))["got_text"]
        == (case["got_text"])
    )


def watch(pipe):
    """Record what enters and leaves the UNet and `draw`."""
    calls, drawn, draw = [], [], pipe.draw
    hook = pipe.unet.register_forward_hook(
        lambda _unet, inputs, options, output: calls.append((inputs[0], options, output[0])), with_kwargs=True
    )
    pipe.draw = lambda *inputs: drawn.append(draw(*inputs)) or drawn[-1]

    def stop():
        hook.remove()
        del pipe.draw

    return calls, drawn, stop


@having("_unet_input_step0")
def test_whole_calls(name, case):
    """Prompt to image, nothing injected: text, every branch of every step, final latents, images."""
    pipe, weights = golden_kit.pipeline(name), branch_weights(scales_of(case), ALL)
    rows = [i for i, branch in enumerate([(1, 1, 1), (1, 0, 1), (0, 0, 1), (0, 0, 0)]) if branch in weights]
    calls, drawn, stop = watch(pipe)
    output = pipe.generate(**case.arguments)
    stop()
    assert output["got_text"] == case["got_text"]
    assert len(output["images"]) == len(drawn) == len(case.turns)
    per_turn = len(calls) // len(drawn)
    for number, turn in enumerate(case.turns):
        # The second image starts from the first as 8-bit pixels: one flipped level moves its latents.
        loose = 50 if number else 1
        inputs, options, predicted = calls[number * per_turn]
        close(inputs, case[f"{turn}_unet_input_step0"][rows], 2e-5 * (1000 if number else 1))
        close(options["encoder_hidden_states"], case[f"{turn}_encoder_hidden_states"][rows], 5e-5 * loose)
        added = options["added_cond_kwargs"]
        close(added["text_embeds"], case[f"{turn}_pooled"].expand(len(rows), -1), 1e-5 * loose)
        assert torch.equal(added["time_ids"], case[f"{turn}_time_ids"].expand(len(rows), -1))
        close(predicted, case[f"{turn}_noise_pred_step0"][rows], 5e-5 * (1000 if number else 1))
        close(drawn[number], case[f"{turn}_final_latents"], 1e-3 * loose)
        golden = case[f"image_out_{number}"]
        off = np.abs(np.asarray(output["images"][number], int) - golden.numpy())
        assert output["images"][number].size == golden.shape[1::-1]
        assert off.mean() < (0.5 if number else 0.01)  # of 255


@having("_unet_input_step0")
@torch.inference_mode()
def test_the_unet_on_golden_inputs(name, case):
    pipe = golden_kit.pipeline(name)
    for turn in case.turns:
        inputs = case[f"{turn}_unet_input_step0"]
        added = {"text_embeds": case[f"{turn}_pooled"], "time_ids": case[f"{turn}_time_ids"]}
        predicted = pipe.unet(
            inputs,
            case[f"{turn}_timesteps"][0],
            encoder_hidden_states=case[f"{turn}_encoder_hidden_states"],
            added_cond_kwargs={key: value.expand(len(inputs), -1) for key, value in added.items()},
        ).sample
        close(predicted, case[f"{turn}_noise_pred_step0"], 2e-5)


def test_the_66_tokens_have_the_released_ids():
    for name in golden_kit.SETS:
        tokenizer = golden_kit.pipeline(name).tokenizer
        first = 2070 if name != "full_vocab" else 151665
        tokens = ["<|im_gen_start|>", "<|im_gen_end|>", "<|im_gen_0000|>", "<|im_gen_0063|>"]
        assert [token_id(tokenizer, token) for token in tokens] == [first, first + 1, first + 2, first + 65]
