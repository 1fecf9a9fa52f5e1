"""The command line that all suites share: flags, errors in one line, and the last line of stdout as JSON."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evals.core.records import UserError
from evals.core.run_directory import RunDirectory
from evals.detectors import registry as detectors
from evals.generators import registry as generators
from evals.harness.engines import ENGINES
from evals.harness.plan import CommandLine, make_plan
from evals.harness.runner import STAGES, run
from got.util.cli import console as make_console
from got.util.cli import may_be_cut_off

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evals.core.protocols import Suite

__all__ = ["UserError", "main"]

_EXAMPLES = """\
examples:
  python -m evals.{suite}                                   the embedded GoT, everything
  python -m evals.{suite} --model oracle --limit 12         two minutes' tour, no model
  python -m evals.{suite} --model got --spatial off         without one of the three guidances
  python -m evals.{suite} --model folder:my_images{photographs}
  python -m evals.{suite} --model diffusers:my_pipeline{photographs} --steps 25 --device cuda
  python -m evals.{suite} --output runs/mine --from {stage}

The same command resumes after Ctrl-C, a crash or a full disk, and tries again what failed by an exception. A finished
run is only printed again.
--from observe and --from verdict redo the later stages of the run in --output; flags not given are that run's own.
The last line on standard output is one JSON object with the headline numbers. Exit codes: 0 done, also where some
images are missing (they are counted, and the score has bounds); 1 nothing was scored, or --doctor found problems;
2 a mistake in the command or a broken set-up; 130 interrupted; 141 nobody read the output on (| head). One line on
standard error says what is wrong.
"""

_OF_EDITS = {"photographs": "", "stage": "verdict"}
_OF_GENEVAL = {"photographs": " --detector mask2former", "stage": "observe --detector mask2former"}

NOTHING_SCORED = 1
"""The exit code of a command that ends without any number."""

_CHAINS = "own, none, oracle, jitter:X, drop:X or swap:X"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse's own habit is the whole usage first."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help explains)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up but got {text}")
    return int(text)


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 up but got {text}")
    return value


def _names(text: str) -> tuple[str, ...]:
    """Names between commas; or of a JSON list, whose names may have commas.

    >>> _names("b, a"), _names('["a, b", "c"]')
    (('a', 'b'), ('a, b', 'c'))
    """
    names: list[object] = [name.strip() for name in text.split(",") if name.strip()]
    if text.lstrip().startswith("["):
        try:
            names = list(json.loads(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f'expected a JSON list, as ["a, b"], but got {text} ({error})') from error
    if not names or not all(isinstance(name, str) for name in names):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, or a JSON list, but got {text!r}")
    return tuple(sorted({str(name) for name in names}))


def _chain(text: str) -> str:
    how, colon, amount = text.partition(":")
    if how in ("own", "none", "oracle") and not colon:
        return text
    if how in ("jitter", "drop", "swap") and re.fullmatch(r"0?\.\d+|[01](\.0*)?", amount):
        return text
    raise argparse.ArgumentTypeError(f"expected {_CHAINS}, X in [0, 1], but got {text}")


def build_parser(suite: Suite) -> argparse.ArgumentParser:
    """The shared flags, in groups, then the suite's own."""
    parser = _Parser(
        prog=f"python -m evals.{suite.name}",
        description="Generates images, observes them with a detector, judges and sums up; all in one run directory.",
        # The editing suites look at photographs with no detector.
        epilog=_EXAMPLES.format(suite=suite.name, **(_OF_GENEVAL if suite.name == "geneval" else _OF_EDITS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_model(parser.add_argument_group("what draws"))
    _add_guidance(parser.add_argument_group("GoT's three guidances"))
    _add_scorer(parser.add_argument_group("what looks at the images"))
    suite.add_arguments(parser.add_argument_group(suite.name))
    _add_run(parser.add_argument_group("the run"))
    return parser


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", default="got", metavar="NAME", help=f"one of {generators.known_models()} (default: %(default)s)")
    add(
        "--checkpoint",
        default="mini",
        metavar="mini|PATH|HUB_ID",
        help="GoT's weights (default: %(default)s, embedded)",
    )
    add(
        "--tasks",
        type=_names,
        default=(),
        metavar="A,B|LIST",
        help="only prompts of these tasks (of edits: categories), which keep their ids; a JSON list where a name has a"
        """ comma: '["left, right", "counting"]' (default: all)""",
    )
    add("--limit", type=_count, metavar="N", help="only N prompts, spread evenly over the tasks (default: all)")
    add("--images-per-prompt", type=_count, default=4, metavar="N", help="(default: %(default)s)")
    add("--seed", type=int, default=42, metavar="N", help="base of every sample's own seed (default: %(default)s)")
    add("--steps", type=_count, metavar="N", help="denoising steps (default: the checkpoint's)")
    add("--scheduler", choices=generators.known_schedulers(), help="GoT's sampler (default: the checkpoint's)")


def _add_guidance(group: argparse._ArgumentGroup) -> None:
    parts = {
        "semantic": "follow the chain's meaning",
        "spatial": "follow the chain's boxes",
        "reference": "follow the source image; black for text-to-image",
    }
    for name, purpose in parts.items():
        group.add_argument(f"--{name}", choices=("on", "off"), default="on", help=f"{purpose} (default: on)")
        group.add_argument(f"--{name}-scale", type=_scale, metavar="X", help="its strength (default: the checkpoint's)")
    group.add_argument(
        "--chain",
        type=_chain,
        default="own",
        metavar="WHOSE",
        help=f"whose plan is drawn: {_CHAINS}; the last three are the oracle's with moved boxes, a share X of boxes"
        " missing, or a share X of names exchanged (default: %(default)s)",
    )
    group.add_argument(
        "--reference-compat",
        action="store_true",
        help="do as GoT's released code does where this one differs on purpose (got/released/reference.py lists where)",
    )


def _add_scorer(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--detector",
        default="icon",
        metavar="NAME|PATH",
        help=f"{detectors.CHOICES}; hf takes object detectors, instance segmenters and open-vocabulary detectors "
        "(Grounding DINO, OWL-ViT, OWLv2) of transformers; the last are prompted with the 80 class names, and their "
        "scores are lower, which asks for thresholds of their own (default: icon; GenEval has none for a folder, a "
        "diffusers pipeline and a GoT checkpoint larger than mini)",
    )
    group.add_argument(
        "--allow-missing-classes",
        action="store_true",
        help="go on where the detector has no label for a class that a case needs; such cases are missing, not wrong",
    )
    group.add_argument(
        "--embedder",
        default="auto",
        metavar="NAME|PATH",
        help="names colours: icon, openclip:MODEL/PRETRAINED|PATH (default: the detector's companion)",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--output", type=Path, metavar="DIR", help="run directory (default: under runs/, named by model and arguments)")
    add("--from", dest="start", choices=STAGES, help="redo a finished stage and those after it")
    add(
        "--batch-size",
        type=_count,
        metavar="N",
        help="images drawn and observed together; moves results by rounding errors at most (default: by model)",
    )
    add("--engine", choices=tuple(ENGINES), default="local", help="where samples are computed (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the model; bfloat16 is faster on GPUs and on processors that multiply it (AMX, AVX512-BF16), and many "
        "times slower on others (default: %(default)s)",
    )
    add(
        "--offload",
        choices=("model", "sequential"),
        help="for a GPU smaller than the model: weights wait in main memory, network by network or layer by layer",
    )
    add(
        "--compile",
        action="store_true",
        help="torch compiles the model's UNet (minutes), which then runs faster; wants a compiler and Python's headers",
    )
    add("--dry-run", action="store_true", help="print what would be done, and stop")
    add(
        "--doctor",
        action="store_true",
        help="check the installation, and the model, detector and embedder that are given; draw nothing",
    )


def parse(suite: Suite, argv: Sequence[str]) -> CommandLine:
    """Reads a command line. Redoing a stage of a run fills in what is not given from the run's own command line.

    Raises:
        UserError: Something on the command line is wrong.
    """
    words = list(argv)
    args, given = _parse(suite, words)
    if args.start is not None and args.output is not None:
        spec = RunDirectory(args.output).read_spec()
        if spec is None:
            raise UserError(f"--from {args.start} needs a run; {args.output} has no run.json")
        words = [*spec["arguments"]["given"], *argv]
        args, given = _parse(suite, words)
    return CommandLine(args=args, given=given, words=words)


def _parse(suite: Suite, argv: Sequence[str]) -> tuple[argparse.Namespace, set[str]]:
    parser = build_parser(suite)
    args = parser.parse_args(argv)
    # argparse leaves an attribute that is there already alone, unless a flag sets it.
    unset = object()
    again = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    return args, {name for name, value in vars(again).items() if value is not unset}


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Ends on SIGTERM as on Ctrl-C: clusters ask before they kill."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def set_threads() -> None:
    """Decides the number of torch's threads, here and nowhere else: OMP_NUM_THREADS, or the cores we may use."""
    import torch

    wanted = os.environ.get("OMP_NUM_THREADS", "")
    # Only Linux tells which cores this process may use; a container often has fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(wanted) if wanted.isdecimal() and int(wanted) else cores)


@dataclasses.dataclass
class Exit:
    """How a command ends."""

    code: int = 0


@contextlib.contextmanager
def clear_errors(name: str) -> Iterator[Exit]:
    """Ends a command the way a person wants it: one line for their own mistakes and for Ctrl-C, no traceback.

    Raises:
        SystemExit: As of `got.util.cli.may_be_cut_off`.
    """
    end = Exit()
    try:
        with may_be_cut_off(), _stoppable():
            yield end
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        end.code = 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command resumes", file=sys.stderr)
        end.code = 130


def main(suite: Suite, argv: Sequence[str] | None = None) -> int:
    """Runs a suite's command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with clear_errors(suite.name) as end:
        end.code = _main(suite, words)
    return end.code


def _main(suite: Suite, words: Sequence[str]) -> int:
    command = parse(suite, words)
    if command.args.doctor:
        from evals.harness import doctor

        return doctor.main(suite, command, prepare=set_threads)
    plan = make_plan(suite, command, prepare=set_threads)
    if command.args.dry_run:
        print(json.dumps({"output": str(plan.output), "images": len(plan.samples), **plan.identity}))
        return 0
    scores = run(plan)
    _show(suite, scores, plan.output)
    why = suite.nothing_scored(scores)
    if why is not None:
        print(f"{suite.name}: nothing was scored: {why}", file=sys.stderr)
    return NOTHING_SCORED if why is not None else 0


def _show(suite: Suite, scores: dict[str, Any], output: Path) -> None:
    console = make_console()
    for table in suite.tables(scores):
        console.print(table)
    print(json.dumps({**suite.headline(scores), "run": str(output)}), flush=True)
