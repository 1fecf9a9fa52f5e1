"""The command line that all suites share: flags, errors in one line, and the last line of stdout as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from evals.core import options as flags
from evals.core.folder_listing import some
from evals.core.options import VERDICT
from evals.core.records import NothingLeft, UserError, note
from evals.core.run_directory import RunDirectory
from evals.harness.plan import Plan, lasting
from evals.harness.run_spec import SUITES, RunSpec, find_suite, resolve
from evals.harness.settings import DRAWS, GUIDES, LOOKS, MANY, RUNS, Settings
from got.util.cli import Parser, console, run_command
from got.util.errors import visible
from got.util.files import clear_disk_errors, write_atomic
from got.util.tables import counted, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from evals.suite import Suite

__all__ = ["UserError", "main"]

_EXAMPLES = """\
  {prog}                                   the embedded GoT, everything
  {prog} --model oracle --limit 12         two minutes' tour, no model
  {prog} --model got --spatial off         without one of the three guidances
  {prog} --model folder:my_images{photographs}
  {prog} --model diffusers:my_pipeline{photographs} --steps 25 --device cuda
  {prog} --output runs/mine --from {stage}
"""

_HOW = """
The same command resumes after Ctrl-C, a crash or a full disk, and tries again what failed by an exception. A finished
run is only printed again.
--from observe and --from verdict redo the later stages of the run in --output; flags not given are that run's own,
but for --engine and those of its workers.
The last line on standard output is one JSON object with the headline numbers. Exit codes: 0 done, also where some
images are missing (they are counted, and the score has bounds); 1 nothing was scored, or --doctor found problems;
2 a mistake in the command or a broken set-up; 130 interrupted; 141 nobody read the output on (| head). One line on
standard error says what is wrong.
"""

_OF_PHOTOGRAPHS = "mask2former"
"""GenEval's own detector, which looks at images of other tools unless another is named."""
_WIDE = 0.4
"""From this width of an overall score's interval up, a run says that it has few prompts."""

NOTHING_SCORED = 1
"""The exit code of a command that ends without any number."""


def _command(suite: Suite[Any]) -> str:
    return f"python -m evals.{suite.name}" if suite.name in SUITES else f"python -m evals.run {suite.name}"


def build_parser(suite: Suite[Any]) -> argparse.ArgumentParser:
    """The shared flags, in groups, then the suite's own."""
    looks = "observes them with a detector" if suite.looks else "asks a vision-language model about them"
    parser = Parser(
        prog=_command(suite),
        description=f"Generates images, {looks}, judges and sums up; all in one run directory.",
    )
    lines = suite.examples.get("lines", _EXAMPLES).format(prog=parser.prog, **suite.examples)
    parser.epilog = f"examples:\n{lines}{_HOW}{suite.examples.get('more', '')}"
    groups = {name: parser.add_argument_group(name) for name in (DRAWS, GUIDES, LOOKS, suite.name, RUNS, MANY)}
    flags.add_flags(parser, Settings, groups, RUNS, hidden=() if suite.looks else (LOOKS,))
    flags.add_flags(parser, suite.options, groups, suite.name)
    parser.set_defaults(images_per_prompt=suite.images_per_prompt, detector=suite.detector)
    return parser


def parse(suite: Suite[Any], argv: Sequence[str]) -> RunSpec:
    """Reads a command line. Redoing a stage of a run fills in what is not given from the run's own command line.

    Raises:
        UserError: Something on the command line is wrong.
    """
    words = list(argv)
    settings, options, given = _parse(suite, words)
    if settings.start is not None and settings.output is not None:
        place = settings.place_in(settings.output)
        spec = RunDirectory(place).read_spec()
        if spec is None:
            if settings.shard is not None and RunDirectory(settings.output).spec.exists():
                raise UserError(
                    f"--from {settings.start} --shard: {place} is no part that --shard has made; without --shard, the "
                    f"whole of {settings.output} is done again, by many workers with --engine ray"
                )
            raise UserError(f"--from {settings.start} needs a run; {place} has no run.json")
        words = [*lasting(spec["arguments"]["given"]), *argv]  # older runs kept --engine
        settings, options, given = _parse(suite, words)
        options = _judged_before(options, spec, _parse(suite, argv)[2]) if settings.start == VERDICT else options
    return resolve(suite, settings, options, words, given)


def _judged_before(options: Any, spec: Mapping[str, Any], given: set[str]) -> Any:
    """The options with the judge of a run that is only scored again: nobody is asked, and no environment names it.

    Args:
        options: Of the run's own command line.
        spec: The run's ``run.json``.
        given: Names of the flags that are given now.
    """
    seen = spec["identity"].get("observe") or {}
    if "judge" in given or not seen.get("judge_place"):
        return options
    return dataclasses.replace(options, judge=seen["judge"], judge_place=seen["judge_place"])


def _parse(suite: Suite[Any], argv: Sequence[str]) -> tuple[Settings, Any, set[str]]:
    parser = build_parser(suite)
    args = parser.parse_args(argv)
    # argparse leaves an attribute that is there already alone, unless a flag sets it.
    unset = object()
    again = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    given = {name for name, value in vars(again).items() if value is not unset}
    return flags.read(Settings, args), flags.read(suite.options, args), given


