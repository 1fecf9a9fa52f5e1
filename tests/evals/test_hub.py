"""Checkpoints by name, in Python and in every command that takes one: from any working directory, in one line."""

import re
import shutil
import traceback

import pytest

from evals.core.records import UserError
from evals.detectors.registry import make_detector
from evals.embedders.registry import make_image_embedder
from evals.generators import registry as generators
from evals.generators.diffusers_pipeline import make_diffusers
from evals.generators.registry import GeneratorOptions
from got import __main__ as got_command
from got import checkpoint
from got.finetune import __main__ as finetune_command
from got.model.networks import SemanticProjector
from got.pipeline import GoTPipeline
from got.released.reference import ReferencePipeline
from got.train.__main__ import main
from got.util.hub import MINI_PATH, CheckpointError, local_folder, locate

UNKNOWN = [
    ("nowhere", "mini, a folder or a hub id .* nowhere is none of these"),
    ("no/where/at", "no/where/at is none of these"),
    ("no/where", "no/where: no such file or folder, and it cannot be had from the hub"),
    ("file", "Expected a folder but file is a file"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory that is not the repository's, with a file in it; the hub cannot be reached (conftest.py)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


@pytest.mark.parametrize("name", ["mini", "got/mini", "got/mini/"])
@pytest.mark.parametrize("load", [GoTPipeline.from_pretrained, ReferencePipeline.from_pretrained, checkpoint.load])
def test_the_embedded_weights_have_the_same_names_in_every_directory(name, load):
    pipeline = load(name)
    assert pipeline.config.scale == "mini"
    assert pipeline.mllm.name_or_path == str(MINI_PATH / "mllm")


def test_a_folder_is_preferred_to_the_embedded_weights_where_its_path_was_given(elsewhere):
    for name in ("mini", "got/mini"):
        (elsewhere / name).mkdir(parents=True)
    assert local_folder("mini") == MINI_PATH
    assert local_folder("./mini").samefile(elsewhere / "mini")
    assert local_folder("got/mini").samefile(elsewhere / "got/mini")
    shutil.rmtree(elsewhere / "got")
    assert local_folder("got/mini") == MINI_PATH


@pytest.mark.parametrize("load", [GoTPipeline.from_pretrained, checkpoint.load])
def test_a_checkpoint_that_was_saved_when_its_classes_lay_elsewhere_is_loaded(elsewhere, load):
    older = shutil.copytree(MINI_PATH, elsewhere / "older")
    index = (older / "model_index.json").read_text()
    assert '"got.model.networks"' in index
    (older / "model_index.json").write_text(index.replace("got.model.networks", "got.models"))
    assert type(load(older).projector) is SemanticProjector


@pytest.mark.parametrize(("name", "message"), UNKNOWN)
@pytest.mark.parametrize("load", [locate, checkpoint.load, GoTPipeline.from_pretrained])
def test_an_unknown_checkpoint_is_refused_in_one_line(name, message, load):
    with pytest.raises(CheckpointError, match=message) as raised:
        load(name)
    assert "\n" not in str(raised.value)
    assert len("".join(traceback.format_exception(raised.value)).splitlines()) < 20


@pytest.fixture
def others(elsewhere):
    """Folders that are no pipeline of ours."""
    (elsewhere / "mini").mkdir()
    for name, index in (
        ("sd", '{"_class_name": "StableDiffusionPipeline"}'),
        ("torn", '{"_class_name": '),
        ("list", "[]"),
    ):
        (elsewhere / name).mkdir()
        (elsewhere / name / "model_index.json").write_text(index)


NO_PIPELINE = [
    ("", "Expected mini, a folder or a hub id .* but got ''"),
    (" ", "but got ' '"),
    ("./mini", "mini has no model_index.json, so it is not a saved pipeline"),
    ("./nowhere", "./nowhere is none of these"),
    ("sd", "Expected a GoTPipeline in sd but found StableDiffusionPipeline"),
    ("torn", "model_index.json is not valid JSON"),
    ("list", "Expected a JSON object in list/model_index.json"),
]


@pytest.mark.parametrize(("name", "message"), [*NO_PIPELINE, (None, "but got None"), (3, "but got 3")])
@pytest.mark.parametrize("load", [checkpoint.load, GoTPipeline.from_pretrained, ReferencePipeline.from_pretrained])
def test_what_is_no_pipeline_is_refused_in_one_line_and_the_hub_is_not_asked(others, monkeypatch, name, message, load):
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    with pytest.raises(CheckpointError, match=message) as raised:
        load(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "message"), NO_PIPELINE)
@pytest.mark.parametrize("words", [["info"], ["info", "--checkpoint"], ["generate", "two cats", "--checkpoint"]])
def test_commands_refuse_what_is_no_pipeline_in_one_line(others, capsys, words, name, message):
    assert got_command.main([*words, name]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./gone", "neither a folder here nor the form of a hub id (owner/name)"),
        ("/gone/at/all", "neither a folder here nor the form of a hub id (owner/name)"),
        ("gone", "no folder {}/gone, and not to be had from the hub ("),
        ("no/where", "no folder {}/no/where, and not to be had from the hub ("),
    ],
)
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")  # diffusers' own call of the hub's client
@pytest.mark.parametrize("kind", ["hf", "diffusers", "dino"])
def test_a_model_that_is_neither_here_nor_on_the_hub_says_so_in_one_line(elsewhere, kind, name, message):
    options = GeneratorOptions(
        model="diffusers", argument=name, checkpoint="mini", steps=None, semantic=True, spatial=True, reference=True,
        semantic_scale=None, spatial_scale=None, reference_scale=None, chain="own", device="cpu", dtype="float32",
    )  # fmt: skip
    load = {"hf": lambda: make_detector(f"hf:{name}"), "diffusers": lambda: make_diffusers(options),
            "dino": lambda: make_image_embedder(f"dino:{name}")}[kind]  # fmt: skip
    with pytest.raises(UserError) as raised:
        load()
    said = str(raised.value)
    assert f"{kind}:{name} cannot be loaded: {message.format(elsewhere)}" in said
    assert "\n" not in said
    assert len(said) < 400


