"""Judges of edits: a vision-language model, a protocol, and rules for everything that can go wrong between them.

A judge's name holds the protocol, the model and a hash of the prompts, and stands in every metric's name. Each answer
is asked for a bounded number of times. What failed is missing and has a cause; see `evals.metrics.judging`. Replies are
kept in a log, legal or not. Legal ones are taken from there when the same is asked again; whoever refused or wrote
nonsense is asked anew, and paid anew.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.records import Judgement, UserError, world_of
from evals.judges.backends import (
    REFUSED,
    AskFailed,
    JudgeParams,
    Ledger,
    OpenAIBackend,
    TransformersBackend,
    endpoint_hash,
    model_from_environment,
    model_name,
)
from evals.judges.protocols import make_protocol, render
from evals.judges.replies import BadReply, parse_scores, shortened
from evals.metrics.judging import MAX_FAILED
from got.util.cli import number, whole
from got.util.files import append_lines, read_lines, write_lines
from got.util.images import png_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from evals.core.protocols import Judge
    from evals.core.records import JudgeQuestion
    from evals.judges.backends import Backend, Reply
    from evals.judges.protocols import Call, JudgeProtocol

_HOPELESS = 8
"""So many judgements in a row without an answer are a broken set-up, or an endpoint that has gone."""

_SILENT = ("transport", "rate limit")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How a judge is asked."""

    params: JudgeParams = dataclasses.field(default_factory=JudgeParams)
    attempts: int = 4
    """Requests for one answer at most."""
    first_wait_seconds: float = 1.0
    """Doubled with each attempt; the server's own wish goes first."""
    longest_wait_seconds: float = 60.0
    """A server that wants a longer pause is not waited for."""
    concurrency: int = 4
    usd_per_million: tuple[float, float] | None = None
    """Price of a million tokens in and out."""
    max_usd: float | None = None
    """No request is sent that could lead above this, with what the log holds of this judge."""


