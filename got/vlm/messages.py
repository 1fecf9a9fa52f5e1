"""What a vision-language model is shown and asked: messages of texts and images, in the order in which they go out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image as it is sent."""

    data: bytes
    """A PNG or JPEG file."""
    mime: str = "image/png"
    detail: str | None = None
    """How closely an endpoint is asked to look, ``"high"`` or ``"low"``; None leaves it to the endpoint."""

    @property
    def url(self) -> str:
        """The file inside a data URL."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`SYSTEM`, `USER` or `ASSISTANT`."""
    parts: tuple[str | ImageFile, ...]
    """Texts and images, in order."""


Messages = tuple[Message, ...]


def user(words: str, images: Sequence[bytes] = ()) -> Messages:
    """A text with PNG files behind it, as one turn.

    >>> [part if isinstance(part, str) else part.mime for part in user("What is this?", [b"..."])[0].parts]
    ['What is this?', 'image/png']
    """
    return (Message(role=USER, parts=(words, *(ImageFile(data=data) for data in images))),)


def images_of(messages: Messages) -> Iterator[ImageFile]:
    """All images, in order."""
    return (part for message in messages for part in message.parts if isinstance(part, ImageFile))


def fingerprint(messages: Messages) -> list[Any]:
    """All that a reply can depend on, as JSON: of a single turn its text and its images' hashes.

    >>> fingerprint(user("hi", [b""]))[0], len(fingerprint(user("hi", [b""]))[1][0])
    ('hi', 64)
    """
    first = messages[0].parts
    if len(messages) == 1 and isinstance(first[0], str) and all(_is_plain(part) for part in first[1:]):
        return [first[0], [hashlib.sha256(image.data).hexdigest() for image in images_of(messages)]]
    turns = [[message.role, [_mark(part) for part in message.parts]] for message in messages]
    return ["", turns]


def _is_plain(part: str | ImageFile) -> bool:
    return isinstance(part, ImageFile) and part.mime == "image/png" and part.detail is None


def _mark(part: str | ImageFile) -> str | list[str | None]:
    if isinstance(part, str):
        return part
    return [hashlib.sha256(part.data).hexdigest(), part.mime, part.detail]
