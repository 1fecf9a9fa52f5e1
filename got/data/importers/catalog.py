"""Public data sets as examples, by local path or hub id, one example at a time.

    for example in open_source("coco", "coco/annotations", "coco/val2017", Options(split="val2017")):
        ...

`SOURCES` has what is known of each set; the readers' modules say what their files look like. A set without chains gives
examples that are not `Example.annotated`: they are for the annotation pipeline. Nothing is redistributed: images stay
where they are until somebody writes the examples elsewhere, and every example carries its set's licence.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.data.importers.coco import read_coco
from got.data.importers.edits import read_magicbrush, read_omniedit, read_seed
from got.data.importers.files import FIELDS, Options, Request, fetch
from got.data.importers.got_sets import read_captions, read_edits, read_sessions
from got.data.records import DataError, Example
from got.util.cli import add_command, number, whole
from got.util.errors import harmless
from got.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from got.data.storage import Writer

_ANNOTATIONS = ("*.json", "*.jsonl", "*.parquet", "**/*.json", "**/*.jsonl", "**/*.parquet")
_SHOWN_FAILURES = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A public data set."""

    dataset: str
    """Its name."""
    license: str
    """What its card says."""
    page: str
    """Where it is described, and to be had."""
    read: Callable[[Request], Iterator[Example]]
    """Its reader."""
    hub_id: str = ""
    """Data set on the Hugging Face hub; empty if it is not there, or nobody has seen it there."""
    patterns: tuple[str, ...] = _ANNOTATIONS
    """Files wanted from the hub; ``{split}`` stands for a split that must then be chosen."""
    chains: bool = True
    """Whether its examples have chains."""


_GOT_PAGE = "https://github.com/rongyaofang/GoT"
SOURCES: dict[str, Source] = {
    "coco": Source(
        dataset="COCO",
        license="annotations: CC-BY-4.0",
        page="https://cocodataset.org/#download",
        read=read_coco,
    ),
    "lahr-got": Source(
        dataset="LAHR-GoT",
        license="unknown; images of LAION-Aesthetics belong to their owners",
        page=_GOT_PAGE,
        hub_id="LucasFang/Laion-Aesthetics-High-Resolution-GoT",
        read=read_captions,
    ),
    "journeydb-got": Source(
        dataset="JourneyDB-GoT",
        license="unknown; images: JourneyDB's terms of usage",
        page=_GOT_PAGE,
        hub_id="LucasFang/JourneyDB-GoT",
        read=read_captions,
    ),
    "flux-got": Source(
        dataset="FLUX-GoT",
        license="unknown; images: FLUX.1-dev's licence",
        page=_GOT_PAGE,
        read=read_captions,
    ),
    "omniedit-got": Source(
        dataset="OmniEdit-GoT",
        license="MIT",
        page=_GOT_PAGE,
        hub_id="LucasFang/OmniEdit-GoT",
        read=read_edits,
    ),
    "seed-edit-multiturn-got": Source(
        dataset="SEED-Edit-Multiturn-GoT",
        license="unknown; images: CC-BY-NC-4.0",
        page=_GOT_PAGE,
        read=read_sessions,
    ),
    "omniedit": Source(
        dataset="OmniEdit",
        license="MIT",
        page="https://huggingface.co/datasets/TIGER-Lab/OmniEdit-Filtered-1.2M",
        hub_id="TIGER-Lab/OmniEdit-Filtered-1.2M",
        patterns=("data/{split}-*.parquet",),
        read=read_omniedit,
        chains=False,
    ),
    "seed-data-edit": Source(
        dataset="SEED-Data-Edit part 3",
        license="CC-BY-NC-4.0",
        page="https://huggingface.co/datasets/AILab-CVC/SEED-Data-Edit-Part2-3",
        hub_id="AILab-CVC/SEED-Data-Edit-Part2-3",
        patterns=("multi_turn_editing/annotations/*.jsonl",),
        read=read_seed,
        chains=False,
    ),
    "magicbrush": Source(
        dataset="MagicBrush",
        license="CC-BY-4.0",
        page="https://huggingface.co/datasets/osunlp/MagicBrush",
        hub_id="osunlp/MagicBrush",
        patterns=("data/{split}-*.parquet",),
        read=read_magicbrush,
        chains=False,
    ),
}
"""Name on the command line -> data set."""


def open_source(
    name: str, place: str | Path = "", images: str | Path | None = None, options: Options | None = None
) -> Iterator[Example]:
    """The examples of a public data set, read as they are asked for.

    Args:
        name: One of `SOURCES`.
        place: File or folder of its annotations, or a hub id (``OWNER/NAME``, ``OWNER/NAME@REVISION``); the set's own
            hub id if empty. What the hub gives is kept in the hub's cache.
        images: Folder of its images, if they are not in the annotation files or beside them.
        options: How to read it.

    Raises:
        DataError: There is no such set or place, or, while reading, a file or a row cannot be used.
    """
    if name not in SOURCES:
        raise DataError(f"Expected one of {', '.join(SOURCES)} but got {name!r}")
    source, options = SOURCES[name], options or Options()
    if unknown := [field for field in options.fields if field not in FIELDS]:
        raise DataError(f"Expected fields of {', '.join(FIELDS)} but got {unknown[0]!r}")
    if not (place or source.hub_id):
        raise DataError(f"{source.dataset}: expected a path of its annotations (--annotations); see {source.page}")
    if not Path(place or source.hub_id).exists() and not options.split and "{split}" in "".join(source.patterns):
        raise DataError(f"{source.dataset}: expected a split (--split), such as train or dev, to get from the hub")
    if images is not None and not Path(images).is_dir():
        raise DataError(f"{images}: expected a folder of images (--images) but there is none")
    patterns = [pattern.format(split=options.split) for pattern in source.patterns]
    return source.read(
        Request(
            dataset=source.dataset,
            license=source.license,
            place=fetch(place or source.hub_id, source.hub_id, patterns),
            images=None if images is None else Path(images),
            options=options,
        )
    )


