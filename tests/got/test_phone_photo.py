"""A phone's photo, lying on its side and with an EXIF tag of a wrong type, through every command that opens images."""

import base64
import io
import json
import struct

import finetune_kit
import got_kit
import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from annotate_kit import FAST, annotate
from judge_kit import says, serve
from PIL import Image
from test_image_files import TURNED, X_RESOLUTION, exif_block

from got import checkpoint
from got.__main__ import main as got_main
from got.data import storage
from got.data.__main__ import main as data_main
from got.data.records import Example, Step
from got.finetune.__main__ import main as finetune_main

LYING, STANDING = (48, 32), (32, 48)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Stored lying, red above green once it is turned; XResolution is -72/1 as SRATIONAL."""
    image = Image.new("RGB", LYING, "lime")
    image.paste("red", (0, 0, 24, 32))
    exif = exif_block(TURNED, (X_RESOLUTION, 10, 1, struct.pack("<I", 50)), tail=struct.pack("<ii", -72, 1))
    path = tmp_path_factory.mktemp("photos") / "IMG_0001.JPG"
    image.save(path, "JPEG", exif=exif)
    return path


def is_upright(image):
    top, bottom = (image.getpixel((image.width // 2, y)) for y in (3, image.height - 4))
    return image.size == STANDING and top[0] > 200 > 60 > bottom[0]


@pytest.fixture(scope="module")
def place(photo, tmp_path_factory):
    """A dataset of edits of the photo."""
    folder, caption = tmp_path_factory.mktemp("data") / "mine", "a photo of a red apple"
    with storage.Writer(folder) as writer:
        for number in range(4):
            step = Step(chain=got_kit.APPLE, target=photo.read_bytes())
            writer.add(
                Example(id=f"e{number}", prompt=caption, steps=(step,), source=photo, provenance=finetune_kit.MINE)
            )
    return folder


def test_it_is_edited_upright(photo, tmp_path, capsys):
    checkpoint.save_fp16(got_kit.pipeline(), tmp_path / "tiny")
    words = ["edit", str(photo), "dogs", "--output", str(tmp_path / "e.png"), "--save-layout"]
    words += ["--checkpoint", str(tmp_path / "tiny"), "--steps", "1", "--max-new-tokens", "3", "--device", "cpu"]
    assert got_main(words) == 0, capsys.readouterr().err
    with Image.open(tmp_path / "e.png") as edited:
        assert edited.size == STANDING


def test_it_passes_the_check_of_a_dataset(place, capsys):
    assert data_main(["check", str(place)]) == 0, capsys.readouterr()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["examples"], found["problems"]) == (4, 0)


def test_a_model_that_annotates_sees_it_upright(photo, tmp_path):
    with serve(says("no idea")) as endpoint:
        counts = annotate(photo.parent, tmp_path / "out", endpoint, *FAST, "--attempts", "1")
    assert counts["failed"] == {"describe: unparsable": 1}
    (part,) = (one for one in endpoint.requests[0]["messages"][0]["content"] if one["type"] == "image_url")
    sent = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    assert is_upright(Image.open(io.BytesIO(sent)).convert("RGB"))


def test_it_is_trained_on(place, tmp_path, capsys):
    model = finetune_kit.saved_pipeline(tmp_path / "model")
    words = ["--model", model, "--data", str(place), "--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--look-every", "0", "--set", "steps=1", "batch=2", "warmup_steps=0", "most_tokens=400"]
    try:
        assert finetune_main(words) == 0, capsys.readouterr().err
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        PartialState._reset_state()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["finished"], result["skipped"]) == (True, 0)
