"""Asks a vision-language model, for annotation and for judges: replies are logged and paid once, failures have a cause.

Every reply is logged, valid or not, under a key of everything that it depends on. What the log holds is not
asked again, so a run that was killed resumes where it was. Several processes may share a log: each learns what the
others have paid before it asks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
import re
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

from got.util.errors import note, shortened
from got.util.hashes import SealedLog
from got.vlm.clients import CUT_OFF, REFUSED, UNREADABLE, AskFailed, AskParams, Batching, Reply, SetupError
from got.vlm.json_replies import BadReply, without_thoughts
from got.vlm.limits import Ledger, RateLimiter, Tally
from got.vlm.messages import fingerprint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from got.vlm.clients import Backend, Together
    from got.vlm.messages import Messages

_HOPELESS = 8
"""So many questions without an answer, and not one with, are a broken set-up."""
_SILENT = ("transport", "rate limit")
_TRUNCATED = "truncated"
_OWN_FAULTS = ("rejected", _TRUNCATED, UNREADABLE)
"""Causes that may lie in what is asked, or in how all is asked."""
_ALWAYS = ("text", "tokens_in", "tokens_out", "served_by", "finish")
"""Parts of a reply that every line of the log has."""
_NOTED = 3
"""Reasons why there is no answer that are said at once, each once."""
_T = TypeVar("_T")
Subject = tuple[Any, ...]
"""What a question is about, such as a sample's id."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """Settings of an `Asker`."""

    params: AskParams = dataclasses.field(default_factory=AskParams)
    attempts: int = 4
    """Most requests for one answer."""
    retries: int | None = None
    """Most repetitions of a request that got no reply, which do not count as attempts; None: they count as attempts."""
    retry_temperature: float | None = None
    """Temperature of all attempts but the first, because a greedy model would repeat itself. Each attempt is then a
    question of its own, and the log keeps its reply, valid or not. None: all attempts are the same question, a refusal
    is final, and only valid replies are taken from the log."""
    first_wait_seconds: float = 1.0
    """Wait before a request is repeated, doubled each time; a wait that the server asks for takes precedence."""
    longest_wait_seconds: float = 60.0
    """Longest wait that a server may ask for; beyond it, the request fails."""
    concurrency: int = 4
    """Questions that are asked at the same time."""
    per_minute: float | None = None
    """Most requests per minute; None: no limit."""
    lost_after: int = 8
    """The endpoint counts as gone after this many questions in a row without an answer."""
    usd_per_million: tuple[float, float] | None = None
    """Price in USD of a million input and output tokens."""
    max_usd: float | None = None
    """No request is sent that could exceed this budget, which includes the cost of the logged replies."""
    length_flag: str = "--max-tokens"
    """The flag that allows longer answers, for error messages."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question for a model."""

    subject: Subject
    """What the question is about."""
    detail: dict[str, Any]
    """More fields of its line in the log."""
    messages: Messages
    """The conversation, which the answer continues."""
    spellings: tuple[str, ...] = ()
    """Words whose probability of beginning the reply is asked for."""
    repeat: int = 0
    """Counts repetitions of the same question."""
    params: AskParams | None = None
    """Parameters of this question; None: those of the settings."""
    may_be_cut: bool = False
    """Whether an answer that was cut off at the token limit is accepted."""
    among: Together = ()
    """Questions, including this one, that a back-end may answer as a batch; empty: this one alone."""


