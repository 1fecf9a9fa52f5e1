"""A transparent pixel has a colour that nobody sees. Whoever opens an image of the user's shows white in its place."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runner_kit import worker_of

from evals.core.records import Case, EncodedImage, Generated, Sample
from evals.generators.folder import FolderGenerator
from evals.generators.folder_images import Assignment
from got.conversation import Conversation
from got.data import sheet
from got.data.records import Example, Provenance, Step
from got.model.outputs import upright
from got.util.images import open_if_any, open_image
from reports.thumbnails import Album


@pytest.fixture
def path(tmp_path):
    """Red, all of it transparent; and turned by a quarter, so that a wide file shows a high image."""
    image, exif = Image.new("RGBA", (48, 32), (200, 0, 0, 0)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "clear.png", exif=exif)
    return tmp_path / "clear.png"


def example_of(path):
    provenance = Provenance(dataset="mine", license="CC0-1.0")
    steps = (Step(chain="there is a dog <|box_start|>(0,0),(500,500)<|box_end|> (red)", target=path),)
    return Example(id="a", prompt="a dog", steps=steps, provenance=provenance)


def drawn_by_a_generator(path):
    class Raw:
        name = "raw"

        def generate(self, samples):
            return [Generated(image=Image.open(path)) for _ in samples]

    sample = Sample(case=Case(id="0", prompt="", tag="", metadata={}), index=0, seed=0)
    (made,) = worker_of(Raw()).draw([sample])
    return made.image


def in_a_folder(path):
    assignment = Assignment(root=path.parent, files={"0": {0: path}}, faults={}, notes=(), counts={})
    sample = Sample(case=Case(id="0", prompt="", tag="", metadata={}), index=0, seed=0)
    (made,) = FolderGenerator(assignment).generate([sample])
    return made.image


def in_an_editing_set(path):
    return EncodedImage(name="clear", read=path.read_bytes).load()


def on_a_page(path):
    album = Album()
    name = album.add(path)
    return Image.open(io.BytesIO(album.files[name]))


OPENERS = {
    "a command": open_image,
    "bytes": lambda path: open_image(path.read_bytes()),
    "the pipeline": lambda path: upright([Image.open(path)])[0],
    "a conversation": lambda path: Conversation().open(Image.open(path)).image,
    "a sheet of a chain dataset": lambda path: sheet._image(example_of(path), "target", path),
    "a generator": drawn_by_a_generator,
    "a folder of images": in_a_folder,
    "an editing set": in_an_editing_set,
    "contact sheets": open_if_any,
    "a report": on_a_page,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_transparent_is_white_and_turned_is_upright(opener, path):
    image = OPENERS[opener](path)
    assert image.mode == "RGB"
    assert image.height > image.width
    assert np.asarray(image).min() >= 250


def test_nobody_else_opens_images():
    """What is opened in another way has its own idea of transparency, orientation and damage."""
    root = Path(__file__).resolve().parents[2]
    files = (path for package in ("got", "evals", "reports") for path in (root / package).rglob("*.py"))
    found = {path.relative_to(root).as_posix() for path in files if "Image.open(" in path.read_text()}
    own = {
        "evals/assets/training/augment.py",  # what it has just compressed
        "evals/geneval_reference.py",  # the size of an image of its own run
        "got/data/icon_set.py",  # what it has just drawn
    }
    assert found == own | {"got/util/images.py"}


def test_a_file_that_is_no_image_leaves_a_gap_on_sheets(path):
    path.write_text("no image")
    assert open_if_any(path) is None
    assert open_if_any(path.with_name("none.png")) is None
