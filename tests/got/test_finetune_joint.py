"""The joint network: what its losses reach, and what it is told when conditions are dropped."""

import dataclasses

import finetune_kit as kit
import got_kit
import pytest
import torch
from diffusers import UNet2DConditionModel

from got.checkpoint import load
from got.finetune.joint import Joint, Noised, Noiser, kept, token_rows, untied, widened
from got.finetune.recipes import PRETRAIN
from got.model.config import GuidanceConfig
from got.model.networks import seeded
from got.model.ssgm import Conditions, Denoiser, Switches, branch_weights, semantic_conditions, time_ids
from got.model.teacher_forcing import teacher_forced
from got.released import names

CPU = torch.device("cpu")
MIXED = kit.examples(drawings=2, edits=1, conversations=1)


def joint_and_batch(recipe, found=MIXED):
    pipeline = got_kit.make_pipeline()
    joint = Joint.of(pipeline, recipe)
    batch = kit.batch(pipeline, found, recipe)
    return pipeline, joint, batch, Noiser(pipeline, recipe, 0, CPU)(batch)


def run(joint, batch, noised):
    return joint(batch.sequences, batch.blank, batch.drawn, noised)


def test_the_diffusion_loss_reaches_lora_through_the_image_tokens():
    _, joint, batch, noised = joint_and_batch(kit.LORA)
    for name, weight in joint.trained().items():
        if ".lora_B." in name:  # they begin at zero, and then nothing reaches A
            torch.nn.init.normal_(weight, std=0.02, generator=got_kit.generator(1))
    noised = dataclasses.replace(noised, keep=torch.ones_like(noised.keep))
    error = (run(joint, batch, noised)["predicted"] - noised.target).square().mean()
    trained = {name: weight for name, weight in joint.trained().items() if name.startswith("mllm.")}
    gradients = dict(zip(trained, torch.autograd.grad(error, trained.values(), allow_unused=True), strict=True))
    lora = {name: gradient for name, gradient in gradients.items() if ".lora_" in name}
    assert len(lora) == 2 * (7 * 2 + 3 * 4), "7 projections of 2 blocks, 3 of each of the 4 blocks of the vision tower"
    assert all(gradient.abs().sum() > 0 for gradient in lora.values())
    assert [name for name, gradient in gradients.items() if gradient is None] == [
        "mllm.base_model.model.lm_head.modules_to_save.default.weight"
    ], "the output layer is behind the image tokens"


def test_without_image_tokens_the_diffusion_loss_does_not_reach_the_language_model_by_the_context():
    """Only the pooled embedding is left, as in sampling, where all branches share it."""
    pipeline, joint, batch, noised = joint_and_batch(kit.RECIPE)
    noised = dataclasses.replace(noised, keep=torch.zeros_like(noised.keep))
    seen = seen_by_unet(joint, batch, noised)
    bias = pipeline.projector.output_projector.bias
    assert torch.equal(seen["encoder_hidden_states"], bias.expand(len(batch.keys), 64, -1))


def seen_by_unet(joint, batch, noised):
    seen = {}

    def note(module, arguments, keywords):
        seen.update(keywords, sample=arguments[0], timestep=arguments[1])

    handle = joint.unet.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        run(joint, batch, noised)
    handle.remove()
    return seen


@pytest.mark.parametrize("keep", [(True, True, True), (True, False, True), (False, False, True), (False, False, False)])
def test_a_dropped_condition_is_what_the_sampler_shows_the_unet(keep):
    """Input by input, against the branch of the guided denoiser."""
    pipeline, joint, batch, noised = joint_and_batch(dataclasses.replace(kit.RECIPE, noise_offset=0.1))
    noised = dataclasses.replace(noised, keep=torch.tensor([keep]).expand(len(batch.keys), -1))
    seen = seen_by_unet(joint.eval(), batch, noised)
    scales = GuidanceConfig(semantic=2.5, spatial=1.5, reference=1.5)  # all four branches have weight
    with torch.no_grad():
        hidden = teacher_forced(pipeline.mllm, batch.sequences).hidden[batch.drawn]
        context, null_context, pooled = semantic_conditions(pipeline.projector, hidden, Switches())
        conditions = Conditions(
            context=context, null_context=null_context, pooled=pooled, time_ids=time_ids(32, 32),
            spatial=noised.spatial, reference=noised.reference,
        )  # fmt: skip
        sampled = {}
        pipeline.unet.register_forward_pre_hook(
            lambda module, arguments, keywords: sampled.update(keywords, sample=arguments[0]), with_kwargs=True
        )
        Denoiser(pipeline.unet, conditions, scales, Switches())(noised.noisy, torch.tensor(500))
    branch = list(branch_weights(scales, Switches())).index(keep)
    rows = slice(branch * len(batch.keys), (branch + 1) * len(batch.keys))
    assert torch.equal(seen["sample"], sampled["sample"][rows])
    assert torch.equal(seen["encoder_hidden_states"], sampled["encoder_hidden_states"][rows])
    for name in ("text_embeds", "time_ids"):
        assert torch.equal(seen["added_cond_kwargs"][name], sampled["added_cond_kwargs"][name][rows])


