"""Wheels as a package index would have them, built and unpacked without pip, which not every environment has."""

import subprocess
import sys
import zipfile

import pytest

BUILD = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"


def unpacked(source, folder):
    """What the wheel of a source tree installs, in a folder that is made for it."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    built = folder.parent / f"{folder.name}-wheel"
    built.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(built)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder
