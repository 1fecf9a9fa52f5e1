"""Chain datasets on the command line: make, check, count, convert and look at what GoT is trained on.

    python -m got.data make --num 1000 --output icons
    python -m got.data check icons
    python -m got.data stats icons
    python -m got.data show icons --index 3 --output example.png
    python -m got.data convert icons icons-shards --format webdataset
    python -m got.data import coco --annotations coco/annotations --images coco --output data/coco
    python -m got.data annotate photos --output photos-got --model MODEL --endpoint URL --boxes pixels

The last line of standard output is one JSON object; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.data import icon_set
from got.data.annotate import command
from got.data.importers import catalog
from got.data.records import DataError
from got.data.storage import FORMATS, PER_FILE, Writer, count, format_of, read
from got.util.cli import Parser, add_command, console, run_command, whole
from got.util.files import write_atomic
from got.util.images import png_bytes
from got.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TOP = """\
A dataset is a folder in one of three formats, told apart by what is there:
  folder       examples.jsonl, one example a line, and images beside it; readable, and changed with any editor
  parquet      files that datasets.load_dataset("parquet", data_files="DIR/*.parquet") shows with their images
  webdataset   tar shards, read from front to back: for millions of examples

An example in all of them:
  {"id": "a-1", "prompt": "make the dog blue", "source": "images/a-1.source.png",
   "steps": [{"instruction": "", "chain": "the image shows a red dog ...", "target": "images/a-1.target.png"}],
   "provenance": {"dataset": "mine", "license": "CC-BY-4.0", "origin": "", "made_by": ""}, "extra": {}}
Text-to-image has no source and one step; a multi-turn edit has several steps, each upon the image before it.

`python -m got.data COMMAND --help` teaches a command.
Exit codes: 0 done, 1 `check` found problems, or `import` or `annotate` end without any example, 2 a mistake in the
command (one line says which), 130 interrupted.
"""
_MAKE = """\
examples:
  python -m got.data make --num 1000 --output icons
  python -m got.data make --num 1000000 --output icons --format webdataset --size 64
  python -m got.data make --num 5000 --output edits --tasks edit=3 multi-turn     three edits for each multi-turn edit

The n-th example of a --seed is the same on every machine, whatever --num and --workers are. The same command resumes
after Ctrl-C or kill -9, and a larger --num adds to what is there.
"""
_CHECK = """\
examples:
  python -m got.data check icons
  python -m got.data check icons/data-00000.parquet --no-pictures

A problem is a line on stdout: file, line (or row, or key), field, and what is wrong. Exit code 1 if there is one.
"""
_STATS = """\
example:
  python -m got.data stats icons
"""
_CONVERT = """\
examples:
  python -m got.data convert icons icons-shards --format webdataset
  python -m got.data convert mine icons-shards --format webdataset --append      adds what is missing

