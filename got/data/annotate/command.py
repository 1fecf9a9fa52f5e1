"""`python -m got.data annotate`: a folder of examples without chains -> one with, and a record of how they came about.

The output is a dataset, and beside it

    annotate.json     model, prompts and convention of boxes: what all its chains have in common
    replies.jsonl     every raw reply, with what was asked, its tokens and its price
    rejected.jsonl    samples that did not pass quality control, whole, with the reasons
    failures.jsonl    samples that got no chain, with stage and cause; the next run tries them again
    pictures.jsonl    signatures of the images, by which duplicates are found

A run may end at any time, by kill -9, too. The same command resumes it and pays no reply twice.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.data import storage
from got.data.annotate import quality
from got.data.annotate.annotator import MAX_PIXELS, Annotator, View
from got.data.annotate.boxes import CONVENTIONS
from got.data.annotate.prompts import StageFailed, prompts_hash
from got.data.importers.files import files_below, safe_id
from got.data.records import DataError, Example, Provenance, Step
from got.util.cli import DTYPES, add_command, json_fields, number, whole
from got.util.errors import note
from got.util.files import IMAGE_SUFFIXES, append_lines, left_out, read_object, write_json
from got.util.hashes import SealedLog, is_sealed, sealed
from got.util.images import ImageError, open_image
from got.util.progress import Progress
from got.util.workers.options import FLAGS, add_flags, options_of
from got.vlm.asker import Asker, AskSettings
from got.vlm.clients import AskParams
from got.vlm.endpoint import OpenAIBackend
from got.vlm.local import TransformersBackend, model_name
from got.vlm.messages import Encoding
from got.vlm.ray_backend import RayBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_EPILOG = """\
examples:
  python -m got.data annotate photos --output photos-got --endpoint http://localhost:8000/v1 \\
      --model Qwen/Qwen2.5-VL-72B-Instruct --boxes pixels
  python -m got.data annotate edits --output edits-got --model hf:PATH --device cuda --dtype bfloat16 --boxes pixels

The output is a dataset with replies.jsonl, rejected.jsonl and failures.jsonl beside it. The same command resumes after
Ctrl-C or kill -9; no reply is paid twice, and what failed without a reply is tried again.
"""


# --------------------------------------------------------------------------------------------------------- command line
def add_arguments(subparsers: Any) -> None:
    """Adds the command to those of `python -m got.data`; its `run` is in the parsed arguments."""
    purpose = "write chains for images and edits with a vision-language model"
    parser = add_command(subparsers, "annotate", purpose, _EPILOG, run)
    add = parser.add_argument
    add("place", type=Path, metavar="PLACE", help="a dataset, its chains empty or not; or a folder of images")
    add("--output", type=Path, required=True, metavar="DIR", help="where the dataset and the records go")
    add("--format", choices=storage.FORMATS, default="folder", help="of the output (default: %(default)s)")
    add("--limit", type=whole(), metavar="N", help="the first N examples only")
    add("--dataset", metavar="NAME", help="name of a set that is a folder of images (default: the folder's)")
    add("--license", default="unknown", metavar="NAME", help="of a folder of images (default: %(default)s)")
    _add_model(parser.add_argument_group("model"))
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--check",
        default="none",
        metavar="none|second-look|PATH",
        help="hold boxes against a second question to the model, or a detector of transformers (default: %(default)s)",
    )
    group.add_argument(
        "--min-iou", type=number(0, 1), default=0.5, metavar="X", help="overlap wanted (default: %(default)s)"
    )
    group.add_argument(
        "--min-located",
        type=number(0, 1),
        default=1.0,
        metavar="X",
        help="share of the named objects that must have a box (default: %(default)s)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", required=True, metavar="NAME|hf:PATH", help="the endpoint's name of it, or one of transformers")
    add("--endpoint", metavar="URL", help="OpenAI-compatible address (default: OPENAI_BASE_URL); key: OPENAI_API_KEY")
    add(
        "--boxes",
        choices=CONVENTIONS,
        required=True,
        help="what the model's boxes count: pixels (Qwen2.5-VL), thousandths (Qwen2-VL, Qwen3-VL) or parts of one",
    )
    size = "larger images are scaled down for the model (default: %(default)s)"
    add("--max-pixels", type=whole(), default=MAX_PIXELS, metavar="N", help=size)
    add("--concurrency", type=whole(), default=16, metavar="N", help="samples at a time (default: %(default)s)")
    add(
        "--attempts",
        type=whole(),
        default=3,
        metavar="N",
        help="replies to one question at most (default: %(default)s)",
    )
    add("--retries", type=whole(0), default=5, metavar="N", help="of a request without reply (default: %(default)s)")
    add("--timeout", type=number(0), default=120.0, metavar="S", help="seconds for one reply (default: %(default)s)")
    add("--max-tokens", type=whole(), default=1400, metavar="N", help="longest reply (default: %(default)s)")
    add("--rpm", type=number(0.01), metavar="N", help="requests in a minute at most (default: what the server takes)")
    add(
        "--extra", type=json_fields, metavar="JSON", help='more fields of a request, as \'{"reasoning_effort": "low"}\''
    )
    add("--jpeg", type=whole(1, 95), metavar="1-95", help="send JPEG files of this quality (default: PNG)")
    add("--temperature", type=number(0), default=0.0, metavar="X", help="of first attempts (default: %(default)s)")
    add("--json", action="store_true", help="ask for JSON by the endpoint's own means")
    add("--price", type=number(0), nargs=2, metavar=("IN", "OUT"), help="USD for a million tokens in and out")
    add("--max-spend", type=number(0), metavar="USD", help="no request that could lead above this; needs --price")
    add("--device", default="cpu", help="of a model or detector of transformers (default: %(default)s)")
    engine = "who asks a model of transformers: this process, or workers of Ray (default: %(default)s)"
    add("--engine", choices=("local", "ray"), default="local", help=engine)
    add_flags(group)
    add("--dtype", choices=DTYPES, default="float32", help="of a model of transformers (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Annotates; returns the counts.

    Raises:
        DataError: If there is nothing to annotate, or the output was begun with another model or other prompts.
        SetupError: If the model cannot be asked.
    """
    if arguments.max_spend is not None and arguments.price is None:
        raise DataError("--max-spend needs --price")
    if arguments.engine == "ray" and not arguments.model.startswith("hf:"):
        raise DataError("--engine ray is for --model hf:PATH; an endpoint is asked --concurrency at a time")
    given = [name for name, how in FLAGS.items() if getattr(arguments, name) != how["default"]]
    if given and arguments.engine != "ray":
        raise DataError(f"--{given[0].replace('_', '-')} belongs to --engine ray")
    if arguments.output.resolve().is_relative_to(arguments.place.resolve()):
        raise DataError(f"--output: expected a folder outside {arguments.place} but got {arguments.output}")
    with storage.Writer(arguments.output, format=arguments.format) as writer:
        return asyncio.run(_Run(arguments, writer).all())


