"""Command line of the model.

    python -m got generate "a photo of a red apple and a blue dog"
    python -m got generate "a photo of two cats" --seed 7 --output cats.png --chain "two cats ..."
    python -m got convert --got GoT-6B --qwen Qwen2.5-VL-3B-Instruct --sdxl stable-diffusion-xl-base-1.0 --output got-6b

`generate` writes the picture to a file and prints the chain. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

_DTYPES = ("float32", "bfloat16", "float16")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m got", description="GoT: write a chain of thought with boxes, then draw it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="draw a caption")
    generate.add_argument("prompt", help="the caption, e.g. 'a photo of a red apple'")
    generate.add_argument("--chain", help="draw this chain instead of writing one")
    generate.add_argument("--output", type=Path, default=Path("got.png"), metavar="FILE", help="default: %(default)s")
    generate.add_argument("--checkpoint", default="mini", metavar="mini|PATH|HUB_ID", help="default: %(default)s")
    generate.add_argument("--seed", type=int, default=42, help="seed of the noise (default: %(default)s)")
    generate.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    generate.add_argument("--device", default="cpu", help="default: %(default)s")
    generate.add_argument("--dtype", choices=_DTYPES, default=_DTYPES[0])
    for name in ("semantic", "spatial", "reference"):
        generate.add_argument(f"--{name}-scale", type=float, metavar="A", help=f"strength of the {name} guidance")
        generate.add_argument(f"--{name}", choices=("on", "off"), default="on", help=f"use the {name} guidance")
    convert = commands.add_parser("convert", help="turn the released checkpoint into a diffusers-style folder")
    for name, text in (
        ("got", "released weights: pytorch_model.bin, or its shards with their index"),
        ("qwen", "Qwen2.5-VL-3B-Instruct: configuration and tokenizer"),
        ("sdxl", "SDXL base 1.0: configurations"),
    ):
        convert.add_argument(f"--{name}", required=True, metavar="DIR", help=f"folder or hub id of {text}")
    convert.add_argument("--output", required=True, type=Path, metavar="DIR", help="the folder to write; a new one")
    convert.add_argument("--dtype", choices=_DTYPES, default=_DTYPES[0], help="of the weights (default: %(default)s)")
    convert.add_argument("--keep-lora", action="store_true", help="save LoRA beside the weights instead of merging it")
    return parser


def _convert(arguments: argparse.Namespace) -> dict[str, object]:
    import torch

    from got.convert import convert

    dtype, keep_lora = getattr(torch, arguments.dtype), arguments.keep_lora
    output = convert(arguments.got, arguments.qwen, arguments.sdxl, arguments.output, dtype, keep_lora=keep_lora)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    lora = "kept" if keep_lora else "merged"
    return {"checkpoint": str(output), "bytes": size, "dtype": arguments.dtype, "lora": lora}


def _generate(arguments: argparse.Namespace) -> dict[str, object]:
    import torch  # heavy imports come after the arguments have been checked

    from got import checkpoint

    pipeline = checkpoint.load(arguments.checkpoint, arguments.device, getattr(torch, arguments.dtype))
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    output = pipeline(
        arguments.prompt,
        chain=arguments.chain,
        num_inference_steps=arguments.steps,
        semantic_scale=arguments.semantic_scale,
        spatial_scale=arguments.spatial_scale,
        reference_scale=arguments.reference_scale,
        semantic=arguments.semantic == "on",
        spatial=arguments.spatial == "on",
        reference=arguments.reference == "on",
        generator=torch.Generator("cpu").manual_seed(arguments.seed),
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    output.images[0].save(arguments.output)
    for warning in output.warnings[0]:
        print(f"warning: {warning}", file=sys.stderr)
    print(output.chains[0])
    return {"image": str(arguments.output), "chain": output.chains[0], "warnings": list(output.warnings[0])}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one line and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        result = _generate(arguments) if arguments.command == "generate" else _convert(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
