"""What all command lines share: flags and their numbers, the device, and how a command ends.

A command's last line on standard output is one JSON object; a person's own mistake is one line on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import dis
import json
import math
import os
import re
import select
import signal
import sys
import sysconfig
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from got.util import interrupts
from got.util.errors import UserError, harmless, one_line, visible
from got.util.files import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


DTYPES = ("float32", "bfloat16", "float16")
DEVICES = "cpu, cuda, cuda:1, mps (default: a GPU if there is one)"
CUT_OFF = 141
"""Exit status where nobody reads the output on, as a shell gives it to a command that ``| head`` ends."""
_NARROW_COLUMNS = 120
_LONGEST = 2_000
"""Characters of an error that are shown: a value may be as long as a file."""
_OWN = ("got", "evals", "reports")
_NO_WORD = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""What a word of a command line never holds; the surrogates between stand for the bytes of names that are no UTF-8."""


# --------------------------------------------------------------------------------------------------------------- flags
class Parser(argparse.ArgumentParser):
    """Flags in full, help as it is written here, and what is wrong in one line instead of the whole usage."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it; what no shell passes on is refused, which grids, logs and programs may hold."""
        words = sys.argv[1:] if args is None else args
        if wrong := next((word for word in words if _NO_WORD.search(word)), None):
            self.error(f"no argument can hold a NUL character or a lone surrogate, as {wrong[:100]!a} does")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises the mistake as an error of the person, with the flag that may have been meant."""
        words, known = [word.partition("=")[0] for word in message.split() if word.startswith("--")], _flags(self)
        unknown = [word for word in words if word not in known]  # the others are flags of another command
        if message.startswith("unrecognized arguments") and (meant := _similar(unknown, known)):
            message += f"; did you mean {', '.join(meant)}?"
        raise UserError(f"{message} (--help explains)")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """All flags of a parser and of its commands."""
    own = [flag for action in parser._actions for flag in action.option_strings]
    commands = [action.choices or {} for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return own + [flag for each in commands for command in each.values() for flag in _flags(command)]


def _similar(words: list[str], known: list[str]) -> list[str]:
    """What was probably meant.

    >>> _similar(["--modle", "--steps", "--x"], ["--model", "--steps"])
    ['--model', '--steps']
    """
    return list(dict.fromkeys(one for word in words for one in difflib.get_close_matches(word, known, n=1, cutoff=0.7)))


def add_command(
    commands: argparse._SubParsersAction[Any],
    name: str,
    purpose: str,
    epilog: str | None = None,
    run: Callable[[argparse.Namespace], Any] | None = None,
) -> argparse.ArgumentParser:
    """Adds a command.

    Args:
        commands: What `argparse.ArgumentParser.add_subparsers` gave.
        name: Its name.
        purpose: What it does, in a few words that begin small.
        epilog: Examples.
        run: What does it; under this name in the parsed arguments.
    """
    description = purpose[0].upper() + purpose[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=description, epilog=epilog)
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def whole(least: int = 1, most: int | None = None, *, multiple_of: int = 1) -> Callable[[str], int]:
    """The `type` of a flag that takes a whole number.

    >>> whole(1)("12")
    12
    >>> whole(1, multiple_of=64)("100")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: expected a whole number from 1 up that 64 divides but got 100
    """
    allowed = f"from {least} {'up' if most is None else f'to {most}'}"
    most = sys.maxsize if most is None else most  # no more can be counted
    allowed += f" that {multiple_of} divides" if multiple_of > 1 else ""

    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not least <= value <= most or value % multiple_of:
            raise argparse.ArgumentTypeError(f"expected a whole number {allowed} but got {text}")
        return value

    return parse


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The `type` of a flag that takes a finite number, both bounds allowed.

    >>> number(0, 1)("0.25")
    0.25
    >>> number(0)("-1")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: expected a number from 0 up but got -1
    """
    allowed = "a finite number"
    if math.isfinite(least):
        allowed = f"a number from {least:g} {f'to {most:g}' if math.isfinite(most) else 'up'}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"expected {allowed} but got {text}")
        return value

    return parse


