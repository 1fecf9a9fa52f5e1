"""Sessions: conversations in folders side by side, read whenever they are asked for and saved after every change."""

from __future__ import annotations

import contextlib
import datetime
import re
import secrets
from typing import TYPE_CHECKING, Any

from got.conversation import ENTRIES_FILE, STATE_FILE, Conversation, only_writer
from got.util.errors import UserError
from got.util.files import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from got.pipeline import GoTPipeline

_NAME = re.compile(r"[\w][\w.-]{0,99}")
_LISTED = 60
"""Sessions in a list, the last ones."""


class Sessions:
    """The conversations in a folder.

    Args:
        root: The folder.
        pipeline: What draws.
    """

    def __init__(self, root: Path, pipeline: GoTPipeline) -> None:
        self.root, self.pipeline = root, pipeline
        self._changing: set[str] = set()

    def folder(self, name: str) -> Path:
        """Where a session is kept.

        Raises:
            UserError: If no session can be called that.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"expected the name of a session but got {name[:100]!r}")
        return self.root / name

    def new(self) -> str:
        """Begins a session, which is there from now on, whatever happens to the program; returns its name."""
        name = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        Conversation(self.pipeline).save(self.folder(name))
        return name

    def get(self, name: str) -> Conversation:
        """A session's conversation as it is on disk, where other programs may have gone on with it.

        Raises:
            UserError: If no session can be called that.
            ConversationError: If there is none, or it is damaged.
        """
        return Conversation.load(self.folder(name), self.pipeline, lazy=True)

    @contextlib.contextmanager
    def changing(self, name: str) -> Iterator[Conversation]:
        """The conversation, for one who changes it; nobody else does meanwhile, but all may look. Then it is saved.

        Raises:
            UserError: If something is being drawn in it.
            ConversationError: If another program is going on with it, say a chat.
        """
        if name in self._changing:
            raise UserError("an image is being drawn in this session; wait for it, or stop it")
        with only_writer(self.folder(name)) or contextlib.nullcontext():
            self._changing.add(name)
            try:
                talk = self.get(name)
                yield talk
                talk.save(self.folder(name))
            finally:
                self._changing.discard(name)

    def listed(self) -> list[dict[str, Any]]:
        """The last sessions that have an image, newest first, in a few words each."""
        times: dict[Path, float] = {}
        for file in self.root.glob(f"*/{STATE_FILE}"):
            with contextlib.suppress(OSError):  # taken away meanwhile, or somebody else's
                times[file] = file.stat().st_mtime
        sessions = []
        for file in sorted(times, key=lambda file: times[file], reverse=True)[:_LISTED]:
            with contextlib.suppress(OSError):
                entries, _ = read_lines(file.with_name(ENTRIES_FILE))
                said = next((one["instruction"] for one in entries if one.get("instruction")), "")
                sessions.append({"name": file.parent.name, "entries": len(entries), "title": said})
        return [one for one in sessions if one["entries"]]
