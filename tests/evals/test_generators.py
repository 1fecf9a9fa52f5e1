"""Each generator on real, if tiny, models: what it draws, what it draws it from, and how it says what is wrong."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import diffusers_kit
import got_kit
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from runner_kit import lines, make_plan

from evals.core.options import flags_of
from evals.core.records import Case, Sample, UserError, sample_seed
from evals.generators import registry as generators
from evals.generators.diffusers_pipeline import DiffusersGenerator
from evals.generators.got import GoTGenerator
from evals.generators.oracle import oracle_render
from evals.generators.registry import GENERATORS, GeneratorOptions
from evals.harness.runner import run
from evals.harness.settings import Settings
from got.plan.chain import Chain
from got.released.reference import ReferencePipeline

PAIR = Case(id="00000", prompt="a photo of a red apple and a blue dog", tag="t", metadata={})
OPTIONS = GeneratorOptions(
    model="",
    argument="",
    checkpoint="mini",
    steps=2,
    semantic=True,
    spatial=True,
    reference=True,
    semantic_scale=None,
    spatial_scale=None,
    reference_scale=None,
    chain="own",
    device="cpu",
    dtype="float32",
)
INCLUDE = [{"class": "dog", "count": 1, "color": "blue"}, {"class": "apple", "count": 2}]
CASE = Case(
    id="00003", prompt="a photo of a blue dog and two apples", tag="t", metadata={"include": INCLUDE, "prompt": "p"}
)


def samples(count=3, case=CASE):
    return [Sample(case=case, index=i, seed=sample_seed("test", case.id, i, 42)) for i in range(count)]


def pixels(made):
    return [np.asarray(one.image) for one in made]


def assert_same_whatever_the_batch(generator, tolerance=0):
    together = pixels(generator.generate(samples()))
    alone = [pixels(generator.generate([sample]))[0] for sample in reversed(samples())][::-1]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= tolerance
    assert (together[0] != together[1]).any(), "two seeds, one image"


# -------------------------------------------------------------------------------------------------------------- oracle
def test_the_oracle_draws_what_is_asked_for():
    generator = GENERATORS["oracle"].build(OPTIONS)
    assert_same_whatever_the_batch(generator)
    for made in generator.generate(samples()):
        assert made.image.size == (128, 128)
        assert made.chain.count("blue dog") == 1
        assert made.chain.count("apple <|box_start|>") == 2


def test_a_chain_is_drawn_by_its_words_and_boxes():
    chain = "there is a red stop sign <|box_start|>(100,100),(500,500)<|box_end|> (red)"
    image = oracle_render(chain, seed=5)
    assert image.tobytes() == oracle_render(chain, seed=5).tobytes()
    inside, outside = np.asarray(image)[16:60, 16:60], np.asarray(image)[80:, 80:]
    assert (inside[..., 0].mean() - inside[..., 1].mean()) > 50 > abs(outside[..., 0].mean() - outside[..., 1].mean())


# ----------------------------------------------------------------------------------------------------------- diffusers
@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return diffusers_kit.save_pipeline(tmp_path_factory.mktemp("diffusers"), "StableDiffusionPipeline")


def test_any_pipeline_of_diffusers_draws(stable_diffusion):
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(stable_diffusion)))
    assert_same_whatever_the_batch(generator, tolerance=1)
    assert all(made.chain is None for made in generator.generate(samples(1)))


def test_a_pipeline_whose_weights_are_a_pointer_says_so(stable_diffusion, tmp_path):
    copy = shutil.copytree(stable_diffusion, tmp_path / "copy")
    (copy / "vae/diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"vae/diffusion_pytorch_model\.safetensors is a Git LFS pointer"):
        GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(copy)))


def test_pipelines_that_cannot_draw_are_refused_when_they_are_loaded(stable_diffusion, tmp_path):
    copy = shutil.copytree(stable_diffusion, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "NoSuchPipeline"}))
    with pytest.raises(UserError, match=r"cannot be loaded: .*NoSuchPipeline.*; code .* is not run: draw .*folder"):
        GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(copy)))
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(UserError, match="is a DDPMPipeline, which takes no prompt"):
        GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(tmp_path / "ddpm")))


def test_an_image_that_is_no_number_is_no_black_image(stable_diffusion):
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(stable_diffusion)))
    with torch.no_grad():
        next(generator._pipe.unet.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not a number"):
        generator.generate(samples(1))


def test_prompts_that_an_encoder_cuts_are_counted_at_the_end(stable_diffusion, tmp_path, capsys):
    prompts = [
        "a dog",
        "a very very long prompt of a dog that sits beside a pond where no other dog has ever been, " * 2,
    ]
    line = {"tag": "zoo", "include": [{"class": "dog", "count": 1}]}
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({**line, "prompt": prompt}) for prompt in prompts))
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(stable_diffusion)))
    words = ("--model", f"diffusers:{stable_diffusion}", "--prompts", str(tmp_path / "p.jsonl"), "--steps", "1")
    run(make_plan(tmp_path / "run", *words, generator=generator))
    count = len(generator._pipe.tokenizer(prompts[1], verbose=False)["input_ids"])
    said = f"in 1 of 2 prompts (00001: {count} tokens, 77 are read)"
    assert capsys.readouterr().err.count(f"note: words that are beyond what the text encoder reads, {said}\n") == 1


def test_a_diffusers_run_is_complete(stable_diffusion, tmp_path):
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(stable_diffusion)))
    words = ("--model", f"diffusers:{stable_diffusion}", "--limit", "2", "--steps", "2")
    run(make_plan(tmp_path / "run", *words, generator=generator))
    hashes = json.loads((tmp_path / "run/run.json").read_text())["identity"]["generate"]["weights_sha256"]
    assert set(hashes) == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert len(lines(tmp_path / "run/results.jsonl")) == 4


def test_a_pipeline_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded") as error:
        GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(tmp_path / "empty")))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_loaded(stable_diffusion, tmp_path):
    from safetensors.torch import load_file

    copy = tmp_path / "pipe"
    shutil.copytree(stable_diffusion, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(copy)))


def test_an_image_blanked_by_a_safety_checker_is_missing():
    def pipe(prompt, generator, output_type, **extra):
        return SimpleNamespace(
            images=[Image.new("RGB", (4, 4)) for _ in prompt], nsfw_content_detected=[False, True, False]
        )

    made = DiffusersGenerator(pipe, None).generate(samples())
    assert [one.error for one in made] == [None, "blanked by the pipeline's safety checker", None]


# ----------------------------------------------------------------------------------------------------------------- got
@pytest.fixture(scope="module")
def tiny_got(tmp_path_factory):
    folder = tmp_path_factory.mktemp("got") / "pipe"
    got_kit.make_pipeline().save_pretrained(folder)
    return folder


def got_options(folder, **changes):
    return dataclasses.replace(OPTIONS, checkpoint=str(folder), **changes)


@pytest.fixture(scope="module")
def got(tiny_got):
    return GENERATORS["got"].build(got_options(tiny_got))


@pytest.fixture(scope="module")
def drawn_by_got(got):
    return got.generate(samples(2, PAIR))


def test_got_draws_with_its_chain(drawn_by_got):
    first, second = drawn_by_got
    assert first.chain == second.chain, "the chain belongs to the prompt"
    assert (np.asarray(first.image) != np.asarray(second.image)).any()
    assert all(isinstance(warning, str) for warning in first.warnings)


@pytest.mark.parametrize(
    "change",
    [
        {"semantic": False},
        {"spatial": False},
        {"semantic_scale": 0.5},
        {"reference_scale": 3.0},
        {"guidance_interval": (0.0, 0.5)},
        {"steps": 3},
    ],
)
def test_every_switch_and_scale_reaches_the_model(got, drawn_by_got, change):
    other = GoTGenerator(got._pipe, dataclasses.replace(OPTIONS, **change)).generate(samples(2, PAIR))
    assert (pixels(drawn_by_got)[0] != pixels(other)[0]).any()


def test_another_plan_than_its_own_is_drawn_as_given(got):
    def drawn(whose):
        return GoTGenerator(got._pipe, dataclasses.replace(OPTIONS, chain=whose)).generate(samples(2))

    oracle, moved, none = drawn("oracle"), drawn("jitter:0.2"), drawn("none")
    assert [made.chain for made in oracle] == [
        made.chain for made in GENERATORS["oracle"].build(OPTIONS).generate(samples(2))
    ]
    assert oracle[0].chain.count("apple <|box_start|>") == moved[0].chain.count("apple <|box_start|>") == 2
    assert oracle[0].chain != moved[0].chain == drawn("jitter:0.2")[0].chain
    assert {made.chain for made in none} == {""}
    assert (pixels(oracle)[0] != pixels(none)[0]).any()


WORDS = ("a photo of two cats", "a photo of a bus", "a photo of a red apple", "a photo of a dog", "a photo of a clock")


def spread_samples(words=WORDS, each=2):
    cases = [Case(id=f"{i:05d}", prompt=prompt, tag="t", metadata={}) for i, prompt in enumerate(words)]
    return [Sample(case=case, index=i, seed=i) for case in cases for i in range(each)]


def counted_calls(monkeypatch, got):
    calls, real = [], got._pipe.mllm.generate

    def generate(**given):
        calls.append(len(given["input_ids"]))
        return real(**given)

    monkeypatch.setattr(got._pipe.mllm, "generate", generate, raising=False)
    return calls


@pytest.mark.parametrize("together", [2, 32])
def test_chains_of_a_run_are_written_together_whatever_its_batches(got, monkeypatch, together):
    monkeypatch.setattr("evals.generators.got._TOGETHER", together)
    every, calls = spread_samples(), counted_calls(monkeypatch, got)
    drawn = []
    for size in (10, 3):
        generator = GoTGenerator(got._pipe, dataclasses.replace(OPTIONS, prompts=(*WORDS, WORDS[0])))
        parts = [generator.generate(every[start : start + size]) for start in range(0, len(every), size)]
        drawn.append([made for part in parts for made in part])
        assert calls == {2: [2, 2, 1], 32: [5]}[together], "one call of the language model for each group"
        calls.clear()
    assert [made.chain for made in drawn[0]] == [made.chain for made in drawn[1]]
    alone = GoTGenerator(got._pipe, OPTIONS).generate(every)
    assert [made.chain for made in drawn[0]] == [made.chain for made in alone]
    assert [made.warnings for made in drawn[0]] == [made.warnings for made in alone]
    for one, other in zip(pixels(drawn[0]), pixels(alone), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_a_prompt_that_cannot_be_reasoned_about_does_not_take_its_group_with_it(got):
    words = (WORDS[0], "a photo of " + "a dog and " * 1400 + "a cat", WORDS[1])
    generator = GoTGenerator(got._pipe, dataclasses.replace(OPTIONS, prompts=words))
    good = generator.generate(spread_samples((words[0], words[2])))
    assert [made.image is not None for made in good] == [True] * 4
    with pytest.raises(ValueError, match="tokens"):
        generator.generate(spread_samples(words[1:2]))


def test_got_draws_in_the_way_of_its_released_code(got, tiny_got):
    theirs = GENERATORS["got"].build(got_options(tiny_got, reference_compat=True, chain="oracle"))
    ours = GoTGenerator(got._pipe, dataclasses.replace(OPTIONS, chain="oracle"))
    assert type(theirs._pipe) is ReferencePipeline
    one, other = theirs.generate(samples(2)), ours.generate(samples(2))
    boxes = [[[region.box_1000 for region in Chain.parse(made.chain).regions] for made in way] for way in (one, other)]
    assert boxes[0] == boxes[1], "words come back as the tokenizer knows them, boxes as they were"
    assert [made.image.size for made in one] == [made.image.size for made in other]


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--checkpoint .*/nothing cannot be loaded: Expected mini, a folder or a hub"):
        GENERATORS["got"].build(got_options(tmp_path / "nothing"))


# ------------------------------------------------------------------------------------------------------------ registry
@pytest.mark.parametrize("text", ["gan", "folder", "folder:", "got:mini", "", "oracle:x", "diffusers"])
def test_an_unknown_model_is_answered_with_the_known_ones(text):
    with pytest.raises(
        UserError, match=r"expected one of got, oracle, identity, target, released, folder:PATH, diffusers:ID\|PATH"
    ):
        generators.parse_model(text)


def test_a_record_says_where_weights_lie(tmp_path):
    assert GENERATORS["oracle"].weights("") is None
    assert GENERATORS["diffusers"].weights(str(tmp_path)) == tmp_path
    assert GENERATORS["got"].weights("mini").name == "mini"


def test_every_flag_that_a_record_heeds_is_one_that_not_all_models_heed():
    some = {field.name for field, flag in flags_of(Settings) if flag.heeded_by == "model"}
    assert set().union(*(GENERATORS[name].heeds for name in GENERATORS.names())) == some
