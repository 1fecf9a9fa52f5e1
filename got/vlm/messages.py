"""Messages for vision-language models: texts and images, in the order in which they are sent.

The answer also depends on the encoding of images, which is therefore part of a judge's name.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image as it is sent."""

    data: bytes
    """A PNG or JPEG file."""
    mime: str = "image/png"
    detail: str | None = None
    """The endpoint's `detail` parameter, ``"high"`` or ``"low"``; None: its default."""

    @property
    def url(self) -> str:
        """The file as a data URL."""
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
    """One user turn: a text followed by PNG files.

    >>> [part if isinstance(part, str) else part.mime for part in user("What is this?", [b"..."])[0].parts]
    ['What is this?', 'image/png']
    """
    return (Message(role=USER, parts=(words, *(ImageFile(data=data) for data in images))),)


def images_of(messages: Messages) -> Iterator[ImageFile]:
    """All images, in order."""
    return (part for message in messages for part in message.parts if isinstance(part, ImageFile))


def fingerprint(messages: Messages) -> list[Any]:
    """Everything in the messages that a reply can depend on, as JSON: of a single turn, its text and image hashes.

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


# ------------------------------------------------------------------------------------------------------------- encoding
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 1024 * 1024
"""Default limit of the pixels of an image that is sent: at least as many as most vision models use."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How images are encoded."""

    format: str = "PNG"
    """One of `FORMATS`."""
    quality: int = 75
    """Of JPEG, 1 to 95."""
    longest_px: int | None = None
    """Images with a longer side are scaled down to this; None: no limit."""
    max_pixels: int | None = None
    """Images with more pixels are scaled down to this many; None: no limit."""
    detail: str | None = None
    """The endpoint's `detail` parameter, ``"high"`` or ``"low"``; None: its default."""

    @property
    def name(self) -> str:
        """The encoding in one word; empty for unscaled PNG files.

        >>> Encoding(format="JPEG", longest_px=768).name, Encoding(max_pixels=1024 * 1024).name, Encoding().name
        ('jpeg75-768', '1048576px', '')
        """
        parts = [
            f"jpeg{self.quality}" if self.format == "JPEG" else "",
            "" if self.longest_px is None else str(self.longest_px),
            "" if self.max_pixels is None else f"{self.max_pixels}px",
            self.detail or "",
        ]
        return "-".join(part for part in parts if part)


def encoded(image: Image.Image, how: Encoding) -> ImageFile:
    """Encodes an RGB image."""
    from PIL import Image

    if how.longest_px is not None and max(image.size) > how.longest_px:
        image = image.copy()
        image.thumbnail((how.longest_px, how.longest_px))
    if how.max_pixels is not None and image.width * image.height > how.max_pixels:
        scale = math.sqrt(how.max_pixels / (image.width * image.height))
        size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if how.format == "PNG":  # always by Pillow: recorded replies are found by these bytes
        image.save(buffer, "PNG", compress_level=1)
        return ImageFile(data=buffer.getvalue(), detail=how.detail)
    image.save(buffer, how.format, quality=how.quality)
    return ImageFile(data=buffer.getvalue(), mime="image/jpeg", detail=how.detail)
