"""GenEval 2: how much of a prompt does an image show, as prompts grow from 3 to 10 atoms?

Source: *GenEval 2*, arXiv 2512.16853, and its public code; re-implemented from its described behaviour. An atom is what
an image can get wrong by itself: an object, a colour, a number, a relation. Each is one question, and an image's score
is the arithmetic (AM) or the geometric mean (GM) of the answers' probabilities; GM is the benchmark's headline.

Without ``--data`` the icon edition is run: 400 prompts over 80 classes, 50 of each number of atoms, one image each,
whose questions are answered exactly. With it a vision-language model answers the 6,012 questions about the 800
published prompts (`evals.geneval2.published`).

Known deviations of the published edition:
- an endpoint tells its 20 likeliest tokens alone: what is not among them has ``--topk-floor``, and the floor is part of
  the metric's name;
- a question without an answer leaves its prompt without a score, and is counted.

    python -m evals.geneval2 --model got
    python -m evals.geneval2 --model got --chain oracle
    python -m evals.geneval2 --data GenEval2 --model folder:images.json --judge hf:Qwen/Qwen3-VL-8B-Instruct
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.geneval2 import official
from evals.geneval2.icons import IconEdition
from evals.geneval2.options import Options
from evals.geneval2.published import PublishedEdition
from evals.suite import Case, Context, Drawn, Score, Scored, Suite, Tools, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.table import Table


class GenEval2(Suite[Options]):
    """The benchmark: with ``--data`` its published edition, else that of icons."""

    name = "geneval2"
    title = "GenEval 2"
    options = Options
    images_per_prompt = 1
    detector = "icon-fine"

    def part(self, options: Options) -> Suite[Any]:
        """That of icons or the published one."""
        return _ICONS if options.data is None else _PUBLISHED

    def resolve(self, options: Options, world: str) -> Options:
        """The options with what the judge depends on; `UserError` for a judge without questions."""
        if options.data is None and options.judge != "none":
            raise UserError("--judge answers the questions of --data; those of the icon edition need none")
        if options.data is None and options.rewritten_from is not None:
            raise UserError("--rewritten-from goes with --data; prompts of the icon edition are drawn as they are")
        resolved: Options = self.part(options).resolve(options, world)
        return resolved

    def cases(self, options: Options, context: Context) -> list[Case]:
        """The prompts of the edition."""
        return self.part(options).cases(options, context)

    def layout(self, case: Case, options: Options) -> tuple[str, ...]:
        """Where the official script looks for a case's image."""
        return self.part(options).layout(case, options)

    def detects(self, options: Options) -> bool:
        """Whether a detector looks: in the icon edition only."""
        return self.part(options).detects(options)

    def classes(self, case: Case) -> frozenset[str]:
        """The classes of a prompt of the icon edition."""
        return _ICONS.classes(case) if "include" in case.metadata else frozenset()

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """Whether any case of the icon edition names a colour, which a CLIP must see."""
        return _ICONS.needs_embedder([case for case in cases if "include" in case.metadata])

    def prepare(self, tools: Tools, options: Options) -> Any:
        """Detector and CLIP."""
        return self.part(options).prepare(tools, options)

    def observe(self, batch: Sequence[Drawn], tools: Any, options: Options) -> list[dict[str, Any]]:
        """Detections, or what a judge's answers go into."""
        return self.part(options).observe(batch, tools, options)

    def concurrent_requests(self, options: Options) -> int:
        """Of a judge by endpoint."""
        return self.part(options).concurrent_requests(options)

    def make_judge(self, tools: Tools, options: Options) -> Any:
        """Who is asked; nobody about the icon edition."""
        return self.part(options).make_judge(tools, options)

    def judge(
        self, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]], judge: Any, options: Options
    ) -> Sequence[dict[str, Any]]:
        """With the judge's answers."""
        return self.part(options).judge(batch, seen, judge, options)

    def incomplete(self, observation: Mapping[str, Any]) -> bool:
        """Whether an image lacks answers because the judge could not be reached or the budget was used up."""
        return "answers" in observation and _PUBLISHED.incomplete(observation)

    def unanswered(self, observation: Mapping[str, Any]) -> str | None:
        """Why a judge said nothing of use."""
        return _PUBLISHED.unanswered(observation) if "answers" in observation else None

    def score(self, case: Case, observation: Mapping[str, Any], options: Options) -> Score:
        """The means of the answers, and the answers."""
        return self.part(options).score(case, observation, options)

    def result(self, scored: Scored, filename: str) -> dict[str, Any]:
        """The line of results.jsonl; of the icon edition with the answers in the order of the questions."""
        return (_PUBLISHED if "answers" in scored.observation else _ICONS).result(scored, filename)

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: Options,
        context: Context,
    ) -> dict[str, Any]:
        """``scores.json`` of the edition."""
        return self.part(options).summarize(cases, scored, failures, options, context)

    def tables(self, scores: Mapping[str, Any]) -> list[Table]:
        """By number of atoms and by skill."""
        return _told_by(scores).tables(scores)

    def headline(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """The few numbers of the last stdout line."""
        return _told_by(scores).headline(scores)

    def nothing_scored(self, scores: Mapping[str, Any]) -> str | None:
        """Why no image has a score."""
        return _told_by(scores).nothing_scored(scores)

    def sheets(
        self, run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored], options: Any
    ) -> list[Path]:
        """Contact sheets; and the files that the official scripts read and write."""
        return [*super().sheets(run, results, scored, options), *official.write(run, results, scored)]

    def costs(self, cases: Sequence[Case], options: Options, images_per_prompt: int) -> dict[str, Any]:
        """Questions that a judge would be asked; none of the icon edition."""
        return self.part(options).costs(cases, options, images_per_prompt)


_ICONS, _PUBLISHED = IconEdition(), PublishedEdition()


def _told_by(scores: Mapping[str, Any]) -> Suite[Any]:
    return _PUBLISHED if "edition" in scores else _ICONS
