"""Judges of edits: a vision-language model, a protocol, and rules for everything that can go wrong between them.

A judge's name holds the protocol, the model and a hash of the prompts, and stands in every metric's name. Each answer
is asked for a bounded number of times. What failed is missing and has a cause; see `evals.metrics.judging`. Replies are
kept in a log, legal or not. Legal ones are taken from there when the same is asked again; whoever refused or wrote
nonsense is asked anew, and paid anew.

An endpoint is named by the environment alone: ``JUDGE_MODEL``, ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``. The key is
never written anywhere; of the address only a hash.
"""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import Judgement, UserError, world_of
from evals.judges.protocols import make_protocol, render
from evals.judges.replies import parse_scores
from evals.metrics.judging import MAX_FAILED
from got.util.cli import number, whole
from got.util.images import png_bytes
from got.vlm.asker import Asker, AskSettings, Question, Tally
from got.vlm.clients import (
    AskFailed,
    AskParams,
    OpenAIBackend,
    SetupError,
    TransformersBackend,
    endpoint_hash,
    model_name,
)
from got.vlm.json_replies import BadReply

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence

    from evals.core.protocols import Judge
    from evals.core.records import JudgeQuestion
    from evals.judges.protocols import JudgeProtocol
    from got.vlm.clients import Backend


class VlmJudge:
    """A protocol put to a back-end."""

    def __init__(
        self,
        protocol: JudgeProtocol,
        backend: Backend,
        settings: AskSettings,
        log: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
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
        self._protocol, self._priced = protocol, settings.usd_per_million is not None
        self._asker = Asker(
            backend,
            settings,
            log,
            subject=("case", "repeat"),
            identity=(backend.id, backend.secret_free_place),
            stamp={"judge": self.name},
            log_silence=True,
            who="the judge",
            sleep=sleep,
        )
        self.ledger = self._asker.ledger

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order, several asked at a time.

        Raises:
            UserError: The judge cannot be asked at all, or the log cannot be written.
        """
        judged: dict[int, Judgement] = {}

        async def work(numbered: tuple[int, JudgeQuestion]) -> None:
            judged[numbered[0]] = await self._judge(numbered[1])

        try:
            asyncio.run(self._asker.each(enumerate(questions), work))
        except SetupError as error:
            raise UserError(f"--judge, {self.name}: {error}") from error
        return [judged[number] for number in range(len(questions))]

    async def _judge(self, question: JudgeQuestion) -> Judgement:
        case, tally, scores = question.case, Tally(), dict[str, float]()
        files = {"source": png_bytes(question.source), "result": png_bytes(question.result)}
        judgement = functools.partial(Judgement, judge=self.name, repeat=question.repeat)
        try:
            for call in self._protocol.calls:
                asked = Question(
                    subject=(case.id, question.repeat),
                    detail={"call": call.name},
                    words=render(call, case.instruction),
                    images=[files[name] for name in call.images],
                    repeat=question.repeat,
                )
                pair = await self._asker.ask(asked, lambda reply: parse_scores(reply.text), tally)
                scores |= dict(zip(call.scores, pair, strict=True))
            judgement = functools.partial(judgement, scores_0_10=scores, value=self._protocol.combine(scores))
        except (AskFailed, BadReply) as error:
            judgement = functools.partial(judgement, failure=error.cause, detail=str(error))
        return judgement(
            replies=tuple(tally.replies),
            calls=tally.calls,
            tokens_in=tally.tokens_in,
            tokens_out=tally.tokens_out,
            usd=tally.usd if self._priced else None,
        )


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
        place = place or _model_from_environment()
        args.judge = f"openai:{place}"
    if kind == "measured" and world_of(args) != "icon world":
        raise UserError("--judge measured is for the icon world: no --data, and a detector of icons")
    _settings(kind, args)
    if kind in ("openai", "hf"):
        args.judge_prompts = make_protocol(args.judge_protocol, args.judge_prompt).prompt_hash
        args.judge_place = endpoint_hash(None) if kind == "openai" else model_name(place)


def _parsed(spec: str) -> tuple[str, str]:
    """Kind and place of a judge that has to be asked."""
    kind, _, place = spec.partition(":")
    if kind != "openai" and not (kind == "hf" and place):
        raise UserError(f"Expected a judge none, measured, openai, openai:MODEL or hf:PATH|ID but got {spec!r}")
    return kind, place


def _model_from_environment() -> str:
    model = os.environ.get("JUDGE_MODEL", "")
    if not model:
        raise UserError("--judge openai: set JUDGE_MODEL to the model's name")
    return model


def _settings(kind: str, args: argparse.Namespace) -> AskSettings:
    """The flags of `add_arguments`, checked."""
    if args.max_spend is not None and args.judge_price is None:
        raise UserError("--max-spend needs --judge-price")
    if kind == "hf" and args.judge_repeats > 1:
        raise UserError("--judge-repeats: a local judge is greedy and says the same every time")
    return AskSettings(
        params=AskParams(temperature=args.judge_temperature, json_mode=args.judge_json),
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
    backend: Backend
    try:
        if kind == "openai":
            backend = OpenAIBackend.from_environment(place or _model_from_environment())
        else:
            backend = TransformersBackend(place, device)
    except SetupError as error:
        raise UserError(f"--judge {kind}: {error}") from error
    return VlmJudge(protocol, backend, settings, log)
