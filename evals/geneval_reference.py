"""Measures the floor and the ceiling of GenEval or GenEval 2 with a detector, and keeps them for the tables.

The floor is what the detector and the scorer make of images that show nothing: plain and noisy ones. The ceiling is
what they make of exact drawings of the prompts by the icon world's own renderer.

    python -m evals.geneval_reference --detector icon --output runs/reference
    python -m evals.geneval_reference --suite geneval2

Both are complete runs of the benchmark in the output folder and resume like any run. Their scores go to
``evals/assets/reference_scores.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from evals.core.records import sample_seed
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.suite.tables import REFERENCE, reference_key
from got.util.cli import Parser
from got.util.files import write_atomic, write_json
from got.util.images import png_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evals.harness.plan import Plan

_SUITES = ("geneval", "geneval2")


def empty_image(side_px: int, seed: int) -> NDArray[np.uint8]:
    """An image that shows nothing, ``(side, side, 3)`` uint8: by turns a plain, a noisy, a blurred and a shaded one.

    >>> empty_image(8, seed=3).shape, bool((empty_image(8, 3) == empty_image(8, 3)).all())
    ((8, 8, 3), True)
    """
    rng = np.random.default_rng(seed)
    kind = seed % 4
    plain = np.broadcast_to(rng.uniform(0, 255, 3), (side_px, side_px, 3))
    if kind == 0:
        pixels = plain
    elif kind == 1:
        pixels = rng.uniform(0, 255, (side_px, side_px, 3))
    elif kind == 2:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side_px, side_px), Image.Resampling.BICUBIC))
    else:
        shade = np.linspace(0.2, 1.0, side_px)[:, None, None]
        pixels = plain * shade + rng.normal(0, 12, (side_px, side_px, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_empty_images(folder: Path, plan: Plan, side_px: int) -> None:
    """A complete set of images that show nothing, in GenEval's layout."""
    for sample in plan.samples:
        image = Image.fromarray(empty_image(side_px, sample_seed("floor", sample.case.id, sample.index, 0)))
        write_atomic(folder / sample.case.id / "samples" / f"{sample.index:04d}.png", png_bytes(image))


def flat(scores: dict[str, Any], what: str) -> dict[str, Any]:
    """The values of a run's scores.json by row of the table."""
    values = {tag: block["score"]["value"] for tag, block in scores["tasks"].items()}
    return {
        "what": what,
        **values,
        "overall": scores["overall"]["score"]["value"],
        "images": scores["images"]["value"],
        "n": scores["images"]["n"],
        "prompts": scores["images"]["clusters"],
    }


def main() -> int:
    """Runs floor and ceiling, and stores their scores."""
    parser = Parser(prog="python -m evals.geneval_reference", description=__doc__)
    parser.add_argument("--suite", choices=_SUITES, default="geneval", help="(default: %(default)s)")
    parser.add_argument("--detector", help="as in python -m evals.geneval (default: the suite's own)")
    parser.add_argument("--output", type=Path, default=Path("runs/reference"), help="(default: %(default)s)")
    return cli.run_as("geneval_reference", lambda: _measure(parser.parse_args()))


def _measure(args: argparse.Namespace) -> int:
    suite = find_suite(args.suite)
    detector = args.detector or suite.detector
    ceiling, floor, empty = (args.output / name for name in ("ceiling", "floor", "empty-images"))
    exact = ["--model", "oracle", "--output", str(ceiling), "--detector", detector]
    code = cli.main(suite, exact)
    if code:
        return code
    plan = cli.make_plan(suite, exact)
    first = plan.samples[0].case.id
    with Image.open(ceiling / "images" / first / "samples" / "0000.png") as image:
        write_empty_images(empty, plan, image.width)
    code = cli.main(suite, ["--model", f"folder:{empty}", "--output", str(floor), "--detector", detector])
    if code:
        return code
    runs = {path: json.loads((path / "scores.json").read_bytes()) for path in (floor, ceiling)}
    known = json.loads(REFERENCE.read_bytes()) if REFERENCE.is_file() else {}
    known[reference_key(suite.name, detector)] = {
        "options": runs[ceiling]["options"],
        "floor": flat(runs[floor], "images that show nothing"),
        "ceiling": flat(runs[ceiling], "exact drawings of the prompts (oracle)"),
    }
    write_json(REFERENCE, known)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
