"""Thumbnails: made by other processes where they are many, and alike however they are made."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from got.util.images import png_bytes
from reports import thumbnails
from reports.thumbnails import Album


@pytest.fixture
def paths(tmp_path):
    """Images of three sizes, one of them twice, a file that is none and one that is not there."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)) for size in (16, 64, 300)]
    found = []
    for number, content in enumerate([*map(png_bytes, pictures), png_bytes(pictures[0]), b"no image"]):
        found.append(tmp_path / f"{number}.png")
        found[-1].write_bytes(content)
    return [*found, tmp_path / "nowhere.png"]


def album_of(paths, begun):
    with Album(begun) as album:
        names = [album.add(path) for path in paths]
    return names, album.files


def test_other_processes_make_the_same_thumbnails(paths, monkeypatch):
    plain = album_of(paths, ())
    monkeypatch.setattr(thumbnails, "_WORTH_BYTES", 0)
    monkeypatch.setattr(thumbnails, "_CHUNK", 2)
    assert album_of(paths, paths) == plain
    names, files = plain
    assert names[0] == names[3]
    assert names[4:] == [None, None]
    assert len(files) == 3


def test_a_killed_process_costs_no_thumbnail(paths, monkeypatch):
    plain = album_of(paths, ())
    monkeypatch.setattr(thumbnails, "_WORTH_BYTES", 0)
    with Album(paths) as album:
        for number in list(album._pool._processes):
            os.kill(number, signal.SIGKILL)
        assert [album.add(path) for path in paths] == plain[0]
    assert album.files == plain[1]


def test_few_images_start_no_process(paths):
    with Album(paths) as album:
        assert album._pool is None
