"""The exact command, and the exact Python, that draw an entry of a conversation again, to the byte."""

from __future__ import annotations

import functools
import shlex
from typing import TYPE_CHECKING, Any

from got.cli.parser import MOST_TURNS, build_parser
from got.util.cli import resolve_device

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from got.conversation import Entry

_OPTIONS = (
    "num_inference_steps", "own_size", "width", "height", "scheduler", "max_new_tokens", "semantic_scale",
    "spatial_scale", "reference_scale", "guidance_interval", "semantic", "spatial", "reference",
)  # fmt: skip
"""Of a request, as the pipeline calls them; the flags are called the same, but for the first."""
_MODEL = ("checkpoint", "device", "dtype", "offload", "reference_compat", "compile", "vae_slicing", "vae_tiling")


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
    given = {"scheduler": arguments.scheduler} | entry.options
    words += _flags({name: given.get(name) for name in _OPTIONS})
    words += [f"--chain={first.chain}"] if first.given else []
    # The reasoner goes on as it did before, but no further than to this image.
    usual_turns = (
        16 if arguments.reference_compat else MOST_TURNS if first.source is not None and not first.given else 1
    )
    words += [f"--max-turns={entry.turn + 1}"] if entry.turn + 1 != usual_turns else []
    words += [f"--seed={entry.seed}"]
    words += _model_flags(arguments)
    words += ["--output=again.png", *(["--", *about] if dashed else [])]
    return "python -m got " + shlex.join(words)


def resume(folder: Path, arguments: argparse.Namespace) -> str:
    """The line that goes on with a conversation in a terminal; arguments as of `command`."""
    return "python -m got " + shlex.join(["chat", f"--output={folder}", "--resume", *_model_flags(arguments)])


def _model_flags(arguments: argparse.Namespace) -> Iterator[str]:
    given = {name: getattr(arguments, name) for name in _MODEL}
    return _flags({name: value for name, value in given.items() if value != _usual()[name]})


@functools.cache
def _usual() -> dict[str, Any]:
    return vars(build_parser().parse_args(["generate", ""]))


def _flags(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        flag = "--steps" if name == "num_inference_steps" else "--" + name.replace("_", "-")
        if name in ("semantic", "spatial", "reference"):
            yield from [f"{flag}=off"] if value is False else []
        elif isinstance(value, list | tuple):
            yield from (flag, *map(str, value))
        elif value is True:
            yield flag
        elif value not in (None, False):
            yield f"{flag}={value}"


def python(entry: Entry, entries: Sequence[Entry], folder: Path, arguments: argparse.Namespace) -> str:
    """A script; arguments as of `command`."""
    if entry.kind == "opened":
        return ""
    first = entries[entry.number - entry.turn]
    options = {name: value for name, value in entry.options.items() if name not in ("scheduler", "max_turns")}
    options |= {"max_turns": entry.turn + 1} if entry.turn or arguments.reference_compat else {}
    sampler = entry.options.get("scheduler") or arguments.scheduler
    load = [repr(arguments.checkpoint), repr(resolve_device(arguments.device)), f"torch.{arguments.dtype}"]
    load += [f"offload={arguments.offload!r}"] if arguments.offload else []
    load += ["compiled=True"] if arguments.compile else []
    load += ["reference_compat=True"] if arguments.reference_compat else []
    source = None if first.source is None else str(folder / f"{first.source:04d}.png")
    lines = ["import torch", "", "from got import checkpoint"]
    lines += ["from got.model.schedulers import make_scheduler"] if sampler else []
    lines += ["from got.util.images import open_image"] if source else []
    lines += ["", f"pipe = checkpoint.load({', '.join(load)})"]
    lines += [f"pipe.vae.enable_{part}()" for part in ("slicing", "tiling") if getattr(arguments, f"vae_{part}")]
    lines += [f"pipe.scheduler = make_scheduler({sampler!r}, pipe.scheduler)"] if sampler else []
    lines += ["out = pipe(", f"    {entry.instruction!r},"]
    lines += [f"    image=open_image({source!r}),"] if source else []
    lines += [f"    chain={first.chain!r},"] if first.given else []
    lines += [f'    generator=torch.Generator("cpu").manual_seed({entry.seed}),']
    lines += [f"    {name}={value!r}," for name, value in options.items()]
    lines += [")", 'out.images[0].save("again.png")']
    return "\n".join(lines) + "\n"
