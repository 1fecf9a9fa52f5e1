"""`chat`: a conversation in the terminal, or from a pipe."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any

from got.cli import parser
from got.cli.draw import load_pipeline, memory_errors, options, table
from got.plan.chain import Chain
from got.util.errors import UserError, visible, warn
from got.util.images import open_image

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from PIL.Image import Image

    from got.conversation import Conversation, Entry
    from got.plan.chain import Box1000
    from got.util.files import FolderLock


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer lines until there are no more; returns what the last line of output says.

    Raises:
        ValueError: If something about the command is wrong; without a terminal, also if a line is.
    """
    there = arguments.output.is_dir() and any(arguments.output.iterdir())
    if arguments.output.exists() and not there and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output}: expected a folder, but it is a file")
    if there and not arguments.resume:
        raise UserError(f"{arguments.output} is not empty; --resume goes on with the conversation in it")
    opened = None if arguments.image is None else open_image(arguments.image)

    from got.conversation import Conversation, only_writer

    owned = only_writer(arguments.output)  # before it is read: what another program adds later would be lost
    pipeline = load_pipeline(arguments)
    chosen = options(arguments) | ({} if arguments.scheduler is None else {"scheduler": arguments.scheduler})
    if arguments.resume:  # it keeps what it was begun with, but for what is given now
        talk = Conversation.load(arguments.output, pipeline)
        talk.options.update(chosen)
        talk.seed = talk.seed if arguments.seed is None else arguments.seed
    else:
        seed = parser.SEED if arguments.seed is None else arguments.seed
        talk = Conversation(pipeline, seed=seed, **chosen)
    with contextlib.closing(Chat(talk, arguments, owned)) as chat:
        _answer_all(chat, opened)
    entry = talk.entry
    return {
        "conversation": str(arguments.output),
        "entries": len(talk.entries),
        "image": None if entry is None else chat.file(entry),
        "chain": None if entry is None else entry.chain,
    }


def _answer_all(chat: Chat, opened: Image | None) -> None:
    if opened is not None:
        chat.talk.open(opened)
        chat.keep()
    interactive = sys.stdin.isatty()
    if interactive:
        sys.stderr.write("A caption draws an image, an instruction edits it. /help lists commands, /quit ends.\n")
    for line in _lines(interactive):
        try:
            if chat.answer(line):
                break
        except (UserError, ValueError, IndexError, OSError) as error:
            if not interactive:
                raise UserError(f"{line.strip()!r}: {error}") from error
            sys.stderr.write(f"error: {visible(str(error))}\n")


