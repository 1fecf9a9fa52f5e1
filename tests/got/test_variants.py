"""The variants of Table 3: what each is taught, what it is shown, that nothing else differs, and how it is kept."""

import dataclasses
import json

import got_kit
import numpy as np
import pytest
import report_kit
import torch
from PIL import ImageChops

from evals import ablation
from got.checkpoint import load, save_fp16
from got.iconworld.scenes import stable_rng
from got.iconworld.vocabulary import vocabulary
from got.model import networks as models
from got.model.config import CONFIGS
from got.model.tokenizer import END_OF_TEXT, IMAGE_END, IMAGE_START, build_tokenizer, image_token
from got.pipeline import GoTPipeline
from got.plan.chain import BOX_START
from got.train import trainer, variants
from got.train.__main__ import main
from got.train.reasoner import end_to_end
from got.train.unet import Drawing, SceneTokens, load_tokens, save_tokens
from got.train.vae import Setup
from got.train.variants import VARIANTS, Amount, VariantDataset, train_variants
from got.util.errors import UserError
from got.util.hub import MINI_PATH
from reports import formats, tables
from reports.frames import load_ablation

CONFIG = got_kit.CONFIG
AMOUNT = Amount(steps=3, joint_steps=2)
TURN = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """What all variants start from: a tiny pipeline that knows the icon world's words, with scene tokens."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = build_tokenizer(vocabulary(edits=True))
    with models.seeded(0):
        pipe = GoTPipeline(
            vae=models.build_vae(CONFIG).eval(),
            unet=models.build_unet(CONFIG).eval(),
            scheduler=models.build_scheduler(CONFIG),
            mllm=models.build_mllm(CONFIG, tokenizer).eval(),
            tokenizer=tokenizer,
            projector=models.build_projector(CONFIG),
            image_processor=models.build_image_processor(CONFIG),
        )
        tokens = SceneTokens(CONFIG)
    pipe.mllm.generation_config.max_new_tokens = 8
    save_fp16(pipe, folder)
    save_tokens(tokens, folder)
    return folder


def setup_of(start, folder):
    return Setup(config=CONFIG, folder=folder, scenes=8, seed=1, start=start)


@pytest.fixture(scope="module")
def made(start, tmp_path_factory):
    """All four, trained for a few steps."""
    folder = tmp_path_factory.mktemp("variants")
    words = ["--folder", folder, "--start", start, "--scenes", 8, "--threads", 1]
    steps = ["--steps", AMOUNT.steps, "--joint-steps", AMOUNT.joint_steps]
    assert main(["variants", *map(str, [*words, *steps])], CONFIG) == 0
    return folder


def curve(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------- lessons
def test_without_chains_image_tokens_follow_the_prompt_and_nothing_else_differs(start, tmp_path):
    tokenizer = load(start).tokenizer
    lessons = VariantDataset(setup_of(start, tmp_path), tokenizer)
    for examples in (lessons.pool(3, 7)[0], lessons.rows([scene for _, scene in lessons.held_out()], 3, 5)[1]):
        bare, told = (lessons.encoded(examples, chains=chains) for chains in (False, True))
        image = "".join(image_token(i) for i in range(64))
        for row, chained in zip(bare.input_ids, told.input_ids, strict=True):
            prompt, _, answer = tokenizer.decode(row).partition(TURN)
            other_prompt, _, other_answer = tokenizer.decode(chained).partition(TURN)
            assert answer.removesuffix(END_OF_TEXT).startswith(IMAGE_START + image + IMAGE_END)
            assert BOX_START not in answer
            assert BOX_START in other_answer
            assert prompt == other_prompt
        words = {tokenizer.decode(label) for label in bare.labels[bare.labels >= 0]}
        assert words == {IMAGE_START, IMAGE_END, END_OF_TEXT}


def test_lessons_depend_on_the_seed_and_the_step_alone(start, tmp_path):
    setup = setup_of(start, tmp_path)
    first, again = (VariantDataset(setup, None) for _ in range(2))
    assert first.pool(2, 3) == again.pool(2, 3)
    assert first.pool(2, 3) != first.pool(2, 4)
    other = VariantDataset(dataclasses.replace(setup, seed=2), None)
    assert other.pool(2, 3) != first.pool(2, 3)
    assert not {text for text, _ in first.held_out()} & {text for text, _ in other.held_out()}


# -------------------------------------------------------------------------------------------------------------- layout
def seen(unet, run):
    """What the UNet is given as spatial latents while something runs."""
    inputs = []
    handle = unet.register_forward_pre_hook(lambda module, args: inputs.append(args[0][:, 8:].detach()))
    run()
    handle.remove()
    return torch.cat(inputs)


@pytest.mark.parametrize("layout", [False, True])
def test_without_a_layout_the_unet_sees_the_null_form_in_training_as_in_sampling(start, tmp_path, layout):
    pipe = load(start)
    setup = dataclasses.replace(setup_of(start, tmp_path), scenes=4)
    bank, lessons = setup.bank(), VariantDataset(setup, pipe.tokenizer)
    drawing = Drawing.of(pipe.unet, bank, setup, pipe.vae)
    networks = {"mllm": pipe.mllm, "projector": pipe.projector}

    def learn():
        for step in range(3):
            rows, examples = lessons.rows(bank.scenes, 4, step)
            sequences = lessons.encoded(examples, chains=True)
            end_to_end(networks, drawing, rows, sequences, stable_rng(step), layout=layout)

    pipe.register_to_config(layout=layout)
    pipe.set_progress_bar_config(disable=True)
    in_training = seen(pipe.unet, learn)
    in_sampling = seen(pipe.unet, lambda: pipe("a dog", chain=got_kit.APPLE, num_inference_steps=1))
    assert bool((in_training == 0).all()) is not layout
    assert bool((in_sampling == 0).all()) is not layout
    if not layout:
        off = pipe("a dog", chain=got_kit.APPLE, num_inference_steps=1, spatial=False, generator=got_kit.generator(1))
        on = pipe("a dog", chain=got_kit.APPLE, num_inference_steps=1, spatial=True, generator=got_kit.generator(1))
        assert ImageChops.difference(on.images[0], off.images[0]).getbbox() is None


def test_a_pipeline_without_chains_draws_a_prompt_at_once_and_obeys_a_chain_that_is_given():
    pipe = got_kit.make_pipeline()
    wanted = pipe(["red apple", "blue dog"], chain=["", ""], num_inference_steps=1, generator=got_kit.generator(1))
    pipe.register_to_config(chains=False)
    bare = pipe(["red apple", "blue dog"], num_inference_steps=1, generator=got_kit.generator(1))
    assert [str(chain) for chain in bare.chains] == ["", ""]
    for one, other in zip(bare.images, wanted.images, strict=True):
        assert ImageChops.difference(one, other).getbbox() is None
    mixed = pipe(["red apple", "blue dog"], chain=[got_kit.APPLE, None], num_inference_steps=1)
    assert [str(chain) for chain in mixed.chains] == [got_kit.APPLE, ""]


# ------------------------------------------------------------------------------------------------------------ training
def test_all_variants_take_the_same_number_of_steps(made):
    last = {path.stem: curve(path)[-1] for path in (made / "training").glob("*.jsonl")}
    assert {name: row["step"] for name, row in last.items()} == {
        "prompts": 3, "chains": 3, "joint-baseline": 2, "joint-got": 2, "joint-ssgm": 2, "joint-full": 2,
    }  # fmt: skip
    assert "no_chain" in last["prompts"]
    assert "chains_right" in last["joint-ssgm"]


def test_every_variant_is_a_pipeline_that_keeps_to_its_switches(made, start):
    drawn = {}
    for variant in VARIANTS:
        pipe = load(made / variant.name)
        pipe.set_progress_bar_config(disable=True)
        assert (pipe.config.chains, pipe.config.layout) == (variant.chains, variant.layout)
        assert pipe.image_processor is None
        out = pipe("a photo of a dog", num_inference_steps=1, generator=got_kit.generator(0))
        assert (str(out.chains[0]) == "") is (not variant.chains)
        drawn[variant.name] = np.asarray(out.images[0])
        card = (made / variant.name / "README.md").read_text()
        assert f'"{variant.title}"' in card
        assert "{" not in card
        assert (made / variant.name / "samples.png").stat().st_size > 1000
        assert (made / variant.name / f"joint-{variant.name}.jsonl").is_file()
    assert (load(made / "full").mllm.lm_head.weight - load(start).mllm.lm_head.weight).abs().max() < 0.01
    assert (load(made / "ssgm").mllm.lm_head.weight - load(start).mllm.lm_head.weight).abs().max() > 0.01
    assert len({image.tobytes() for image in drawn.values()}) == 4


def test_finished_variants_are_left_alone_and_other_settings_refused(made, start, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    train_variants(setup_of(start, made), made, AMOUNT)
    assert "nothing, all are there" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")} == before
    with pytest.raises(UserError, match=r"other settings: joint_steps \(there 2, now 9\)"):
        train_variants(setup_of(start, made), made, dataclasses.replace(AMOUNT, joint_steps=9))


def test_a_training_that_was_cut_off_ends_with_the_same_weights(made, start, tmp_path, monkeypatch):
    class Cut(Exception):
        """Stands for a kill."""

    def breaking(function, calls):
        count = iter(range(calls))

        def one(*args, **options):
            if next(count, None) is None:
                raise Cut
            return function(*args, **options)

        return one

    torch.set_num_threads(1)  # as the whole one: more add up in another order
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(variants, "VARIANTS", VARIANTS[2:3])
    for name, calls in (("aligned", 5), ("end_to_end", 1)):  # of which four tell the pace
        with monkeypatch.context() as patch:
            patch.setattr(variants, name, breaking(getattr(variants, name), calls))
            with pytest.raises(Cut):
                train_variants(setup_of(start, tmp_path), tmp_path, AMOUNT)
    train_variants(setup_of(start, tmp_path), tmp_path, AMOUNT)
    whole, resumed = (load(folder / "ssgm") for folder in (made, tmp_path))
    for part in ("mllm", "projector", "unet"):
        pairs = zip(getattr(whole, part).parameters(), getattr(resumed, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), part


def test_scene_tokens_come_back_and_their_absence_is_told(start, tmp_path):
    with models.seeded(0):
        tokens = SceneTokens(CONFIG)
    save_tokens(tokens, tmp_path)
    for name, weight in load_tokens(CONFIG, tmp_path).state_dict().items():
        assert torch.allclose(weight, tokens.state_dict()[name], atol=1e-3)
    with pytest.raises(UserError, match=r"Expected scene tokens in .*scene_tokens\.safetensors"):
        load_tokens(CONFIG, tmp_path / "nowhere")
    assert load_tokens(CONFIGS["mini"], MINI_PATH).null.abs().max() > 0


def test_flags_of_other_stages_have_no_effect_on_variants(capsys, tmp_path):
    assert main(["variants", "--folder", str(tmp_path), "--minutes", "3"]) == 2
    assert "--minutes has no effect on variants" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ ablation
def test_the_grid_of_variants_names_what_is_missing(capsys, tmp_path):
    assert ablation.main(["--grid", "variants", "--variants", str(tmp_path)]) == 2
    assert f"no folder {tmp_path / 'baseline'}; `python -m got.train variants`" in capsys.readouterr().err
    assert ablation.main(["--grid", "steps", "--variants", str(tmp_path)]) == 2
    assert "--variants belongs to --grid variants" in capsys.readouterr().err


def test_the_grid_has_the_rows_of_the_paper_and_the_folders_of_the_training():
    assert list(ablation.VARIANTS.items()) == [(variant.title, variant.name) for variant in VARIANTS]


def test_a_table_of_variants_has_the_published_rows_above(tmp_path):
    cells = {name: ["--checkpoint", place] for name, place in ablation.VARIANTS.items()}
    table = tables.ablation_table(load_ablation(report_kit.make_ablation(tmp_path, cells)))
    reported, measured = (rows for _, rows in table.groups())
    assert [row.cells[0].value for row in reported] == [0.38, 0.40, 0.42, 0.64]
    assert all(row.reported for row in reported)
    assert [row.label for row in measured] == [row.label for row in reported]
    assert any("Table 3" in note for note in table.notes)
    assert {len(row.cells) for row in table.rows} == {len(table.columns)}
    markdown, latex = formats.to_markdown(table), formats.to_latex(table)
    assert "GoT Framework" in markdown
    assert "0.64" in latex


@pytest.mark.slow
def test_the_variants_are_run_and_compared(made, capsys, tmp_path):
    words = ["--grid", "variants", "--variants", str(made), "--output", str(tmp_path / "out"), "--steps", "1"]
    assert ablation.main([*words, "--limit", "6", "--images-per-prompt", "1"]) == 0, capsys.readouterr().err
    found = load_ablation(tmp_path / "out")
    assert [cell.name for cell in found.cells] == list(ablation.VARIANTS)
    chains = [json.loads(line)["chain"] for line in (tmp_path / "out/baseline/chains.jsonl").read_text().splitlines()]
    assert chains == [""] * 6
    assert all(cell.run.scores["overall"]["score"]["n"] == 6 for cell in found.cells)
