"""What became of a sample: its image and what was seen in it, or why there is neither; and when that ends a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.records import Sample
    from evals.core.run_directory import Key
    from evals.harness.plan import Plan
    from evals.judges.handing import HandedOn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why a sample has no result."""

    stage: str
    """``"generate"`` or ``"observe"``."""
    error: str
    raised: bool = False
    """Whether the reason is an exception, which may not come again, rather than a missing or damaged image."""
    damaged: bool = False
    """Whether an image of the sample's own edit cannot be read, so that nothing was tried."""
    missing_classes: tuple[str, ...] = ()
    """Classes that the case needs and the detector has no label for, if that is why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one sample."""

    sample: Sample
    png: bytes | None
    """The image file to write; None if it is on disk already or there is none."""
    chain: str | None
    warnings: tuple[str, ...]
    observation: dict[str, Any] | Failed
    generate_s: float | None = None
    """Its share of the time in which its batch was drawn; None if it was not drawn now."""
    observe_s: float = 0.0
    """Its share of the time in which its batch was observed."""
    replies: tuple[HandedOn, ...] = ()
    """Of the first one of a batch: what a worker's model said of the batch, where somebody else writes that down."""


# ------------------------------------------------------------------------------------------------------ when to give up
_HOPELESS, _CASES = 8, 4
"""So many exceptions in a row in one stage, on so many cases, mean a broken set-up rather than hard samples.

So do those of all samples of a shorter run, and images about which nobody answers."""
_RESUMES = "once that is mended, the same command resumes"


class Guard:
    """Ends a run whose set-up is broken: many samples in a row without a result are no fault of these samples.

    It hears of outcomes in the order of samples, whoever computes them, so that every engine ends at the same sample.

    Args:
        plan: The run.
        hard: Samples that failed before while others did not: their exceptions mean nothing.
    """

    def __init__(self, plan: Plan, hard: frozenset[Key] = frozenset()) -> None:
        self._plan, self._hard = plan, hard
        self._in_vain: dict[str, list[str]] = {"generate": [], "observe": [], "ask": []}  # cases
        self._lost: set[Key] = set()

    def heed(self, outcomes: Sequence[Outcome]) -> bool:
        """Takes in the outcomes of the next batch; whether none of them is sure to be its own sample's fault.

        Raises:
            UserError: There is no hope.
        """
        for stage in ("generate", "observe"):
            for one in outcomes:
                self._heed_stage(stage, one)
        for one in outcomes:
            self._heed_answer(one)
        raised = [isinstance(one.observation, Failed) and one.observation.raised for one in outcomes]
        return all(raised) and not all(_key(one.sample) in self._hard for one in outcomes)

    def _heed_stage(self, stage: str, one: Outcome) -> None:
        failed, cases = one.observation, self._in_vain[stage]
        if not isinstance(failed, Failed) or (stage, failed.stage) == ("generate", "observe"):
            cases.clear()
        elif failed.stage == stage and failed.raised and _key(one.sample) not in self._hard:
            cases.append(one.sample.case.id)
            if self._is_hopeless(cases):
                raise UserError(
                    f"{stage} failed on {counted(len(cases), 'samples')} in a row: {failed.error}; {_RESUMES}"
                )
        elif failed.stage == stage == "generate" and not failed.raised and not failed.damaged:
            cases.clear()  # it was tried, and there is no image

    def _heed_answer(self, one: Outcome) -> None:
        if isinstance(one.observation, Failed):
            return
        why, cases = self._plan.suite.unanswered(one.observation), self._in_vain["ask"]
        if why is None:
            cases.clear()
            return
        cases.append(one.sample.case.id)
        if self._is_hopeless(cases):
            did = "was not asked" if why.startswith("budget") else "did not answer"
            raise UserError(f"the judge {did} about {counted(len(cases), 'images')} in a row: {why}; {_RESUMES}")

    def heed_lost(self, sample: Sample, failed: Failed) -> None:
        """Takes in, out of turn, a sample that no worker has outlived: with its neighbours, it may be enough to know.

        Raises:
            UserError: So many neighbours are lost that the run will end with them when it is their turn.
        """
        if _key(sample) in self._hard:
            return
        self._lost.add(_key(sample))
        samples = self._plan.samples
        first = last = next(i for i, one in enumerate(samples) if _key(one) == _key(sample))
        while first and _key(samples[first - 1]) in self._lost:
            first -= 1
        while last + 1 < len(samples) and _key(samples[last + 1]) in self._lost:
            last += 1
        cases = [one.case.id for one in samples[first : last + 1]]
        if self._is_hopeless(cases):
            raise UserError(
                f"{failed.stage} failed on {counted(len(cases), 'samples')} in a row: {failed.error}; {_RESUMES}"
            )

    def _is_hopeless(self, cases: list[str]) -> bool:
        every = [sample.case.id for sample in self._plan.samples]
        return len(cases) >= min(_HOPELESS, len(every)) and len(set(cases)) >= min(_CASES, len(set(every)))


def _key(sample: Sample) -> Key:
    return sample.case.id, sample.index
