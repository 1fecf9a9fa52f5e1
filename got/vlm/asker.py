"""How a model is asked, by annotation and by judges: replies on record, each paid once, failures with a cause.

Every reply goes to a log, legal or not, under a key that holds everything it depends on. What the log holds is not
asked again, so a run that was killed resumes where it was.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from got.util.files import append_lines, clear_disk_errors, recorded
from got.vlm.clients import REFUSED, AskFailed, AskParams, Reply, SetupError
from got.vlm.json_replies import BadReply, shortened
from got.vlm.messages import fingerprint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from got.vlm.clients import Backend
    from got.vlm.messages import Messages

_HOPELESS = 8
"""So many questions without an answer, and not one with, are a broken set-up."""
_SILENT = ("transport", "rate limit")
_REPLY_FIELDS = tuple(field.name for field in dataclasses.fields(Reply))
_ALWAYS = ("text", "tokens_in", "tokens_out", "served_by", "finish")
"""Parts of a reply that every line of the log has."""
_T = TypeVar("_T")
Subject = tuple[Any, ...]
"""What a question is about, such as a sample's id."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """How a model is asked."""

    params: AskParams = dataclasses.field(default_factory=AskParams)
    attempts: int = 4
    """Requests for one answer at most."""
    retry_temperature: float | None = None
    """Of all attempts but the first: a greedy model would only repeat itself. Each attempt is then a question of its
    own, whose reply the log keeps, good or bad. None: all attempts are the same question, a refusal of it is final, and
    the log answers with legal replies alone."""
    first_wait_seconds: float = 1.0
    """Before a request is sent again; doubled with each attempt. The server's own wish goes first."""
    longest_wait_seconds: float = 60.0
    """A server that wants a longer pause is not waited for."""
    concurrency: int = 4
    lost_after: int = 8
    """So many questions in a row without an answer are an endpoint that has gone."""
    usd_per_million: tuple[float, float] | None = None
    """Price of a million tokens in and out."""
    max_usd: float | None = None
    """No request is sent that could lead above this, with what the log has cost."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked."""

    subject: Subject
    """What it is about."""
    detail: dict[str, Any]
    """What else the log says of it."""
    messages: Messages
    """The conversation that the answer is to go on with."""
    spellings: tuple[str, ...] = ()
    """Words of which each one's probability to begin the reply is wanted."""
    repeat: int = 0
    """Number of a question that is asked several times."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What some questions have cost. Replies from the log cost nothing."""

    replies: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    """Requests, with or without a reply."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class Ledger:
    """Money spent, and money that requests under way may yet spend."""

    def __init__(self, usd_per_million: tuple[float, float] | None, max_usd: float | None, max_tokens: int) -> None:
        """Nothing is spent above a limit.

        Args:
            usd_per_million: Price of a million tokens in and out; None if it is not known, and then there is no limit.
            max_usd: The limit.
            max_tokens: Longest answer, for a first guess of what a request costs.
        """
        self._price, self._limit = usd_per_million, max_usd
        self._guess = self.cost(3000, max_tokens) or 0.0
        self.spent_usd, self._reserved = 0.0, 0.0

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Price of a request; None where no price is known, or nobody counted."""
        if self._price is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self._price[0] + tokens_out * self._price[1]) / 1e6

    def recall(self, record: Mapping[str, Any]) -> None:
        """Counts a logged reply; one whose tokens nobody counted has cost what is set aside for it."""
        usd = record.get("usd") or self.cost(record["tokens_in"], record["tokens_out"])
        self.spent_usd += self._guess if usd is None else usd

    def reserve(self) -> float:
        """Sets the price of one more request aside; raises `AskFailed` if there is not enough left."""
        if self._limit is not None and self.spent_usd + self._reserved + self._guess > self._limit:
            raise AskFailed("budget", f"{self.spent_usd:.4f} USD are spent", retry=False)
        self._reserved += self._guess
        return self._guess

    def settle(self, reserved: float, usd: float | None) -> float:
        """A request is over. Returns what it cost: as much as was set aside, if that is not known."""
        paid = reserved if usd is None else usd
        self._reserved -= reserved
        self.spent_usd += paid
        self._guess = max(self._guess, usd or 0.0)
        return paid


