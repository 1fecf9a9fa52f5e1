"""Checkpoints by name, in Python and in every command that takes one: from any working directory, in one line."""

import shutil
import traceback

import pytest

from evals.core.records import UserError
from evals.generators import registry as generators
from evals.generators.diffusers_pipeline import make_diffusers
from evals.generators.options import GeneratorOptions
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
    ("no/where", "No folder no/where, and no download from the hub"),
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


def test_options_of_a_download_reach_the_hub(elsewhere):
    with pytest.raises(CheckpointError, match="no download from the hub"):
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
    assert generators.weights_place("got", "", name) == MINI_PATH
    options = GeneratorOptions(
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
