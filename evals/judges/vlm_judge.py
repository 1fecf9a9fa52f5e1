"""Judges of edits: a protocol of two scores a question, put to a vision-language model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from evals.core.records import Judgement
from evals.judges.calls import Interview
from evals.judges.interviewer import Interviewer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from evals.core.records import JudgeQuestion
    from evals.judges.calls import Answers, Sending
    from evals.judges.protocols import JudgeProtocol
    from got.vlm.asker import AskSettings
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
        *,
        sending: Sending | None = None,
    ) -> None:
        """Takes the arguments of `Interviewer`, to which log and ledger belong."""
        self._protocol = protocol
        named = f"{protocol.name}#{protocol.prompt_hash}"
        self._interviewer = Interviewer(named, backend, settings, log, sending=sending, sleep=sleep)
        self.name, self.ledger = self._interviewer.name, self._interviewer.ledger

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question, in order, several asked at a time.

        Raises:
            UserError: The judge cannot be asked at all, or the log cannot be written.
        """
        interviews = [
            Interview(
                id=one.case.id,
                calls=tuple(call.about(one.case.instruction) for call in self._protocol.calls),
                images={"source": one.source, "result": one.result},
                repeat=one.repeat,
                stops=True,
            )
            for one in questions
        ]
        return [self._judgement(answers) for answers in self._interviewer.hold(interviews)]

    def _judgement(self, answers: Answers) -> Judgement:
        failed = bool(answers.failures)
        scores = {name: value for each in answers.scores.values() for name, value in each.items()}
        return Judgement(
            judge=answers.judge,
            repeat=answers.repeat,
            scores_0_10={} if failed else scores,
            value=None if failed else self._protocol.combine(scores),
            failure=next(iter(answers.failures.values()), None),
            detail=next(iter(answers.details.values()), ""),
            replies=tuple(text for texts in answers.replies.values() for text in texts),
            calls=answers.calls,
            tokens_in=answers.tokens_in,
            tokens_out=answers.tokens_out,
            usd=answers.usd,
        )
