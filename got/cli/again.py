"""The exact command, and the exact Python, that draw an entry of a conversation again, to the byte."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from got.conversation import Entry

_VALUES = {
    "num_inference_steps": "--steps",
    "width": "--width",
    "height": "--height",
    "scheduler": "--scheduler",
    "semantic_scale": "--semantic-scale",
    "spatial_scale": "--spatial-scale",
    "reference_scale": "--reference-scale",
    "max_new_tokens": "--max-new-tokens",
}
_SWITCHES = ("semantic", "spatial", "reference")


def command(entry: Entry, entries: Sequence[Entry], folder: Path, arguments: argparse.Namespace) -> str:
    """A line for the shell; empty for an image that was opened.

    Args:
        entry: What to draw again.
        entries: All of its conversation.
        folder: Where the conversation is kept, with the images that were edited.
        arguments: The model, as on the command line.
    """
    if entry.kind == "opened":
        return ""
    first = entries[entry.number - entry.turn]
    verb, about = "generate", [entry.instruction]
    if first.source is not None:
        verb, about = "edit", [str(folder / f"{first.source:04d}.png"), entry.instruction]
    dashed = entry.instruction.startswith("-")  # which the shell's reader would take for a flag
    words = [verb] if dashed else [verb, *about]
    for name, flag in _VALUES.items():
        if entry.options.get(name) is not None:
            words.append(f"{flag}={entry.options[name]}")
    if entry.options.get("guidance_interval") is not None:
        words += ["--guidance-interval", *map(str, entry.options["guidance_interval"])]
    words += [f"--{name}=off" for name in _SWITCHES if entry.options.get(name) is False]
    words += [f"--chain={first.chain}"] if first.given else []
    # The reasoner goes on as it did before, but no further than to this image.
    usual_turns = 16 if arguments.reference_compat else 4 if first.source is not None and not first.given else 1
    words += [f"--max-turns={entry.turn + 1}"] if entry.turn + 1 != usual_turns else []
    words += [f"--seed={entry.seed}", *_model_flags(arguments, entry.options), "--output=again.png"]
    words += ["--", *about] if dashed else []
    return "python -m got " + shlex.join(words)


def _model_flags(arguments: argparse.Namespace, options: dict[str, Any]) -> list[str]:
    usual = {"checkpoint": "mini", "device": "auto", "dtype": "float32", "offload": None}
    usual |= {} if options.get("scheduler") else {"scheduler": None}
    flags = [
        f"--{name}={getattr(arguments, name)}" for name, value in usual.items() if getattr(arguments, name) != value
    ]
    switches = ("reference_compat", "compile", "vae_slicing", "vae_tiling")
    return flags + [f"--{name.replace('_', '-')}" for name in switches if getattr(arguments, name)]


def python(entry: Entry, entries: Sequence[Entry], folder: Path, arguments: argparse.Namespace, device: str) -> str:
    """A script; arguments as of `command`, and the device that ``--device`` stands for."""
    if entry.kind == "opened":
        return ""
    first = entries[entry.number - entry.turn]
    options = {name: value for name, value in entry.options.items() if name not in ("scheduler", "max_turns")}
    options |= {"max_turns": entry.turn + 1} if entry.turn or arguments.reference_compat else {}
    sampler = entry.options.get("scheduler") or arguments.scheduler
    load = [f"{arguments.checkpoint!r}", f"{device!r}", f"torch.{arguments.dtype}"]
    load += [f"offload={arguments.offload!r}"] if arguments.offload else []
    load += [
        f"{flag}=True"
        for name, flag in (("compile", "compiled"), ("reference_compat",) * 2)
        if getattr(arguments, name)
    ]
    call = [f"    {entry.instruction!r},"]
    call += [f"    image=open_image({str(folder / f'{first.source:04d}.png')!r})," if first.source is not None else ""]
    call += [f"    chain={first.chain!r}," if first.given else ""]
    call += [f'    generator=torch.Generator("cpu").manual_seed({entry.seed}),']
    call += [f"    {name}={value!r}," for name, value in options.items()]
    lines = ["import torch", "", "from got import checkpoint"]
    lines += ["from got.model.schedulers import make_scheduler"] if sampler else []
    lines += ["from got.util.images import open_image"] if first.source is not None else []
    lines += ["", f"pipe = checkpoint.load({', '.join(load)})"]
    lines += [f"pipe.vae.enable_{part}()" for part in ("slicing", "tiling") if getattr(arguments, f"vae_{part}")]
    lines += [f"pipe.scheduler = make_scheduler({sampler!r}, pipe.scheduler)"] if sampler else []
    lines += ["out = pipe(", *filter(None, call), ")", 'out.images[0].save("again.png")']
    return "\n".join(lines) + "\n"