# --------------------------------------------------------------------------------------------------------- command line
def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add ``import`` to the commands of ``python -m got.data``; its ``run`` is `run`."""
    sets = "sets:\n" + "\n".join(_line(name, source) for name, source in SOURCES.items())
    purpose = "bring a public data set into a chain dataset; run again, it goes on where it stopped"
    parser = add_command(subparsers, "import", purpose, sets, run)
    parser.add_argument("name", choices=list(SOURCES), metavar="NAME", help="which set, see below")
    parser.add_argument(
        "--annotations", default="", metavar="PATH", help="its file or folder, or a hub id (the set's own, if any)"
    )
    parser.add_argument("--images", metavar="DIR", help="its images, if they are not in or beside the annotations")
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--format", default="folder", choices=("folder", "parquet", "webdataset"), help="(default: %(default)s)"
    )
    parser.add_argument("--split", default="", help="which files: train, dev, val2017, ...")
    parser.add_argument("--limit", type=whole(), metavar="N", help="no more than N examples")
    parser.add_argument("--keep-going", action="store_true", help="list broken rows in failures.txt and go on")
    parser.add_argument("--single-turn", action="store_true", help="each turn of a session as an edit of its own")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        type=_assignment,
        metavar="OURS=THEIRS",
        help=f"name of a field in the files, where it is not found; ours are {', '.join(FIELDS)}",
    )
    parser.add_argument("--strip-prefix", default="", metavar="TEXT", help="beginning of the files' paths to leave out")
    parser.add_argument(
        "--max-boxes", type=whole(), default=10, metavar="N", help="coco: boxes per chain (default: %(default)s)"
    )
    parser.add_argument(
        "--min-area",
        type=number(0, 1),
        default=0.005,
        metavar="F",
        help="coco: least part of the image (default: %(default)s)",
    )


def _line(name: str, source: Source) -> str:
    chains = "" if source.chains else ", without chains"
    return f"  {name:<24} {source.dataset}{chains} ({source.license})"


def _assignment(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or ours not in FIELDS or not theirs:
        raise argparse.ArgumentTypeError(f"expected OURS=THEIRS, OURS one of {', '.join(FIELDS)}, but got {text!r}")
    return ours, theirs


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a public data set as a chain dataset; the numbers for the last line of output.

    Raises:
        DataError: The set cannot be read or written.
    """
    from got.data.storage import Writer

    failures: list[str] = []
    options = Options(
        split=arguments.split,
        fields=dict(arguments.field),
        strip_prefix=arguments.strip_prefix,
        single_turn=arguments.single_turn,
        max_boxes=arguments.max_boxes,
        min_area=arguments.min_area,
        on_error=(lambda error: failures.append(str(error))) if arguments.keep_going else None,
    )
    examples = open_source(arguments.name, arguments.annotations, arguments.images, options)
    counts = {"examples": 0, "written": 0, "without_chain": 0}
    ids: set[str] = set()
    with Writer(arguments.output, arguments.format) as writer, Progress("examples", None) as bar:
        there_before = len(writer.known_ids())
        try:
            for example in itertools.islice(examples, arguments.limit):
                counts["examples"] += 1
                try:
                    counts["written"] += _added(example, writer, ids)
                    counts["without_chain"] += not example.annotated
                except DataError as error:
                    if options.on_error is None:
                        raise
                    options.on_error(error)
                bar.update(counts["examples"], f"{len(failures):,} rows left out" if failures else "")
        except BaseException:
            if failures:
                _report(Path(arguments.output), failures, 0)
            raise
    result = {"output": str(arguments.output), **counts, "there_before": there_before, "failed": len(failures)}
    _report(Path(arguments.output), failures, counts["without_chain"])
    return result if counts["written"] + there_before else {**result, "ok": False}  # nothing came of it: exit code 1


def _added(example: Example, writer: Writer, ids: set[str]) -> bool:
    """Write an example and say whether it is new; an id that two different rows have is an error."""
    where = f"{example.provenance.origin}: "
    if example.id in ids:
        raise DataError(f"{where}another row has its id, {example.id}, too; --field id=NAME names another field")
    ids.add(example.id)
    try:
        return writer.add(example)
    except DataError as error:
        raise DataError(f"{where}{error}") from error


def _report(folder: Path, failures: list[str], without_chain: int) -> None:
    listed = folder / "failures.txt"
    if failures:
        listed.write_text("".join(f"{line}\n" for line in failures), encoding="utf-8")
        shown = "".join(f"  {line}\n" for line in failures[:_SHOWN_FAILURES])
        sys.stderr.write(f"{len(failures):,} rows left out, all listed in {listed}; the first:\n{harmless(shown)}")
    else:
        listed.unlink(missing_ok=True)
    if without_chain:
        sys.stderr.write(f"{without_chain:,} examples have no chain yet: they are for the annotation pipeline\n")