def _model_id(model: str) -> str:
    """What a back-end will call a model in everything that it wrote."""
    return model_name(model.removeprefix("hf:")) if model.startswith("hf:") else model


def _backend(arguments: argparse.Namespace) -> OpenAIBackend | TransformersBackend | RayBackend:
    kind, _, place = arguments.model.partition(":")
    if kind == "hf" and arguments.engine == "ray":
        options = options_of(arguments, gpus=arguments.device != "cpu")
        return RayBackend(place, arguments.device, arguments.dtype, options)
    if kind == "hf":
        return TransformersBackend(place, arguments.device, arguments.dtype)
    return OpenAIBackend.from_environment(arguments.model, arguments.endpoint, timeout_seconds=arguments.timeout)


# ---------------------------------------------------------------------------------------------------------------- input
def examples_of(
    place: Path, on_error: Callable[[str, DataError], None], dataset: str | None = None, license: str = "unknown"
) -> Iterator[Example]:
    """The examples of a dataset, or one for each image of a folder and of the folders in it, in order of names.

    Args:
        place: Dataset or folder.
        on_error: Called with file and line of what is no example, and reading goes on.
        dataset: Name of a set that is a folder of images; the folder's if not given.
        license: Licence of such a set.

    Raises:
        DataError: If there are none.
    """
    if not place.is_dir() or storage.format_of(place) is not None:
        for entry in storage.entries_of(place):
            try:
                example = entry.example()
            except DataError as error:
                on_error(entry.where, error)
            else:
                yield example
        return
    ids: dict[str, Path] = {}
    for path in _image_files(place):
        name = path.relative_to(place).as_posix()
        plain = re.fullmatch(r"[A-Za-z0-9_./ -]{1,150}", name) is not None
        id = re.sub(r"[^A-Za-z0-9_-]", "_", name) if plain else safe_id(name)
        if id in ids:
            raise DataError(f"{path}: expected another name, for {ids[id]} would have the same id {id!r}")
        ids[id] = path
    if not ids:
        raise DataError(f"{place}: expected a dataset or images but there are none")
    for id, path in ids.items():
        origin = path.relative_to(place).as_posix()
        yield Example(
            id=id,
            prompt="",
            steps=(Step(chain="", target=path),),
            provenance=Provenance(dataset=dataset or place.resolve().name, license=license, origin=origin),
        )


