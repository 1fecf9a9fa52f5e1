import dataclasses
import json

import got_kit
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch.nn import functional

from got.checkpoint import load, save_fp16
from got.iconworld.edits import KINDS, sample_edit
from got.iconworld.scenes import Scene, SceneObject, chain_text, sample_scene, stable_rng
from got.iconworld.vocabulary import CLASSES, COLORS
from got.model import networks
from got.model.config import CONFIGS
from got.model.reasoner import IMAGE_TOKENS
from got.model.tokenizer import build_tokenizer
from got.train import losses
from got.train.__main__ import main
from got.train.export import export, unpack
from got.train.reasoner import chain_is_right, warm_start
from got.train.trainer import Fit, Plan, averaged
from got.train.unet import SceneTokens, describe, describe_edits, drop_semantic, sample_drops, spatial_latents
from got.train.vae import Setup, fold_moments, train_vae
from got.train.vision import cells
from got.util import precision
from got.util.errors import UserError
from got.util.hub import MINI_PATH
from got.util.precision import bf16

CONFIG = CONFIGS["mini"]
PLAN = Plan(stage="toy", minutes=1, batch=4, lr=0.05, ema_decay=0.9, warmup_steps=2)


def toy() -> torch.nn.Linear:
    with networks.seeded(0):
        return torch.nn.Linear(3, 1)


