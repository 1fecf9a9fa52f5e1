"""What full size needs, counted on the meta device: against memory that is known, and what moves it."""

import json

import got_kit
import pytest
import torch
from torch import nn
from torch.nn import functional

from got import __main__ as command
from got.model import networks
from got.model.config import CONFIGS
from got.released import memory, roofline

CONFIG = CONFIGS["mini"]


def test_what_is_let_go_counts_no_more():
    """Two convolutions of 4 and 2 channels, in float32 on 8 x 8: the widest moment is the step between both."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(2, 1, 1))
        image = torch.empty(1, 3, 8, 8)
    assert memory.peak_bytes(lambda: network(image)) == (4 + 2) * 8 * 8 * 4


def test_views_and_changes_in_place_hold_nothing_more():
    x = torch.empty(10, 10, device="meta")
    assert memory.peak_bytes(lambda: x.mT.reshape(4, 25)[1:].T) == 400, "only the reshaped copy"
    assert memory.peak_bytes(lambda: x.view(100)[3:].add_(1)) == 0


def test_attention_holds_no_matrix_of_weights():
    query = torch.empty(1, 2, 4096, 8, device="meta")
    assert memory.peak_bytes(lambda: functional.scaled_dot_product_attention(query, query, query)) == 4096 * 16 * 4


@pytest.fixture(scope="module")
def small():
    with torch.device("meta"):
        return {
            "mllm": networks.build_mllm(CONFIG, got_kit.make_tokenizer()),
            "unet": networks.build_unet(CONFIG),
            "vae": networks.build_vae(CONFIG),
            "projector": networks.build_projector(CONFIG),
        }


def test_stages_grow_with_what_is_drawn(small):
    def beside(**options):
        found = memory.stages(small, memory.Drawing(**{"size_px": 128} | options))
        return {name: stage.beside for name, stage in found.items()}

    one, two, edit, sliced = beside(), beside(batch=2), beside(edit=True), beside(batch=2, sliced=True)
    assert all(two[name] > one[name] for name in one)
    assert edit["denoising"] > one["denoising"], "a branch more"
    assert sliced["decoding"] == one["decoding"] < two["decoding"]
    assert sliced["layout and reference"] < one["layout and reference"]
    unet = memory.stages(small, memory.Drawing(size_px=128))["denoising"]
    assert unet.weights == 2 * sum(weight.numel() for weight in small["unet"].parameters())


def test_operations_are_those_of_the_layers():
    """A convolution by hand: 3 x 3 taps of 4 channels for 8 channels of 16 x 16, from weights and image to result."""
    with torch.device("meta"):
        layer, image = nn.Conv2d(4, 8, 3, padding=1, bias=False), torch.empty(1, 4, 16, 16)
    (found,) = roofline.operations(lambda: layer(image))
    assert (found.flops, found.precision) == (2 * 9 * 4 * 8 * 16 * 16, "tf32")
    assert found.bytes == 4 * (4 * 256 + 9 * 4 * 8 + 8 * 256)
    query = torch.empty(1, 2, 64, 8, device="meta", dtype=torch.bfloat16)
    (found,) = roofline.operations(lambda: functional.scaled_dot_product_attention(query, query, query))
    assert (found.flops, found.bytes) == (4 * 2 * 64 * 64 * 8, 4 * 2 * query.numel())


def test_what_saves_work_draws_more_images_a_second(small):
    found = roofline.summary(small, 1, 128)
    speed = {way: by_device["H100 SXM"] for way, by_device in found["images_per_second"].items()}
    assert min(speed, key=speed.__getitem__) == "as released"
    assert max(speed, key=speed.__getitem__) == "all of these"
    assert found["stages"]["chain, word by word"]["compute"]["H200"] < 0.5, "one token reads all weights"
    drawn, alone = (
        sum(
            each.flops
            for each in roofline.operations(memory.calls(small, memory.Drawing(size_px=128, guided=g))["denoising"][1])
        )
        for g in (True, False)
    )
    assert drawn == pytest.approx(alone * memory.Drawing().branches, rel=0.01)
    assert "all of these" in roofline.report(found)


@pytest.mark.slow
def test_the_command_counts_without_a_checkpoint(capsys):
    assert command.main(["info", "--memory", "--size", "512"]) == 0
    *words, last = capsys.readouterr().out.splitlines()
    counted = json.loads(last)["gigabytes"]["drawing"]
    assert words[0].startswith("GoT-6B, 512 px, 1 image at a time")
    assert 13.5 < counted["all_on_the_device"] < 24
    assert json.loads(last)["speed"]["images_per_second"]["as released"].keys() == roofline.DEVICES.keys()
    assert counted["offload_sequential"] < counted["offload_model"] < counted["all_on_the_device"]


def test_sizes_that_cannot_be_drawn_are_refused(capsys):
    assert command.main(["info", "--memory", "--size", "100"]) == 2
    assert "--size: expected a whole number from 1 up that 64 divides but got 100" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_too_little_memory_for_a_checkpoint_is_one_line(capsys, tmp_path, monkeypatch, error):
    def load(*given, **options):
        raise error

    monkeypatch.setattr("got.checkpoint.load", load)
    assert command.main(["generate", "dogs", "--output", str(tmp_path / "dogs.png")]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "--offload" in err
