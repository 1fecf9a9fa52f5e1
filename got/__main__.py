"""Command line of the model.

    python -m got generate "a photo of a red apple and a blue dog"
    python -m got generate "a photo of two cats" --seed 7 --output cats.png --chain "two cats ..."

The picture is written to a file; the chain is printed. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


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
    generate.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    for name in ("semantic", "spatial", "reference"):
        generate.add_argument(f"--{name}-scale", type=float, metavar="A", help=f"strength of the {name} guidance")
        generate.add_argument(f"--{name}", choices=("on", "off"), default="on", help=f"use the {name} guidance")
    return parser


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
        result = _generate(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