def loss_of(module: torch.nn.Module, rows: int = 4):
    def loss(step: int) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(stable_rng("toy", step).standard_normal((rows, 3), np.float32))
        return {"loss": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    return loss


def run_steps(fit: Fit, loss, steps: int) -> None:
    """Let the clock run out after a number of steps."""
    last = fit.step + steps

    def counted(step: int) -> dict[str, torch.Tensor]:
        if step == last - 1:
            fit.seconds = 1e9
        return loss(step)

    fit.run(counted, None)


def test_a_resumed_training_goes_on_from_the_checkpoint(tmp_path):
    module = toy()
    fit = Fit(PLAN, {"toy": module}, tmp_path)
    run_steps(fit, loss_of(module), 30)
    again = toy()
    resumed = Fit(PLAN, {"toy": again}, tmp_path)
    assert resumed.step == 30
    assert torch.equal(again.weight, module.weight)
    assert resumed.progress > 1


def test_the_loss_falls_and_the_curve_is_kept(tmp_path):
    module = toy()
    fit = Fit(PLAN, {"toy": module}, tmp_path)
    before = float(loss_of(module, 200)(10**6)["loss"].detach())
    run_steps(fit, loss_of(module), 60)
    assert float(loss_of(module, 200)(10**6)["loss"].detach()) < before
    rows = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60
    assert "loss" in rows[-1]


def test_averaged_weights_are_those_of_the_moving_average(tmp_path):
    module = toy()
    fit = Fit(PLAN, {"toy": module}, tmp_path)
    run_steps(fit, loss_of(module), 20)
    loaded = averaged(tmp_path, "toy", {"toy": toy()})["toy"]
    assert not torch.equal(loaded.weight, module.weight)
    assert torch.allclose(loaded.weight, fit.ema.shadow_params[0])


def test_fixed_weights_stay_and_come_back_with_the_average(tmp_path):
    module = toy()
    module.bias.requires_grad_(False)
    before = module.bias.clone()
    run_steps(Fit(PLAN, {"toy": module}, tmp_path), loss_of(module), 5)
    loaded = averaged(tmp_path, "toy", {"toy": torch.nn.Linear(3, 1)})["toy"]
    assert torch.equal(loaded.bias, before)


def test_a_module_with_a_rate_of_its_own_learns_at_it_and_checkpoints_without_rates_still_load(tmp_path):
    slow, fast = toy(), toy()
    plan = dataclasses.replace(PLAN, lr_factors={"fast": 4.0})
    before = slow.weight.clone()
    fit = Fit(plan, {"slow": slow, "fast": fast}, tmp_path)
    run_steps(fit, lambda step: {"loss": loss_of(slow)(step)["loss"] + loss_of(fast)(step)["loss"]}, 1)
    ratio = (fast.weight - before) / (slow.weight - before)
    assert torch.allclose(ratio, torch.full_like(ratio, 4.0), rtol=0.02)  # Adam's first step is the rate, and decay
    alone = Fit(PLAN, {"toy": toy()}, tmp_path / "alone")
    run_steps(alone, loss_of(alone.modules["toy"]), 2)
    state = torch.load(alone.path, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        del group["factor"]
    torch.save(state, alone.path)
    resumed = Fit(PLAN, {"toy": toy()}, tmp_path / "alone")
    resumed.seconds = 0.0
    run_steps(resumed, loss_of(resumed.modules["toy"]), 2)
    assert resumed.step == 4


def test_a_step_without_a_finite_gradient_leaves_the_weights_alone(tmp_path):
    module = toy()
    before = module.weight.clone()
    fit = Fit(PLAN, {"toy": module}, tmp_path)
    run_steps(fit, lambda step: {"loss": module(torch.full((1, 3), torch.inf)).sum() * 0}, 3)
    assert torch.equal(module.weight, before)
    assert fit.step == 3
    fit.seconds = 0.0
    run_steps(fit, loss_of(module), 3)
    assert not torch.equal(module.weight, before)
    assert module.weight.isfinite().all()


def test_a_stage_that_is_killed_in_its_last_check_is_checked_when_it_goes_on(tmp_path):
    def killed():
        raise KeyboardInterrupt

    plan, module = dataclasses.replace(PLAN, steps=3), toy()
    with pytest.raises(KeyboardInterrupt):
        Fit(plan, {"toy": module}, tmp_path).run(loss_of(module), killed)
    Fit(plan, {"toy": module}, tmp_path).run(loss_of(module), lambda: {"right": 1.0})
    assert json.loads((tmp_path / "toy.jsonl").read_text().splitlines()[-1])["right"] == 1.0


def test_running_statistics_are_averaged_and_vectors_do_not_decay_where_the_plan_says_so(tmp_path):
    module = torch.nn.BatchNorm1d(3)
    plan = dataclasses.replace(PLAN, steps=40, average_buffers=True, decay_vectors=False)
    fit = Fit(plan, {"toy": module}, tmp_path)
    assert [group["weight_decay"] for group in fit.optimizer.param_groups] == [0.0]
    seen, mean = [], torch.zeros(3)

    def loss(step: int) -> dict[str, torch.Tensor]:
        nonlocal mean
        value = module(torch.from_numpy(stable_rng("toy", step).standard_normal((16, 3), np.float32) + step)).sum()
        decay = fit.ema.get_decay(step + 1)
        mean = decay * mean + (1 - decay) * module.running_mean
        seen.append(module.running_mean.clone())
        return {"loss": value}

    fit.run(loss, None)
    averaged_mean = fit.checked(lambda: module.running_mean.clone())
    assert torch.allclose(averaged_mean, mean, rtol=1e-4)
    assert not torch.allclose(averaged_mean, seen[-1], rtol=0.01)
    assert torch.equal(module.running_mean, seen[-1])


def test_the_first_step_is_told_and_so_is_a_run_that_is_all_warm_up(tmp_path, capsys):
    fit = Fit(dataclasses.replace(PLAN, steps=5, warmup_steps=9), {"toy": toy()}, tmp_path)
    fit.run(loss_of(fit.modules["toy"]), None)
    said = capsys.readouterr().err.splitlines()
    assert "5 steps are no longer than the warm-up of 9" in said[0]
    assert [json.loads(line.removeprefix("toy "))["step"] for line in said[1:]] == [1, 5]
    again = Fit(dataclasses.replace(PLAN, warmup_steps=9), {"toy": toy()}, tmp_path)
    run_steps(again, loss_of(again.modules["toy"]), 2)
    assert "ended in its warm-up, after 7 of 9 steps" in capsys.readouterr().err


def test_a_stage_without_its_predecessor_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"vae\.pt is missing: run `python -m got\.train vae"):
        averaged(tmp_path, "vae", {})


def test_the_ground_counts_less_than_objects_in_the_noise_loss():
    target, weight = torch.zeros(1, 4, 2, 2), torch.tensor([[[[4.0, 1.0], [1.0, 1.0]]]])
    wrong_object, wrong_ground = torch.zeros(2, 1, 4, 2, 2)
    wrong_object[..., 0, 0], wrong_ground[..., 1, 1] = 1, 1
    assert losses.denoising_loss(wrong_object, target, weight) == pytest.approx(4 / 7)
    assert losses.denoising_loss(wrong_ground, target, weight) == pytest.approx(1 / 7)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_a_perfect_prediction_costs_nothing_and_recovers_the_image(prediction_type):
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 4, 4, generator=generator)
    times = torch.full((3,), 500)
    target = losses.denoising_target(scheduler, clean, noise, times)
    assert losses.denoising_loss(target, target, torch.ones(3, 1, 4, 4)) == 0
    scheduler.set_timesteps(1000)
    found = scheduler.step(target, 500, scheduler.add_noise(clean, noise, times)).pred_original_sample
    assert torch.allclose(found, clean, atol=1e-4)