def test_conditions_are_dropped_as_often_as_the_recipe_says():
    lots = (torch.arange(10_000) + 0.5) / 10_000
    found = [kept(PRETRAIN, float(lot)) for lot in lots]
    for combination, share in PRETRAIN.drops:
        assert found.count(combination) / len(found) == pytest.approx(share, abs=1e-3)
    assert found.count((True, True, True)) / len(found) == pytest.approx(0.85, abs=1e-3)


def test_conditions_come_from_where_sampling_has_them():
    """The images behind G_r and G_s: a step starts from the one before it, a drawing from black."""
    pipeline = got_kit.make_pipeline()
    batch = kit.batch(pipeline, MIXED, dataclasses.replace(kit.RECIPE, most_pictures=3))
    assert batch.keys == [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]
    assert batch.references[:2] == [None, None]
    before = [image.tobytes() for image in batch.targets]
    assert [image.tobytes() for image in batch.references[4:]] == before[3:5]
    assert batch.references[2].tobytes() != before[2]
    noised = Noiser(pipeline, kit.RECIPE, 0, CPU)(batch)
    assert noised.noisy.shape == noised.spatial.shape == noised.reference.shape == noised.target.shape
    assert torch.equal(noised.reference[0], noised.reference[1]), "black is black"
    assert noised.time_ids[0].tolist() == [32, 32, 0, 0, 32, 32]


def test_noise_offset_moves_whole_channels():
    pipeline = got_kit.make_pipeline()
    batch = kit.batch(pipeline, MIXED)
    plain, moved = (
        Noiser(pipeline, dataclasses.replace(kit.RECIPE, noise_offset=offset), 0, CPU)(batch) for offset in (0.0, 5.0)
    )
    difference = moved.noisy - plain.noisy
    assert difference.abs().max() > 1
    assert torch.allclose(difference, difference.mean((2, 3), keepdim=True).expand_as(difference), atol=1e-4)


def test_randomness_belongs_to_the_sample_and_not_to_its_batch():
    pipeline = got_kit.make_pipeline()
    noiser, collator = Noiser(pipeline, kit.RECIPE, 0, CPU), kit.collator(pipeline)
    together = noiser(collator.batch([collator.prepare(number, one) for number, one in enumerate(MIXED)]))
    alone = noiser(collator.batch([collator.prepare(1, MIXED[1])]))
    torch.testing.assert_close(together.noisy[1:2], alone.noisy)
    assert torch.equal(together.times[1:2], alone.times)
    assert not torch.equal(together.noisy[0], together.noisy[1])


def test_token_losses_are_those_of_teacher_forcing():
    pipeline, joint, batch, noised = joint_and_batch(kit.RECIPE)
    losses = run(joint.eval(), batch, noised)["token_losses"]
    torch.testing.assert_close(losses.mean(), teacher_forced(pipeline.mllm, batch.sequences).loss)
    rows = token_rows(batch.sequences)
    assert rows.bincount().tolist() == (batch.sequences.labels >= 0).sum(1).tolist()


def test_a_batch_without_images_still_has_gradients_of_the_vision_tower():
    """Or processes of which only some have images could not add up their gradients."""
    drawings = kit.examples(drawings=2)
    _, joint, batch, noised = joint_and_batch(kit.RECIPE, drawings)
    assert batch.sequences.pixel_values is None
    output = run(joint, batch, noised)
    (output["token_losses"].sum() + output["predicted"].sum()).backward()
    assert [name for name, weight in joint.trained().items() if weight.grad is None] == []
    assert all(not weight.grad.any() for weight in joint.reader.model.visual.parameters())


