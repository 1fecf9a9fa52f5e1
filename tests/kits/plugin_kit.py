"""The package in examples/benchmark, installed into a folder of its own."""

from pathlib import Path

from wheel_kit import unpacked

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "benchmark"


def install(folder):
    """Builds and installs the package without network; what it needs is here."""
    return unpacked(SOURCE, folder / "installed")