# ---------------------------------------------------------------------------------------------------------------- judge
@dataclasses.dataclass(slots=True, kw_only=True)
class _Tally:
    """What one judgement has cost so far."""

    replies: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class VlmJudge:
    """A protocol put to a back-end."""

    def __init__(
        self,
        protocol: JudgeProtocol,
        backend: Backend,
        settings: JudgeSettings,
        log: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Takes legal replies from a log, and adds all new ones. What the log has cost counts as spent.

        Args:
            protocol: What is asked.
            backend: Who answers.
            settings: How often, how many at a time, how much money.
            log: File of all replies; None keeps none.
            sleep: Waits some seconds.
        """
        self.name = f"{protocol.name}@{backend.id}#{protocol.prompt_hash}"
        replies = _read_log(log)
        price, max_tokens = settings.usd_per_million, settings.params.max_tokens
        own = [one for one in replies if one.get("judge") == self.name]
        spent = _spent([one for one in own if "text" in one], Ledger(price, None, max_tokens))
        self.ledger = Ledger(price, settings.max_usd, max_tokens, spent)
        self._protocol, self._backend, self._settings, self._log = protocol, backend, settings, log
        self._sleep, self._lock = sleep, threading.Lock()
        self._known = {one["key"]: one["text"] for one in replies if one.get("cause") is None and "key" in one}
        self._hard = {(one.get("case"), one.get("repeat")) for one in own if one.get("call") is None}
        self._suspects: list[dict[str, Any]] = []  # without an answer since the last one that had one
        self._answered = any(one.get("call") is not None for one in own)

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order, several asked at a time."""
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=self._settings.concurrency)
        try:
            return list(pool.map(self._judge, questions))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _judge(self, question: JudgeQuestion) -> Judgement:
        files = {"source": png_bytes(question.source), "result": png_bytes(question.result)}
        scores: dict[str, float] = {}
        tally = _Tally()
        try:
            for call in self._protocol.calls:
                pair = self._answer(call, question, [files[name] for name in call.images], tally)
                scores |= dict(zip(call.scores, pair, strict=True))
        except (AskFailed, BadReply) as error:
            self._note(question, tally, error)
            return self._judgement(question, tally, failure=error.cause, detail=str(error))
        self._note(question, tally)
        return self._judgement(question, tally, scores_0_10=scores, value=self._protocol.combine(scores))

    def _note(self, question: JudgeQuestion, tally: _Tally, error: AskFailed | BadReply | None = None) -> None:
        """An endpoint that does not answer ends the run: the user hears of it now, and a later run asks again.

        A reply from the log says nothing about the endpoint. A request that is not accepted does so only if none ever
        was: else it may be this one's own fault. So it is with a picture that went without an answer while others had
        theirs; the log knows it, for a later run that may ask for nothing but such pictures.
        """
        with self._lock:
            if error is not None and error.cause in (_SILENT if self._answered else (*_SILENT, "rejected")):
                if (question.case.id, question.repeat) in self._hard:
                    return
                about = {"judge": self.name, "case": question.case.id, "repeat": question.repeat}
                self._suspects.append({**about, "cause": error.cause})
                if len(self._suspects) >= _HOPELESS:
                    hint = "the same command goes on when it does"
                    raise UserError(f"the judge does not answer ({hint}): {error}") from error
            elif tally.calls and (error is None or error.cause != "budget"):
                if self._log is not None and self._suspects:
                    append_lines(self._log, self._suspects)
                self._answered, self._suspects = True, []

    def _judgement(self, question: JudgeQuestion, tally: _Tally, **outcome: Any) -> Judgement:
        return Judgement(
            judge=self.name,
            repeat=question.repeat,
            replies=tuple(tally.replies),
            calls=tally.calls,
            tokens_in=tally.tokens_in,
            tokens_out=tally.tokens_out,
            usd=None if self._settings.usd_per_million is None else tally.usd,
            **outcome,
        )

    def _answer(self, call: Call, question: JudgeQuestion, images: list[bytes], tally: _Tally) -> tuple[float, float]:
        """The scores of one question of the protocol: from the log, or asked until they are legal."""
        prompt = render(call, question.case.instruction)
        key = self._key(prompt, images, question.repeat)
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            tally.replies.append(known)
            return parse_scores(known)
        about = {"key": key, "judge": self.name, "case": question.case.id, "call": call.name, "repeat": question.repeat}
        for attempt in range(self._settings.attempts):
            try:
                reply = self._ask(prompt, images, question.repeat, attempt, tally)
                pair = self._read(reply, {**about, "attempt": attempt}, tally)
            except (AskFailed, BadReply) as error:
                wait = self._wait(error, attempt)
                if wait is None:
                    raise
                self._sleep(wait)
            else:
                with self._lock:
                    self._known[key] = reply.text
                return pair
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, prompt: str, images: list[bytes], repeat: int, attempt: int, tally: _Tally) -> Reply:
        reserved = self.ledger.reserve()
        if reserved is None:
            raise AskFailed("budget", f"{self.ledger.spent_usd:.4f} USD are spent", retry=False)
        tally.calls += 1
        seed = self._settings.params.seed
        usd: float | None = 0.0
        try:
            # Another attempt with the same seed could only fail again.
            seed = None if seed is None else seed + repeat + 1000 * attempt
            reply = self._backend.ask(prompt, images, self._settings.params, seed)
            usd = self.ledger.cost(reply.tokens_in, reply.tokens_out)
        except AskFailed as error:
            usd = None if error.may_be_billed else 0.0
            raise
        finally:
            self.ledger.settle(reserved, usd)
            tally.usd += reserved if usd is None else usd
        tally.tokens_in += reply.tokens_in or 0
        tally.tokens_out += reply.tokens_out or 0
        return reply

    def _read(self, reply: Reply, about: dict[str, Any], tally: _Tally) -> tuple[float, float]:
        """Parses a reply, and logs it whatever comes of it."""
        tally.replies.append(reply.text)
        cause: str | None = None
        try:
            if reply.finish == REFUSED:
                raise BadReply("refusal", shortened(reply.text))
            return parse_scores(reply.text)
        except BadReply as error:
            cause = error.cause
            raise
        finally:
            if self._log is not None:
                with self._lock:
                    append_lines(self._log, [{**about, "cause": cause, **dataclasses.asdict(reply)}])

    def _wait(self, error: AskFailed | BadReply, attempt: int) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if attempt + 1 >= self._settings.attempts:
            return None
        if isinstance(error, BadReply):
            return None if error.cause == "refusal" else 0.0
        if not error.retry:
            return None
        own = min(self._settings.first_wait_seconds * 2**attempt, self._settings.longest_wait_seconds)
        wait = own if error.after_seconds is None else error.after_seconds
        return wait if wait <= self._settings.longest_wait_seconds else None

    def _key(self, prompt: str, images: list[bytes], repeat: int) -> str:
        """Everything that can change a reply."""
        backend = self._backend
        parts = [backend.id, backend.secret_free_place, prompt, dataclasses.asdict(self._settings.params), repeat]
        digests = [hashlib.sha256(data).hexdigest() for data in images]
        return hashlib.sha256(json.dumps([*parts, digests], sort_keys=True).encode()).hexdigest()


def _read_log(log: Path | None) -> list[dict[str, Any]]:
    """All replies. A line that a kill has cut is taken out: the next one must start on a line of its own."""
    if log is None:
        return []
    records, damaged = read_lines(log)
    if damaged:
        write_lines(log, records)
    log.parent.mkdir(parents=True, exist_ok=True)
    return records


