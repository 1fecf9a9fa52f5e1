"""`convert`: from the released checkpoint to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util.cli import DTYPES

if TYPE_CHECKING:
    import argparse

_SOURCES = {
    "got": "released weights: pytorch_model.bin, or its shards with their index",
    "qwen": "Qwen2.5-VL-3B-Instruct: configuration and tokenizer",
    "sdxl": "SDXL base 1.0: configurations",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `convert`."""
    add = parser.add_argument
    for name, what in _SOURCES.items():
        add(f"--{name}", required=True, metavar="DIR|HUB_ID", help=what)
    add("--output", required=True, type=Path, metavar="DIR", help="the folder to write; a new one")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    add("--keep-lora", action="store_true", help="save LoRA beside the weights instead of merging it")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Convert; returns what the last line of output says.

    Raises:
        ValueError: If the weights do not fit.
    """
    import torch

    from got.released import convert

    output = convert.convert(
        arguments.got,
        arguments.qwen,
        arguments.sdxl,
        arguments.output,
        getattr(torch, arguments.dtype),
        keep_lora=arguments.keep_lora,
    )
    return {
        "checkpoint": str(output),
        "bytes": sum(file.stat().st_size for file in output.rglob("*") if file.is_file()),
        "dtype": arguments.dtype,
        "lora": "kept" if arguments.keep_lora else "merged",
    }