class Asker:
    """Sends questions to a back-end, several at a time, and logs the replies."""

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
        hand_on: Callable[[Messages, AskParams, Reply], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Reads the log of earlier runs.

        Args:
            backend: What answers.
            settings: Attempts, concurrency and budget.
            log: File of all replies, one per line; None: replies are not logged.
            subject: The log's names for the parts of a subject.
            identity: Identifies the back-end in the keys of replies.
            stamp: Fields of every line; lines with other values are ignored.
            finished: Subjects about which nothing more is asked: their replies are not held in memory.
            log_silence: Whether the log also names questions that got no answer while others did: a later run, which
                may ask for nothing else, then does not take the endpoint for gone.
            who: Name of the model in error messages.
            hand_on: Called with each question and its reply, logged or new, where another process keeps the log. This
                one then only reads the log, reports no reasons, and does not decide whether the model is gone.
            sleep: Waits for a number of seconds.

        Raises:
            UserError: A line of the log is damaged.
        """
        self.backend, self._settings = backend, settings
        self._subject, self._identity, self._stamp = tuple(subject), list(identity), dict(stamp or {})
        self._log_silence, self._who, self._sleep = log_silence, who, sleep
        self._hand_on = hand_on
        self.ledger = Ledger(settings.usd_per_million, settings.max_usd, settings.params.max_tokens)
        self.replies = self.tokens_in = self.tokens_out = 0  # in the log
        self._known: dict[str, _Known] = {}
        self._keys: dict[Subject, list[str]] = {}
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._gate = RateLimiter(settings.concurrency, settings.per_minute, sleep)
        self._hard: set[Subject] = set()
        self._silent: list[dict[str, Any]] = []  # without an answer since the last one that had one
        self._last: Exception | None = None
        self._told: set[str] = set()
        self._answered = False
        self._by = secrets.token_hex(4)
        absent = log is None or (hand_on is not None and not log.exists())
        self._log = None if log is None or absent else SealedLog(log, "what it answers is asked again")
        self._catch_up(finished)
        if self._log is not None and self._log.unsealed and hand_on is None:
            note(f"{log}: {self._log.unsealed:,} lines of an older version have no hash; they are taken as they are")

    def _catch_up(self, finished: Collection[Subject] = ()) -> None:
        """Reads new lines of the log, including those of other processes, so that no reply is paid twice."""
        if self._log is None:
            return
        for where, record in self._log.news():
            own = record.get("by") == self._by
            if own or any(record.get(name) != value for name, value in self._stamp.items()):
                continue
            if not _is_whole(record, self._subject):
                raise self._log.damaged(where)
            self._recall(record, finished)

    def _recall(self, record: dict[str, Any], finished: Collection[Subject]) -> None:
        subject = tuple(record[name] for name in self._subject)
        if "text" not in record:
            self._hard.add(subject)
            return
        known = _recalled(record)
        self._count(known.reply)
        self.ledger.recall(record)
        self._answered |= _is_answer(known.reply)
        if subject not in finished:
            self._keep(subject, record["key"], known)

    def _count(self, reply: Reply) -> None:
        self.replies += 1
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0

    def _keep(self, subject: Subject, key: str, known: _Known) -> None:
        if known.reply.finish != UNREADABLE and (self._varied or known.cause in (None, _TRUNCATED)):
            self._known[key] = known
            self._keys.setdefault(subject, []).append(key)

    @property
    def _varied(self) -> bool:
        return self._settings.retry_temperature is not None

    def forget(self, subject: Subject) -> None:
        """Drops the replies of a finished subject from memory; they stay in the log."""
        for key in self._keys.pop(subject, ()):
            self._known.pop(key, None)

    async def each(self, items: Iterable[_T], work: Callable[[_T], Awaitable[None]]) -> None:
        """Works on all items, several at a time; the first error ends all. Closes the back-end's connections."""
        queue = iter(items)

        async def worker() -> None:
            for item in queue:
                await work(item)

        self._gate.renew()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.concurrency):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.backend.close()

    async def ask(self, question: Question, read: Callable[[Reply], _T], tally: Tally | None = None) -> _T:
        """Returns what the reply says. Nothing is asked twice that is logged or under way.

        Args:
            question: The question.
            read: Turns a reply into a result or raises `BadReply`; it gets the text without the model's thoughts.
            tally: The cost of the answer is added to it.

        Raises:
            AskFailed: No reply came.
            BadReply: No reply was valid.
            SetupError: The model cannot be asked at all.
        """
        attempt = lost = 0  # replies that were of no use, and requests since the last one that had none
        while True:
            try:
                return await self._attempt(question, attempt, read, tally or Tally())
            except (AskFailed, BadReply) as error:
                wait = self._wait(error, attempt, lost)
                if wait is None:
                    self._note(question.subject, error)
                    raise
                silent = isinstance(error, AskFailed)
                lost = lost + 1 if silent else 0
                attempt += not silent or self._settings.retries is None
                await (self._gate.pause(wait) if error.cause == "rate limit" else self._sleep(wait))

    async def _attempt(self, question: Question, attempt: int, read: Callable[[Reply], _T], tally: Tally) -> _T:
        params = question.params or self._settings.params
        params, seed = dataclasses.replace(params, spellings=question.spellings), params.seed
        if attempt and self._varied:
            params = dataclasses.replace(params, temperature=self._settings.retry_temperature)
        if seed is not None:
            # Another attempt with the same seed could only fail again; the seeds of repeats lie between.
            seed += question.repeat + attempt * (1 if self._varied else 1000)
        key = self._key(question, params, seed if self._varied else question.repeat)
        while (other := self._under_way.get(key)) is not None:
            await asyncio.wait((other,))
        self._catch_up()
        known = self._known.get(key)
        if known is not None and known.holds(params):
            tally.replies.append(known.reply.text)
            if self._hand_on is not None:
                self._hand_on(question.messages, params, known.reply)
            return self._read(known.reply, question, read)
        self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._ask_now(question, attempt, params, seed, key, read, tally)
        finally:
            self._under_way.pop(key).set_result(None)

    async def _ask_now(
        self,
        question: Question,
        attempt: int,
        params: AskParams,
        seed: int | None,
        key: str,
        read: Callable[[Reply], _T],
        tally: Tally,
    ) -> _T:
        reply, usd = await self._request(question, params, seed, tally)
        cause: str | None = None
        try:
            return self._read(reply, question, read)
        except BadReply as error:
            cause = error.cause
            raise
        finally:
            limit = params.max_tokens
            self._keep(question.subject, key, _Known(reply=reply, cause=cause, max_tokens=limit))
            about = {**self._about(question.subject), **question.detail, "attempt": attempt, "max_tokens": limit}
            said = {name: value for name, value in dataclasses.asdict(reply).items() if name in _ALWAYS or value}
            self._write({"key": key, **about, "cause": cause, "usd": usd, **said})

    async def _request(
        self, question: Question, params: AskParams, seed: int | None, tally: Tally
    ) -> tuple[Reply, float | None]:
        """A new reply and its cost in USD, None where no price is known."""
        async with self._gate:
            reserved = self.ledger.reserve()
            tally.calls += 1
            usd: float | None = 0.0
            try:
                reply = await self._reply(question, params, seed)
                usd = self.ledger.cost(reply.tokens_in, reply.tokens_out)
            except AskFailed as error:
                usd = None if error.may_be_billed else 0.0
                raise
            finally:
                paid = self.ledger.settle(reserved, usd)
                tally.usd += paid
        if self._hand_on is not None:
            self._hand_on(question.messages, params, reply)
        if _is_answer(reply):
            self._alive()
        self._count(reply)
        tally.replies.append(reply.text)
        tally.tokens_in += reply.tokens_in or 0
        tally.tokens_out += reply.tokens_out or 0
        return reply, paid if self.ledger.priced else None

    async def _reply(self, question: Question, params: AskParams, seed: int | None) -> Reply:
        if question.among and isinstance(self.backend, Batching):
            number = question.among.index((question.messages, question.spellings))
            return await self.backend.ask_among(number, question.among, params)
        return await self.backend.ask(question.messages, params, seed)

    def _key(self, question: Question, params: AskParams, which: int | None) -> str:
        """Everything that can change a reply except the token limit: one that ended before the limit is the same."""
        given = {name: value for name, value in dataclasses.asdict(params).items() if name != "max_tokens"}
        parts = [*self._identity, *fingerprint(question.messages), given, which]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _read(self, reply: Reply, question: Question, read: Callable[[Reply], _T]) -> _T:
        if reply.finish == REFUSED:
            raise BadReply("refusal", shortened(reply.text))
        if reply.finish == UNREADABLE:
            raise BadReply(UNREADABLE, f"the answer's content is {shortened(reply.text)}", retry=False)
        answer = dataclasses.replace(reply, text=without_thoughts(reply.text))
        if reply.finish == CUT_OFF and not question.may_be_cut and reply.first_token is None:
            # A model that repeats itself may not do so at another temperature; one that still thinks only needs more.
            words = f"cut off after {reply.tokens_out or 'too many'} tokens; {self._settings.length_flag} allows more"
            raise BadReply(_TRUNCATED, words, retry=self._varied and bool(answer.text.strip()))
        return read(answer)

    def _wait(self, error: AskFailed | BadReply, attempt: int, lost: int) -> float | None:
        """Seconds until the next request; None: no further request."""
        settings = self._settings
        if not error.retry:
            return None
        if isinstance(error, BadReply):
            last = attempt + 1 >= settings.attempts or (error.cause == "refusal" and not self._varied)
            return None if last else 0.0
        if attempt + 1 >= settings.attempts if settings.retries is None else lost >= settings.retries:
            return None
        wait = error.after_seconds
        if wait is None:
            wait = min(settings.first_wait_seconds * 2**lost, settings.longest_wait_seconds)
        return wait if wait <= settings.longest_wait_seconds else None

    # ------------------------------------------------------------------------------------------------- silent endpoints
    def _note(self, subject: Subject, error: AskFailed | BadReply) -> None:
        """Ends the run if the endpoint does not answer: the user is told at once, and a later run asks again.

        A reply from the log says nothing about the endpoint. A request that is not accepted, or an answer that cannot
        be used whatever it says, does so only if there was no other: else it may be this one's own fault. So it is with
        one without an answer while others had theirs.
        """
        if self._hand_on is not None:
            return
        own_fault = error.cause in _OWN_FAULTS
        if own_fault or error.cause in _SILENT:
            self._tell(error)
        if error.cause not in _SILENT and (self._answered or not own_fault):
            if isinstance(error, AskFailed) and error.cause != "budget":
                self._alive()
            return
        if subject in self._hard:
            return
        self._silent.append({**self._about(subject), "cause": error.cause})
        self._last = error
        if len(self._silent) >= (self._settings.lost_after if self._answered or own_fault else _HOPELESS):
            raise SetupError(self._lost()) from error

    def silence(self) -> str | None:
        """An error message for the end of a run in which no question was answered, however few; None otherwise."""
        return self._lost() if self._silent and not self._answered else None

    def _lost(self) -> str:
        return f"{self._who} does not answer (the same command resumes when it does): {self._last}"

    def _tell(self, error: AskFailed | BadReply) -> None:
        """Reports the first reasons for missing answers, each once, since the log is read only later."""
        kind = re.sub(r"\d+", "#", f"{error.cause}: {error}")
        if kind not in self._told and len(self._told) < _NOTED:
            self._told.add(kind)
            note(f"{self._who}: {error.cause}: {error}")

    def _alive(self) -> None:
        if self._log_silence:
            for record in self._silent:
                self._write(record)
        self._answered, self._silent = True, []

    def _about(self, subject: Subject) -> dict[str, Any]:
        return {**self._stamp, **dict(zip(self._subject, subject, strict=True))}

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is not None and self._hand_on is None:
            self._log.add({**record, "by": self._by})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A logged reply."""

    reply: Reply
    cause: str | None
    """Why it could not be used."""
    max_tokens: int | None
    """The limit under which it was given; None if there was none."""

    def holds(self, params: AskParams) -> bool:
        """Whether asking again would give the same reply; one that was cut off would be longer under a higher limit."""
        longer = self.max_tokens is not None and (params.max_tokens is None or params.max_tokens > self.max_tokens)
        return not (self.reply.finish == CUT_OFF and longer)


def _is_whole(record: Mapping[str, Any], subject: Sequence[str]) -> bool:
    """Whether the fields of a line have the right form: older versions wrote no hash, and a line may be damaged."""
    named = all(isinstance(record.get(name), str | int) for name in subject)
    reply = isinstance(record.get("key"), str) and all(fits(record.get(name)) for name, fits in _FORMS.items())
    return named and (reply or "text" not in record)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and value >= 0)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_shares(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return all(isinstance(one, int | float) and 0 <= one < 1.01 for one in value.values())  # sums are rounded


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("tokens_in", "tokens_out", "max_tokens"), _is_count),
    **dict.fromkeys(("cause", "served_by", "finish"), _is_text),
    **dict.fromkeys(("first_token", "spelled"), _are_shares),
    "usd": lambda value: value is None or (isinstance(value, int | float) and 0 <= value < math.inf),
}
"""Checks of the optional fields of a logged reply."""


def _recalled(record: Mapping[str, Any]) -> _Known:
    """The reply in a line of the log."""
    fields = {name: record[name] for name in ("served_by", "finish", "first_token", "spelled") if name in record}
    text = record["text"]
    if not isinstance(text, str):  # a form that was not known when it came
        text, fields["finish"] = json.dumps(text), UNREADABLE
    reply = Reply(text=text, tokens_in=record.get("tokens_in"), tokens_out=record.get("tokens_out"), **fields)
    return _Known(reply=reply, cause=record.get("cause"), max_tokens=record.get("max_tokens"))


def _is_answer(reply: Reply) -> bool:
    return reply.finish != UNREADABLE and (reply.finish != CUT_OFF or reply.first_token is not None)
