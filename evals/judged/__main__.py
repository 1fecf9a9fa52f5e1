"""Writes a run's images as a benchmark's own scripts expect them, so that these can score the same images.

    python -m evals.judged runs/mine results/MY_MODEL

Where a script is given a JSON file of images by prompt, as GenEval 2's is, it lies beside them, with paths relative to
the folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.core.run_directory import RunDirectory
from evals.harness import cli
from evals.harness.plan import Plan
from evals.harness.run_spec import find_suite
from evals.judged.suite import JudgedSuite
from got.util.cli import Parser
from got.util.files import replacing, write_json
from got.util.images import open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

JPEG_QUALITY = 95
"""Of images whose scripts read JPEG alone."""


def export(run: Path, folder: Path) -> tuple[int, int]:
    """Copies images into the layout of the benchmark.

    Returns:
        How many were written, and how many the run lacks.

    Raises:
        UserError: It is no run of a judged benchmark.
    """
    directory = RunDirectory(run)
    spec = directory.read_spec()
    found = find_suite(spec["identity"]["generate"]["suite"]) if spec else None
    if found is None:
        raise UserError(f"{run}: expected a run of a judged benchmark but found no run")
    plan = Plan(cli.parse(found, ["--output", str(run), "--from", "verdict"]), found)
    suite = found.part(plan.options)
    if not isinstance(suite, JudgedSuite):
        raise UserError(f"{run}: expected a run of a judged benchmark but it is one of {suite.title}, without a judge")
    firsts = [sample for sample in plan.samples if sample.index == 0]
    there = [(one.case, place) for one in firsts if (place := run / directory.image_name(one)).is_file()]
    names = [suite.layout(case, plan.options)[0] for case, _ in there]
    for (case, place), name in zip(there, names, strict=True):
        _write(place, folder / name)
        for other, image in suite.beside(case, plan.options).items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            with replacing(folder / other) as part:
                image.load().save(part, "PNG")
    if suite.listing and there:
        by_prompt = {case.metadata["prompt"]: name for (case, _), name in zip(there, names, strict=True)}
        write_json(folder / suite.listing, by_prompt)
    return len(there), len(firsts) - len(there)


def _write(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        if target.suffix == source.suffix:
            shutil.copyfile(source, part)
        else:
            open_image(source, max_aspect=float("inf")).save(part, "JPEG", quality=JPEG_QUALITY)


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser(
        prog="python -m evals.judged", description="Writes a run's images as the benchmark's own scripts expect them."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a judged benchmark")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a model's folder, as the scripts are given it")
    args = parser.parse_args(argv)
    written, missing = export(args.run, args.folder)
    sys.stdout.write(f'{{"written": {written}, "missing": {missing}}}\n')
    if not written:
        sys.stderr.write(f"judged: {args.run}: expected images but none of its {missing} is there; was it finished?\n")
    return 0 if written else cli.NOTHING_SCORED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.judged`."""
    return cli.run_as("judged", lambda: _main(argv))


if __name__ == "__main__":
    raise SystemExit(main())