def _image_files(place: Path) -> list[Path]:
    """The image files of a folder; a note says how many other files there are."""
    files = list(files_below(place, "*"))
    others = left_out(path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES)
    if others:
        note(f"{place}: {others}")
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


# ------------------------------------------------------------------------------------------------------------------ run
@dataclasses.dataclass(slots=True)
class _Counts:
    accepted: int = 0
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected.total() + self.failed.total()


class _Run:
    """The work of one process on an output folder, which it has locked."""

    def __init__(self, arguments: argparse.Namespace, writer: storage.Writer) -> None:
        self._arguments, self._writer, folder = arguments, writer, arguments.output
        self._counts, self._bar = _Counts(), Progress("samples", None)
        self._broke = False
        encoding = Encoding() if arguments.jpeg is None else Encoding(format="JPEG", quality=arguments.jpeg)
        view = View(convention=arguments.boxes, max_pixels=arguments.max_pixels, encoding=encoding)
        standards = {name: getattr(arguments, name) for name in ("check", "min_located", "min_iou")}
        wanted = {"model": _model_id(arguments.model), "prompts": prompts_hash(), **standards}
        wanted |= {"boxes": view.convention, "max_pixels": view.max_pixels, "images": view.encoding.name}
        is_begun = _is_begun(folder, wanted)  # before a model is loaded, here or by workers
        self._backend = _backend(arguments)
        if not is_begun:
            write_json(folder / _IDENTITY, sealed(wanted))
        self._checker: quality.Checker | None = None
        if arguments.check not in ("none", "second-look"):
            self._checker = quality.Detector(arguments.check, arguments.device)
        self._logs = {
            "rejected": SealedLog(folder / "rejected.jsonl", "its example is checked again"),
            "pictures": SealedLog(folder / "pictures.jsonl", "its example's images are looked at again"),
        }
        self._rejected = texts_by_id(self._logs["rejected"], "reasons", r".+")
        self._signatures = texts_by_id(self._logs["pictures"], "signatures", r"[0-9a-f]{400}")
        self._before = len(writer.known_ids())
        settings = AskSettings(
            params=AskParams(
                temperature=arguments.temperature,
                max_tokens=arguments.max_tokens,
                json_mode=arguments.json,
                extra=json.loads(arguments.extra or "{}"),
            ),
            per_minute=arguments.rpm,
            # A greedy model on this machine has one reply to one question.
            attempts=arguments.attempts if isinstance(self._backend, OpenAIBackend) else 1,
            retries=arguments.retries,
            retry_temperature=0.7,
            concurrency=arguments.concurrency,
            lost_after=64,  # samples at least that an endpoint may not accept, one after the other
            usd_per_million=None if arguments.price is None else (arguments.price[0], arguments.price[1]),
            max_usd=arguments.max_spend,
        )
        self._asker = Asker(
            self._backend,
            settings,
            folder / "replies.jsonl",
            subject=("sample",),
            identity=(self._backend.id,),  # not the address, for a server of one's own moves
            finished={(id,) for id in (*writer.known_ids(), *self._rejected)},
        )
        self._annotator = Annotator(self._asker, view)
        self._standards = quality.Standards(min_located=arguments.min_located, min_iou=arguments.min_iou)
        if arguments.check == "second-look":
            self._checker = quality.SecondLook(self._asker, view)
        self._duplicates = quality.Duplicates()
        self._failures = folder / "failures.jsonl"
        self._failures.write_bytes(b"")  # they are tried again

    async def all(self) -> dict[str, Any]:
        """Annotates what is not done yet."""
        samples = self._open_samples()
        try:
            with self._bar:
                await self._asker.each(samples, self._one)
        finally:
            samples.close()
        return self._summary()

    def _open_samples(self) -> Generator[Example]:
        arguments = self._arguments

        def unreadable(where: str, error: DataError) -> None:
            self._fail(where, StageFailed("read", "no example", str(error)))

        examples = examples_of(arguments.place, unreadable, arguments.dataset, arguments.license)
        for example in itertools.islice(examples, arguments.limit):
            if self._broke:
                return
            done = example.id in self._writer.known_ids() or example.id in self._rejected
            try:
                first = self._duplicates.first_of(example.id, _request(example), self._signed(example))
            except (ImageError, DataError) as error:
                if not done:
                    self._fail(example.id, StageFailed("open", "picture", str(error)))
                continue
            if done:
                continue
            if first is None:
                yield example
            else:
                self._reject(example, [f"duplicate: of {first}"])

    def _signed(self, example: Example) -> list[str]:
        if example.id not in self._signatures:
            signatures = [quality.signature(open_image(image)) for _, image in example.images()]
            self._logs["pictures"].add({"id": example.id, "signatures": signatures})
            self._signatures[example.id] = signatures
        return self._signatures[example.id]

    async def _one(self, example: Example) -> None:
        try:
            draft = await self._annotator.annotate(example)
            reasons = await quality.reasons(draft, self._standards, self._checker)
        except StageFailed as error:
            self._fail(example.id, error)
        else:
            if reasons:
                self._reject(draft.example, reasons)
            else:
                self._add(draft.example)
        self._asker.forget((example.id,))
        self._tell()

    def _add(self, example: Example) -> None:
        try:
            self._writer.add(example)
        except DataError as error:
            self._fail(example.id, StageFailed("write", "illegal example", str(error)))
        else:
            self._counts.accepted += 1

    def _fail(self, id: str, error: StageFailed) -> None:
        self._broke |= error.cause == "budget"
        self._counts.failed[f"{error.stage}: {error.cause}"] += 1
        record = {"id": id, "stage": error.stage, "cause": error.cause, "detail": error.detail}
        append_lines(self._failures, [record], durable=False)

    def _reject(self, example: Example, reasons: list[str]) -> None:
        self._rejected[example.id] = reasons
        self._counts.rejected[_check_of(reasons)] += 1
        steps = [{"instruction": step.instruction, "chain": step.chain} for step in example.steps]
        whole = {"prompt": example.prompt, "steps": steps, "provenance": dataclasses.asdict(example.provenance)}
        self._logs["rejected"].add({"id": example.id, "reasons": reasons, **whole, "extra": dict(example.extra)})

    def _tell(self) -> None:
        counts = self._counts
        self._bar.update(
            counts.done,
            f"{counts.accepted} accepted, {counts.rejected.total()} rejected, {counts.failed.total()} failed; "
            f"{self._asker.replies} replies",
        )

    def _summary(self) -> dict[str, Any]:
        asker, known = self._asker, len(self._writer.known_ids())
        rejected = collections.Counter(_check_of(reasons) for reasons in self._rejected.values())
        silent = asker.silence()
        if silent is not None:
            note(silent)
        in_vain = not known or (known == self._before and self._counts.failed.total() > 0)
        return {
            **({"ok": False} if in_vain else {}),  # nothing came of it: exit code 1
            "accepted": known,
            "accepted_now": known - self._before,
            "rejected": dict(sorted(rejected.items())),
            "failed": dict(sorted(self._counts.failed.items())),
            "replies": asker.replies,
            "tokens_in": asker.tokens_in,
            "tokens_out": asker.tokens_out,
            "usd": None if self._arguments.price is None else round(asker.ledger.spent_usd, 6),
        }


