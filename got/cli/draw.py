"""`generate` and `edit`: from requests to files, batch by batch."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from got.cli.inputs import Request, numbered_files, read_requests, side_file
from got.cli.parser import MOST_TURNS
from got.plan.chain import Chain
from got.util.cli import resolve_device
from got.util.errors import UserError, visible, warn
from got.util.files import replacing, write_atomic
from got.util.garbage import loading
from got.util.images import open_image

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from PIL import Image

    from got.model.outputs import Turn
    from got.pipeline import GoTPipeline

# Images per batch; beyond a small scale memory is dearer than time.
_SMALL_BATCH_PX, _SMALL_BATCH = 256, 8


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw (or only plan) everything that was asked for; returns what the last line of output says.

    Raises:
        ValueError: If something about the command, an image or the checkpoint is wrong.
    """
    if arguments.plan_only and arguments.chain is not None:
        raise UserError("--plan-only writes a plan; with --chain there is one already")
    requests = read_requests(arguments)
    source = open_image(arguments.image) if arguments.command == "edit" else None
    pipeline = load_pipeline(arguments)
    size = arguments.batch_size or (_SMALL_BATCH if pipeline.got_config.image_size_px <= _SMALL_BATCH_PX else 1)
    images: list[dict[str, Any]] = []
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        try:
            made = (_plan if arguments.plan_only else _draw)(pipeline, batch, source, arguments)
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted; {len(images)} of {len(requests)} files are finished\n")
            raise
        for record in made:
            images.append(record)
            _say(record, len(images), len(requests), arguments)
    result: dict[str, Any] = {"pictures": images}
    # One image, the usual case, can be read without a list.
    return images[0] | result if len(images) == 1 else result