class Asker:
    """Puts questions to a back-end, some at a time, and keeps what comes back."""

    def __init__(
        self,
        backend: Backend,
        settings: AskSettings,
        log: Path | None,
        *,
        subject: Sequence[str],
        identity: Sequence[str],
        stamp: Mapping[str, Any] | None = None,
        finished: Collection[Subject] = (),
        log_silence: bool = False,
        who: str = "the model",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Reads the log of earlier runs.

        Args:
            backend: Who answers.
            settings: How often, how many at a time, how much money.
            log: File of all replies, one a line; None keeps none.
            subject: The log's names for the parts of a subject.
            identity: What makes the back-end the same one, for the key of a reply.
            stamp: Stands in every line; lines that say otherwise are not this asker's.
            finished: Subjects about which nothing will be asked, whose replies need no memory.
            log_silence: Whether the log also names questions that had no answer while others had: in a later run, which
                may ask for nothing else, they do not stand for an endpoint that has gone.
            who: The model, in the sentence that says that it does not answer.
            sleep: Waits some seconds.
        """
        self.backend, self._settings, self._log = backend, settings, log
        self._subject, self._identity, self._stamp = tuple(subject), list(identity), dict(stamp or {})
        self._log_silence, self._who, self._sleep = log_silence, who, sleep
        self.ledger = Ledger(settings.usd_per_million, settings.max_usd, settings.params.max_tokens)
        self.replies = self.tokens_in = self.tokens_out = 0  # in the log
        self._known: dict[Subject, dict[str, Reply]] = {}
        self._hard: set[Subject] = set()
        self._silent: list[dict[str, Any]] = []  # without an answer since the last one that had one
        self._answered = False
        if log is not None:
            with clear_disk_errors(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                log.touch()
            for record in recorded(log):
                if all(record.get(name) == value for name, value in self._stamp.items()):
                    self._recall(record, finished)

    def _recall(self, record: dict[str, Any], finished: Collection[Subject]) -> None:
        subject = tuple(record.get(name) for name in self._subject)
        if "text" not in record:
            self._hard.add(subject)
            return
        self._answered = True
        reply = Reply(**{name: record[name] for name in _REPLY_FIELDS if name in record})
        self._count(reply)
        self.ledger.recall(record)
        if subject not in finished:
            self._keep(subject, record["key"], reply, record.get("cause"))

    def _count(self, reply: Reply) -> None:
        self.replies += 1
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0

    def _keep(self, subject: Subject, key: str, reply: Reply, cause: str | None) -> None:
        if cause is None or self._varied:
            self._known.setdefault(subject, {})[key] = reply

    @property
    def _varied(self) -> bool:
        return self._settings.retry_temperature is not None

    def forget(self, subject: Subject) -> None:
        """A subject is done: its replies stay in the log and leave the memory."""
        self._known.pop(subject, None)

    async def each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[None]]) -> None:
        """Works on all items, some at a time; the first error ends everything. Closes the back-end's connections."""
        queue = iter(items)

        async def worker() -> None:
            for item in queue:
                await work(item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.concurrency):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.backend.close()

    async def ask(self, question: Question, read: Callable[[Reply], _T], tally: Tally | None = None) -> _T:
        """What a reply says, once it can be read.

        Args:
            question: What is asked.
            read: Makes the result of a reply, or raises `BadReply`.
            tally: What the answer costs is added here.

        Raises:
            AskFailed: No reply came.
            BadReply: No reply was legal.
            SetupError: The model cannot be asked at all.
        """
        for attempt in range(self._settings.attempts):
            try:
                return await self._attempt(question, attempt, read, tally or Tally())
            except (AskFailed, BadReply) as error:
                wait = self._wait(error, attempt)
                if wait is None:
                    self._note(question.subject, error)
                    raise
                await self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, question: Question, attempt: int, read: Callable[[Reply], _T], tally: Tally) -> _T:
        params, seed = self._settings.params, self._settings.params.seed
        params = dataclasses.replace(params, spellings=question.spellings)
        if attempt and self._varied:
            params = dataclasses.replace(params, temperature=self._settings.retry_temperature)
        if seed is not None:
            # Another attempt with the same seed could only fail again; the seeds of repeats lie between.
            seed += question.repeat + attempt * (1 if self._varied else 1000)
        key = self._key(question, params, seed if self._varied else question.repeat)
        known = self._known.get(question.subject, {}).get(key)
        if known is not None:
            tally.replies.append(known.text)
            return _legal(known, read)
        reply, usd = await self._request(question, params, seed, tally)
        cause: str | None = None
        try:
            return _legal(reply, read)
        except BadReply as error:
            cause = error.cause
            raise
        finally:
            self._keep(question.subject, key, reply, cause)
            about = {**self._about(question.subject), **question.detail, "attempt": attempt}
            said = {name: value for name, value in dataclasses.asdict(reply).items() if name in _ALWAYS or value}
            self._write({"key": key, **about, "cause": cause, "usd": usd, **said})

    async def _request(
        self, question: Question, params: AskParams, seed: int | None, tally: Tally
    ) -> tuple[Reply, float]:
        """A new reply, and what it cost in USD."""
        reserved = self.ledger.reserve()
        tally.calls += 1
        usd: float | None = 0.0
        try:
            reply = await self.backend.ask(question.messages, params, seed)
            usd = self.ledger.cost(reply.tokens_in, reply.tokens_out)
        except AskFailed as error:
            usd = None if error.may_be_billed else 0.0
            raise
        finally:
            paid = self.ledger.settle(reserved, usd)
            tally.usd += paid
        self._alive()
        self._count(reply)
        tally.replies.append(reply.text)
        tally.tokens_in += reply.tokens_in or 0
        tally.tokens_out += reply.tokens_out or 0
        return reply, paid

    def _key(self, question: Question, params: AskParams, which: int | None) -> str:
        """Everything that can change a reply."""
        words, digests = fingerprint(question.messages)
        asked = {name: value for name, value in dataclasses.asdict(params).items() if name != "spellings" or value}
        parts = [*self._identity, words, asked, which, digests]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _wait(self, error: AskFailed | BadReply, attempt: int) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if attempt + 1 >= self._settings.attempts:
            return None
        if isinstance(error, BadReply):
            return None if error.cause == "refusal" and not self._varied else 0.0
        if not error.retry:
            return None
        wait = error.after_seconds
        if wait is None:
            wait = min(self._settings.first_wait_seconds * 2**attempt, self._settings.longest_wait_seconds)
        return wait if wait <= self._settings.longest_wait_seconds else None

    # ------------------------------------------------------------------------------------------------- silent endpoints
    def _note(self, subject: Subject, error: AskFailed | BadReply) -> None:
        """An endpoint that does not answer ends the run: the user hears of it now, and a later run asks again.

        A reply from the log says nothing about the endpoint. A request that is not accepted does so only if none ever
        was: else it may be this one's own fault. So it is with one without an answer while others had theirs.
        """
        rejected = error.cause == "rejected"
        if error.cause not in _SILENT and (self._answered or not rejected):
            if isinstance(error, AskFailed) and error.cause != "budget":
                self._alive()
            return
        if subject in self._hard:
            return
        self._silent.append({**self._about(subject), "cause": error.cause})
        if len(self._silent) >= (self._settings.lost_after if self._answered or rejected else _HOPELESS):
            raise SetupError(f"{self._who} does not answer (the same command resumes when it does): {error}") from error

    def _alive(self) -> None:
        if self._log_silence:
            for record in self._silent:
                self._write(record)
        self._answered, self._silent = True, []

    def _about(self, subject: Subject) -> dict[str, Any]:
        return {**self._stamp, **dict(zip(self._subject, subject, strict=True))}

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is not None:
            append_lines(self._log, [record], durable=False)


def _legal(reply: Reply, read: Callable[[Reply], _T]) -> _T:
    if reply.finish == REFUSED:
        raise BadReply("refusal", shortened(reply.text))
    return read(reply)
