import gzip
import hashlib
import json
import os
import pickle
import shutil

import golden_kit
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file

from got import __main__ as command
from got import checkpoint
from got.model.adapter import ADAPTER_FILE, ADAPTER_FOLDER
from got.pipeline import GoTPipeline
from got.released import names as released
from got.released.convert import convert
from got.released.reference import ReferencePipeline
from got.util.hub import CheckpointError

DATA = golden_kit.DATA
GATE = "mllm.base_model.model.model.layers.1.mlp.gate_proj"
EMBEDDING = "mllm.base_model.model.model.embed_tokens.modules_to_save.default.weight"


@pytest.fixture(scope="module")
def state():
    return golden_kit.released_state()


@pytest.fixture(scope="module")
def source(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def run(source, output, **options):
    return convert(source, DATA / "qwen", DATA / "sdxl", output, **options)


@pytest.fixture(scope="module")
def merged(source, tmp_path_factory):
    return run(source, tmp_path_factory.mktemp("out") / "merged")


def test_hub_ids_bring_all_that_is_needed(source, merged, tmp_path, monkeypatch):
    """With a hub that is a folder on this machine: of a repository there comes what the patterns name."""
    repositories = {"some/got": source, "some/qwen": DATA / "qwen", "some/sdxl": DATA / "sdxl", "some/done": merged}

    def download(name, allow_patterns=None):
        folder, here = repositories[name], tmp_path / name
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, here / file)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    converted = convert("some/got", "some/qwen", "some/sdxl", tmp_path / "out")
    assert (converted / "SHA256SUMS").read_text() == (merged / "SHA256SUMS").read_text()
    assert checkpoint.load("some/done").unet.config.in_channels == 12


def test_every_key_of_the_full_size_checkpoint_is_accounted_for():
    expected = json.loads(gzip.decompress((DATA / "GoT-6B-keys.json.gz").read_bytes()))
    expected = {key: tuple(shape) for key, shape in expected.items()}
    parts = released.full_size()
    shapes, optional = released.expected_entries(parts)
    assert shapes == expected
    assert len(expected) == 3527
    assert released.differences(parts, expected) == []
    # The frozen copies may be missing; nothing else may.
    assert released.differences(parts, {k: v for k, v in expected.items() if k not in optional}) == []
    assert all(".original_module." in key for key in optional)
    sizes = {part: sum(weight.numel() for weight in network.parameters()) for part, network in parts.items()}
    assert sizes == {"mllm": 4065787904, "unet": 2567486724, "vae": 83653863, "projector": 6819072}


def test_lora_is_merged_and_the_trained_copies_are_used(state, merged):
    weights = load_file(merged / "mllm/model.safetensors")
    change = state[f"{GATE}.lora_B.default.weight"] @ state[f"{GATE}.lora_A.default.weight"]
    torch.testing.assert_close(
        weights["model.language_model.layers.1.mlp.gate_proj.weight"], state[f"{GATE}.base_layer.weight"] + change
    )
    assert change.abs().max() > 1e-3
    embedding, head = weights["model.language_model.embed_tokens.weight"], weights["lm_head.weight"]
    assert torch.equal(embedding, state[EMBEDDING])
    assert torch.equal(head, state["mllm.base_model.model.lm_head.modules_to_save.default.weight"])
    loaded = checkpoint.load(merged)
    assert not torch.equal(loaded.mllm.lm_head.weight, loaded.mllm.model.language_model.embed_tokens.weight)
    assert loaded.unet.config.in_channels == 12
    assert loaded.got_config.steps == 50
    assert loaded.scheduler.__class__.__name__ == "DDPMScheduler"


def test_checksums_cover_every_file(merged):
    lines = [line.split("  ") for line in (merged / "SHA256SUMS").read_text().splitlines()]
    files = {str(file.relative_to(merged)) for file in merged.rglob("*") if file.is_file()}
    assert {name for _, name in lines} == files - {"SHA256SUMS"}
    for digest, name in lines:
        assert hashlib.sha256((merged / name).read_bytes()).hexdigest() == digest


def test_shards_convert_to_the_same_bytes(state, merged, tmp_path):
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    where = {key: names[i % 2] for i, key in enumerate(state)}
    for name in names:
        torch.save({key: tensor for key, tensor in state.items() if where[key] == name}, tmp_path / name)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    converted = run(tmp_path, tmp_path / "out")
    assert (converted / "SHA256SUMS").read_text() == (merged / "SHA256SUMS").read_text()
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{names[1]}: it does not exist"):
        run(tmp_path, tmp_path / "again")


def test_a_kept_lora_is_merged_when_it_is_loaded(source, state, merged, tmp_path):
    kept = run(source, tmp_path / "kept", keep_lora=True)
    base = load_file(kept / "mllm/model.safetensors")
    assert torch.equal(
        base["model.visual.blocks.0.attn.qkv.weight"], state["mllm.base_model.model.visual.blocks.0.attn.qkv.weight"]
    )
    assert torch.equal(base["model.language_model.layers.1.mlp.gate_proj.weight"], state[f"{GATE}.base_layer.weight"])
    expected = checkpoint.load(merged).mllm.state_dict()
    for loaded in (checkpoint.load(kept), GoTPipeline.from_pretrained(kept)):
        found = loaded.mllm.state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, expected[key], atol=1e-7, rtol=0)
        assert loaded.config.adapter is None
    (kept / ADAPTER_FOLDER / ADAPTER_FILE).unlink()
    with pytest.raises(CheckpointError, match="Cannot load"):
        checkpoint.load(kept)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers by an old name
