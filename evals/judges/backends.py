"""Who answers a judge's question: any OpenAI-compatible endpoint, or a vision-language model on this machine.

An endpoint is named by the environment alone: ``JUDGE_MODEL``, ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``. The key is
never written anywhere; of the address only a hash. The clients are those that annotation uses, too (`got.vlm`); here a
wrong set-up is told in words that name the judge's flags.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from evals.core.records import UserError
from got.vlm import clients
from got.vlm.clients import REFUSED, AskFailed, Backend, Ledger, Reply, model_name
from got.vlm.clients import AskParams as JudgeParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "REFUSED",
    "AskFailed",
    "Backend",
    "JudgeParams",
    "Ledger",
    "OpenAIBackend",
    "Reply",
    "TransformersBackend",
    "endpoint_hash",
    "model_from_environment",
    "model_name",
]

_OPENAI = "https://api.openai.com/v1"
"""Where the client goes if nobody names an address."""


def model_from_environment() -> str:
    """The model that ``JUDGE_MODEL`` names.

    Raises:
        UserError: It names none.
    """
    model = os.environ.get("JUDGE_MODEL", "")
    if not model:
        raise UserError("--judge openai: set JUDGE_MODEL to the model's name")
    return model


def endpoint_hash(_: str = "") -> str:
    """`OpenAIBackend.secret_free_place` of the endpoint that the environment names, without client and key."""
    address = os.environ.get("OPENAI_BASE_URL") or _OPENAI
    return hashlib.sha256((address if address.endswith("/") else f"{address}/").encode()).hexdigest()[:12]


@contextlib.contextmanager
def _said_of(judge: str) -> Iterator[None]:
    try:
        yield
    except clients.SetupError as error:
        raise UserError(f"--judge {judge}: {error}") from error.__cause__


class OpenAIBackend(clients.OpenAIBackend):
    """An OpenAI-compatible chat endpoint. Retries are the judge's business, so that they are counted."""

    def __init__(self, model: str, base_url: str | None, key: str, *, timeout_seconds: float = 60.0) -> None:
        with _said_of("openai"):
            super().__init__(model, base_url, key, timeout_seconds=timeout_seconds)

    @classmethod
    def from_environment(cls, model: str = "") -> OpenAIBackend:
        """The endpoint that the environment names, and its model unless one is given.

        Raises:
            UserError: A variable is missing.
        """
        model, url = model or model_from_environment(), os.environ.get("OPENAI_BASE_URL") or None
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key and url is None:
            raise UserError("--judge openai: set OPENAI_API_KEY, or OPENAI_BASE_URL for an endpoint without a key")
        # A server of one's own often wants no key, but the client insists on one.
        return cls(model, url, key or "none")

    def ask(self, prompt: str, images: Sequence[bytes], params: JudgeParams, seed: int | None) -> Reply:
        """Text first, then the pictures in order, as VIEScore and GoT send them."""
        with _said_of("openai"):
            return super().ask(prompt, images, params, seed)


class TransformersBackend(clients.TransformersBackend):
    """A vision-language model of transformers, greedy: one question has one answer."""

    def __init__(self, place: str, device: str = "cpu", dtype: str = "float32") -> None:
        with _said_of("hf"):
            super().__init__(place, device, dtype)
