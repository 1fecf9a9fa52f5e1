"""Judges of edits: a vision-language model, a protocol, and rules for everything that can go wrong between them.

A judge's name holds the protocol, the model and a hash of the prompts, and stands in every metric's name. Each answer
is asked for a bounded number of times. What failed is missing and has a cause; see `evals.metrics.judging`. Replies are
kept in a log, legal or not. Legal ones are taken from there when the same is asked again; whoever refused or wrote
nonsense is asked anew, and paid anew.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from evals.core.records import Judgement, UserError
from evals.judges.protocols import render
from evals.judges.replies import parse_scores
from got.util.images import png_bytes
from got.vlm.asker import Asker, AskSettings, Question
from got.vlm.clients import AskFailed, SetupError
from got.vlm.json_replies import BadReply
from got.vlm.messages import user
from got.vlm.spending import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

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
                    messages=user(render(call, case.instruction), [files[name] for name in call.images]),
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