def test_a_kept_lora_is_what_peft_reads(source, merged, tmp_path):
    peft = pytest.importorskip("peft")
    kept = run(source, tmp_path / "kept", keep_lora=True)
    base = checkpoint.load_network(kept / "mllm", torch.float32, "mllm")
    adapted = peft.PeftModel.from_pretrained(base, kept / ADAPTER_FOLDER).merge_and_unload()
    expected = checkpoint.load(merged).mllm.state_dict()
    for key, tensor in adapted.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], atol=1e-6, rtol=0)


def test_a_short_precision_spares_the_autoencoder(source, tmp_path):
    stored = run(source, tmp_path / "out", dtype=torch.bfloat16)
    dtypes = {
        part.name: {tensor.dtype for file in part.glob("*.safetensors") for tensor in load_file(file).values()}
        for part in stored.iterdir()
        if [*part.glob("*.safetensors")]
    }
    short, exact = {torch.bfloat16}, {torch.float32}
    assert dtypes == {"mllm": short, "unet": short, "projector": short, "vae": exact}
    assert json.loads((stored / "mllm/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(("dtype", "autoencoder"), [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)])
def test_an_autoencoder_that_would_overflow_is_put_back_into_float32(merged, dtype, autoencoder):
    pipe = GoTPipeline.from_pretrained(merged, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("an apple", chain="an apple", num_inference_steps=1, width=16, height=16, output_type="np").images
    assert np.isfinite(images).all()
    assert (pipe.vae.dtype, pipe.unet.dtype, pipe.mllm.dtype) == (autoencoder, dtype, dtype)


@pytest.mark.parametrize(("offload", "message"), [("disk", "model, sequential or None"), ("model", "other than cpu")])
def test_offloading_that_cannot_be_done_is_refused(merged, offload, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.load(merged, offload=offload)


def test_the_switch_loads_the_reference(merged):
    assert type(checkpoint.load(merged)) is GoTPipeline
    assert type(checkpoint.load(merged, reference_compat=True)) is ReferencePipeline


def test_the_command_line_draws_in_the_references_way(merged, tmp_path, capsys):
    inverted = "a dog <|box_start|>(500,500),(100,100)<|box_end|> (red)"
    asked = ["generate", "a dog", "--checkpoint", str(merged), "--chain", inverted, "--steps", "1"]
    assert command.main([*asked, "--output", str(tmp_path / "ours.png")]) == 0
    assert "corners in the wrong order" in capsys.readouterr().err
    assert command.main([*asked, "--output", str(tmp_path / "theirs.png"), "--reference-compat"]) == 2
    assert "The released code cannot draw this chain: corners in the wrong order" in capsys.readouterr().err
    assert not (tmp_path / "theirs.png").exists()
    asked[asked.index(inverted)] = "a dog <|box_start|>(100,100),(500,500)<|box_end|> (red)"
    assert command.main([*asked, "--output", str(tmp_path / "theirs.png"), "--reference-compat"]) == 0
    pipe = checkpoint.load(merged, reference_compat=True)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe("a dog", chain=asked[5], num_inference_steps=1, generator=torch.Generator().manual_seed(42))
    assert Image.open(tmp_path / "theirs.png").tobytes() == drawn.images[0].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(EMBEDDING), rf"1 missing: {EMBEDDING}$"),
        (lambda s: s.pop(f"{GATE}.lora_A.default.weight"), "1 missing: .*lora_A"),
        (lambda s: s.update(more=torch.zeros(1)), "1 unexpected: more$"),
        (lambda s: s.update({EMBEDDING: torch.zeros(3, 5)}), "1 mis-shaped: .* 3x5 instead of 2176x64"),
        (lambda s: s.update({f"{GATE}.lora_A.default.weight": torch.zeros(16, 64)}), "16x64 instead of 32x64"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("unet.")], "missing: .*times"),
        (lambda s: s.update(steps=3), "nothing but named tensors"),
    ],
)
def test_other_layouts_are_refused_and_nothing_is_written(state, tmp_path, change, message):
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message) as raised:
        run(tmp_path, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_a_frozen_copy_that_is_there_is_left_out(state, merged, tmp_path):
    copy = "mllm.base_model.model.lm_head.original_module.weight"
    torch.save(state | {copy: torch.ones(2176, 64)}, tmp_path / "pytorch_model.bin")
    assert (run(tmp_path, tmp_path / "out") / "SHA256SUMS").read_text() == (merged / "SHA256SUMS").read_text()


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither pytorch_model.bin nor"),
        (b"", "Cannot read"),
        (b"not a checkpoint", "Cannot read"),
        (pickle.dumps(Harmful()), "Cannot read"),
        (b"\x80\x02.", "Cannot read"),  # a pickle of nothing, at which torch raises IndexError
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        run(tmp_path, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_cut_in_half(source, tmp_path):
    whole = (source / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="Cannot read"):
        run(tmp_path, tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr("got.released.convert.write_sums", lambda folder: folder.joinpath("no/such").touch())
    with pytest.raises(OSError, match="no/such"):
        run(source, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_what_exists_is_not_overwritten(source, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="new or empty folder"):
        run(source, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_configurations_that_are_missing_or_too_small(source, tmp_path):
    with pytest.raises(CheckpointError, match=r"Cannot read .*unet.config\.json"):
        convert(source, DATA / "qwen", tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no/where: no such file or folder"):
        convert(source, "no/where", DATA / "sdxl", tmp_path / "out")


def test_the_command_line_converts(source, merged, tmp_path, capsys):
    folders = ["--got", str(source), "--qwen", str(DATA / "qwen"), "--sdxl", str(DATA / "sdxl")]
    assert command.main(["convert", *folders, "--output", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["lora"] == "merged"
    assert (tmp_path / "out/SHA256SUMS").read_text() == (merged / "SHA256SUMS").read_text()
    assert command.main(["convert", *folders, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: Expected a new or empty folder")
