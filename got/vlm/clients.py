"""The interface of vision-language models: parameters, replies, and the errors in place of a reply.

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
"""Most alternatives of the first token that an endpoint reports."""
REFUSED = "refusal"
"""`Reply.finish` where the model, or a filter before it, declined to answer; it is paid like any other reply."""
CUT_OFF = "length"
"""`Reply.finish` of a reply that was cut off at the token limit."""
UNREADABLE = "unknown form"
"""`Reply.finish` where the content is neither a text nor a list with text parts; it is paid, but unusable."""


class SetupError(ValueError):
    """A model cannot be loaded or asked: a library, a key or a name is wrong. The message is for users."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskParams:
    """Parameters of a request. None leaves a parameter to the endpoint."""

    temperature: float | None = 0.0
    """0 makes an endpoint less random, but not deterministic."""
    max_tokens: int | None = 1400
    """Longest answer, including the thoughts of a reasoning model."""
    seed: int | None = 0
    """Seed of the first request; repetitions add to it."""
    json_mode: bool = False
    """Whether to request JSON by the endpoint's JSON mode."""
    spellings: tuple[str, ...] = ()
    """Words whose probability of beginning the reply is asked for, see `Reply.first_token`."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the request, JSON-able, e.g. ``{"reasoning_effort": "low"}``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's reply."""

    text: str
    """As the model wrote it, in the log; readers get it without the model's thoughts."""
    tokens_in: int | None
    """None where the endpoint does not report it."""
    tokens_out: int | None
    served_by: str = ""
    """Model and fingerprint as reported by the endpoint, which reveal a silent change of the model."""
    finish: str = ""
    """Reason why it ends: ``"stop"``, `CUT_OFF`, `REFUSED`, `UNREADABLE`, or the endpoint's own word."""
    dropped: tuple[str, ...] = ()
    """Parameters that were left out because the endpoint rejects them."""
    first_token: dict[str, float] | None = None
    """Probabilities of the `TOP_TOKENS` likeliest first tokens, by text; None where they were not asked for, or the
    endpoint does not report them."""
    spelled: dict[str, float] | None = None
    """Of a local model: probability of each requested spelling's first token, over the whole vocabulary."""


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
    """What answers questions; tasks of one event loop may ask concurrently."""

    id: str
    """Name of the model in all records."""
    secret_free_place: str
    """Part of the keys of replies: tells apart endpoints with the same model name and reveals no secret."""

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """The reply to a conversation that ends with the user's turn.

        Raises:
            AskFailed: None came.
            SetupError: Nothing can be asked at all.
        """

    async def close(self) -> None:
        """Closes connections; the next question opens new ones."""


Together = tuple[tuple["Messages", tuple[str, ...]], ...]
"""A batch of questions: conversations, each with its `AskParams.spellings`."""


@runtime_checkable
class Batching(Protocol):
    """A back-end that answers several questions as a batch."""

    async def ask_among(self, number: int, questions: Together, params: AskParams) -> Reply:
        """The reply to one question of a batch. All of the batch are answered together, however many are asked for.

        Raises:
            SetupError: Nothing can be asked at all.
        """