def test_what_is_trained_is_what_the_released_checkpoint_has():
    _, joint, _, _ = joint_and_batch(kit.LORA)
    mllm = got_kit.make_pipeline().mllm
    origins = [names.origin("mllm", name) for name in untied(mllm).state_dict()]
    expected = {key for origin in origins for key in origin.lora or ()}
    expected |= {origin.key for origin in origins if origin.unused is not None}
    # What was `model.language_model` and `model.visual` was called otherwise then.
    found = {
        name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
        for name in joint.trained()
        if name.startswith("mllm.")
    }
    assert found == expected
    assert {name.split(".")[0] for name in joint.trained()} == {"mllm", "projector", "unet"}
    assert not any(weight.requires_grad for weight in got_kit.make_pipeline().vae.requires_grad_(False).parameters())


def test_lora_begins_as_the_model_it_is_added_to():
    pipeline, joint, batch, noised = joint_and_batch(kit.LORA)
    plain, other, _, _ = joint_and_batch(kit.RECIPE)
    with torch.no_grad():
        first, second = run(joint.eval(), batch, noised), run(other.eval(), batch, noised)
    torch.testing.assert_close(first["token_losses"], second["token_losses"])
    torch.testing.assert_close(first["predicted"], second["predicted"])
    assert pipeline.mllm.lm_head.weight is not plain.mllm.lm_head.weight


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        recipe = dataclasses.replace(kit.LORA, gradient_checkpointing=checkpointing, lora_dropout=0.0)
        _, joint, batch, noised = joint_and_batch(recipe)
        output = run(joint, batch, noised)
        (output["token_losses"].mean() + (output["predicted"] - noised.target).square().mean()).backward()
        gradients.append({name: weight.grad for name, weight in joint.trained().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_merged_weights_draw_as_the_trained_network_and_can_be_loaded(tmp_path):
    pipeline, joint, _, _ = joint_and_batch(kit.LORA)
    for number, weight in enumerate(joint.trained().values()):
        weight.data += 0.02 * torch.randn(weight.shape, generator=got_kit.generator(number))
    joint.eval()
    prompt, options = "a photo of a red apple", {"chain": got_kit.APPLE, "num_inference_steps": 2, "output_type": "pt"}
    expected = pipeline(prompt, generator=got_kit.generator(0), **options).images
    pipeline.mllm = joint.merged()
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.mllm.config.tie_word_embeddings is False
    assert not torch.equal(again.mllm.lm_head.weight, again.mllm.get_input_embeddings().weight)
    torch.testing.assert_close(
        again(prompt, generator=got_kit.generator(0), **options).images, expected, atol=1e-4, rtol=1e-3
    )


def small_unet(channels):
    with seeded(channels):
        return UNet2DConditionModel(
            sample_size=8, in_channels=channels, out_channels=4, block_out_channels=(16, 32), norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, attention_head_dim=2,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1,
        ).eval()  # fmt: skip


@torch.no_grad()
def test_a_widened_unet_predicts_what_it_did_whatever_the_new_channels_hold(tmp_path):
    unet = small_unet(4)
    noisy, context = torch.randn(2, 4, 8, 8, generator=got_kit.generator(0)), torch.zeros(2, 3, 16)
    before = unet(noisy, 5, context).sample
    bias = unet.conv_in.bias.clone()
    wide = widened(unet)
    others = torch.randn(2, 8, 8, 8, generator=got_kit.generator(1))
    torch.testing.assert_close(wide(torch.cat([noisy, others], 1), 5, context).sample, before)
    assert wide.conv_in.weight.shape == (16, 12, 3, 3)
    assert not wide.conv_in.weight[:, 4:].any()
    assert torch.equal(wide.conv_in.bias, bias)
    wide.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config.in_channels == 12
    assert torch.equal(loaded.conv_in.weight, wide.conv_in.weight)


def test_a_unet_is_not_widened_twice():
    with pytest.raises(ValueError, match="Expected a UNet with 4 input channels but got 12"):
        widened(widened(small_unet(4)))


def test_weights_of_another_recipe_are_refused():
    _, joint, _, _ = joint_and_batch(kit.LORA)
    with pytest.raises(ValueError, match="Expected weights of this recipe"):
        joint.load_trained({"unet.conv_in.weight": torch.zeros(1)})
    assert isinstance(joint_and_batch(kit.RECIPE)[3], Noised)
