"""A judge's model in one process, its log and its accounts in another.

Workers ask a model of their own beforehand, and hand on what it says. Whoever has the run directory then asks the same
questions in the order of the samples and gets these replies: the log, and the number of calls and tokens, are those of
one process, whoever died meanwhile.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from got.vlm.clients import AskFailed
from got.vlm.local import TransformersBackend, model_name
from got.vlm.messages import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from got.vlm.clients import AskParams, Reply
    from got.vlm.messages import Messages

HandedOn = tuple[str, "Reply"]
"""A hash of a question, and what a model replied."""


def _question(messages: Messages, params: AskParams) -> str:
    parts = [fingerprint(messages), dataclasses.asdict(params)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Overheard(TransformersBackend):
    """A model of transformers. Whoever asks it tells `hand_on` of every reply, those of the log included."""

    def __init__(self, place: str, device: str) -> None:
        """Loads it, see `TransformersBackend`."""
        super().__init__(place, device)
        self._said: dict[str, Reply] = {}

    def hand_on(self, messages: Messages, params: AskParams, reply: Reply) -> None:
        """Keeps a reply until it is taken."""
        self._said[_question(messages, params)] = reply

    def taken(self) -> tuple[HandedOn, ...]:
        """All replies since this was last called."""
        said, self._said = tuple(self._said.items()), {}
        return said


class Replies:
    """Answers in place of a model, with what a model somewhere else has said."""

    secret_free_place = TransformersBackend.secret_free_place

    def __init__(self, place: str) -> None:
        """Takes the model's name; nothing is loaded."""
        self.id = model_name(place)
        self._said: dict[str, Reply] = {}

    def take(self, said: Iterable[HandedOn]) -> None:
        """From here on there are these replies, and no others."""
        self._said = dict(said)

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """The reply to a question that was put before.

        Raises:
            AskFailed: It was not: the worker's log, if it has one, is another and led to other questions.
        """
        del seed
        said = self._said.get(_question(messages, params))
        if said is None:
            raise AskFailed("transport", "no worker has asked this; is --judge-log on a shared disk?", retry=False)
        return said

    async def close(self) -> None:
        """Nothing to close."""


class HandingJudge:
    """A judge that asks a model here, and the model's replies."""

    def __init__(self, make: Callable[[Callable[[str, str], Overheard]], Any]) -> None:
        """Loads the model.

        Args:
            make: Makes the judge of what makes its model, by place and device.
        """
        self._models: list[Overheard] = []
        self.judge = make(self._model)

    def _model(self, place: str, device: str) -> Overheard:
        self._models.append(Overheard(place, device))
        return self._models[-1]

    def taken(self) -> tuple[HandedOn, ...]:
        """All replies since this was last called."""
        return tuple(said for model in self._models for said in model.taken())


class HearingJudge:
    """The same judge without the model, which gets the replies that are handed on."""

    def __init__(self, make: Callable[[Callable[[str, str], Replies]], Any]) -> None:
        """Loads nothing; for the argument see `HandingJudge`."""
        self._models: list[Replies] = []
        self.judge = make(self._model)

    def _model(self, place: str, device: str) -> Replies:
        del device
        self._models.append(Replies(place))
        return self._models[-1]

    def hear(self, said: Iterable[HandedOn]) -> None:
        """From here on there are these replies, and no others."""
        for model in self._models:
            model.take(said)