def make_plan(suite: Suite[Any], argv: Sequence[str]) -> Plan:
    """The checked plan of a command line; loads no model and writes nothing.

    Raises:
        UserError: Something on the command line is wrong.
    """
    return Plan(parse(suite, argv), suite).check()


def main(suite: Suite[Any] | type[Suite[Any]] | str, argv: Sequence[str] | None = None) -> int:
    """Runs a suite's command line; returns the exit code.

    Args:
        suite: Or its name. A file that `python -m` runs gives its name: its own class belongs to the module `__main__`,
            in which no other process finds it.
        argv: Words of the command line.
    """
    made = find_suite(suite) if isinstance(suite, str) else suite() if isinstance(suite, type) else suite
    return run_as(made.name, lambda: _main(made, list(sys.argv[1:] if argv is None else argv)))


def run_as(name: str, work: Callable[[], int]) -> int:
    """Does the work of a command that resumes; errors but a person's own and the file system's are bugs."""
    return run_command(work, name, mistakes=(UserError, OSError), interrupted="interrupted; the same command resumes")


def _main(suite: Suite[Any], words: Sequence[str]) -> int:
    plan = Plan(parse(suite, words), suite)
    if plan.settings.doctor:
        from evals.harness import doctor

        return doctor.main(plan)
    try:
        plan.check()
    except NothingLeft as error:
        print(f"{suite.name}: nothing was scored: {visible(str(error))}", file=sys.stderr)
        return NOTHING_SCORED
    if plan.settings.export_prompts is not None:
        print(json.dumps(export_prompts(plan, plan.settings.export_prompts)), flush=True)
        return 0
    if plan.settings.dry_run:
        costs = suite.costs(plan.cases, plan.options, plan.settings.images_per_prompt)
        print(json.dumps({"output": str(plan.output), "images": len(plan.samples), **costs, **plan.used}))
        return 0
    from evals.harness.runner import run

    scores = run(plan)
    if plan.settings.shard is not None:
        print(json.dumps({**scores, "part": str(plan.output)}), flush=True)
        return 0 if scores["observed"] else NOTHING_SCORED
    return show(suite, scores, plan.output)


def export_prompts(plan: Plan, folder: Path) -> dict[str, Any]:
    """Writes GenEval's folders, each with its ``metadata.jsonl``, for another tool to fill with images.

    Raises:
        UserError: The folder holds something else, or the cases are edits.
    """
    if any(case.edit is not None for case in plan.cases):
        raise UserError("--export-prompts is for prompts; an edit needs its source image, too")
    named = {case.id for case in plan.cases}
    with clear_disk_errors(folder):
        if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - named):
            raise UserError(f"--export-prompts {folder} holds something else; choose another folder")
        for case in plan.cases:
            (folder / case.id / "samples").mkdir(parents=True, exist_ok=True)
            write_atomic(folder / case.id / "metadata.jsonl", json.dumps(case.metadata) + "\n")
    settings, own = plan.settings, getattr(plan.options, "prompts", None)
    detector = settings.detector if "detector" in plan.spec.given else _OF_PHOTOGRAPHS
    words = [
        *_command(plan.suite).split(),
        "--model",
        f"folder:{folder}",
        "--detector",
        detector,
        "--images-per-prompt",
        str(settings.images_per_prompt),
    ]
    words += ["--limit", str(settings.limit)] if settings.limit else []
    words += ["--tasks", json.dumps(settings.tasks)] if settings.tasks else []
    words += ["--prompts", own] if own else []
    last = f"{settings.images_per_prompt - 1:04d}.png"
    other = "" if "detector" in plan.spec.given else f" (or --detector {plan.suite.detector}, if they are icons)"
    note(f"fill {folder}/*/samples with 0000.png to {last}, and score them with {shlex.join(words)}{other}")
    return {"suite": plan.suite.name, "prompts": len(plan.cases), "exported": str(folder)}


def show(suite: Suite[Any], scores: dict[str, Any], output: Path) -> int:
    """Prints a run's tables and headline; returns the exit code."""
    _print(suite, scores, output)
    why = suite.nothing_scored(scores)
    if why is not None:
        print(f"{suite.name}: nothing was scored: {visible(why)}", file=sys.stderr)
    return NOTHING_SCORED if why is not None else 0


def _print(suite: Suite[Any], scores: dict[str, Any], output: Path) -> None:
    for table in suite.tables(scores):
        console().print(table)
    score = scores["overall"].get("score") or {}
    if score.get("low") is not None and score["high"] - score["low"] > _WIDE:
        unit = scores.get("unit", "prompts")
        few = counted(score["clusters"], unit, "make")
        note(
            f"{few} an interval of {span(score['low'], score['high'])}: more {unit} narrow it, more images of "
            "the same ones hardly do"
        )
    headline = suite.headline(scores)
    if left_out := scores.get("left_out"):
        note(
            f"{counted(len(left_out), 'cases', 'are')} in no score, because "
            f"nothing tells what they ask for ({some(left_out)})"
        )
    unscored = headline.get("unscored_tasks", ())
    if unscored and len(unscored) < len(headline["tasks"]):
        scored = f"{len(headline['tasks']) - len(unscored)} of {len(headline['tasks'])} tasks"
        note(f"overall is the mean of {scored}: no image of {', '.join(unscored)} has a score")
    print(json.dumps({**headline, "run": str(output)}), flush=True)
