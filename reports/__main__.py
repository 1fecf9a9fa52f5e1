"""Tables and pictures from run directories.

python -m reports table runs/a runs/b --format markdown
python -m reports teaser runs/a 00042 --output teaser.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evals.records import UserError
from reports import tables, teaser
from reports.frames import load_run


def main(words: list[str] | None = None) -> int:
    """Runs one command; the last line on standard output is JSON."""
    parser = _parser()
    args = parser.parse_args(words)
    try:
        headline: dict[str, object] = args.run(args)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(headline))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reports", description="Tables and pictures from run directories.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="runs beside the published rows")
    table.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a finished run")
    table.add_argument("--format", choices=tables.FORMATS, default="text", help="default: %(default)s")
    table.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    table.set_defaults(run=_table)
    strip = commands.add_parser("teaser", help="one sample from prompt to verdict, as a picture")
    strip.add_argument("run_directory", type=Path, metavar="RUN", help="directory of a finished run")
    strip.add_argument("case", metavar="CASE", help="case id, e.g. 00042")
    strip.add_argument("--index", type=int, default=0, metavar="N", help="which image of the case (default: 0)")
    strip.add_argument("--output", type=Path, default=Path("teaser.png"), metavar="FILE", help="default: %(default)s")
    strip.set_defaults(run=_teaser)
    return parser


def _table(args: argparse.Namespace) -> dict[str, object]:
    table = tables.geneval_table([load_run(run) for run in args.runs])
    text = tables.FORMATS[args.format](table)
    if args.output is None:
        sys.stdout.write(text)
    else:
        _write(args.output, text.encode())
    return {"rows": len(table), "runs": len(args.runs), "output": args.output and str(args.output)}


def _teaser(args: argparse.Namespace) -> dict[str, object]:
    figure = teaser.draw_teaser(args.run_directory, args.case, args.index)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.output)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --output {args.output}: {error}") from error
    return {"case": args.case, "index": args.index, "output": str(args.output)}


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"cannot write --output {path}: {error.strerror}") from error


if __name__ == "__main__":
    raise SystemExit(main())
