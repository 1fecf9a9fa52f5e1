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
import contextlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from got.data import icon_set
from got.data.annotate import command
from got.data.importers import catalog
from got.data.records import DataError
from got.data.storage import FORMATS, PER_FILE, Writer, count, format_of, read
from got.util.cli import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TOP = """\
A dataset is a folder in one of three formats, told apart by what is there:
  folder       examples.jsonl, one example a line, and pictures beside it; readable, and changed with any editor
  parquet      files that datasets.load_dataset("parquet", data_files="DIR/*.parquet") shows with their pictures
  webdataset   tar shards, read from front to back: for millions of examples

An example in all of them:
  {"id": "a-1", "prompt": "make the dog blue", "source": "images/a-1.source.png",
   "steps": [{"instruction": "", "chain": "the image shows a red dog ...", "target": "images/a-1.target.png"}],
   "provenance": {"dataset": "mine", "license": "CC-BY-4.0", "origin": "", "made_by": ""}, "extra": {}}
Text-to-image has no source and one step; a multi-turn edit has several steps, each upon the picture before it.

`python -m got.data COMMAND --help` teaches a command.
Exit codes: 0 done, 1 `check` found problems, or `import` or `annotate` end without any example, 2 a mistake in the
command (one line says which), 130 interrupted.
"""
_MAKE = """\
examples:
  python -m got.data make --num 1000 --output icons
  python -m got.data make --num 1000000 --output icons --format webdataset --size 64
  python -m got.data make --num 5000 --output edits --tasks edit=3 multi-turn     three edits for each multi-turn edit

The n-th example of a --seed is the same on every machine, whatever --num and --workers are. The same command goes on
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

Nothing is lost: prompts, chains, provenance, extra fields, and the bytes of every picture stay as they are.
"""
_SHOW = """\
examples:
  python -m got.data show icons --output example.png
  python -m got.data show icons --index 17 --num 3 --output three.png
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse's own habit is the whole usage first."""

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message} (--help explains)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake ends in one line and exit status 2."""

    def run() -> dict[str, Any]:
        arguments = build_parser().parse_args(argv)
        result: dict[str, Any] = arguments.run(arguments)
        return result

    return answer(run, interrupted="interrupted; the same command goes on")


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = _Parser(
        prog="python -m got.data",
        description="Chain datasets: pictures with the chains of thought that lead to them.",
        epilog=_TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_make(_command(commands, "make", "make a dataset whose chains are true by construction", _MAKE, _make))
    _add_check(_command(commands, "check", "find everything that is wrong with a dataset", _CHECK, _check))
    stats = _command(commands, "stats", "means per source dataset beside the GoT paper's", _STATS, _stats)
    stats.add_argument("place", metavar="PLACE", help="a folder, or one of its files")
    _add_convert(_command(commands, "convert", "write a dataset in another format", _CONVERT, _convert))
    _add_show(_command(commands, "show", "draw examples for people", _SHOW, _show))
    catalog.add_arguments(commands)
    command.add_arguments(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    purpose: str,
    epilog: str,
    run: Callable[[argparse.Namespace], dict[str, Any]],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up but got {text}")
        return int(text)

    return parse


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
        type=_whole(1),
        default=PER_FILE,
        metavar="N",
        help="examples in a Parquet file or a shard (default: %(default)s)",
    )


# --- make ------------------------------------------------------------------------------------------------------------


def _add_make(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", choices=("iconworld",), default="iconworld", help="what it shows (default: %(default)s)")
    add("--num", type=_whole(1), required=True, metavar="N", help="examples in all")
    add("--output", type=Path, required=True, metavar="DIR", help="the folder; it is made if it is not there")
    add("--tasks", type=_task, nargs="+", metavar="NAME[=WEIGHT]",
        help=f"what examples are, and in which proportion: {', '.join(icon_set.TASKS)} (default: 4:3:1:2)")  # fmt: skip
    add("--size", type=_whole(16), default=128, metavar="PX", help="side of the pictures (default: %(default)s)")
    add("--seed", type=_whole(0), default=0, metavar="N", help="another one, another dataset (default: %(default)s)")
    add("--workers", type=_whole(1), metavar="N", help="processes (default: one per core)")
    _add_files(parser)


def _make(arguments: argparse.Namespace) -> dict[str, Any]:
    weights = tuple(arguments.tasks) if arguments.tasks else icon_set.Recipe().weights
    if len(dict(weights)) < len(weights):
        raise DataError("argument --tasks: a task is named twice")
    recipe = icon_set.Recipe(seed=arguments.seed, size_px=arguments.size, weights=weights)
    workers = arguments.workers or os.cpu_count() or 1
    with _progress("made", arguments.num) as update:
        there = None
        for done in icon_set.make(
            recipe, arguments.num, arguments.output,
            format=arguments.format, per_file=arguments.per_file, workers=workers,
        ):  # fmt: skip
            there = done if there is None else there
            update(done)
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
    parser.add_argument("--no-pictures", action="store_true", help="open no picture, which takes most of the time")
    parser.add_argument(
        "--limit", type=_whole(0), default=100, metavar="N", help="problems that are shown (default: %(default)s)"
    )


def _check(arguments: argparse.Namespace) -> dict[str, Any]:
    from got.data.checking import Findings, check

    findings = Findings()
    with _progress("checked", None) as update:
        for problem in check(arguments.place, findings, pictures=not arguments.no_pictures, step=update):
            if findings.problems <= arguments.limit:
                print(problem, flush=True)
    if findings.problems > arguments.limit:
        print(f"... and {findings.problems - arguments.limit:,} more; --limit shows them")
    return {
        "place": arguments.place,
        "ok": not findings.problems,
        "examples": findings.examples,
        "pictures": findings.pictures,
        "problems": findings.problems,
        "fields": dict(findings.fields),
    }


# --- stats -----------------------------------------------------------------------------------------------------------


def _stats(arguments: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console

    from got.data.statistics import statistics, table

    total = count(arguments.place)
    if not total:
        raise DataError(f"{arguments.place}: no examples")
    with _progress("counted", total) as update:
        numbers = statistics(_watched(read(arguments.place), update))
    console = Console()
    # Without a terminal rich assumes 80 columns and would break the table of a log file.
    console.width = console.width if console.is_terminal else 140
    console.print(table(numbers))
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
        _progress("converted", total) as update,
        Writer(arguments.output, arguments.format, per_file=arguments.per_file) as writer,
    ):
        for example in _watched(read(arguments.input), update):
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
    add("--index", type=_whole(0), default=0, metavar="N", help="the example's number, from 0 (default: %(default)s)")
    add("--num", type=_whole(1), default=1, metavar="N", help="examples on the sheet (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="PNG", help="the picture file to write")
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
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(examples).save(arguments.output)
    for example in examples:
        print(f"{example.id}: {example.prompt}")
        for chain in example.chains:
            print(f"  {chain}")
    return {"output": str(arguments.output), "ids": [example.id for example in examples]}


# --- progress --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, or its last state alone if nobody watches; gives a function that takes how many are done."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn(f"{what} {{task.completed:,}}" + ("" if total is None else " of {task.total:,}")),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _watched(examples: Iterator[Any], update: Callable[[int], None]) -> Iterator[Any]:
    for number, example in enumerate(examples, 1):
        yield example
        update(number)


if __name__ == "__main__":
    raise SystemExit(main())
