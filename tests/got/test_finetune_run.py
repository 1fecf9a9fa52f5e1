"""The training loop in this process, and the command line."""

import dataclasses
import json
import math
import os
import shutil
import signal

import finetune_kit as kit
import golden_kit
import got_kit
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from got.checkpoint import load
from got.data.storage import Writer
from got.finetune import budget, folder
from got.finetune.__main__ import main
from got.finetune.joint import Joint, Noiser, start, untied
from got.finetune.recipes import RECIPES, Run, Source, changed
from got.finetune.run import Trainer, TrainingError
from got.model.networks import seeded
from got.released import names as released
from got.util.files import read_lines
from got.util.hub import CheckpointError

DATA = golden_kit.DATA


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Each training has the process to itself."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    data = kit.dataset(root / "data", drawings=6, edits=3, conversations=1)
    return kit.saved_pipeline(root / "model"), data


def trainer(places, output, recipe=kit.RECIPE, **changes):
    settings = {
        "model": places[0], "sources": (Source(place=places[1], weight=1.0),), "seed": 0, "micro": None,
        "device": "cpu", "workers": 0, "log_every": 1, "save_every": 1000, "keep": 2, "look_every": 0,
        "held_out": None, "samples": 2, "tracker": None,
    }  # fmt: skip
    return Trainer(Run(recipe=recipe, output=output, **settings | changes))


def log(output):
    return read_lines(output / folder.LOG)[0]


def test_steps_lower_both_losses(places, tmp_path):
    recipe = dataclasses.replace(kit.RECIPE, steps=15, learning_rate=8e-3, batch=4)
    result = trainer(places, tmp_path / "out", recipe).train()
    rows = log(tmp_path / "out")
    assert [row["step"] for row in rows] == list(range(1, 16))
    for name in ("cross_entropy", "noise"):
        first, last = (sum(row[name] for row in part) for part in (rows[:3], rows[-3:]))
        assert last < 0.8 * first, name
    assert result["finished"]
    assert result["faults"] == result["skipped"] == 0
    assert {"cross_entropy/text-to-image", "noise/edit"} < {name for row in rows for name in row}
    assert all(row["gradient_norm"] > 0 for row in rows)


