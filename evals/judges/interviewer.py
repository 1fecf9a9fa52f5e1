"""Puts the calls of interviews to a vision-language model, many at a time, with rules for all that can go wrong.

A judge's name holds the protocol, the model, a hash of the wording and how images are sent, and stands in every
metric's name. Each answer is asked for a bounded number of times. What failed is missing and has a cause; see
`evals.metrics.judging`. Replies are kept in a log, legal or not. Legal ones are taken from there when the same is asked
again; whoever refused or wrote nonsense is asked anew, and paid anew.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.judges.calls import Answers, Sending
from evals.judges.handing import Overheard
from got.vlm.asker import Asker, AskSettings, Question
from got.vlm.clients import AskFailed, Reply, SetupError
from got.vlm.json_replies import BadReply
from got.vlm.limits import Tally
from got.vlm.messages import ASSISTANT, SYSTEM, USER, Message, Messages, encoded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from evals.judges.calls import Call, Interview
    from got.vlm.clients import Backend
    from got.vlm.messages import ImageFile


class Interviewer:
    """A protocol's way of asking, put to a back-end."""

    def __init__(
        self,
        protocol: str,
        backend: Backend,
        settings: AskSettings,
        log: Path | None = None,
        *,
        sending: Sending | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes legal replies from a log, and adds all new ones. What the log has cost counts as spent.

        Args:
            protocol: Name and hash of the wording, as ``got#0123abcd``.
            backend: Who answers.
            settings: How often, how many at a time, how much money.
            log: File of all replies; None keeps none.
            sending: What the protocol lays down of requests; None leaves that to the settings.
            sleep: Waits some seconds.

        Raises:
            UserError: The money is too little for one request.
        """
        name, _, digest = protocol.partition("#")
        self.sending = sending or Sending()
        self.name = "+".join(filter(None, (f"{name}@{backend.id}#{digest}", self.sending.encoding.name)))
        if sending is not None:
            params = dataclasses.replace(
                settings.params,
                temperature=sending.temperature,
                max_tokens=sending.max_tokens,
                extra={**sending.extra, **settings.params.extra},
            )
            settings = dataclasses.replace(settings, params=params)
        self._priced = settings.usd_per_million is not None
        self._unlikely: list[str] | None = []  # whom replies without probabilities were about; None once one had them
        self._asker = Asker(
            backend,
            settings,
            log,
            subject=("case", "repeat"),
            identity=(backend.id, backend.secret_free_place),
            stamp={"judge": self.name},
            log_silence=True,
            who="the judge",
            hand_on=backend.hand_on if isinstance(backend, Overheard) else None,
            sleep=sleep,
        )
        self.ledger = self._asker.ledger
        if too_small := self.ledger.too_small():
            raise UserError(f"nothing is asked: {too_small}")

    def hold(self, interviews: Sequence[Interview]) -> list[Answers]:
        """The answers of each interview, in order, several asked at a time.

        Raises:
            UserError: The judge cannot be asked at all, or the log cannot be written.
        """
        found: dict[int, Answers] = {}

        async def work(numbered: tuple[int, Interview]) -> None:
            found[numbered[0]] = await self._hold(numbered[1])

        try:
            asyncio.run(self._asker.each(enumerate(interviews), work))
        except SetupError as error:
            raise UserError(f"--judge, {self.name}: {error}") from error
        return [found[number] for number in range(len(interviews))]

    async def _hold(self, interview: Interview) -> Answers:
        """Calls that need no other one's reply are put side by side."""
        encode = functools.cache(lambda role: encoded(interview.images[role], self.sending.encoding))
        tasks: dict[str, asyncio.Task[_Said]] = {}
        last: asyncio.Task[_Said] | None = None
        for call in interview.calls:
            waits_for = tasks.get(call.after or ""), last if interview.stops else None
            last = tasks[call.name] = asyncio.create_task(self._one(interview, call, encode, *waits_for))
        # In order, and not before all are done.
        every = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        asked = {name: one for name, one in every.items() if one.asked}
        return Answers(
            judge=self.name,
            repeat=interview.repeat,
            scores={name: one.scores for name, one in asked.items() if not one.cause},
            failures={name: one.cause for name, one in asked.items() if one.cause},
            details={name: one.detail for name, one in asked.items() if one.cause},
            replies={name: one.tally.replies for name, one in asked.items() if one.tally.replies},
            calls=sum(one.tally.calls for one in every.values()),
            tokens_in=sum(one.tally.tokens_in for one in every.values()),
            tokens_out=sum(one.tally.tokens_out for one in every.values()),
            usd=sum(one.tally.usd for one in every.values()) if self._priced else None,
        )

    async def _one(
        self,
        interview: Interview,
        call: Call,
        encode: Callable[[str], ImageFile],
        after: asyncio.Task[_Said] | None,
        before: asyncio.Task[_Said] | None,
    ) -> _Said:
        """One call: the conversation goes on from `after`, and nothing is asked if `before` failed."""
        if before is not None and ((last := await before).cause or not last.asked):
            return _Said(asked=False)
        earlier, tally = _Said() if after is None else await after, Tally()
        try:
            if earlier.cause:
                raise BadReply(earlier.cause, f"nothing was said of {call.after}")
            messages = as_messages(call, encode, self.sending, earlier.messages)
            # Where one failure ends all, those behind it may never be asked.
            together = [] if interview.stops else [one for one in interview.calls if one.after == call.after]
            question = Question(
                subject=(interview.id, interview.repeat),
                detail={"call": call.name},
                messages=messages,
                spellings=call.spellings,
                repeat=interview.repeat,
                among=tuple(
                    (as_messages(one, encode, self.sending, earlier.messages), one.spellings) for one in together
                ),
            )
            text, scores = await self._asker.ask(question, functools.partial(_read, call), tally)
        except (AskFailed, BadReply) as error:
            self._give_up(error, interview)
            return _Said(tally=tally, cause=error.cause, detail=str(error))
        self._unlikely = None if call.spellings else self._unlikely
        return _Said(tally=tally, scores=scores, messages=(*messages, Message(role=ASSISTANT, parts=(text,))))

    def _give_up(self, error: AskFailed | BadReply, interview: Interview) -> None:
        """Raises `SetupError` if an endpoint never gives probabilities. Where it does, a filter may answer in words."""
        if error.cause != NO_PROBABILITIES or self._unlikely is None:
            return
        self._unlikely.append(interview.id)
        if len(self._unlikely) >= _NEVER and len(set(self._unlikely)) >= _OF_IMAGES:
            raise SetupError(f"{error}: not one of the first {len(self._unlikely)} replies has any") from error


NO_PROBABILITIES = "no probabilities"
"""Why there is no score where one is the probability of a word."""
_NEVER = 8
"""So many replies without probabilities, from the first on, are an endpoint that gives none, ..."""
_OF_IMAGES = 3
"""... if they are about so many images: a filter may refuse all questions about one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What came of a call."""

    asked: bool = True
    """False where a call before it failed, without which it is of no use."""
    tally: Tally = dataclasses.field(default_factory=Tally)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    cause: str = ""
    """Why there is no score; empty if there is one."""
    detail: str = ""
    messages: Messages = ()
    """The conversation with its reply."""


def _read(call: Call, reply: Reply) -> tuple[str, dict[str, float]]:
    if call.spellings:
        more = {} if call.read is None else call.read(reply.text)
        return reply.text, {call.name: first_token_probability(reply, call.spellings), **more}
    assert call.read is not None, f"{call.name} says neither how its reply is read nor which words are wanted"
    return reply.text, dict(call.read(reply.text))


def first_token_probability(reply: Reply, spellings: Sequence[str]) -> float:
    """The probability that a reply begins with one of the spellings, each by its first token.

    A local model gives it from its whole vocabulary; two spellings with the same first token count twice there, as in
    GenEval 2's own script. An endpoint gives its likeliest tokens, of which those count that are a spelling: what is
    not among them adds 0.

    Raises:
        BadReply: The endpoint gives no probabilities.

    >>> from got.vlm.clients import Reply
    >>> reply = Reply(text="Yes", tokens_in=1, tokens_out=1, first_token={"Yes": 0.75, " yes": 0.125, "No": 0.125})
    >>> first_token_probability(reply, ["Yes", " yes"])
    0.875
    """
    if reply.spelled is not None and reply.spelled.keys() >= set(spellings):
        return float(sum(reply.spelled[word] for word in spellings))
    if reply.first_token is None:
        raise BadReply(NO_PROBABILITIES, "the endpoint gives no log-probabilities of the first token", retry=False)
    return float(sum(reply.first_token.get(word, 0.0) for word in dict.fromkeys(spellings)))


def as_messages(call: Call, encode: Callable[[str], ImageFile], sending: Sending, before: Messages = ()) -> Messages:
    """The conversation of a call: system message, earlier turns, then text and images in the protocol's order."""
    images = [part for shown in call.images for part in ((shown.label,) if shown.label else ()) + (encode(shown.role),)]
    parts = (*images, call.text) if sending.images_first else (call.text, *images)
    system = (Message(role=SYSTEM, parts=(call.system,)),) if call.system and not before else ()
    return (*system, *before, Message(role=USER, parts=parts))
