"""A conversation about an image: draw, look, edit, edit again, undo, redo; kept in a folder without loss.

    talk = Conversation(pipeline)
    talk.say("a photo of a red apple and a blue dog")     # no image yet: draws one
    talk.say("make the dog green")                        # edits it
    talk.revise(talk.chain.move(0, (0, 0, 400, 400)))     # the same again, drawn from a changed plan
    talk.undo()
    talk.save("talk")                                     # Conversation.load("talk", pipeline) goes on there

Nothing that was drawn is ever dropped: what was undone stays among the entries, in memory and in the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from got.model.schedulers import make_scheduler
from got.plan.after_edit import after_edit
from got.plan.chain import Chain
from got.util.files import FolderLock, json_object, numbered_lines, read_object, replacing, write_json, write_lines
from got.util.hashes import OWN_HASH, is_sealed, sealed
from got.util.images import ImageError, as_rgb, open_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from got.model.outputs import Turn
    from got.pipeline import GoTPipeline

ENTRIES_FILE = "entries.jsonl"
STATE_FILE = "conversation.json"
_KINDS = ("opened", "drawn", "edited")


class ConversationError(ValueError):
    """A conversation cannot go on or be read; the message says why, in one line."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One image of a conversation and how it came about."""

    number: int
    """Its place among the entries, from 0."""
    kind: str
    """``"opened"``, ``"drawn"`` or ``"edited"``."""
    source: int | None = None
    """Number of the entry whose image was edited."""
    instruction: str = ""
    """What was asked for; empty for an opened image."""
    chain: str = ""
    """The chain it was drawn from."""
    seed: int | None = None
    """Seed of its noise."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the pipeline beside prompt, image, chain and generator; and ``scheduler``, the name of a sampler."""
    warnings: tuple[str, ...] = ()
    """What was odd about the request and its chain."""
    names: tuple[str, ...] = ()
    """What the regions of a given plan are called: of a name like "a cup with ice" the text alone gives the end."""
    given: bool = False
    """Whether the chain was given; otherwise the reasoner wrote it."""
    turn: int = 0
    """Its place among the images of one request."""
    pixels: Image.Image | Path
    """The image, or its file."""

    @property
    def file_name(self) -> str:
        """The name of its image's file in the conversation's folder."""
        return f"{self.number:04d}.png"

    @property
    def plan(self) -> Chain:
        """The chain, its regions called what they were called when it was given."""
        return Chain.parse(self.chain).named(self.names)

    @property
    def image(self) -> Image.Image:
        """The image, RGB; read whenever it is asked for where only its file is kept.

        Raises:
            got.util.images.ImageError: If the file is gone or damaged by now.
        """
        return open_image(self.pixels) if isinstance(self.pixels, Path) else self.pixels

    def record(self) -> dict[str, Any]:
        """All but the pixels, for which ``image`` names their file, as JSON."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "pixels"}
        lists = {"warnings": list(self.warnings), "names": list(self.names)}
        return record | lists | {"image": self.file_name}


class Conversation:
    """A line of images, each made from the one before, with undo and redo.

    Args:
        pipeline: What draws; without one a conversation can be looked at, but not continued.
        seed: Seed of every entry's noise, unless another is given with a request.
        options: Arguments of the pipeline for every request, e.g. ``num_inference_steps=20``, and ``scheduler``, one of
            `got.model.schedulers.SCHEDULERS`. They are saved with the conversation, so they must be plain values.
    """

    def __init__(self, pipeline: GoTPipeline | None = None, *, seed: int = 42, **options: Any) -> None:
        self.pipeline = pipeline
        self.seed = seed
        self.options = _plain(options)
        self._callbacks: dict[str, Any] = {}
        self._entries: list[Entry] = []
        self._current: int | None = None
        self._past: list[int | None] = []
        self._future: list[int | None] = []
        self._id = uuid.uuid4().hex
        self._saved: dict[Path, int] = {}  # so many entries are in this folder

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that was ever drawn or opened, in the order in which it was."""
        return tuple(self._entries)

    @property
    def entry(self) -> Entry | None:
        """The entry that is looked at; None at the beginning."""
        return None if self._current is None else self._entries[self._current]

    @property
    def image(self) -> Image.Image | None:
        """The image that is looked at."""
        return None if self.entry is None else self.entry.image

    @property
    def chain(self) -> Chain | None:
        """The plan of the image that is looked at."""
        return None if self.entry is None else self.entry.plan

    @property
    def objects(self) -> Chain | None:
        """A plan of all objects of the image that is looked at; after edits that do not say, their own plan."""
        return None if self._current is None else self._objects(self._current)

    def _objects(self, number: int) -> Chain:
        entry = self._entries[number]
        plan = entry.plan
        if entry.kind != "edited" or entry.source is None or not self._entries[entry.source].chain:
            return plan
        return after_edit(self._objects(entry.source), plan) or plan

    def open(self, image: Image.Image) -> Entry:
        """Continue from an image that was made elsewhere.

        Raises:
            got.util.images.ImageError: If it cannot be used.
        """
        return self._add(kind="opened", image=_copy(image))

    def adopt(self, image: Image.Image, instruction: str, chain: str, *, seed: int, **options: Any) -> Entry:
        """Take in an image that the same model drew elsewhere, as if it had been drawn here: its plan can be changed.

        Args:
            image: What was drawn; an edit of the image that is looked at, or from a caption if there is none.
            instruction: What was asked for.
            chain: What it was drawn from.
            seed: Seed of its noise.
            options: As of `say`.

        Raises:
            got.util.images.ImageError: If it cannot be used.
        """
        kind, made = ("drawn" if self._current is None else "edited"), _plain(options)
        return self._add(
            kind=kind, source=self._current, instruction=instruction, chain=chain, seed=seed, options=made,
            image=_copy(image),
        )  # fmt: skip

    def say(
        self, instruction: str, *, chain: str | Chain | None = None, seed: int | None = None, **options: Any
    ) -> Entry:
        """Edit the image, or draw one if there is none.

        Args:
            instruction: An editing instruction, or a caption.
            chain: The plan to draw from instead of the reasoner's own.
            seed: Seed of the noise; the conversation's if not given.
            options: Arguments of the pipeline for this request. With ``max_turns`` it may make several entries.

        Returns:
            The (last) new entry.

        Raises:
            ConversationError: If there is no pipeline.
            ValueError: If the pipeline refuses the arguments.
        """
        return self._request(instruction, self._current, chain, seed, options)

    def draw(self, prompt: str, *, chain: str | Chain | None = None, seed: int | None = None, **options: Any) -> Entry:
        """Draw a new image from a caption, whatever is there; otherwise as `say`."""
        return self._request(prompt, None, chain, seed, options)

    def revise(self, chain: str | Chain, *, seed: int | None = None, **options: Any) -> Entry:
        """Draw the last request again from another plan, with the same noise and the same source.

        A plan for a caption that names other objects than before is drawn with its own caption: a prompt that speaks of
        what is gone would be drawn, too.

        Raises:
            ConversationError: If there is no request to repeat.
        """
        last = self.entry
        if last is None or last.kind == "opened":
            raise ConversationError("Expected an image that was drawn, whose plan can be changed, but there is none")
        plan = chain if isinstance(chain, Chain) else Chain.parse(chain)  # read again, a long name loses its head
        before = (last.plan, Chain.parse(last.chain))
        renamed = all([r.text for r in plan.regions] != [r.text for r in one.regions] for one in before)
        asked = plan.caption() if renamed and last.kind == "drawn" and plan.regions else last.instruction
        once = {"max_turns": 1} if "max_turns" in last.options else {}  # a plan is one image's
        noise = last.seed if seed is None else seed
        return self._request(asked, last.source, chain, noise, last.options | once | options)

    def redraw(self, number: int, **options: Any) -> Image.Image:
        """An entry's image drawn again with other options, for example without a guidance; it is not kept.

        Raises:
            ConversationError: If there is no such entry, or it was not drawn.
        """
        entry = self.at(number)
        if entry.kind == "opened":
            raise ConversationError("Expected an image that was drawn, but this one was opened")
        used = {**entry.options, "max_turns": 1, **_plain(options)}
        return self._draw(entry.instruction, entry.source, entry.plan, entry.seed, used)[0].image

    def undo(self) -> Entry | None:
        """Go back to the image before this one; a request that made several is taken back image by image.

        Raises:
            ConversationError: If there is nothing before.
        """
        if not self._past:
            raise ConversationError("Expected something to undo, but this is the beginning")
        self._future.append(self._current)
        self._current = self._past.pop()
        return self.entry

    def redo(self) -> Entry | None:
        """Take back the last `undo`; a new request in between makes that impossible.

        Raises:
            ConversationError: If nothing was undone.
        """
        if not self._future:
            raise ConversationError("Expected something to redo, but nothing was undone")
        self._past.append(self._current)
        self._current = self._future.pop()
        return self.entry

    def go_to(self, number: int) -> Entry:
        """Look at any entry; `undo` comes back.

        Raises:
            ConversationError: If there is no such entry.
        """
        entry = self.at(number)
        if number != self._current:
            self._look_at(number)
        return entry

    def at(self, number: int) -> Entry:
        """The entry of a number; what is looked at stays as it is.

        Raises:
            ConversationError: If there is no such entry.
        """
        if not isinstance(number, int) or not 0 <= number < len(self._entries):
            raise ConversationError(f"Expected an entry from 0 to {len(self._entries) - 1} but got {number!r:.100}")
        return self._entries[number]

    @contextlib.contextmanager
    def telling(self, **callbacks: Any) -> Iterator[None]:
        """For a while, passes these callbacks (``callback_on_...``) to the pipeline in every request."""
        self._callbacks = callbacks
        try:
            yield
        finally:
            self._callbacks = {}

    @property
    def can_undo(self) -> bool:
        """Whether `undo` goes anywhere."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether `redo` goes anywhere."""
        return bool(self._future)

    def save(self, folder: str | Path) -> Path:
        """Write images (PNG), entries (a JSON object a line) and the state; what is there already is not drawn anew.

        Every file is complete or absent, whenever the program is stopped.

        Raises:
            ConversationError: If the folder holds anything but an earlier state of this conversation.
        """
        folder = Path(folder)
        if folder.exists() and self._id_in(folder) != self._id:
            raise ConversationError(f"Expected a new or empty folder, or this conversation's own, but got {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that a folder left by an interrupted save is known as this conversation's.
        if not (folder / STATE_FILE).exists():
            write_json(folder / STATE_FILE, sealed(self._state(entries=0)), durable=True)
        for entry in self._entries:
            target = folder / entry.file_name
            # Another one may be there, of a save that was interrupted.
            if entry.number >= self._saved.get(folder.resolve(), 0) or not target.exists():
                with replacing(target) as unfinished:
                    entry.image.save(unfinished, format="PNG")
        write_lines(folder / ENTRIES_FILE, (sealed(entry.record()) for entry in self._entries), durable=True)
        write_json(folder / STATE_FILE, sealed(self._state(entries=len(self._entries))), durable=True)
        self._saved[folder.resolve()] = len(self._entries)
        return folder

    @classmethod
    def load(cls, folder: str | Path, pipeline: GoTPipeline | None = None, *, lazy: bool = False) -> Conversation:
        """Read a saved conversation, to look at or (with a pipeline) to go on with.

        Args:
            folder: Where it was saved.
            pipeline: What draws.
            lazy: Whether an image is read whenever it is asked for, instead of now.

        Raises:
            ConversationError: If files are missing or damaged.
        """
        folder = Path(folder)
        state = read_object(folder / STATE_FILE, ConversationError)
        hashed = is_sealed(state, str(folder / STATE_FILE), ConversationError)
        try:
            talk = cls(pipeline, seed=int(state["seed"]), **state["options"])
            talk._id = str(state["id"])
            if int(state["entries"]):
                talk._entries = _read_entries(folder, hashed=hashed, lazy=lazy)[: int(state["entries"])]
            count = len(talk._entries)
            if count != int(state["entries"]):
                found = f"{state['entries']} entries in {folder / ENTRIES_FILE} but found {count}"
                raise ConversationError(f"Expected {found}")
            talk._current = _number(state["current"], count)
            talk._past = [_number(place, count) for place in state["past"]]
            talk._future = [_number(place, count) for place in state["future"]]
            talk._saved[folder.resolve()] = count
        except (KeyError, TypeError, IndexError) as error:
            raise ConversationError(f"{folder / STATE_FILE} is no saved conversation: {error!r}") from error
        return talk

    def _request(
        self, instruction: str, source: int | None, chain: str | Chain | None, seed: int | None, options: dict[str, Any]
    ) -> Entry:
        used = {**self.options, **_plain(options)}
        noise = self.seed if seed is None else seed
        turns = self._draw(instruction, source, chain, noise, used)
        kind = "drawn" if source is None else "edited"
        for number, turn in enumerate(turns):
            names: tuple[str, ...] = ()
            if isinstance(chain, Chain) and turn.chain.text == chain.text:
                names = tuple(region.text for region in chain.regions)
            entry = self._add(
                kind=kind, source=source, instruction=instruction, chain=turn.chain.text, seed=noise, options=used,
                warnings=turn.warnings, names=names, given=chain is not None and number == 0, turn=number,
                image=turn.image,
            )  # fmt: skip
            kind, source = "edited", entry.number
        return entry

    def _draw(
        self, instruction: str, source: int | None, chain: str | Chain | None, seed: int | None, options: dict[str, Any]
    ) -> tuple[Turn, ...]:
        if self.pipeline is None:
            raise ConversationError("Expected a conversation with a pipeline, but this one was opened without")
        with _sampler(self.pipeline, options.get("scheduler")):
            output = self.pipeline(
                instruction,
                image=None if source is None else self._entries[source].image,
                chain=chain,
                generator=torch.Generator("cpu").manual_seed(seed or 0),
                **{name: value for name, value in options.items() if name != "scheduler"},
                **self._callbacks,
            )
        return output.turns[0]

    def _add(self, *, image: Image.Image, **fields: Any) -> Entry:
        entry = Entry(number=len(self._entries), pixels=image, **fields)
        self._entries.append(entry)
        self._look_at(entry.number)
        return entry

    def _look_at(self, number: int) -> None:
        self._past.append(self._current)
        self._current = number
        self._future.clear()

    def _state(self, entries: int) -> dict[str, Any]:
        state = {"id": self._id, "seed": self.seed, "options": self.options, "entries": entries}
        known = bool(entries)
        return state | {
            "current": self._current if known else None,
            "past": self._past if known else [],
            "future": self._future if known else [],
        }

    def _id_in(self, folder: Path) -> str | None:
        """The id of the conversation in a folder, this one's if it is empty; None where something else lies there."""
        if not folder.is_dir():
            return None
        if (folder / STATE_FILE).exists():
            return str(read_object(folder / STATE_FILE, ConversationError).get("id"))
        return None if any(folder.iterdir()) else self._id


def only_writer(folder: str | Path) -> FolderLock | None:
    """Locks a saved conversation, so that no other program changes it; None if nothing is saved there yet.

    Raises:
        ConversationError: If another program holds it.
    """
    saved = (Path(folder) / STATE_FILE).is_file()
    return FolderLock(Path(folder), error=ConversationError) if saved else None


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options; an error if they cannot be saved as JSON."""
    reserved = {"prompt", "image", "chain", "generator", "output_type"} & set(options)
    if reserved:
        raise ConversationError(f"Expected options of the pipeline but {min(reserved)} is the conversation's own")
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or isinstance(value, bool | int | float | str):
            plain[name] = value
        elif isinstance(value, numbers.Real):  # of numpy, for one
            plain[name] = int(value) if isinstance(value, numbers.Integral) else float(value)
        elif isinstance(value, list | tuple) and all(isinstance(one, numbers.Real) for one in value):
            plain[name] = [float(one) for one in value]  # an interval
        else:
            raise ConversationError(f"Expected {name} to be a number, a word or a switch but got {value!r}")
    return plain


def _copy(image: Image.Image) -> Image.Image:
    upright = as_rgb(image)
    return upright.copy() if upright is image else upright


@contextlib.contextmanager
def _sampler(pipeline: GoTPipeline, name: Any) -> Iterator[None]:
    """For a while, gives the pipeline the sampler of this name, if one is named."""
    own = pipeline.scheduler
    try:
        if name is not None:
            pipeline.scheduler = make_scheduler(name, own)
        yield
    finally:
        pipeline.scheduler = own


def _read_entries(folder: Path, *, hashed: bool, lazy: bool) -> list[Entry]:
    path, entries = folder / ENTRIES_FILE, []
    for number, (line, text) in enumerate(numbered_lines(path, ConversationError)):
        try:
            record = json_object(text, f"{path}, line {line}", ConversationError)
            if not is_sealed(record, f"{path}, line {line}", ConversationError) and hashed:
                raise ConversationError(f"{path}, line {line} is damaged: it has no hash")
            record.pop(OWN_HASH, None)
            file = folder.resolve() / Path(record.pop("image")).name
            lists = {name: tuple(record.get(name, ())) for name in ("warnings", "names")}  # older ones have no names
            entry = Entry(**{**record, **lists, "pixels": file if lazy else open_image(file)})
            in_order = entry.number == number and entry.kind in _KINDS
            if not in_order or (entry.source is not None and not 0 <= entry.source < number):
                raise ConversationError(f"{path}, line {line} does not belong here")
        except ImageError as error:
            raise ConversationError(f"{path}, line {line}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConversationError):
                raise
            raise ConversationError(f"{path}, line {line} is damaged: {error}") from error
        entries.append(entry)
    return entries


def _number(place: int | None, count: int) -> int | None:
    if place is not None and not 0 <= place < count:
        raise IndexError(f"entry {place} of {count}")
    return place
