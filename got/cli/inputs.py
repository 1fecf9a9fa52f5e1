"""What a command asks for: prompts, chains and file names, checked before a model is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.model.validation import check_words
from got.plan.chain import BOX_START, Chain
from got.util.errors import UserError, note
from got.util.files import json_object
from got.util.tables import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_KEYS = {"prompt", "chain", "seed"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image to draw."""

    prompt: str
    chain: str | None
    """The plan to draw from; None leaves it to the reasoner."""
    seed: int
    output: Path
    """The file to write."""


def read_requests(arguments: argparse.Namespace) -> list[Request]:
    """The images that a command asks for, prompt by prompt.

    Raises:
        UserError: If there is none, a file cannot be read, or a file is there already.
        ValueError: If a prompt is empty or has control characters.
    """
    if arguments.prompts == arguments.chain == "-":
        raise UserError("--prompts and --chain cannot both be read from standard input")
    asked: list[dict[str, Any]] = [{"prompt": prompt} for prompt in arguments.prompt]
    if arguments.prompts is not None:
        asked += _read_prompts(arguments.prompts)
    chain = None if arguments.chain is None else _plain_boxes(read_chain(arguments.chain))
    if not asked and chain is not None and arguments.command == "generate":
        if not chain.strip():
            raise UserError(f"--chain {arguments.chain}: expected a plan, or a prompt beside it, but it is empty")
        asked = [{"prompt": Chain.parse(chain).caption()}]
    if not asked:
        raise UserError("expected a prompt, or --prompts FILE (--help explains)")
    paths = output_paths(arguments.output, len(asked) * arguments.num, ".txt" if arguments.plan_only else ".png")
    requests = []
    for i, one in enumerate(asked):
        check_words(one["prompt"], "prompt")
        for k in range(arguments.num):
            requests.append(
                Request(
                    prompt=one["prompt"],
                    chain=one.get("chain", chain),
                    seed=one.get("seed", arguments.seed) + k,
                    output=paths[i * arguments.num + k],
                )
            )
    if not arguments.overwrite:
        _refuse_existing([path for request in requests for path in files_of(request.output, arguments)])
    return requests


def output_paths(output: Path | None, count: int, suffix: str) -> list[Path]:
    """Names of the files: the one that was given, or numbered ones, beside it or in a folder.

    >>> [path.as_posix() for path in output_paths(Path("a/cat.jpg"), 2, ".png")]
    ['a/cat-0000.jpg', 'a/cat-0001.jpg']
    >>> [path.as_posix() for path in output_paths(Path("images"), 1, ".png")]
    ['images/0000.png']
    """
    if output is None:
        output = Path(f"got{suffix}")
    if output.is_dir() or not output.suffix:
        return [output / f"{number:04d}{suffix}" for number in range(count)]
    _check_suffix(output, suffix)
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number:04d}{output.suffix}") for number in range(count)]


def side_file(output: Path, kind: str, suffix: str = ".png") -> Path:
    """The name of a file beside an image.

    >>> side_file(Path("cat.jpg"), "layout").as_posix()
    'cat-layout.png'
    """
    return output.with_name(f"{output.stem}-{kind}{suffix}")


def files_of(output: Path, arguments: argparse.Namespace) -> list[Path]:
    """Every file that an image may bring along: those of known names, and masks and turns that are there already."""
    if arguments.plan_only:
        return [output]
    files = [output, *numbered_files(output, "turn")]
    if arguments.save_chain:
        files.append(side_file(output, "chain", ".txt"))
    if arguments.save_layout:
        files.append(side_file(output, "layout"))
    if arguments.save_masks:
        files += numbered_files(output, "mask")
    return files


def numbered_files(output: Path, kind: str) -> list[Path]:
    """The masks or turns that lie beside an image."""
    pattern = re.compile(rf"{re.escape(output.stem)}-{kind}-\d+\.png")
    there = output.parent.iterdir() if output.parent.is_dir() else ()
    return [path for path in there if pattern.fullmatch(path.name)]


def read_chain(given: str) -> str:
    """A chain that was typed, or the contents of a file.

    Whatever has a box or a space in it is the chain itself; anything else must be a file.

    Raises:
        UserError: If the file cannot be read.
    """
    if given == "-":
        return sys.stdin.read().strip("\n")
    if BOX_START in given or (re.search(r"\s", given) and not Path(given).is_file()) or not given:
        return given
    return _read_text(given, "--chain").strip("\n")


def _plain_boxes(text: str) -> str:
    """A plan with its boxes in the model's tokens, where a person wrote them without."""
    chain = Chain.read(text)
    if chain.text != text:
        plain = len(chain.regions) - len(Chain.parse(text).regions)
        note(f"--chain: {counted(plain, 'plain boxes')} read: {chain.text}")
    return chain.text


def _read_prompts(name: str) -> list[dict[str, Any]]:
    text = sys.stdin.read().removeprefix("\ufeff") if name == "-" else _read_text(name, "--prompts")
    # Not `splitlines`: a prompt may hold characters that it takes for line ends.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    # Standard input has no name to go by; no caption begins with a brace.
    if not name.endswith(".jsonl") and not (name == "-" and lines and lines[0][1].startswith("{")):
        return [{"prompt": line} for _, line in lines]
    records = [_read_record(line, f"{name}, line {number}") for number, line in lines]
    if unused := sorted({key for record in records for key in record} - _KEYS):
        note(f"{name}: keys that are not used: {', '.join(map(repr, unused))}")
    return [{key: value for key, value in record.items() if key in _KEYS} for record in records]


def _read_record(line: str, where: str) -> dict[str, Any]:
    record = json_object(line, where, UserError)
    if not isinstance(record.get("prompt"), str):
        raise UserError(f'{where}: expected {{"prompt": "..."}} but got {line[:60]}')
    slips = [key for key in sorted(record.keys() - _KEYS) if difflib.get_close_matches(key.lower(), _KEYS, cutoff=0.8)]
    if slips:
        raise UserError(f"{where}: expected {', '.join(sorted(_KEYS))} but got {slips[0]!r}")
    if not isinstance(record.get("chain", ""), str | None):
        raise UserError(f"{where}: expected the chain to be text but got {record['chain']!r}")
    seed = record.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"{where}: expected the seed to be a whole number from 0 to 2^63 - 1 but got {seed!r}")
    return {key: value for key, value in record.items() if value is not None}


def _read_text(name: str, flag: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{flag} {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} {name}: expected UTF-8 text but byte {error.start} is none") from error


def _check_suffix(output: Path, suffix: str) -> None:
    if suffix == ".txt":
        if output.suffix.lower() != ".txt":
            raise UserError(f"--output {output}: a plan is written to a .txt file")
        return
    from PIL import Image

    known = Image.registered_extensions()
    if known.get(output.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--output {output}: expected an image's name, ending in .png, .jpg, .webp or the like")


def _refuse_existing(paths: Sequence[Path]) -> None:
    existing = sorted({str(path) for path in paths if path.exists()})
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]}{more} is there already; --overwrite replaces it")