def json_fields(text: str) -> str:
    """The `type` of a flag that takes a JSON object, which it gives in one spelling.

    >>> json_fields('{"b": 1,"a": 2}')
    '{"a": 2, "b": 1}'
    """
    try:
        return json.dumps(json_object(text, "the flag", ValueError), sort_keys=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object but got {text} ({error})") from error


seed = whole(0, 2**63 - 1)
"""The `type` of a flag that takes a torch generator's seed."""


# ------------------------------------------------------------------------------------------------------------- endings
@contextlib.contextmanager
def on_signals(call: Callable[[], object], *numbers: int) -> Iterator[None]:
    """Does something on these signals instead of what they usually do."""

    def handle(number: int, frame: object) -> None:
        call()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def run_command(
    work: Callable[[], dict[str, Any] | int | None],
    name: str = "",
    *,
    mistakes: tuple[type[Exception], ...] = (UserError, ValueError, OSError),
    interrupted: str = "interrupted",
) -> int:
    """Does a command's work and returns its exit status.

    SIGTERM ends it as Ctrl-C does: clusters ask before they kill.

    Args:
        work: Returns what the last line of output says, or its own exit status, or nothing.
        name: Before what goes to standard error, where several commands write into one log.
        mistakes: Errors that a person made, and that end in one line without a traceback. A `ValueError` is one only
            if our own code raised it in words: from within a library, it is a fault of ours.
        interrupted: What is said after Ctrl-C.

    Returns:
        0; what the work returns; 1 if its result's ``ok`` is false; 2 after a mistake; 130 after Ctrl-C; 141 where
        nobody reads the output on.
    """
    prefix = f"{name}: " if name else ""
    ctrl_c = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is interrupts.end else []
    try:
        with on_signals(_interrupt, signal.SIGTERM, *ctrl_c):
            try:
                result = work()
                if isinstance(result, dict):
                    print(json.dumps(result))
            finally:  # of `--help`, too
                sys.stdout.flush()  # here and not at the interpreter's end, where nobody can catch what it raises
    except BrokenPipeError:
        lost = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not lost:  # a pipe or a socket of something else
            raise
        for stream in lost:  # what is left in its buffer goes nowhere, and Python does not complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return CUT_OFF
    except Exception as error:
        if not (_is_loop(error) or (isinstance(error, mistakes) and _is_mistake(error))):
            raise
        _let_go(sys.stdout)
        print(f"{prefix}error: {_said(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prefix}{interrupted}", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else int(not (result or {}).get("ok", True))


def _let_go(stream: TextIO) -> None:
    """Drops what is left in the buffer of an output that is full, so that Python does not complain when it ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_loop(error: Exception) -> bool:
    """Whether a link leads to itself: what `Path.resolve` raises there is an OSError from Python 3.13 on only."""
    return type(error) is RuntimeError and str(error).startswith("Symlink loop from ")


def _is_mistake(error: Exception) -> bool:
    if not isinstance(error, ValueError) or isinstance(error, UnicodeError) or error.__traceback__ is None:
        return True
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code, module = trace.tb_frame.f_code, str(trace.tb_frame.f_globals.get("__name__"))
    paths = sysconfig.get_paths()
    libraries = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    own = module.partition(".")[0] in _OWN or not code.co_filename.startswith(libraries)
    return own and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _has_no_reader(stream: TextIO) -> bool:
    try:
        place = stream.fileno()
    except (OSError, ValueError):  # no file of the system, or closed
        return False
    poll = select.poll()
    poll.register(place, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _said(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    words = visible(text) or type(error).__name__
    half = _LONGEST // 2
    return words if len(words) <= _LONGEST else f"{words[:half]} ... {words[-half:]}"


def console() -> Console:
    """Where tables are printed; in what they show, brackets are no markup, and nothing steers the terminal."""
    from rich.console import Console
    from rich.segment import Segment

    class Output(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            """Renders as rich does, after control characters in the texts have been made visible."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else harmless(text), style, control)

        def on_broken_pipe(self) -> None:
            """Leaves a closed pipe to `run_command`: rich itself would exit with 1, which means something else here."""
            raise  # noqa: PLE0704 (rich calls it while it handles the error)

    # Without a terminal rich assumes 80 columns and would break the tables of a log file.
    return Output(width=None if sys.stdout.isatty() else _NARROW_COLUMNS, markup=False)


# -------------------------------------------------------------------------------------------------------------- devices
def resolve_device(name: str) -> str:
    """The device of a name; ``auto`` is a GPU if there is one.

    Raises:
        UserError: It cannot be used here.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    # A missing CUDA is an AssertionError or a RuntimeError, by how torch was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used: {one_line(error)}") from error
    return name


def set_threads() -> None:
    """Decides the number of torch's threads, here and nowhere else: OMP_NUM_THREADS, or the cores we may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" not in sys.modules and wanted.isdecimal() and int(wanted):
        return  # torch reads it when it is imported, and whoever needs no model has not to wait for that
    import torch

    # Only Linux tells which cores this process may use; a container often has fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(wanted) if wanted.isdecimal() and int(wanted) else cores)
