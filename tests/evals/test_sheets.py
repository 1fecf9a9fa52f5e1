"""Grids and contact sheets, read back pixel by pixel where it matters."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evals.core import contact_sheets
from evals.core.records import Case


@pytest.fixture
def _sheets():
    """As they are."""


CASE = Case(id="00000", prompt="a photo of a dog", tag="single_object", metadata={})


def make_run(folder, count=4, size=(64, 64)):
    for index in range(count):
        path = folder / "images" / CASE.id / "samples" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (50 * index, 0, 200)).save(path)
    return folder


def make_pair(*, correct=True, box=(10.0, 10.0, 40.0, 40.0), planned=(100, 100, 600, 600), index=0):
    result = {
        "filename": f"images/00000/samples/{index:04d}.png",
        "tag": "single_object",
        "prompt": CASE.prompt,
        "correct": correct,
        "reason": "" if correct else "expected dog>=1, found 0",
        "details": json.dumps({"dog": [[*box, 0.9]]}),
    }
    detections = [{"name": "dog", "score": 0.9, "box_xyxy_px": list(box), "color": "red"}]
    plan = {"objects": [{"name": "dog", "box_1000": list(planned), "text": "a dog", "color": None}], "oracle": None}
    return result, {"case": CASE.id, "index": index, "width": 64, "height": 64, "detections": detections, "plan": plan}


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2))])
def test_a_grid_is_nearly_square_and_in_order(tmp_path, count, shape):
    contact_sheets.write_grids(make_run(tmp_path, count), [CASE], count)
    with Image.open(tmp_path / "images/00000/grid.png") as grid:
        assert grid.size == (shape[0] * 66 + 2, shape[1] * 66 + 2)
        for index in range(count):
            x, y = 2 + index % shape[0] * 66, 2 + index // shape[0] * 66
            assert grid.getpixel((x, y)) == (50 * index, 0, 200)


def test_a_missing_or_damaged_image_is_a_grey_cell(tmp_path):
    make_run(tmp_path)
    (tmp_path / "images/00000/samples/0001.png").write_bytes(b"junk")
    (tmp_path / "images/00000/samples/0002.png").unlink()
    contact_sheets.write_grids(tmp_path, [CASE], 4)
    with Image.open(tmp_path / "images/00000/grid.png") as grid:
        assert grid.getpixel((100, 30)) == grid.getpixel((30, 100)) == (204, 204, 204)


def head(sheet):
    """Height of the words above the tiles of a sheet of one row."""
    return np.asarray(sheet).shape[0] - 283


def test_all_wrong_images_have_a_sheet_until_a_verdict_finds_none(tmp_path):
    make_run(tmp_path, 3)
    pairs = [make_pair(correct=index == 1, index=index) for index in range(3)]
    contact_sheets.draw(tmp_path, *map(list, zip(*pairs, strict=True)))
    with Image.open(tmp_path / "sheets" / "wrong-images.png") as sheet:
        assert sheet.width == 2 * 208, "the first and the third"
    contact_sheets.draw(tmp_path, *map(list, zip(*[make_pair(index=index) for index in range(3)], strict=True)))
    assert not (tmp_path / "sheets" / "wrong-images.png").exists()


@pytest.mark.parametrize(("images", "columns"), [(1, 1), (4, 4), (11, 6), (30, 10)])
def test_rows_are_as_full_as_they_can_be(tmp_path, images, columns):
    make_run(tmp_path, 1)
    sheet = contact_sheets.contact_sheet(tmp_path, "dogs", "", [make_pair()] * images)
    assert sheet.width == columns * 208


def test_a_tile_has_the_name_of_its_sample(tmp_path):
    make_run(tmp_path, 1)
    result, observation = make_pair()
    other = {**observation, "case": "00777"}
    sheets = [contact_sheets.contact_sheet(tmp_path, "dogs", "", [(result, seen)]) for seen in (observation, other)]
    words = [np.asarray(sheet)[head(sheet) + 208 :] for sheet in sheets]
    assert (words[0] != words[1]).any()


def test_a_prompt_without_any_image_has_no_grid(tmp_path):
    contact_sheets.write_grids(tmp_path, [CASE], 4)
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_shows_plan_and_detections_in_their_places(tmp_path):
    make_run(tmp_path, 1)
    (path,) = contact_sheets.draw(tmp_path, *map(list, zip(make_pair(), strict=True)))
    assert path == tmp_path / "sheets" / "single_object.png"
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    yellow = (pixels == (255, 225, 25)).all(-1)
    left, top = 8, head(pixels) + 8  # where the image begins, at three times its size
    solid_row = yellow[top + 40 * 3 - 1, left + 35 : left + 115]
    assert solid_row.all(), "the detected box has an unbroken lower edge"
    dashed_row = yellow[top + round(0.6 * 192), left + 25 : left + 110]
    assert 0.3 < dashed_row.mean() < 0.8, "the planned box has a broken lower edge"


@pytest.mark.parametrize("correct", [True, False])
def test_the_verdict_is_marked(tmp_path, correct):
    make_run(tmp_path, 1)
    path, *wrong = contact_sheets.draw(tmp_path, *map(list, zip(make_pair(correct=correct), strict=True)))
    assert [other.name for other in wrong] == ([] if correct else ["wrong-images.png"])
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    pixels = pixels[head(pixels) + 200 :]
    green, red = ((pixels == color).all(-1).sum() for color in ((0x1A, 0x7F, 0x37), (0xC6, 0x28, 0x28)))
    assert (green > 20, red > 20) == (correct, not correct)


def test_only_the_first_image_of_each_prompt_is_shown(tmp_path):
    make_run(tmp_path, 2)
    pairs = [make_pair(index=0), make_pair(index=1)]
    (path,) = contact_sheets.draw(tmp_path, *map(list, zip(*pairs, strict=True)))
    with Image.open(path) as sheet:
        assert sheet.width == 208, "no empty place beside a single image"
        assert head(sheet) < 120


@pytest.mark.parametrize(
    "box", [(-5.0, -5.0, 70.0, 70.0), (63.5, 63.5, 63.6, 63.6), (20.0, 20.0, 20.0, 20.0), (60.0, 1.0, 64.0, 3.0)]
)
def test_no_box_is_too_odd_to_draw(tmp_path, box):
    make_run(tmp_path, 1, size=(64, 20))
    pair = make_pair(box=box, planned=(900, 900, 900, 900))
    assert contact_sheets.draw(tmp_path, *map(list, zip(pair, strict=True)))


def test_a_task_cannot_name_a_file_elsewhere(tmp_path):
    make_run(tmp_path, 1)
    result, observation = make_pair()
    (path,) = contact_sheets.draw(tmp_path, [{**result, "tag": "../../escape"}], [observation])
    assert path.parent == tmp_path / "sheets"


def test_a_photograph_is_shown_whole_and_small(tmp_path):
    make_run(tmp_path, 1, size=(1000, 500))
    (path,) = contact_sheets.draw(tmp_path, *map(list, zip(make_pair(box=(0.0, 0.0, 1000.0, 500.0)), strict=True)))
    with Image.open(path) as sheet:
        assert sheet.getpixel((8 + 96, head(sheet) + 8 + 40)) == (0, 0, 200)
        assert sheet.getpixel((8 + 96, head(sheet) + 8 + 180)) == (204, 204, 204)


def test_dashes_cover_about_half_a_line():
    canvas = Image.new("L", (200, 1))
    pen = ImageDraw.Draw(canvas)
    for dash in contact_sheets._dashes((0, 0), (199, 0)):
        pen.line(dash, 255)
    assert 0.45 < np.asarray(canvas).mean() / 255 < 0.75