Nothing is lost: prompts, chains, provenance, extra fields, and the bytes of every image stay as they are.
"""
_SHOW = """\
examples:
  python -m got.data show icons --output example.png
  python -m got.data show icons --index 17 --num 3 --output three.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one line and exit status 2."""

    def run() -> dict[str, Any]:
        arguments = build_parser().parse_args(argv)
        result: dict[str, Any] = arguments.run(arguments)
        return result

    return run_command(run, interrupted="interrupted; the same command resumes")


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    purpose = "Chain datasets: images with the chains of thought that lead to them."
    parser = Parser(prog="python -m got.data", description=purpose, epilog=_TOP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_make(add_command(commands, "make", "make a dataset whose chains are true by construction", _MAKE, _make))
    _add_check(add_command(commands, "check", "find everything that is wrong with a dataset", _CHECK, _check))
    stats = add_command(commands, "stats", "means per source dataset beside the GoT paper's", _STATS, _stats)
    stats.add_argument("place", metavar="PLACE", help="a folder, or one of its files")
    _add_convert(add_command(commands, "convert", "write a dataset in another format", _CONVERT, _convert))
    _add_show(add_command(commands, "show", "draw examples for people", _SHOW, _show))
    catalog.add_arguments(commands)
    command.add_arguments(commands)
    return parser


def _task(text: str) -> tuple[str, float]:
    name, equals, weight = text.partition("=")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        value = 0.0
    if name not in icon_set.TASKS or not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"expected NAME or NAME=WEIGHT with one of {', '.join(icon_set.TASKS)} but got {text}"
        )
    return name, value


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="folder", help="(default: %(default)s)")
    parser.add_argument(
        "--per-file",
        type=whole(1),
        default=PER_FILE,
        metavar="N",
        help="examples in a Parquet file or a shard (default: %(default)s)",
    )


# --- make ------------------------------------------------------------------------------------------------------------


def _add_make(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", choices=("iconworld",), default="iconworld", help="what it shows (default: %(default)s)")
    add("--num", type=whole(1), required=True, metavar="N", help="examples in all")
    add("--output", type=Path, required=True, metavar="DIR", help="the folder; it is made if it is not there")
    add("--tasks", type=_task, nargs="+", metavar="NAME[=WEIGHT]",
        help=f"what examples are, and in which proportion: {', '.join(icon_set.TASKS)} (default: 4:3:1:2)")  # fmt: skip
    add("--size", type=whole(16), default=128, metavar="PX", help="side of the images (default: %(default)s)")
    add("--seed", type=whole(0), default=0, metavar="N", help="another one, another dataset (default: %(default)s)")
    add("--workers", type=whole(1), metavar="N", help="processes (default: one per core)")
    _add_files(parser)


def _make(arguments: argparse.Namespace) -> dict[str, Any]:
    weights = tuple(arguments.tasks) if arguments.tasks else icon_set.Recipe().weights
    if len(dict(weights)) < len(weights):
        raise DataError("argument --tasks: a task is named twice")
    recipe = icon_set.Recipe(seed=arguments.seed, size_px=arguments.size, weights=weights)
    workers = arguments.workers or os.cpu_count() or 1
    with Progress("examples made", arguments.num) as bar:
        there = None
        for done in icon_set.make(
            recipe, arguments.num, arguments.output,
            format=arguments.format, per_file=arguments.per_file, workers=workers,
        ):  # fmt: skip
            there = done if there is None else there
            bar.update(done)
    return {
        "output": str(arguments.output),
        "format": arguments.format,
        "examples": done,
        "made_now": done - (there or 0),
        "seed": arguments.seed,
        "size_px": arguments.size,
    }


# --- check -----------------------------------------------------------------------------------------------------------


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="PLACE", help="a folder, or one of its files")
    parser.add_argument("--no-pictures", action="store_true", help="open no image, which takes most of the time")
    parser.add_argument(
        "--limit", type=whole(0), default=100, metavar="N", help="problems that are shown (default: %(default)s)"
    )


def _check(arguments: argparse.Namespace) -> dict[str, Any]:
    from got.data.checking import Findings, check

    findings = Findings()
    with Progress("examples checked", None) as bar:
        for problem in check(arguments.place, findings, images=not arguments.no_pictures, step=bar.update):
            if findings.problems <= arguments.limit:
                print(problem, flush=True)
    if findings.problems > arguments.limit:
        print(f"... and {findings.problems - arguments.limit:,} more; --limit shows them")
    return {
        "place": arguments.place,
        "ok": not findings.problems,
        "examples": findings.examples,
        "pictures": findings.images,
        "problems": findings.problems,
        "fields": dict(findings.fields),
    }


# --- stats -----------------------------------------------------------------------------------------------------------


def _stats(arguments: argparse.Namespace) -> dict[str, Any]:
    from got.data.statistics import statistics, table

    total = count(arguments.place)
    if not total:
        raise DataError(f"{arguments.place}: no examples")
    with Progress("examples counted", total) as bar:
        numbers = statistics(_watched(read(arguments.place), bar))
    console().print(table(numbers))
    return {"place": arguments.place, "format": format_of(arguments.place), **numbers}


# --- convert ---------------------------------------------------------------------------------------------------------


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a folder, or one of its files")
    parser.add_argument("output", type=Path, metavar="OUT", help="the folder to write")
    _add_files(parser)
    parser.add_argument("--append", action="store_true", help="add what is missing to a dataset that is there")


def _convert(arguments: argparse.Namespace) -> dict[str, Any]:
    total = count(arguments.input)
    if not arguments.append and arguments.output.is_dir() and format_of(arguments.output):
        raise DataError(f"{arguments.output} is a dataset already; --append adds what is missing")
    written = 0
    with (
        Progress("examples converted", total) as bar,
        Writer(arguments.output, arguments.format, per_file=arguments.per_file) as writer,
    ):
        for example in _watched(read(arguments.input), bar):
            written += writer.add(example)
    return {
        "input": arguments.input,
        "output": str(arguments.output),
        "format": arguments.format,
        "written": written,
        "there_already": total - written,
    }


# --- show ------------------------------------------------------------------------------------------------------------


def _add_show(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", metavar="PLACE", help="a folder, or one of its files")
    add("--index", type=whole(0), default=0, metavar="N", help="the example's number, from 0 (default: %(default)s)")
    add("--num", type=whole(1), default=1, metavar="N", help="examples on the sheet (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="PNG", help="the image file to write")
    add("--overwrite", action="store_true", help="replace the file if it is there; without it that is an error")


def _show(arguments: argparse.Namespace) -> dict[str, Any]:
    from got.data.sheet import sheet

    if arguments.output.suffix.lower() != ".png":
        raise DataError(f"--output {arguments.output}: expected a name that ends in .png")
    if arguments.output.exists() and not arguments.overwrite:
        raise DataError(f"{arguments.output} is there already; --overwrite replaces it")
    examples = list(itertools.islice(read(arguments.place, start=arguments.index), arguments.num))
    if not examples:
        raise DataError(f"--index: expected a number below {count(arguments.place)} but got {arguments.index}")
    write_atomic(arguments.output, png_bytes(sheet(examples)))
    for example in examples:
        print(f"{example.id}: {example.prompt}")
        for chain in example.chains:
            print(f"  {chain}")
    return {"output": str(arguments.output), "ids": [example.id for example in examples]}


def _watched(examples: Iterator[Any], bar: Progress) -> Iterator[Any]:
    for example in examples:
        yield example
        bar.advance()


if __name__ == "__main__":
    raise SystemExit(main())