def test_alignment_is_relative_to_the_spread_of_what_is_wanted():
    generator = torch.Generator().manual_seed(0)
    context, pooled = torch.randn(4, 8, 3, generator=generator), torch.randn(4, 3, generator=generator)
    assert losses.alignment_loss(context, pooled, context, pooled) == 0
    far = losses.alignment_loss(torch.zeros(4, 8, 3), torch.zeros(4, 3), context, pooled)
    assert torch.allclose(
        far, losses.alignment_loss(torch.zeros(4, 8, 3), torch.zeros(4, 3), 10 * context, 10 * pooled)
    )


def test_scene_tokens_repeat_the_slots_and_mark_empty_ones():
    with networks.seeded(0):
        tokens = SceneTokens(CONFIG)
    scenes = [sample_scene(stable_rng("tokens", i)) for i in range(5)]
    context, pooled = tokens(describe(scenes))
    assert context.shape == (5, IMAGE_TOKENS, CONFIG.cross_attention_dim)
    assert pooled.shape == (5, CONFIG.pooled_dim)
    assert torch.equal(context[:, :6], context[:, 6:12])
    for row, scene in zip(context, scenes, strict=True):
        assert (row[len(scene.objects) : 6] == tokens.null).all()
        assert not (row[: len(scene.objects)] == tokens.null).all()


def test_semantic_dropout_puts_the_nulls_in():
    context, pooled = torch.ones(2000, 2, 3), torch.ones(2000, 4)
    nulls = (torch.zeros(3), torch.zeros(4))
    keep = sample_drops(2000, stable_rng("keep"))
    dropped, pooled_dropped = drop_semantic((context, pooled), nulls, keep, stable_rng("drop"))
    without_context = (dropped == 0).all((1, 2))
    without_pooled = (pooled_dropped == 0).all(1)
    assert 0.07 < without_context.float().mean() < 0.15
    assert 0.01 < without_pooled.float().mean() < 0.06
    assert without_context[without_pooled].all()
    assert torch.equal(without_context, keep[:, 0] == 0)


def test_the_branches_of_guidance_are_what_training_sees():
    kept = {tuple(row) for row in sample_drops(2000, stable_rng("keep")).int().tolist()}
    assert {(1, 1, 1), (1, 0, 1), (0, 0, 1), (0, 0, 0)} < kept


def test_edits_are_described_by_what_changes_only():
    rng = stable_rng("described")
    edits = {kind: sample_edit(rng, kind) for kind in KINDS}
    rows = dict(zip(edits, describe_edits(list(edits.values())), strict=True))
    full = {kind: int(row[:, 0].sum()) for kind, row in rows.items()}
    assert full["add"] == full["remove"] == full["recolor"] == full["background"] == 1
    assert full["move"] == full["replace"] == 2
    assert full["global"] == len(edits["global"].drawn)
    assert rows["remove"][0, 1:3].tolist() == [80, 10]
    assert rows["background"][0, 1:].tolist() == [81, COLORS.index(edits["background"].wanted), 0, 0, 1, 1]
    assert rows["move"][0, 3:].tolist() == pytest.approx([v / 1000 for v in edits["move"].erased[0].box_1000])
    with networks.seeded(0):
        tokens = SceneTokens(CONFIG)
    assert tokens(describe_edits(list(edits.values())))[0].shape == (
        len(KINDS),
        IMAGE_TOKENS,
        CONFIG.cross_attention_dim,
    )


def test_a_cell_answers_for_the_object_whose_centre_it_covers():
    a = SceneObject(name="dog", color="red", box_1000=(0, 400, 200, 600))
    b = SceneObject(name="cat", color="blue", box_1000=(700, 700, 999, 999))
    found = cells([Scene(objects=(a, b), background="plain", seed=0)], side=4)[0]
    assert np.flatnonzero(found[:, 0] >= 0).tolist() == [8, 15]
    assert found[8].tolist() == pytest.approx([CLASSES.index("dog"), COLORS.index("red"), 0, 0.4, 0.2, 0.6])