@pytest.mark.slow
def test_overfitting_one_batch_drives_both_losses_to_near_zero():
    pipeline = got_kit.make_pipeline()
    joint = Joint.of(pipeline, kit.RECIPE)
    batch = kit.batch(pipeline, kit.examples(drawings=1, edits=1))
    noised = Noiser(pipeline, kit.RECIPE, 0, torch.device("cpu"))(batch)
    optimizer = torch.optim.AdamW(joint.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for _ in range(250):
        output = joint(batch.sequences, batch.blank, batch.drawn, noised)
        text, noise = output["token_losses"].mean(), (output["predicted"] - noised.target).square().mean()
        optimizer.zero_grad()
        (text + noise).backward()
        torch.nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
        optimizer.step()
        losses.append((float(text.detach()), float(noise.detach())))
        if max(losses[-1]) < 0.05:
            break
    assert losses[0][0] > 3
    assert losses[0][1] > 0.5
    assert max(losses[-1]) < 0.05


def test_passes_and_batches_give_the_same_losses(places, tmp_path):
    """Means are over the update: token counts of the passes differ, and must not weigh alike."""
    recipe = dataclasses.replace(kit.RECIPE, steps=3, learning_rate=1e-3)
    rows = []
    for name, micro in (("in_one_pass", 4), ("in_passes", 1)):
        trainer(places, tmp_path / name, recipe, micro=micro).train()
        rows.append(log(tmp_path / name))
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        assert one == pytest.approx(other, rel=1e-3)


def test_a_stopped_training_goes_on_exactly(places, tmp_path):
    """With LoRA and its dropout; the process that goes on could be a new one, see test_finetune_processes.py."""
    recipe = dataclasses.replace(kit.LORA, steps=4, learning_rate=1e-3, lora_dropout=0.2)
    trainer(places, tmp_path / "straight", recipe, save_every=2).train()
    shutil.copytree(tmp_path / "straight", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-00000004")
    second = trainer(places, tmp_path / "again", recipe, save_every=2)
    assert second.step == 2
    assert [row["step"] for row in log(tmp_path / "again")] == [1, 2]
    second.train()
    assert log(tmp_path / "again") == log(tmp_path / "straight")
    states = [
        torch.load(tmp_path / name / "checkpoint-00000004" / "state.pt", weights_only=True)
        for name in ("straight", "again")
    ]
    assert all(torch.equal(weight, states[1]["weights"][name]) for name, weight in states[0]["weights"].items())
    for one, other in zip(states[0]["ema"]["shadow_params"], states[1]["ema"]["shadow_params"], strict=True):
        assert torch.equal(one, other)


def test_a_training_killed_before_its_first_checkpoint_begins_its_logs_anew(places, tmp_path):
    recipe = dataclasses.replace(kit.RECIPE, steps=3)
    fit = trainer(places, tmp_path / "out", recipe)
    fit.save = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit.train()
    assert [row["step"] for row in log(tmp_path / "out")] == [1, 2, 3]
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    trainer(places, tmp_path / "out", recipe).train()
    assert [row["step"] for row in log(tmp_path / "out")] == [1, 2, 3]


def test_a_look_that_fails_costs_no_update_and_is_had_later(places, tmp_path):
    recipe = dataclasses.replace(kit.RECIPE, steps=3)
    fit = trainer(places, tmp_path / "out", recipe, save_every=2, look_every=2)
    fit._look = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit.train()
    assert folder.latest(tmp_path / "out").name == "checkpoint-00000002"
    for _ in range(2):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        fit = trainer(places, tmp_path / "out", recipe, save_every=2, look_every=2)
        fit.train()
        assert [row["step"] for row in read_lines(tmp_path / "out" / folder.HELD_OUT)[0]] == [2, 3]


def test_a_request_to_stop_ends_behind_an_update_with_a_checkpoint(places, tmp_path):
    fit = trainer(places, tmp_path / "out", dataclasses.replace(kit.RECIPE, steps=9))
    note = fit._note_skipped

    def interrupt(batch):
        if fit.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        note(batch)

    fit._note_skipped = interrupt
    result = fit.train()
    assert (result["step"], result["finished"]) == (2, False)
    assert folder.latest(tmp_path / "out").name == "checkpoint-00000002"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_short_floats_train_look_and_export(places, tmp_path):
    """Frozen weights are kept short then, trained ones are not."""
    recipe = dataclasses.replace(kit.LORA, steps=2, precision="bf16", gradient_checkpointing=True, lora_dropout=0.1)
    fit = trainer(places, tmp_path / "out", recipe, look_every=2)
    fit.train()
    kinds = {(weight.requires_grad, weight.dtype) for weight in fit.joint.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(math.isfinite(row["noise"]) for row in log(tmp_path / "out"))
    exported, start_from = load(fit.export()).mllm, load(places[0]).mllm
    attention = "model.visual.blocks.0.attn.qkv.weight"
    assert torch.equal(exported.state_dict()[attention], start_from.state_dict()[attention]), "never rounded"


def test_the_papers_baseline_has_neither_chain_nor_layout(places, tmp_path):
    recipe = dataclasses.replace(kit.RECIPE, chains=False, layout=False)
    pipeline = load(places[0])
    batch = kit.batch(pipeline, kit.examples(drawings=1, edits=1), recipe)
    words = [pipeline.tokenizer.decode(row[row >= 0]) for row in batch.sequences.labels]
    assert words == ["<|im_gen_start|><|im_gen_end|><|endoftext|>"] * 2
    noised = Noiser(pipeline, recipe, 0, torch.device("cpu"))(batch)
    assert not noised.spatial.any()
    assert noised.reference.any()
    fit = trainer(places, tmp_path / "out", dataclasses.replace(recipe, steps=1))
    fit.train()
    model = load(fit.export())
    assert not model.config.chains
    assert not model.config.layout


def test_updates_without_a_finite_gradient_are_left_out_and_end_a_training(places, tmp_path):
    fit = trainer(places, tmp_path / "out", dataclasses.replace(kit.RECIPE, steps=40, warmup_steps=0), save_every=1)
    before = {name: weight.detach().clone() for name, weight in fit.joint.trained().items()}
    poisoned = fit.joint.projector.output_projector.bias
    poisoned.data[0] = math.nan
    with pytest.raises(TrainingError, match="has not been finite for 10 updates, up to step 9"):
        fit.train()
    assert fit.faults == 10
    poisoned.data[0] = before["projector.output_projector.bias"][0]
    assert all(torch.equal(weight, before[name]) for name, weight in fit.joint.trained().items())


def test_looks_leave_a_grid_and_held_out_losses_and_change_nothing(places, tmp_path):
    recipe = dataclasses.replace(kit.RECIPE, steps=2, learning_rate=1e-3)
    trainer(places, tmp_path / "blind", recipe).train()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    fit = trainer(places, tmp_path / "out", recipe, look_every=1, samples=7)
    fit.train()
    assert log(tmp_path / "out") == log(tmp_path / "blind")
    rows = read_lines(tmp_path / "out" / folder.HELD_OUT)[0]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"held_out/cross_entropy", "held_out/noise/edit"} < set(rows[0])
    with Image.open(tmp_path / "out" / "grids" / "00000002.png") as grid:
        assert grid.size[0] > 4 * 192
        assert len(grid.convert("RGB").getcolors(1 << 20)) > 20


def test_the_finished_model_is_the_average_and_draws(places, tmp_path):
    recipe = dataclasses.replace(kit.LORA, steps=3, learning_rate=1e-2, warmup_steps=0)
    fit = trainer(places, tmp_path / "out", recipe)
    fit.train()
    model = load(fit.export())
    unet = dict(model.unet.named_parameters())
    trained = list(fit.joint.trained())
    for name, shadow in zip(trained, fit.ema.shadow_params, strict=True):
        if name.startswith("unet."):
            assert torch.equal(unet[name.removeprefix("unet.")], shadow)
    assert not torch.equal(fit.joint.unet.conv_in.weight, unet["conv_in.weight"])
    assert torch.equal(model.vae.encoder.conv_in.weight, load(places[0]).vae.encoder.conv_in.weight)
    drawn = model("a red apple", chain=got_kit.APPLE, num_inference_steps=1, generator=got_kit.generator(0))
    assert drawn.images[0].size == (32, 32)


def test_a_model_of_an_earlier_step_is_not_taken_for_the_finished_one(places, tmp_path, capsys):
    """A model is exported midway; then the training ends, but is killed before its own model is written."""
    command = ["--model", places[0], "--data", places[1], "--output", str(tmp_path / "out"), "--device", "cpu"]
    command += ["--look-every", "0", "--set", "steps=3", "batch=2", "warmup_steps=0", "most_tokens=400"]
    fit = trainer(places, tmp_path / "out", changed(RECIPES["mini"], command[-4:]))
    fit.train()
    fit.step = 1
    fit.export()
    assert folder.exported(tmp_path / "out") == 1
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["finished"], result["step"]) == (True, 3)
    assert folder.exported(tmp_path / "out") == 3
    written = (tmp_path / "out" / "model" / "training.json").stat().st_mtime_ns
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert main(command) == 0
    assert (tmp_path / "out" / "model" / "training.json").stat().st_mtime_ns == written, "what is finished stays"


def test_without_clipping_the_gradient_stays_as_it_is(places, tmp_path):
    weights = []
    for name, norm in (("none", 0.0), ("wide", 1e9)):
        recipe = dataclasses.replace(kit.RECIPE, steps=1, warmup_steps=0, learning_rate=1e-2, clip_norm=norm)
        fit = trainer(places, tmp_path / name, recipe)
        fit.train()
        weights.append(fit.joint.unet.conv_in.weight)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], load(places[0]).unet.conv_in.weight)


