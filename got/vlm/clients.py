"""What it takes to ask a vision-language model: parameters, replies, and the ways in which there is none.

Annotation asks for chains, `evals` for judgements: of an endpoint (`got.vlm.endpoint`), or of a model on this machine
(`got.vlm.local`). A key is never written anywhere; of an address only a hash.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from got.vlm.messages import Messages

TOP_TOKENS = 20
"""So many alternatives of a first token an endpoint gives at most."""
REFUSED = "refusal"
"""Why a reply ends in which the model, or a filter before it, would not answer; it is paid like any other."""
CUT_OFF = "length"
"""Why a reply ends that was cut off at the limit of tokens."""
UNREADABLE = "unknown form"
"""Of an answer whose content is neither a text nor a list with text parts; it is paid, and no reply."""


class SetupError(ValueError):
    """A model cannot be had or asked at all, in words for a person: a library, a key or a name is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskParams:
    """What a request says beside its messages. None leaves a thing to the endpoint."""

    temperature: float | None = 0.0
    """0 does not make an endpoint deterministic, but less random."""
    max_tokens: int | None = 1400
    """Longest answer, with the thoughts of a model that reasons."""
    seed: int | None = 0
    """First seed; repeats count up from it."""
    json_mode: bool = False
    """Ask for JSON by the protocol's own means, where the endpoint has them."""
    spellings: tuple[str, ...] = ()
    """Words of which each one's probability to begin the reply is wanted, see `Reply.first_token`."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """More fields of an endpoint's request, as JSON, e.g. ``{"reasoning_effort": "low"}``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    text: str
    """In the log as the model wrote it; whoever reads it gets it without a model's thoughts."""
    tokens_in: int | None
    """None where the endpoint does not count."""
    tokens_out: int | None
    served_by: str = ""
    """Model and fingerprint as the endpoint names them: a silent change of the model shows here."""
    finish: str = ""
    """Why it ends: ``"stop"``, `CUT_OFF`, `REFUSED`, `UNREADABLE`, or the endpoint's own word."""
    dropped: tuple[str, ...] = ()
    """Parameters that were not sent, because the endpoint does not take them."""
    first_token: dict[str, float] | None = None
    """Probabilities of what the reply could have begun with, by the token's text: the `TOP_TOKENS` likeliest ones.
    None where none were asked for, or the endpoint gives none."""
    spelled: dict[str, float] | None = None
    """Of a local model: the probability of each of the wanted spellings' first token, from the whole vocabulary."""


class AskFailed(Exception):
    """No reply. `cause` is ``"transport"``, ``"rate limit"``, ``"rejected"``, ``"refusal"`` or ``"budget"``."""

    def __init__(
        self,
        cause: str,
        detail: str,
        *,
        retry: bool,
        after_seconds: float | None = None,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(" ".join(detail.split())[:300])
        self.cause, self.retry, self.after_seconds = cause, retry, after_seconds
        self.may_be_billed = may_be_billed


class Backend(Protocol):
    """Answers questions; several tasks of one event loop may ask."""

    id: str
    """Names the model in everything that it wrote."""
    secret_free_place: str
    """Part of the cache key: tells two endpoints with one model name apart, and gives nothing away."""

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """The reply to a conversation that ends with the user's turn.

        Raises:
            AskFailed: None came.
            SetupError: Nothing can be asked at all.
        """

    async def close(self) -> None:
        """Closes connections; the next question opens new ones."""


Together = tuple[tuple["Messages", tuple[str, ...]], ...]
"""Questions that may be answered as a batch: conversations, each with its `AskParams.spellings`."""


@runtime_checkable
class Batching(Protocol):
    """A back-end that answers some questions in one go."""

    async def ask_among(self, number: int, questions: Together, params: AskParams) -> Reply:
        """The reply to one of some questions that are all answered together, however many of them are asked for.

        Raises:
            SetupError: Nothing can be asked at all.
        """
