"""What a judge is asked about one image: calls with labelled images, how they are sent, and what came of them.

A protocol is data. Each `Call` is one question: text, images by role with a label each, perhaps a system message and an
earlier call whose exchange comes before it, and how its reply is read. An `Interview` is all calls about one image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from got.vlm.messages import Encoding as Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from PIL import Image


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a protocol lays down beside its words. None leaves a thing to the endpoint."""

    temperature: float | None = 0.0
    max_tokens: int = 1400
    images_first: bool = False
    """Whether the images of a question come before its text."""
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """More fields of an endpoint's request, as JSON."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image of a question."""

    role: str
    """A key of `Interview.images`, such as ``"source"``."""
    label: str = ""
    """Text before the image; empty for none."""


def shown(*roles: str, **labels: str) -> tuple[Shown, ...]:
    """Images without labels, then some with the text before each.

    >>> [(one.role, one.label) for one in shown("source", result="After:")]
    [('source', ''), ('result', 'After:')]
    """
    return (*(Shown(role=role) for role in roles), *(Shown(role=role, label=text) for role, text in labels.items()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question. Its scores come from `read`, are the probability of `spellings`, or both."""

    name: str
    text: str
    images: tuple[Shown, ...]
    read: Callable[[str], Mapping[str, float]] | None = None
    """The reply -> scores by name; raises `BadReply`. See `evals.judges.readers`."""
    spellings: tuple[str, ...] = ()
    """For a score under the call's name: the probability that the reply begins with any of
    these, each by the first token that it is written with."""
    system: str = ""
    after: str | None = None
    """The call whose question and reply go before this one in the same conversation."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interview:
    """All calls about one image."""

    id: str
    """Of the case, for the log."""
    calls: tuple[Call, ...]
    images: Mapping[str, Image.Image]
    """RGB, by role."""
    repeat: int = 0
    """Number of an interview that is held several times."""
    stops: bool = False
    """Whether nothing more is asked after a call that failed, because without it the rest is of no use."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came of an interview. What failed is missing: never 0, never a guess."""

    judge: str
    """Protocol, judge and hash of the wording; the name of the column it may stand in."""
    repeat: int = 0
    scores: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Call -> its scores by name, as the reply has them."""
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    """Call -> why it has none, one of `evals.metrics.judging.CAUSES`."""
    details: dict[str, str] = dataclasses.field(default_factory=dict)
    """Call -> what went wrong, in a line."""
    replies: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Call -> raw replies, those that could not be read included."""
    calls: int = 0
    """Requests sent; 0 if every reply came from the log."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = None
    """Money spent on these requests; None where no price is known."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


def prompt_hash(texts: Iterable[str], sending: Sending | None = None) -> str:
    """Eight digits that change with any wording, and with how it is sent where that is not the usual way.

    >>> prompt_hash(["a"]) == prompt_hash(["a"], Sending()) != prompt_hash(["b"])
    True
    """
    words = "\0".join(texts)
    if sending is not None and sending != Sending():
        words += "\0" + json.dumps(dataclasses.asdict(sending), sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:8]