def test_what_was_skipped_is_counted_and_noted_once_by_step(tmp_path):
    """A long prompt among the examples; what is noted belongs to the update that it was left out of."""
    made = kit.examples(drawings=3)
    long = dataclasses.replace(made[0], id="long", prompt="a red apple and " * 300)
    with Writer(tmp_path / "data") as writer:
        for one in (*made, long):
            writer.add(one)
    places = kit.saved_pipeline(tmp_path / "model"), str(tmp_path / "data")
    result = trainer(places, tmp_path / "out", dataclasses.replace(kit.RECIPE, steps=4)).train()
    noted = read_lines(tmp_path / "out" / folder.SKIPPED)[0]
    assert result["skipped"] == len(noted) > 0
    assert {row["step"] for row in noted} <= {1, 2, 3, 4}
    folder.cut_logs(tmp_path / "out", noted[0]["step"] - 1)
    assert read_lines(tmp_path / "out" / folder.SKIPPED)[0] == []


def test_losses_go_to_a_tracker_as_well(places, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit = trainer(places, tmp_path / "out", dataclasses.replace(kit.RECIPE, steps=2), tracker="tensorboard")
    fit.train()
    fit.close()
    events = EventAccumulator(str(tmp_path / "out" / "got")).Reload()
    found = [event.value for event in events.Scalars("cross_entropy")]
    assert found == pytest.approx([row["cross_entropy"] for row in log(tmp_path / "out")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected --data and --output"),
        (["--data", "nowhere", "--output", "OUT", "--device", "cpu"], "nowhere: no such file or folder"),
        (["--data", "x:0", "--output", "OUT"], "positive weight but got 'x:0'"),
        (["--data", "x", "--output", "OUT", "--set", "batch=3", "--micro", "2"], "each divide, but got 3"),
        (["--data", "DATA", "--output", "OUT", "--model", "no-model"], "no-model is none of these"),
        (["--data", "DATA", "--output", "OUT", "--export"], "Expected a checkpoint"),
        (
            ["--data", "x", "--output", "OUT", "--keep", "0"],
            "argument --keep: expected a whole number from 1 up but got 0",
        ),
        (["--join", "q", "s"], "Expected --output"),
        (["--data", "x", "--output", "OUT", "--track", "paper"], "Expected a tracker that is installed"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, places, tmp_path, capsys):
    names = {"OUT": str(tmp_path / "out"), "DATA": places[1]}
    assert main([names.get(word, word) for word in arguments]) == 2
    assert not (tmp_path / "out" / "run.json").exists() or "--export" in arguments
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert message in error[0]


@pytest.mark.parametrize("recipe", [kit.RECIPE, kit.LORA])
def test_counted_weights_are_those_that_are_trained(recipe):
    pipeline = got_kit.make_pipeline()
    parts = {name: getattr(pipeline, name) for name in ("mllm", "unet", "projector", "vae")}
    if recipe.lora_rank:
        parts["mllm"] = untied(parts["mllm"])
    counted = budget.weights(parts, recipe)
    trained = Joint.of(pipeline, recipe).trained()
    assert counted.trained == sum(weight.numel() for weight in trained.values())
    assert (counted.frozen > 0) == (recipe.lora_rank > 0)


@pytest.mark.slow
def test_the_memory_of_the_full_size_is_printed(capsys):
    assert main(["--recipe", "got-6b-pretrain", "--memory"]) == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)
    assert numbers["weights"]["lora"] == 74_305_536
    assert numbers["weights"]["copies"] == 622_477_312
    assert 5 < numbers["forward_teraflop"]["unet"] < 7
    assert "Counted, not run." in printed.err


@pytest.mark.parametrize("name", ["fsdp", "zero2"])
def test_configurations_of_clusters_can_be_read(name):
    path = kit.ROOT / "docs" / "training" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.mixed_precision == RECIPES["got-6b-pretrain"].precision
    assert config.num_processes == 8
    assert yaml.safe_load(path.read_text())["distributed_type"] in ("FSDP", "DEEPSPEED")


def test_qwen_and_sdxl_make_a_start(tmp_path):
    qwen, sdxl = tmp_path / "qwen", tmp_path / "sdxl"
    shutil.copytree(DATA / "qwen", qwen)
    shutil.copytree(DATA / "sdxl", sdxl)
    with seeded(5):
        mllm = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(qwen))
        unet = UNet2DConditionModel.from_config(json.loads((sdxl / "unet/config.json").read_text()))
        vae = AutoencoderKL.from_config(json.loads((sdxl / "vae/config.json").read_text()))
    mllm.save_pretrained(qwen)
    unet.save_pretrained(sdxl / "unet")
    vae.save_pretrained(sdxl / "vae")
    assert main(["--join", str(qwen), str(sdxl), "--output", str(tmp_path / "start")]) == 0
    pipeline = load(tmp_path / "start")
    assert torch.equal(pipeline.unet.conv_in.weight[:, :4], unet.conv_in.weight)
    assert not pipeline.unet.conv_in.weight[:, 4:].any()
    assert torch.equal(pipeline.mllm.model.visual.state_dict()["blocks.0.attn.qkv.weight"],
                       mllm.model.visual.state_dict()["blocks.0.attn.qkv.weight"])  # fmt: skip
    assert pipeline.mllm.config.tie_word_embeddings is False
    joint = Joint.of(pipeline, RECIPES["got-6b-finetune"])
    assert released.origin("mllm", "lm_head.weight").key in joint.trained()
    with pytest.raises(CheckpointError, match="Expected a new or empty folder"):
        start(qwen, sdxl, tmp_path / "start")