def _spent(replies: Sequence[dict[str, Any]], ledger: Ledger) -> float:
    """What replies have cost; one whose tokens nobody counted, as much as an empty ledger sets aside for it."""
    aside = ledger.reserve() or 0.0
    costs = [ledger.cost(one.get("tokens_in"), one.get("tokens_out")) for one in replies]
    return sum(aside if usd is None else usd for usd in costs)


# --------------------------------------------------------------------------------------------------------- command line
def add_arguments(group: argparse._ArgumentGroup) -> None:
    """The judge's flags, for the suites that have one."""
    add = group.add_argument
    add("--judge-protocol", choices=("got", "viescore"), default="got", help="what it is asked (default: %(default)s)")
    add("--judge-prompt", type=Path, metavar="FILE", help="the paper's own prompt instead of ours, for protocol got")
    add(
        "--judge-temperature",
        type=_temperature,
        default=0.0,
        metavar="X|none",
        help="none leaves it to the endpoint (default: %(default)s)",
    )
    add("--judge-json", action="store_true", help="ask for JSON by the endpoint's own means")
    add("--judge-repeats", type=whole(), default=1, metavar="N", help="ask each thing N times (default: %(default)s)")
    add("--judge-concurrency", type=whole(), default=4, metavar="N", help="requests at a time (default: %(default)s)")
    add("--judge-price", type=number(0), nargs=2, metavar=("IN", "OUT"), help="USD for a million tokens in and out")
    add(
        "--max-spend",
        type=number(0),
        metavar="USD",
        help="no request that could lead above this, with what --judge-log holds of the judge; needs --judge-price",
    )
    add(
        "--judge-max-failed",
        type=number(0, 1),
        default=MAX_FAILED,
        metavar="X",
        help="share of failed judgements above which there is no headline; 1: always one (default: %(default)s)",
    )


def _temperature(text: str) -> float | None:
    return None if text == "none" else number(0)(text)


def resolve(args: argparse.Namespace) -> None:
    """Checks the flags, and writes into the arguments what the judge depends on beside them.

    That is the endpoint's model, a hash of its address or the name of a local model with its weights' hash, and the
    prompts' hash: a run whose identity holds them belongs to one judge, also when the environment or a file changes.

    Raises:
        UserError: No such judge, or not with these arguments.
    """
    args.judge_prompts = args.judge_place = None
    kind, place = (args.judge, "") if args.judge in ("none", "measured") else _parsed(args.judge)
    if kind == "openai":
        place = place or model_from_environment()
        args.judge = f"openai:{place}"
    if kind == "measured" and world_of(args) != "icon world":
        raise UserError("--judge measured is for the icon world: no --data, and a detector of icons")
    _settings(kind, args)
    if kind in ("openai", "hf"):
        args.judge_prompts = make_protocol(args.judge_protocol, args.judge_prompt).prompt_hash
        args.judge_place = endpoint_hash() if kind == "openai" else model_name(place)


def _parsed(spec: str) -> tuple[str, str]:
    """Kind and place of a judge that has to be asked."""
    kind, _, place = spec.partition(":")
    if kind != "openai" and not (kind == "hf" and place):
        raise UserError(f"Expected a judge none, measured, openai, openai:MODEL or hf:PATH|ID but got {spec!r}")
    return kind, place


def _settings(kind: str, args: argparse.Namespace) -> JudgeSettings:
    """The flags of `add_arguments`, checked."""
    if args.max_spend is not None and args.judge_price is None:
        raise UserError("--max-spend needs --judge-price")
    if kind == "hf" and args.judge_repeats > 1:
        raise UserError("--judge-repeats: a local judge is greedy and says the same every time")
    return JudgeSettings(
        params=JudgeParams(temperature=args.judge_temperature, json_mode=args.judge_json),
        concurrency=args.judge_concurrency,
        usd_per_million=None if args.judge_price is None else (args.judge_price[0], args.judge_price[1]),
        max_usd=args.max_spend,
    )


def make_judge(spec: str, args: argparse.Namespace, log: Path | None = None, device: str = "cpu") -> Judge:
    """A judge by name.

    Args:
        spec: `openai` (endpoint and model from the environment), `openai:MODEL` or `hf:PATH|ID`.
        args: The flags of `add_arguments`.
        log: Where replies are kept.
        device: torch device of a local model.

    Raises:
        UserError: No such judge, or it cannot be had with these arguments.
    """
    kind, place = _parsed(spec)
    settings, protocol = _settings(kind, args), make_protocol(args.judge_protocol, args.judge_prompt)
    if kind == "openai":
        return VlmJudge(protocol, OpenAIBackend.from_environment(place), settings, log)
    return VlmJudge(protocol, TransformersBackend(place, device), settings, log)