def texts_by_id(log: SealedLog, name: str, form: str) -> dict[str, list[str]]:
    """A list of texts of every line of a log, by id.

    Args:
        log: The log.
        name: What the lines call the list.
        form: A pattern that each text fits.

    Raises:
        UserError: A line is damaged.
    """
    found = {}
    for where, record in log.news():
        id, texts = record.get("id"), record.get(name)
        if not isinstance(id, str) or not isinstance(texts, list) or not texts:
            raise log.damaged(where)
        if not all(isinstance(text, str) and re.fullmatch(form, text, re.DOTALL) for text in texts):
            raise log.damaged(where)
        found[id] = texts
    return found


def _check_of(reasons: list[str]) -> str:
    return reasons[0].split(":")[0]


def _request(example: Example) -> str:
    return " / ".join([example.prompt, *(step.instruction for step in example.steps)])


_IDENTITY = "annotate.json"


def _is_begun(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder has replies; refuses one whose replies come from another model or other questions."""
    file, replies = folder / _IDENTITY, folder / "replies.jsonl"
    if not file.exists() or not replies.exists() or not replies.stat().st_size:
        return False
    begun = read_object(file, DataError)
    is_sealed(begun, str(file))
    for name, value in wanted.items():
        if begun.get(name, value) != value:
            there = f"was begun with {name} {begun.get(name)!r} but this is {value!r}"
            raise DataError(f"{file}: {there}; choose another --output")
    return True
