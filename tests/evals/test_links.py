"""Links in a user's folder are followed, to files and to folders: a hub's cache is made of them."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from evals.editing.datasets import parquet_splits
from got.data.annotate import command
from got.data.importers.files import Row, files_below, rows
from got.data.records import DataError


@pytest.fixture
def linked(tmp_path):
    """A folder whose only entry is a link to a folder elsewhere, in which files are links to blobs without suffix."""
    blobs, there, here = tmp_path / "blobs", tmp_path / "there", tmp_path / "snapshots" / "here"
    for folder in (blobs, there, here):
        folder.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(blobs / "0a.png")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), blobs / "1b")
    (blobs / "2c").write_text(json.dumps({"a": 1}) + "\n")
    for name, blob in {"x.png": "0a.png", "test.parquet": "1b", "x.jsonl": "2c"}.items():
        (there / name).symlink_to(blobs / blob)
    (here / "sub").symlink_to(there)
    return here


def test_images_to_annotate_and_published_files_are_found_behind_links(linked):
    assert files_below(linked, "*.png") == [linked / "sub" / "x.png"]
    (example,) = command.examples_of(linked, lambda where, error: None)
    assert example.steps[0].target == linked / "sub" / "x.png"
    assert [row.values for row in rows(linked)] == [{"a": 1}, {"a": 2}]
    assert [file.number_of_rows for file in parquet_splits(linked)["test"]] == [2]


def test_hidden_files_are_no_data(tmp_path):
    (tmp_path / "._x.png").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "y.png").touch()
    assert files_below(tmp_path, "*.png") == []


@pytest.mark.parametrize("name", ["../blobs/0a.png", "/etc/passwd", "sub/../../blobs/0a.png"])
def test_names_in_data_do_not_lead_out_by_themselves(linked, name):
    row = Row(values={"image": name}, file=linked / "x.jsonl", place="line 1")
    with pytest.raises(DataError, match="expected a path inside"):
        row.image(["image"], linked)
    assert Row(values={"image": "sub/x.png"}, file=row.file, place="line 1").image(["image"], linked).is_file()
