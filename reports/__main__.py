"""Reports, tables and images from run directories.

python -m reports runs/a runs/b runs/ablation-components --output report
python -m reports table runs/a runs/b --format markdown
python -m reports compare runs/a runs/b
python -m reports baseline runs/a --output baseline.json
python -m reports gate --baseline baseline.json --run runs/b
python -m reports power --baseline baseline.json --drop 0.01
python -m reports teaser runs/a 00042/1 --output teaser.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from evals.core.records import UserError
from got.util.cli import Parser, number, run_command, whole
from got.util.errors import visible
from got.util.files import write_atomic, write_json
from got.util.tables import counted, escaped
from reports import changes, compare, formats, gate, names, plain, power, published, report, speed, style, teaser
from reports.frames import Run, load, load_run
from reports.samples import STAGES, find_sample, load_samples

_NAME = "python -m reports"
COMMANDS = ("report", "table", "compare", "baseline", "gate", "power", "teaser")


def main(words: list[str] | None = None) -> int:
    """Runs one command; the last line on standard output is JSON."""
    return run_command(lambda: _main(words), _NAME, mistakes=(UserError, OSError))


def _main(words: list[str] | None) -> int:
    words = sys.argv[1:] if words is None else words
    if not words:
        raise UserError(f"expected RUN... or a command, one of {', '.join(COMMANDS)} (--help explains)")
    _check_command(words)
    args = _parser().parse_args(_with_command(words))
    headline: dict[str, object] = args.run(args)
    print(json.dumps(headline), flush=True)
    if headline.get("scored") == 0:
        print(f"{_NAME}: no image of these runs has a score; see their failures.jsonl", file=sys.stderr)
        return 1
    return gate.EXIT_CODES[str(headline["answer"])] if "answer" in headline else 0


def _with_command(words: list[str]) -> list[str]:
    """`report` is the command where none is named.

    >>> _with_command(["runs/a", "--output", "r"]), _with_command(["table", "runs/a"]), _with_command(["--help"])
    (['report', 'runs/a', '--output', 'r'], ['table', 'runs/a'], ['--help'])
    """
    named = not words or words[0] in {*COMMANDS, "-h", "--help"}
    return words if named else ["report", *words]


def _check_command(words: list[str]) -> None:
    """Refuses a first word that is neither a command nor there."""
    first = words[0]
    is_path = os.sep in first and any(word.startswith("--output") for word in words)  # `report` says what it lacks
    known = first in COMMANDS or first.startswith("-") or {"-h", "--help"} & set(words)
    if not (known or is_path or os.path.lexists(first)):
        raise UserError(f"{visible(first)} is neither a command ({', '.join(COMMANDS)}) nor the folder of a run")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_NAME, description="Reports, tables and images from run directories.",
        usage="%(prog)s RUN... --output DIR   or   %(prog)s COMMAND ...",
        epilog="Without a command: report. Each has its own --help. A folder named like a command: ./table. "
        "Exit codes: 0 done; 1 no image has a score, or gate found a regression; 2 a mistake, or gate cannot decide.",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog=_NAME)
    _add_report(commands)
    table = commands.add_parser("table", help="runs beside the published rows")
    table.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="directory of a finished run, or the results.jsonl of GenEval's public scorer",
    )  # fmt: skip
    table.add_argument("--format", choices=formats.FORMATS, default="text", help="default: %(default)s")
    table.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    _add_rows(table)
    table.set_defaults(run=_table)
    both = commands.add_parser("compare", help="two runs, case by case")
    both.add_argument("a", type=Path, metavar="A", help="a finished run, or a file of GenEval's public scorer")
    both.add_argument("b", type=Path, metavar="B", help="the same, of the same cases")
    both.add_argument("--output", type=Path, metavar="DIR", help="write a page with the flipped images side by side")
    both.add_argument(
        "--pictures", choices=report.THUMBNAILS, default="auto", help="as in report (default: %(default)s)"
    )
    both.add_argument("--format", choices=tuple(compare.CLEAN), default="text", help="default: %(default)s")
    _add_names(both)
    both.set_defaults(run=_compare)
    keep = commands.add_parser("baseline", help="keep a run's outcomes in a small file, for the gate")
    keep.add_argument("run_directory", type=Path, metavar="RUN", help="directory of a finished run")
    keep.add_argument("--output", type=Path, required=True, metavar="FILE")
    keep.set_defaults(run=_baseline)
    _add_gate(commands)
    need = commands.add_parser(
        "power", help="how many prompts and images a gate needs",
        description="How many prompts, and images of each, a gate needs to find a drop of a given size.",
    )  # fmt: skip
    need.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="made by the command baseline")
    need.add_argument(
        "--drop", type=number(0.0001, 0.5), default=0.02, metavar="X", help="what is to be found (default: %(default)s)"
    )
    need.add_argument(
        "--certainty", type=number(0.5, 0.999), default=power.CERTAINTY, metavar="P",
        help="how often it is found (default: %(default)s)",
    )  # fmt: skip
    need.add_argument(
        "--alpha", type=number(0.0001, 0.5), default=0.05, metavar="X", help="level of the gate's test (default: 0.05)"
    )
    need.set_defaults(run=_power)
    strip = commands.add_parser("teaser", help="one sample from prompt to verdict, as an image")
    strip.add_argument("run_directory", type=Path, metavar="RUN", help="directory of a finished run")
    strip.add_argument("sample", metavar="CASE[/INDEX]", help="such as 00042/1, as scores.json and reports have it")
    strip.add_argument("--index", type=whole(0), metavar="N", help="which image of a CASE (default: 0)")
    strip.add_argument("--output", type=Path, default=Path("teaser.png"), metavar="FILE", help="default: %(default)s")
    strip.set_defaults(run=_teaser)
    return parser


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names", type=names.listed, default=(), metavar="A,B",
        help="what to call the runs, in order (default: by the settings that differ between them)",
    )  # fmt: skip


def _add_rows(parser: argparse.ArgumentParser) -> None:
    _add_names(parser)
    parser.add_argument(
        "--published", type=published.chosen, default=None, metavar="all|none|A,B",
        help="which of the GoT paper's rows to show, by method (default: all)",
    )  # fmt: skip


def _add_gate(commands: Any) -> None:
    parser = commands.add_parser(
        "gate", help="does a run keep up with a baseline?", description="Exit code 0: pass; 1: regression; 2: cannot "
        "decide, because the two do not compare, images are missing, or the cases are too few for a drop of that size. "
        "Under GitHub Actions the answer, with every lost image, is appended to the step's summary.",
    )  # fmt: skip
    before = parser.add_mutually_exclusive_group(required=True)
    before.add_argument("--baseline", type=Path, metavar="FILE", help="made by the command baseline")
    before.add_argument(
        "--baseline-run", type=Path, metavar="RUN",
        help="the earlier run itself: for another sampler, engine, precision or version of diffusers; says how far the "
        "images differ, too",
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", dest="run_directory", help="a finished run")
    parser.add_argument(
        "--max-drop", type=number(0, 1), default=0.02, metavar="X",
        help="allowed fall of the score (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=number(0.0001, 0.5), default=0.05, metavar="X", help="level of the test (default: %(default)s)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the answer as JUnit XML, too")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="with --baseline-run: a page with the flipped images side by side"
    )
    parser.set_defaults(run=_gate)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report", help="a page, tables and figures on runs and ablations (the command if none is named)",
        description="Writes DIR/report.html, one file that opens from disk without a network: tables with "
        "published rows, figures, and a browser of the failures. Beside it: report.md, report.tex, samples.csv, "
        "tables/ (CSV, LaTeX, Markdown) and figures/ (SVG, PDF, PNG, CSV). Figures are part of the page. So are "
        f"thumbnails of samples, up to {report.INLINE_BYTES / 1e6:.0f} MB of them; more go into DIR/pictures, since a "
        "page with thousands of images inside opens slowly. Move the folder as a whole then.",
    )  # fmt: skip
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="directory of a finished run, or of a finished ablation"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new, or an earlier report's")
    parser.add_argument(
        "--benchmarks", nargs="+", default=[], type=Path, metavar="FILE",
        help="add a table of speed: files of `pytest benchmarks --benchmark-json=FILE`, compared in this order",
    )  # fmt: skip
    parser.add_argument("--title", default="Report", metavar="TEXT", help="above the page (default: %(default)s)")
    parser.add_argument(
        "--samples", choices=("wrong", "all"), default="wrong", help="which samples to show (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", choices=report.THUMBNAILS, default="auto",
        help="thumbnails: inline in the page, beside it in DIR/pictures, or as their size says (default: %(default)s)",
    )  # fmt: skip
    _add_rows(parser)
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> dict[str, object]:
    if not args.runs and not args.benchmarks:
        raise UserError("give a RUN or --benchmarks (--help explains)")
    runs, ablations = load(args.runs, args.names)
    measured = [speed.load(path) for path in args.benchmarks]
    report.check(args.output)
    with style.sheet():
        every = args.samples == "all"
        made = report.of_runs(runs, ablations, args.title, every=every, benchmarks=measured, reported=args.published)
        written = report.write(made, args.output, args.pictures)
    scored = [run for run in runs if run.is_scored] + [one for one in ablations if one.is_scored]
    return {**written, **({} if measured else {"scored": len(scored)})}


def _compare(args: argparse.Namespace) -> dict[str, object]:
    runs = _runs([args.a, args.b], args.names)
    if args.output is not None:
        report.check(args.output)
    a, b = (compare.of_run(run) for run in runs)
    note = compare.wordings(*runs)
    rows = compare.compare(a, b)
    change, changed, left_out = rows[0].difference, compare.flips(a, b), compare.unpaired(a, b)
    said = [*left_out.sentences(a.name, b.name), *([note] if note else [])]
    settings = compare.changed_settings(a, b, args.format)
    sys.stdout.write(f"{settings}\n\n" * bool(settings) + compare.shown(rows, a, b, said, form=args.format))
    written: dict[str, object] = {}
    if args.output is not None:
        with style.sheet():
            written = {"output": report.write(changes.of_two(*runs), args.output, args.pictures)["output"]}
    return {"difference": change.value, "interval_95": [change.low, change.high], "p_value": change.p_value,
            "cases": change.cases, "only_in_a": left_out.only_in_a, "only_in_b": left_out.only_in_b,
            "without_verdict": left_out.without_verdict, "images_lost": len(changed["lost"]),
            "images_won": len(changed["won"]), "verdict": rows[0].words, **({"note": note} if note else {}),
            **written}  # fmt: skip


def _runs(paths: list[Path], given: tuple[str, ...]) -> list[Run]:
    """Runs with names that tell them apart."""
    runs, ablations = load(paths, given)
    if ablations:
        raise UserError(f"{ablations[0].path} is an ablation; expected the directory of a run")
    return runs


def _baseline(args: argparse.Namespace) -> dict[str, object]:
    outcomes = compare.of_run(_known(load_run(args.run_directory)))
    missing, total = outcomes.images()
    if missing == total:
        raise UserError(
            f"{args.run_directory} cannot be a baseline: of its {counted(total, 'images')} none has a verdict"
        )
    write_json(args.output, outcomes.as_dict(), indent=1)
    return {"cases": len(outcomes.right), "output": str(args.output)}


def _known(run: Run) -> Run:
    """A run that says how it was made."""
    if run.public_scores is not None:
        raise UserError(f"{run.public_scores} does not say how its images were made; a gate compares like with like")
    return run


def _gate(args: argparse.Namespace) -> dict[str, object]:
    if args.output is not None:
        if args.baseline_run is None:
            raise UserError("--output needs --baseline-run: a baseline file has no images")
        report.check(args.output)
    before = None
    if args.baseline_run is None:
        baseline = dataclasses.replace(compare.of_baseline(args.baseline), name="baseline")
        run = _known(load_run(args.run_directory))
    else:
        before, run = map(_known, _runs([args.baseline_run, args.run_directory], ()))
        baseline = compare.of_run(before)
    outcomes = compare.of_run(run)
    suite = str(outcomes.made_by["generate"]["suite"])
    decision = gate.decide(baseline, outcomes, args.max_drop, args.alpha)
    said = (decision, baseline, outcomes, run, before)
    sys.stdout.write(gate.summary(*said, form="text"))
    if args.junit is not None:
        gone = gate.lost(baseline, outcomes, load_samples(run))
        write_atomic(args.junit, gate.junit(decision, suite, args.max_drop, gone))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"## Gate of {escaped(suite)}\n{gate.summary(*said)}\n")
    written: dict[str, object] = {}
    if args.output is not None and before is not None and decision.rows:
        with style.sheet():
            written = {"output": report.write(changes.of_two(before, run), args.output, "auto")["output"]}
    return {"answer": decision.answer, "why": decision.why, **written}


def _power(args: argparse.Namespace) -> dict[str, object]:
    table, numbers = power.table(compare.of_baseline(args.baseline), args.drop, args.alpha, args.certainty)
    sys.stdout.write(formats.to_text(table))
    return numbers


def _table(args: argparse.Namespace) -> dict[str, object]:
    runs = _runs(args.runs, args.names)
    table = plain.table_of(runs, args.published)
    text = formats.FORMATS[args.format](table)
    if args.output is None:
        sys.stdout.write(text)
    else:
        write_atomic(args.output, text)
    scored = sum(run.is_scored for run in runs)
    return {"rows": len(table.rows), "runs": len(runs), "scored": scored, "output": args.output and str(args.output)}


def _teaser(args: argparse.Namespace) -> dict[str, object]:
    named = args.sample if args.index is None else f"{args.sample}/{args.index}"
    sample = find_sample(load_samples(load_run(args.run_directory)), named, str(args.run_directory))
    figure = teaser.draw_teaser(args.run_directory, sample)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.output)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --output {args.output}: {error}") from error
    return {"case": sample.case, "index": sample.index, "outcome": sample.outcome, "reason": sample.reason,
            "failed_at": STAGES.get(sample.stage or ""), "output": str(args.output)}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
