"""`info`: what a checkpoint is, read from its files without loading them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.model.config import CONFIGS
from got.util.errors import UserError, note
from got.util.files import read_object, sha256
from got.util.hub import locate, read_index
from got.util.weight_files import fault, read_header

if TYPE_CHECKING:
    import argparse

_SIZES = ("vae", "block_out_channels", list), ("unet", "sample_size", int)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print parts, parameters, sizes, defaults and hashes, or memory; returns what the last line of output says.

    Raises:
        ValueError: If it is no checkpoint, or one of its files is damaged.
    """
    given = [name for name in (arguments.checkpoint, arguments.named) if name is not None]
    if arguments.memory:
        if given:
            raise UserError(f"--memory is of GoT-6B at its published size and takes no checkpoint but got {given[0]}")
        from got.released import memory, names, roofline  # here, because they build networks

        note("counting every operation of GoT-6B, which takes about half a minute")
        full, counted = names.full_size(), (arguments.batch_size or 1, arguments.size or 1024)
        needed = memory.summary(full, *counted)
        sys.stdout.write(memory.report(needed) + "\n\n")
        speed = roofline.summary(full, *counted)
        sys.stdout.write(roofline.report(speed) + "\n")
        return needed | {"speed": speed}
    if arguments.batch_size or arguments.size:
        raise UserError("--batch-size and --size have an effect with --memory only")
    if arguments.named is not None and arguments.checkpoint is not None:
        raise UserError(f"Expected one checkpoint but got {arguments.checkpoint} and --checkpoint {arguments.named}")
    folder = locate(given[0] if given else "mini")
    index = read_index(folder)
    scale = index.get("scale", "mini")
    if scale not in CONFIGS:
        raise UserError(f"Expected scale to be one of {', '.join(CONFIGS)} but got {scale!r}")
    listed = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    parts = {name: _part(folder / name, index[name][1]) for name in sorted(listed)}
    config = CONFIGS[scale]
    channels, side = (_entry(folder / part / "config.json", name, kind) for part, name, kind in _SIZES)
    factor = 2 ** (len(channels) - 1)
    result = {
        "checkpoint": str(folder),
        "scale": scale,
        "trained_with": {name: index.get(name, True) for name in ("chains", "layout")},
        "parameters": sum(part["parameters"] for part in parts.values()),
        "bytes": sum(part["bytes"] for part in parts.values()),
        "image_size_px": side * factor,
        "sides_are_multiples_of_px": factor,
        "defaults": {
            "steps": config.steps,
            "text_to_image": {
                name: getattr(config.text_to_image, name) for name in ("semantic", "spatial", "reference")
            },
            "edit": {name: getattr(config.edit, name) for name in ("semantic", "spatial", "reference")},
        },
        "parts": parts,
    }
    sys.stdout.write(_table(result) + "\n")
    return result


def _entry(config: Path, name: str, kind: type) -> Any:
    values = read_object(config, UserError)
    if name not in values:
        raise UserError(f"{config} has no {name}")
    if not isinstance(values[name], kind) or not values[name]:
        raise UserError(f"{config}: expected {name} of type {kind.__name__} but got {values[name]!r}")
    return values[name]


def _part(folder: Path, kind: str) -> dict[str, Any]:
    """Class, parameters, precision, size and hashes of one component."""
    if not folder.is_dir():
        raise UserError(f"{folder.parent} has no folder {folder.name}")
    weights = sorted(folder.glob("*.safetensors"))
    tensors = [tensor for path in weights for tensor in _tensors(path)]
    for shards in sorted(folder.glob("*.safetensors.index.json")):
        named = set(_entry(shards, "weight_map", dict).values())
        missing = sorted(named - {path.name for path in weights})
        if missing:
            raise UserError(f"{folder} has no file {missing[0]}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "class": kind,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
        "dtypes": sorted({tensor["dtype"] for tensor in tensors}),
        "bytes": sum(path.stat().st_size for path in files),
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }


def _tensors(path: Path) -> list[dict[str, Any]]:
    """Shapes and dtypes of a safetensors file, whose length must be what its header says."""
    what = fault(path)
    if what is not None:
        raise UserError(f"{path} {what}")
    return list(read_header(path).values())


def _table(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = [("part", "class", "parameters", "precision", "bytes", "sha256 of the weights")]
    for name, part in result["parts"].items():
        hashes = [digest for file, digest in part["sha256"].items() if file.endswith(".safetensors")]
        shown = hashes[0][:16] + (f" and {len(hashes) - 1} more" if len(hashes) > 1 else "") if hashes else ""
        count = f"{part['parameters']:,}" if part["parameters"] else ""
        rows.append((name, part["class"], count, " ".join(part["dtypes"]), f"{part['bytes']:,}", shown))
    rows.append(("total", "", f"{result['parameters']:,}", "", f"{result['bytes']:,}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    right = (2, 4)
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    defaults, side = result["defaults"], result["image_size_px"]
    scales = {
        name: "  ".join(f"{part} {value:g}" for part, value in defaults[name].items())
        for name in ("text_to_image", "edit")
    }
    return "\n".join(
        [
            f"{result['checkpoint']}: GoT at scale {result['scale']}",
            *lines,
            *(f"trained without {name}" for name, there in result["trained_with"].items() if not there),
            f"images     {side} x {side} px unless said otherwise; sides are multiples of"
            f" {result['sides_are_multiples_of_px']}",
            f"steps        {defaults['steps']}",
            f"captions     {scales['text_to_image']}",
            f"edits        {scales['edit']}",
        ]
    )
