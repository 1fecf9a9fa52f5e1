"""`python -m got info`: what it counts, and the damage that it sees without loading anything."""

import json

import got_kit
import pytest
import safetensors.torch
import torch

from got import __main__ as command
from got import checkpoint


@pytest.fixture
def saved(tmp_path):
    checkpoint.save_fp16(got_kit.pipeline(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_info_counts_what_the_libraries_count(saved, capsys):
    assert command.main(["info", str(saved)]) == 0
    out = capsys.readouterr().out.splitlines()
    record, pipe = json.loads(out[-1]), got_kit.pipeline()
    assert record["scale"] == "mini"
    assert record["trained_with"] == {"chains": True, "layout": True}
    assert record["image_size_px"] == 32
    for name in ("vae", "unet", "mllm", "projector"):
        unique = {id(weight): weight.numel() for weight in getattr(pipe, name).parameters()}
        assert record["parts"][name]["parameters"] == sum(unique.values())
        assert record["parts"][name]["dtypes"] == ["F16"]
    assert record["parameters"] == sum(part["parameters"] for part in record["parts"].values())
    assert record["bytes"] == sum(path.stat().st_size for path in saved.glob("*/*"))
    assert record["defaults"]["text_to_image"] == {"semantic": 2.5, "spatial": 2.5, "reference": 1.0}
    assert any(line.startswith("unet") for line in out)


def test_info_takes_its_checkpoint_as_the_other_commands_do(saved, capsys):
    assert command.main(["info", str(saved)]) == command.main(["info", "--checkpoint", str(saved)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert command.main(["info", "mini", "--checkpoint", str(saved)]) == 2
    assert "Expected one checkpoint but got mini and --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "index"),
    [("mllm", "model.safetensors.index.json"), ("unet", "diffusion_pytorch_model.safetensors.index.json")],
)
def test_a_missing_shard_is_noticed(saved, capsys, part, index):
    """Each library has its own name for the list of shards."""
    (saved / part / index).write_text(json.dumps({"weight_map": {"a": "part-2.safetensors"}}))
    assert command.main(["info", str(saved)]) == 2
    assert capsys.readouterr().err == f"error: {saved / part} has no file part-2.safetensors\n"


def archive(path):
    torch.save({"a": torch.zeros(3)}, path)


def no_shape(path):
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes().replace(b'"shape"', b'"shapf"'))


def answer(path):
    path.write_text('{"error": "Repository not found"}')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (archive, "is a zip archive, as torch saves one, not safetensors"),
        (no_shape, "is no safetensors file: its header is damaged"),
        (answer, 'is text, not weights: {"error": "Repository not found"}'),
    ],
)
def test_a_file_that_is_no_safetensors_is_called_what_it_is(saved, capsys, damage, said):
    path = saved / "unet" / "diffusion_pytorch_model.safetensors"
    damage(path)
    assert command.main(["info", str(saved)]) == 2
    assert capsys.readouterr().err == f"error: {path} {said}\n"


@pytest.mark.parametrize("size", [None, [64], 0])
def test_a_config_with_no_number_for_a_size_is_named(saved, capsys, size):
    path = saved / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": size}))
    assert command.main(["info", str(saved)]) == 2
    assert capsys.readouterr().err == f"error: {path}: expected sample_size of type int but got {size!r}\n"


def test_a_list_of_shards_that_lists_none_is_named(saved, capsys):
    path = saved / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text("{}")
    assert command.main(["info", str(saved)]) == 2
    assert capsys.readouterr().err == f"error: {path} has no weight_map\n"


def test_a_config_without_a_size_is_named(saved, capsys):
    path = saved / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["sample_size"]
    path.write_text(json.dumps(config))
    assert command.main(["info", str(saved)]) == 2
    assert capsys.readouterr().err == f"error: {path} has no sample_size\n"