def test_options_of_a_download_reach_the_hub(elsewhere):
    with pytest.raises(CheckpointError, match="it cannot be had from the hub"):
        GoTPipeline.from_pretrained("no/where", revision="main", cache_dir=elsewhere / "cache", local_files_only=True)
    assert GoTPipeline.from_pretrained("mini", revision="main", cache_dir=elsewhere / "cache").config.scale == "mini"


@pytest.mark.parametrize(("name", "message"), UNKNOWN[:3])
@pytest.mark.parametrize(
    "words",
    [
        ["info", "{}"],
        ["generate", "two cats", "--checkpoint", "{}"],
        ["edit", "file", "remove the cat", "--checkpoint", "{}"],
        ["convert", "--got", "{}", "--qwen", "got/mini", "--sdxl", "got/mini", "--output", "new"],
        ["convert", "--got", "mini", "--qwen", "{}", "--sdxl", "mini", "--output", "new"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_commands_refuse_it_in_one_line(words, name, message, capsys):
    if "edit" in words:
        shutil.copy(next(MINI_PATH.parents[1].glob("docs/*.png")), "file")
    assert got_command.main([word.format(name) for word in words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["mini", "got/mini"])
def test_every_command_knows_the_embedded_weights(name, elsewhere, capsys):
    assert got_command.main(["info", name]) == 0
    assert f'"checkpoint": "{MINI_PATH}"' in capsys.readouterr().out
    assert got_command.main(["convert", "--got", name, "--qwen", name, "--sdxl", name, "--output", "new"]) == 2
    assert f"Cannot read {MINI_PATH}" in capsys.readouterr().err, "its folder, not a download"
    assert main(["unpack", "--folder", "unpacked", "--start", name]) == 0
    assert (elsewhere / "unpacked").is_dir()
    assert generators.batch_size("got", name) == 32
    assert generators.GENERATORS["got"].weights(name) == MINI_PATH
    options = GeneratorOptions(
        model="diffusers",
        argument=name, checkpoint="mini", steps=None, semantic=True, spatial=True, reference=True,
        semantic_scale=None, spatial_scale=None, reference_scale=None, chain="own", device="cpu", dtype="float32",
    )  # fmt: skip
    with pytest.raises(UserError, match=f"diffusers:{name} is GoT's embedded checkpoint: use --model got"):
        make_diffusers(options)


@pytest.mark.parametrize(("name", "message"), UNKNOWN[:3])
def test_training_refuses_it_in_one_line(name, message, capsys):
    for words in (["unpack", "--start", name], ["export", "--mean-with", name]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
    assert got_command  # the same weights, trained on
    from got.data import __main__ as data_command

    assert data_command.main(["make", "--num", "8", "--workers", "1", "--output", "icons"]) == 0
    capsys.readouterr()
    assert finetune_command.main(["--data", "icons", "--model", name, "--output", "new", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
