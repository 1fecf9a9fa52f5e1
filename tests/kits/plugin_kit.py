"""The package in examples/benchmark, installed as pip does it, into a folder of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "benchmark"


def install(folder):
    """Builds and installs the package without network; what it needs is here."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    quiet = {"check": True, "capture_output": True, "text": True}
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(folder), str(SOURCE)], **quiet)
    return folder