def test_a_warm_start_keeps_words_and_leaves_new_ones_fresh(tmp_path):
    pipe = got_kit.make_pipeline()
    pipe.save_pretrained(tmp_path)
    tokenizer = build_tokenizer(["zebra", *got_kit.WORDS])
    with networks.seeded(9):
        mllm, projector = networks.build_mllm(got_kit.CONFIG, tokenizer), networks.build_projector(got_kit.CONFIG)
    fresh = mllm.get_input_embeddings().weight.detach().clone()
    warm_start({"mllm": mllm, "projector": projector}, tokenizer, tmp_path)
    old, new = pipe.mllm.get_input_embeddings().weight, mllm.get_input_embeddings().weight
    known, words = pipe.tokenizer.get_vocab(), tokenizer.get_vocab()
    assert torch.equal(new[words[" apple"]], old[known[" apple"]])
    assert torch.equal(new[words["zebra"]], fresh[words["zebra"]])
    assert torch.equal(projector.output_projector.weight, pipe.projector.output_projector.weight)
    layers = [model.model.language_model.layers[1].mlp.up_proj.weight for model in (mllm, pipe.mllm)]
    assert torch.equal(*layers)


def test_folding_the_moments_in_leaves_images_alone():
    with networks.seeded(0):
        vae = networks.build_vae(CONFIG).eval().requires_grad_(False)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = vae.encode(pixels).latent_dist
    decoded = vae.decode(before.mean).sample
    mean, std = torch.tensor([1.0, -2.0, 0.0, 4.0]), torch.tensor([0.5, 1.0, 2.0, 3.0])
    fold_moments(vae, mean, std)
    after = vae.encode(pixels).latent_dist
    columns = (slice(None), None, None)
    assert torch.allclose(after.mean, (before.mean - mean[columns]) / std[columns], atol=1e-5)
    assert torch.allclose(after.std, before.std / std[columns], rtol=1e-3)
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)


@pytest.mark.usefixtures("precision")
def test_spatial_latents_are_the_mean_over_masks_as_in_the_pipeline():
    from got.model.ssgm import Switches, image_conditions
    from got.plan.chain import Chain

    with networks.seeded(0):
        vae = networks.build_vae(CONFIG).eval()
    scenes = [sample_scene(stable_rng("masks", i)) for i in range(3)]
    chains = [Chain.parse(chain_text(scene)) for scene in scenes]
    with torch.no_grad():
        expected, _ = image_conditions(vae, chains, None, (64, 64), Switches())
    found = spatial_latents(vae, [chain.text for chain in chains], 64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_right_chain_passes_and_a_wrong_one_does_not():
    a = SceneObject(name="dog", color="red", box_1000=(0, 400, 200, 600))
    b = SceneObject(name="cat", color="blue", box_1000=(700, 400, 900, 600))
    scene = Scene(objects=(a, b), background="plain", seed=0)
    prompt = "a photo of a red dog left of a cat"
    assert chain_is_right(chain_text(scene), scene, prompt)
    swapped = dataclasses.replace(
        scene, objects=(dataclasses.replace(a, box_1000=b.box_1000), dataclasses.replace(b, box_1000=a.box_1000))
    )
    assert not chain_is_right(chain_text(swapped), scene, prompt)
    other_color = dataclasses.replace(scene, objects=(dataclasses.replace(a, color="green"), b))
    assert not chain_is_right(chain_text(other_color), scene, prompt)
    assert not chain_is_right(chain_text(dataclasses.replace(scene, objects=(a,))), scene, prompt)
    assert not chain_is_right("nonsense", scene, prompt)


TINY = dataclasses.replace(got_kit.CONFIG, steps=2)
FEW = ["--scenes", "8", "--batch", "4", "--minutes", "0.0001", "--threads", "1"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pipeline that all stages have trained for a step, one after the other."""
    folder = tmp_path_factory.mktemp("stages")
    for stage in ("vae", "unet", "edits", "vision", "grounding", "reasoner", "joint", "decoder"):
        assert main([stage, "--folder", str(folder / "run"), *FEW], TINY) == 0
    assert main(["export", "--folder", str(folder / "run"), "--output", str(folder / "mini")], TINY) == 0
    return folder / "mini"


def test_all_stages_one_after_the_other_export_a_pipeline_that_draws(exported):
    pipeline = load(exported)
    quick = {"num_inference_steps": 1, "max_new_tokens": 8}
    (image,) = pipeline("a photo of a red dog", **quick).images
    assert image.size == pipeline("remove the dog", image=image, **quick).images[0].size == (32, 32)
    assert {path.stem for path in (exported / "curves").iterdir()} >= {"vae", "joint", "decoder"}


def test_stages_go_on_from_an_exported_pipeline(exported, tmp_path, capsys):
    more = ["--folder", str(tmp_path / "more"), *FEW]
    assert main(["unpack", *more, "--start", str(exported)], TINY) == 0
    for stage in ("edits", "grounding", "reasoner", "joint"):
        assert main([stage, *more], TINY) == 0
    assert main(["export", *more, "--output", str(tmp_path / "again")], TINY) == 0
    again = load(tmp_path / "again")
    assert again("a photo of a red dog", num_inference_steps=1, max_new_tokens=8).images[0].size == (32, 32)
    assert main(["unpack", *more], TINY) == 2
    assert "Expected a new folder" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unpacked_pipeline_is_exported_as_it_was(tmp_path):
    setup = Setup(config=CONFIGS["mini"], folder=tmp_path / "run", scenes=16, seed=1)
    setup.folder.mkdir()
    (setup.folder / "moments.pt").write_bytes(b"PK")  # of an attempt that was killed
    unpack(setup, MINI_PATH)
    export(setup, tmp_path / "mini")
    for path in MINI_PATH.rglob("*.safetensors"):
        there, here = load_file(path), load_file(tmp_path / "mini" / path.relative_to(MINI_PATH))
        assert there.keys() == here.keys()
        assert all(torch.equal(there[name], here[name]) for name in there), path


def test_the_mean_with_an_earlier_pipeline_is_half_of_each(tmp_path):
    setup = Setup(config=CONFIGS["mini"], folder=tmp_path / "run", scenes=16, seed=1)
    unpack(setup, MINI_PATH)
    earlier = load(MINI_PATH)
    for network in (earlier.mllm, earlier.projector, earlier.unet):
        for weight in network.parameters():
            weight.data.add_(0.5)
    save_fp16(earlier, tmp_path / "earlier")
    export(setup, tmp_path / "middle", tmp_path / "earlier")
    for part in ("mllm/model", "projector/diffusion_pytorch_model", "unet/diffusion_pytorch_model"):
        there, here = load_file(MINI_PATH / f"{part}.safetensors"), load_file(tmp_path / f"middle/{part}.safetensors")
        for name, weight in there.items():
            assert (here[name].float() - weight.float() - 0.25).abs().max() < 0.004, name  # halves are rounded twice
    earlier.mllm.resize_token_embeddings(8, mean_resizing=False)
    earlier.save_pretrained(tmp_path / "smaller")
    with pytest.raises(UserError, match=r"mllm\.lm_head|mllm\.model\..*embed_tokens"):
        export(setup, tmp_path / "none", tmp_path / "smaller")
    assert not (tmp_path / "none").exists()
    assert main(["joint", "--folder", str(tmp_path / "run"), "--mean-with", str(MINI_PATH)]) == 2


def test_short_floats_spare_attention(monkeypatch):
    monkeypatch.setattr(precision, "has_native_dtype", lambda dtype, device: True)
    query, key, value = torch.randn(3, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    with bf16("cpu"):
        short = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        product = query.float() @ key.float().mT
    assert torch.equal(short, exact.bfloat16())
    assert product.dtype is torch.bfloat16


def test_a_processor_that_emulates_half_precision_multiplies_float32(monkeypatch):
    monkeypatch.setattr(precision, "has_native_dtype", lambda dtype, device: False)
    with bf16("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_every_device_multiplies_long_floats():
    assert all(precision.has_native_dtype(torch.float32, device) for device in ("cpu", "cuda", "mps"))
    assert isinstance(precision.has_native_dtype(torch.bfloat16, "cpu"), bool)
    assert isinstance(precision.has_native_dtype(torch.float16, "cpu"), bool)


def test_a_stage_can_be_told_its_length(tmp_path):
    setup = Setup(config=got_kit.CONFIG, folder=tmp_path, scenes=32, seed=1)
    train_vae(Plan(stage="vae", minutes=0.01, batch=8, lr=1e-3, ema_decay=0.9), setup)
    assert (tmp_path / "vae.pt").exists()
    rows = [json.loads(line) for line in (tmp_path / "vae.jsonl").read_text().splitlines()]
    assert "psnr" in rows[-1]
