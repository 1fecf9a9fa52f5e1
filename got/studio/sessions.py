"""Sessions: conversations in folders side by side, opened when they are asked for and saved after every change."""

from __future__ import annotations

import collections
import contextlib
import datetime
import re
import secrets
import threading
from typing import TYPE_CHECKING, Any

from got.conversation import ENTRIES_FILE, STATE_FILE, Conversation, ConversationError, only_writer
from got.util.errors import UserError
from got.util.files import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from got.pipeline import GoTPipeline

_NAME = re.compile(r"[\w][\w.-]{0,99}")
_OPEN, _LISTED = 16, 60
"""Conversations in memory, without their pixels; and sessions in a list, the last ones."""


class Sessions:
    """The conversations in a folder.

    Args:
        root: The folder.
        pipeline: What draws.
    """

    def __init__(self, root: Path, pipeline: GoTPipeline) -> None:
        self.root, self.pipeline = root, pipeline
        self._open: collections.OrderedDict[str, tuple[Conversation, object]] = collections.OrderedDict()
        self._drawing: set[str] = set()
        self._lock = threading.RLock()

    def folder(self, name: str) -> Path:
        """Where a session is kept.

        Raises:
            UserError: If no session can be called that.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"expected the name of a session but got {name[:100]!r}")
        return self.root / name

    def new(self) -> str:
        """Begins a session, which is not saved before there is something in it; returns its name."""
        now = datetime.datetime.now(datetime.UTC)
        name = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with self._lock:
            self._keep(name, Conversation(self.pipeline))
        return name

    def get(self, name: str) -> Conversation:
        """A session's conversation; read again if another program has gone on with it.

        Raises:
            UserError: If there is none.
            ConversationError: If it is damaged.
        """
        folder = self.folder(name)
        with self._lock:
            talk, stamp = self._open.get(name, (None, None))
            if talk is not None and (name in self._drawing or stamp == _stamp(folder)):
                self._open.move_to_end(name)
                return talk
            if not (folder / STATE_FILE).is_file():
                raise UserError(f"there is no session {name} in {self.root}")
            talk = Conversation.load(folder, self.pipeline)
            talk.release(folder)
            self._keep(name, talk)
            return talk

    @contextlib.contextmanager
    def drawing(self, name: str) -> Iterator[Conversation]:
        """The conversation, for one who changes it and saves; nobody else does meanwhile, but all may look.

        Raises:
            UserError: If something is being drawn in it.
            ConversationError: If another program is going on with it, say a chat.
        """
        with contextlib.ExitStack() as held:
            with self._lock:
                if name in self._drawing:
                    raise UserError("an image is being drawn in this session; wait for it, or stop it")
                held.enter_context(only_writer(self.folder(name)) or contextlib.nullcontext())
                talk = self.get(name)
                self._drawing.add(name)
                held.callback(self._drawing.discard, name)
            yield talk

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[Conversation]:
        """The same for a quick change, which is saved after it."""
        with self._lock, self.drawing(name) as talk:
            yield talk
            self.save(name, talk)

    def save(self, name: str, talk: Conversation) -> None:
        """Writes what is new, and lets go of its pixels."""
        with self._lock:
            talk.save(self.folder(name))
            talk.release(self.folder(name))
            self._keep(name, talk)

    def listed(self) -> list[dict[str, Any]]:
        """The last sessions, newest first, in a few words each."""
        found = [path.parent for path in self.root.glob(f"*/{STATE_FILE}")] if self.root.is_dir() else []
        with contextlib.suppress(OSError):  # one may vanish just now
            found.sort(key=lambda path: (path / STATE_FILE).stat().st_mtime, reverse=True)
        sessions = []
        for folder in found[:_LISTED]:
            with contextlib.suppress(OSError, ConversationError, UserError):
                entries, _ = read_lines(folder / ENTRIES_FILE)
                said = next((one["instruction"] for one in entries if one.get("instruction")), "")
                sessions.append({"name": folder.name, "entries": len(entries), "title": said})
        return sessions

    def _keep(self, name: str, talk: Conversation) -> None:
        self._open[name] = (talk, _stamp(self.folder(name)))
        self._open.move_to_end(name)
        idle = [other for other in self._open if other not in self._drawing and other != name]
        for other in idle[: max(0, len(self._open) - _OPEN)]:
            del self._open[other]


def _stamp(folder: Path) -> object:
    """What changes whenever a program saves the conversation; None before the first time."""
    try:
        state = (folder / STATE_FILE).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