@loading()
def load_pipeline(arguments: argparse.Namespace) -> GoTPipeline:
    """The checkpoint on its device, with the sampler that was asked for.

    Raises:
        ValueError: If the checkpoint or the device cannot be used.
    """
    if arguments.reference_compat and arguments.scheduler not in (None, "ddpm"):
        raise UserError("--scheduler cannot be used with --reference-compat: the released code samples by DDPM only")
    import torch  # heavy imports come after the arguments have been checked

    from got import checkpoint
    from got.model.schedulers import make_scheduler

    with memory_errors():
        pipeline = checkpoint.load(
            arguments.checkpoint,
            resolve_device(arguments.device),
            getattr(torch, arguments.dtype),
            offload=arguments.offload,
            compiled=arguments.compile,
            reference_compat=arguments.reference_compat,
        )
    if arguments.vae_slicing:
        pipeline.vae.enable_slicing()
    if arguments.vae_tiling:
        pipeline.vae.enable_tiling()
    if arguments.scheduler is not None:
        pipeline.scheduler = make_scheduler(arguments.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipeline


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the pipeline that are the same for every image, as far as they are given."""
    switches = {name: getattr(arguments, name) for name in ("semantic", "spatial", "reference")}
    given = {
        "num_inference_steps": arguments.steps,
        "own_size": getattr(arguments, "own_size", None),
        "width": arguments.width,
        "height": arguments.height,
        "max_new_tokens": arguments.max_new_tokens,
        "max_turns": arguments.max_turns,
        "semantic_scale": arguments.semantic_scale,
        "spatial_scale": arguments.spatial_scale,
        "reference_scale": arguments.reference_scale,
        "guidance_interval": arguments.guidance_interval,
        **{name: None if switch is None else switch == "on" for name, switch in switches.items()},
    }
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Say what to do when memory runs out, instead of where in a library it did."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(
            words in str(error) for words in ("out of memory", "can't allocate memory")
        ):
            raise
        raise UserError(
            "out of memory: a smaller --width and --height, fewer images at a time, --offload or --dtype float16 "
            "(on a GPU) need less"
        ) from error


def table(chain: Chain) -> str:
    """A plan for people: a line per region.

    >>> print(table(Chain.parse("a dog <|box_start|>(0,10),(500,900)<|box_end|> (red)")))
      #  mask     x         y         object (the mask's colour, in brackets behind its box, is not the object's)
      0  red      x   0-500   y  10-900   a dog
    """
    width = max([7, *(len(region.color) for region in chain.regions)])
    meant = "object (the mask's colour, in brackets behind its box, is not the object's)"
    rows = [f"  #  {'mask':{width}}  x         y         {meant}"]
    for i, region in enumerate(chain.regions):
        x1, y1, x2, y2 = region.box_1000
        rows.append(f"{i:3d}  {region.color:{width}}  x {x1:3d}-{x2:<4d}  y {y1:3d}-{y2:<4d}  {region.text}".rstrip())
    return "\n".join(rows) if chain.regions else "  no boxes"


def save(image: Image.Image, path: Path) -> str:
    """Write an image so that the file is complete or absent; returns its name."""
    from PIL import Image

    with replacing(path) as unfinished:
        image.save(unfinished, format=Image.registered_extensions()[path.suffix.lower()])
    return str(path)


def _plan(
    pipeline: GoTPipeline, batch: Sequence[Request], source: Image.Image | None, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    images = None if source is None else [source] * len(batch)
    with memory_errors():
        chains: Any = pipeline.think([request.prompt for request in batch], images, arguments.max_new_tokens)
    records = []
    for request, chain in zip(batch, chains, strict=True):
        text = _write_text(str(chain), request.output)
        records.append({"plan": text, "prompt": request.prompt, "chain": str(chain), "warnings": list(chain.warnings)})
    return records


def _draw(
    pipeline: GoTPipeline, batch: Sequence[Request], source: Image.Image | None, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    import torch

    asked = options(arguments)
    if arguments.command == "edit" and not arguments.reference_compat:
        planned = [request for request in batch if request.chain is not None]
        if planned and len(planned) < len(batch):  # a plan is one image's, and must not depend on what is beside it
            parts = (planned, [request for request in batch if request.chain is None])
            made = {record["image"]: record for part in parts for record in _draw(pipeline, part, source, arguments)}
            return [made[str(request.output)] for request in batch]
        if not planned:
            asked = {"max_turns": MOST_TURNS} | asked
    with memory_errors():
        output = pipeline(
            [request.prompt for request in batch],
            image=None if source is None else [source] * len(batch),
            chain=[request.chain for request in batch],
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
            **asked,
        )
    return [
        {
            "image": save(image, request.output),
            "prompt": request.prompt,
            "chain": str(chain),
            "seed": request.seed,
            "size_px": list(image.size),
            "warnings": list(warnings),
            **_earlier_turns(turns, request.output),
            **_side_files(chain, image.size, request.output, arguments),
        }
        for request, image, chain, warnings, turns in zip(
            batch, output.images, output.chains, output.warnings, output.turns, strict=True
        )
    ]


def _earlier_turns(turns: Sequence[Turn], output: Path) -> dict[str, list[dict[str, str]]]:
    """The images on the way to the last one, if there are any."""
    for stale in numbered_files(output, "turn"):  # an earlier run may have had more turns
        stale.unlink()
    made = [
        {"image": save(turn.image, side_file(output, f"turn-{i}")), "chain": str(turn.chain)}
        for i, turn in enumerate(turns[:-1])
    ]
    return {"turns": made} if made else {}


def _side_files(
    chain: Chain, size_px: tuple[int, int], output: Path, arguments: argparse.Namespace
) -> dict[str, str | list[str]]:
    from got.plan.layout import draw_layout, draw_overview

    files: dict[str, str | list[str]] = {}
    if arguments.save_chain:
        files["chain_file"] = _write_text(str(chain), side_file(output, "chain", ".txt"))
    if arguments.save_layout:
        files["layout"] = save(draw_overview(chain, *size_px), side_file(output, "layout"))
    if arguments.save_masks:
        for stale in numbered_files(output, "mask"):  # an earlier plan may have had more boxes
            stale.unlink()
        masks = draw_layout(chain, *size_px)
        files["masks"] = [save(mask, side_file(output, f"mask-{i}")) for i, mask in enumerate(masks)]
    return files


def _write_text(text: str, path: Path) -> str:
    write_atomic(path, text + "\n")
    return str(path)


def _say(record: dict[str, Any], number: int, count: int, arguments: argparse.Namespace) -> None:
    sys.stderr.write(f"[{number}/{count}] {visible(str(record.get('image') or record['plan']))}\n")
    given = Chain.parse(record["chain"]).warnings if arguments.chain is not None else ()
    for warning in record["warnings"]:
        warn(f"{'--chain: ' if warning in given else ''}{warning}")
    sys.stdout.write(record["chain"] + "\n")
    if arguments.show_chain:
        sys.stdout.write(table(Chain.parse(record["chain"])) + "\n")
    sys.stdout.flush()