class Chat:
    """A conversation with a plan on the table that may have been changed and not yet drawn."""

    def __init__(self, talk: Conversation, arguments: argparse.Namespace, owned: FolderLock | None) -> None:
        self.talk = talk
        self._owned = owned
        self._arguments = arguments
        self._plan = talk.objects
        self._warned: set[str] = set()  # when the plan was changed: to draw it is no news
        alone = arguments.reference_compat or "max_turns" in talk.options
        # Not kept with the conversation, which may go on as another kind of pipeline.
        self._usual: dict[str, Any] = {} if alone else {"max_turns": parser.MOST_TURNS}
        self._commands: dict[str, Callable[[str], None]] = {
            "/open": lambda rest: self._show(self.talk.open(open_image(rest))),
            "/new": lambda rest: self._request(lambda: self.talk.draw(rest, **self._usual)),
            "/chain": lambda rest: self._show_plan(),
            "/replace": self._replace,
            "/move": self._move,
            "/add": self._add,
            "/remove": lambda rest: self._change(self._changed().remove(_whole(rest))),
            "/draw": lambda rest: self._request(self._draw),
            "/undo": lambda rest: self._show(self.talk.undo()),
            "/redo": lambda rest: self._show(self.talk.redo()),
            "/again": lambda rest: self._again(),
            "/seed": self._seed,
            "/help": lambda rest: _say(parser.CHAT_HELP),
        }

    def answer(self, line: str) -> bool:
        """Do what a line asks for; True ends the conversation.

        Raises:
            ValueError: If it cannot be done.
            IndexError: If it speaks of a region that is not there.
        """
        line = line.strip()
        if not line.startswith("/"):
            if (command := f"/{line.lower()}") in {*self._commands, "/quit"}:
                raise UserError(f"a command begins with a slash: {command}")
            if line:
                self._request(lambda: self.talk.say(line, **self._usual))
            return False
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return True
        if word not in self._commands:
            raise UserError(f"{word} is no command; expected one of {', '.join(self._commands)}, /quit")
        self._commands[word](rest.strip())
        return False

    def file(self, entry: Entry) -> str:
        """The image's file."""
        return str(self._arguments.output / f"{entry.number:04d}.png")

    def keep(self) -> None:
        """Save everything; called after every change."""
        from got.conversation import only_writer

        self.talk.save(self._arguments.output)
        self._owned = self._owned or only_writer(self._arguments.output)

    def close(self) -> None:
        """Release the conversation's folder, so that other programs can use it."""
        if self._owned is not None:
            self._owned.release()

    def _request(self, work: Callable[[], Entry]) -> None:
        with memory_errors():
            entry = work()
        for warning in entry.warnings:
            if warning not in self._warned:
                warn(warning)
        self._warned.clear()
        self._show(entry)

    def _show(self, entry: Entry | None) -> None:
        self._plan = self.talk.objects
        self.keep()
        if entry is None:
            _say("nothing is there yet")
            return
        _say(f"{self.file(entry)}  {entry.kind}{': ' if entry.instruction else ''}{entry.instruction}")
        if entry.chain:
            _say(entry.chain)

    def _changed(self) -> Chain:
        if self._plan is None:
            raise UserError("there is no plan yet; a caption draws the first image")
        return self._plan

    def _draw(self) -> Entry:
        plan, entry = self._changed(), self.talk.entry
        if entry is not None and entry.kind == "edited" and self.talk.objects != self.talk.chain:
            return self.talk.draw(plan.caption(), chain=plan, max_turns=1)  # the plan is of the image, not of the edit
        return self.talk.revise(plan)

    def _change(self, plan: Chain) -> None:
        self._plan = plan
        self._show_plan()

    def _show_plan(self) -> None:
        plan = self._changed()
        _say(f"{plan}\n{table(plan)}")

    def _replace(self, rest: str) -> None:
        number, _, text = rest.partition(" ")
        self._change(self._changed().replace(_whole(number), text))
        self._warn_of_words(text)

    def _move(self, rest: str) -> None:
        number, _, box = rest.partition(" ")
        self._change(self._changed().move(_whole(number), _box(box)))

    def _add(self, rest: str) -> None:
        match = re.match(r"(\S+)\s+(\S.*)", rest)
        if match is None:
            raise UserError("expected /add X1,Y1,X2,Y2 WORDS")
        self._change(self._changed().add(match[2], _box(match[1])))
        self._warn_of_words(match[2])

    def _warn_of_words(self, text: str) -> None:
        from got.model.validation import unknown_words

        for warning in unknown_words(self.talk.pipeline.tokenizer, text) if self.talk.pipeline is not None else ():
            warn(warning)
            self._warned.add(warning)

    def _again(self) -> None:
        from got.cli import reproduce

        entry = self.talk.entry
        if entry is None or entry.kind == "opened":
            raise UserError("there is no drawn image yet; a caption draws the first one")
        _say(reproduce.command(entry, self.talk.entries, self._arguments.output.resolve(), self._arguments))

    def _seed(self, rest: str) -> None:
        self.talk.seed = _whole(rest)
        _say(f"seed {self.talk.seed}")


def _lines(interactive: bool) -> Any:
    if not interactive:
        yield from sys.stdin
        return
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise UserError(f"expected a whole number but got {text!r}")
    return int(text)


def _box(text: str) -> Box1000:
    numbers = re.findall(r"\d{1,9}", text)
    if len(numbers) != 4 or not re.fullmatch(r"[\d\s,()]*", text):
        raise UserError(f"expected a box X1,Y1,X2,Y2 in thousandths of the image but got {text!r}")
    x1, y1, x2, y2 = map(int, numbers)
    return x1, y1, x2, y2


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
