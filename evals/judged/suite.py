"""What the judged benchmarks share: items become cases, a judge is asked about each image, and the log is summed up.

A suite brings its data, its questions and how the scores of one image combine. An observation holds the judge's own
scores of every call, failures with their cause, and raw replies, so that `--from verdict` can combine them by another
edition's rule. Of some cases the floor is judged as well: the untouched source, or a blank image.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import re
import statistics
from typing import TYPE_CHECKING, Any, ClassVar

from evals.core import contact_sheets
from evals.core.backends import PHOTOGRAPHS
from evals.core.records import UserError
from evals.judged import summaries, wording
from evals.judged.files import counted, edition, find, load_json, needed
from evals.judged.options import JudgedOptions
from evals.judged.records import check_unique, origin_of
from evals.judged.reported import reported
from evals.judges import registry as judges
from evals.judges.calls import Call, Interview, Sending, prompt_hash
from evals.suite import Score, Suite, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from PIL import Image
    from rich.table import Table

    from evals.core.records import Case, Drawn, EncodedImage, Scored
    from evals.judged.records import Item, JudgedSet, Metric, Origin, Reported
    from evals.judged.wording import Published, Wording
    from evals.judges.calls import Shown
    from evals.judges.interviewer import Interviewer
    from evals.judges.readers import Reader
    from evals.suite import Context, Tools


_EXAMPLES = """\
  {prog} --data CLONE --model folder:my_images --judge hf:MODEL
  {prog} --data CLONE --model folder:my_images --judge openai:MODEL     OPENAI_BASE_URL names the server
  {prog} --data CLONE --model got --judge openai                        JUDGE_MODEL names the judge
  {prog} --data CLONE --model got --judge openai:MODEL --judge-price 2.5 10 --dry-run
  {prog} --output runs/mine --from verdict --judge-max-failed 1         nothing is asked again
"""


class JudgedSuite(Suite[JudgedOptions]):
    """A benchmark whose images a vision-language model judges."""

    options = JudgedOptions
    images_per_prompt = 1
    looks = False
    examples: ClassVar = {"lines": _EXAMPLES}
    metrics: ClassVar[tuple[Metric, ...]]
    """The headline first."""
    edits: ClassVar[bool] = False
    """Whether it asks for edits of images that come with it."""
    listing: ClassVar[str] = ""
    """The JSON file that tells the official script each prompt's image; empty where their names do."""
    script: ClassVar[Published | None] = None
    """Where its own wording lies in a clone, where ``published.toml`` cannot say it."""
    sending: ClassVar[Sending] = Sending()
    """What the official script lays down of requests."""

    @property
    def origin(self) -> Origin:
        """Where its data come from, see ``published.toml``."""
        return origin_of(self.name)

    # ---------------------------------------------------------------------------------------------- what it must bring
    @abc.abstractmethod
    def load(self, root: Path, options: Any) -> JudgedSet:
        """Its items, from the user's folder; `UserError` where they are not as published."""

    @abc.abstractmethod
    def ask(self, case: Case, words: Mapping[str, str], options: Any) -> tuple[Call, ...]:
        """The questions about an image of a case.

        Args:
            case: Its texts and facts are in its metadata.
            words: The wording's texts by name.
            options: The suite's own.
        """

    @abc.abstractmethod
    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Any) -> dict[str, float]:
        """One image's values by name, from the scores of each call that has an answer. Pure.

        Values that cannot be known are left out.
        """

    def published(self, options: Any) -> Published | None:
        """Its own wording, where that differs by edition."""
        return self.script or wording.declared(self.origin.script)

    def way(self, options: Any) -> Sending:
        """What the official script lays down of requests, where that differs by edition."""
        return self.sending

    def edition(self, options: Any) -> str:
        """What its numbers are of."""
        return f"{self._set(options).edition}{options.mark}"

    def ours(self, options: Any) -> str:
        """The folder of our wording, see `evals.judged.wording.PROMPTS`."""
        return self.name

    def measures(self, options: Any) -> tuple[Metric, ...]:
        """The metrics of an edition, the headline first."""
        return self.metrics

    def expects(self, case: Case, options: Any) -> frozenset[str]:
        """The values that an image of a case should have."""
        return frozenset(name for metric in self.measures(options) for name in metric.of)

    def reported(self, edition: str) -> list[Reported]:
        """What others report of an edition, best first, see ``published.toml``; never asked of other data."""
        places = self.origin.reported.items()
        return [row for name, how in places if re.fullmatch(name, edition) for row in reported(self.origin.name, **how)]

    # ------------------------------------------------------------------------------------------- what its loader needs
    def find(self, root: Path, *names: str, folder: bool = False) -> Path:
        """The first of some files, or of some folders, of the user's that is there; `UserError` where none is."""
        return find(root, names, self.origin, folder=folder)

    def hashed(self, name: str, paths: Sequence[Path], options: JudgedOptions) -> str:
        """The name of an edition that is known by the hashes of its files, see `evals.judged.files.edition`."""
        return edition(name, paths, self.origin, allowed=options.allow_other_data)

    def counted(self, name: str, items: Sequence[Item], parts: Iterable[str], options: JudgedOptions) -> str:
        """The name of an edition that is known by its numbers of items, see `evals.judged.files.counted`."""
        return counted(name, items, parts, self.origin, allowed=options.allow_other_data)

    # ------------------------------------------------------------------------------------------------------- the rest
    @functools.lru_cache(maxsize=2)  # noqa: B019  # suites are few, and what is read is asked for again at the end
    def _set(self, options: JudgedOptions) -> JudgedSet:
        root = needed(options.data, self.origin)
        found = self.load(root, options)
        if not found.items:
            raise UserError(f"--data {root}: its files hold no {'edits' if self.edits else 'prompts'}")
        check_unique(found.items, f"--data {root}")
        return found

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _items(self, options: JudgedOptions) -> dict[str, Item]:
        return {item.id: item for item in self._set(options).items}

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _wording(self, options: JudgedOptions) -> Wording:
        published = self.published(options)
        return wording.choose(options.wording, self.ours(options), published, options.data, self.origin)

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _floor(self, options: JudgedOptions) -> frozenset[str]:
        """Cases whose floor is judged: evenly spaced in each task, its first one among them."""
        tasks: dict[str, list[str]] = {}
        for item in self._set(options).items:
            tasks.setdefault(item.task, []).append(item.id)
        count = options.floor
        return frozenset(
            ids[i * len(ids) // min(count, len(ids))] for ids in tasks.values() for i in range(min(count, len(ids)))
        )

    def cases(self, options: JudgedOptions, context: Context) -> list[Case]:
        """All items; with rewritten prompts where a file gives them."""
        found = [item.as_case() for item in self._set(options).items]
        if options.rewritten_from is None:
            return found
        prompts = prompts_of(options.rewritten_from)
        return [_rewritten(case, prompts, options.rewritten_from) for case in found]

    def layout(self, case: Case, options: JudgedOptions) -> tuple[str, ...]:
        """Where the official script looks for a case's image."""
        return self._items(options)[case.id].layout

    def beside(self, case: Case, options: JudgedOptions) -> dict[str, EncodedImage]:
        """What lies beside it there."""
        item = self._items(options)[case.id]
        return {name: item.images[role] for name, role in item.beside.items()}

    def resolve(self, options: JudgedOptions, world: str) -> JudgedOptions:
        """The options with what the judge depends on, if it can be asked any question."""
        if options.judge != "none":
            judges.check_answerer(options)
        return judges.resolve(options, world, lambda: self._digest(options))

    def _digest(self, options: JudgedOptions) -> str:
        return prompt_hash([self._wording(options).digest], judges.sent_as(options, self.way(options)))

    def protocol(self, options: JudgedOptions) -> str:
        """Edition and wording, with a hash: what a judge's name begins with."""
        return f"{self._set(options).edition}-{self._wording(options).kind}#{self._digest(options)}"

    def shows(self, options: JudgedOptions) -> str | None:
        """Published sources are photographs."""
        return PHOTOGRAPHS if self.edits else None

    def detects(self, options: JudgedOptions) -> bool:
        """No detector looks."""
        return False

    def concurrent_requests(self, options: JudgedOptions) -> int:
        """Of a judge by endpoint."""
        return judges.concurrent_requests(options)

    def observe(self, batch: Sequence[Drawn], tools: Tools, options: JudgedOptions) -> list[dict[str, Any]]:
        """What the judge's answers go into."""
        sizes = [{"width": drawn.image.width, "height": drawn.image.height} for drawn in batch]
        return [{**size, "answers": [], "floor": []} for size in sizes]

    def check_judge(self, options: JudgedOptions) -> None:
        """Refuses a run that nobody would judge."""
        judges.check_answerer(options)

    def make_judge(self, tools: Tools, options: JudgedOptions) -> Interviewer:
        """Who is asked."""
        return judges.make_interviewer(options, tools, self.protocol(options), self.way(options))

    def judge(
        self, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]], judge: Interviewer, options: JudgedOptions
    ) -> Sequence[dict[str, Any]]:
        """The judge's answers about each image, and about the floor of some cases."""
        floor = self._floor(options) if options.floor else frozenset()
        interviews: list[Interview] = []
        where: list[tuple[int, str]] = []
        for number, drawn in enumerate(batch):
            case = drawn.sample.case
            images = {role: one.load() for role, one in self._items(options)[case.id].images.items()}
            for repeat in range(options.judge_repeats):
                interviews.append(self._interview(case, {**images, "result": drawn.image}, repeat, options))
                where.append((number, "answers"))
            if case.id in floor and drawn.sample.index == 0:
                lowest = images.get("source") or _blank(drawn.image)
                interviews.append(self._interview(case, {**images, "result": lowest}, 0, options))
                where.append((number, "floor"))
        found = [{**one, "answers": [], "floor": []} for one in seen]
        for (number, kind), answers in zip(where, judge.hold(interviews), strict=True):
            found[number][kind].append(answers.as_dict())
        return found

    def _interview(
        self, case: Case, images: Mapping[str, Image.Image], repeat: int, options: JudgedOptions
    ) -> Interview:
        calls = self.ask(case, self._wording(options).texts, options)
        return Interview(id=case.id, calls=calls, images=self.shown(images), repeat=repeat)

    def shown(self, images: Mapping[str, Image.Image]) -> Mapping[str, Image.Image]:
        """The images as the protocol prepares them, before they are encoded."""
        return images

    def incomplete(self, observation: Mapping[str, Any]) -> bool:
        """Whether a judge was not there, or not paid, for an image."""
        return summaries.is_unasked(observation)

    def unanswered(self, observation: Mapping[str, Any]) -> str | None:
        """Why the judge said nothing of use."""
        return summaries.why_unanswered(observation)

    def score(self, case: Case, observation: Mapping[str, Any], options: JudgedOptions) -> Score:
        """The mean of the repeats' values; nothing where all failed."""
        found = [self.combine(case, one["scores"], options) for one in observation["answers"]]
        names = dict.fromkeys(name for values in found for name in values)
        values = {name: statistics.fmean(one[name] for one in found if name in one) for name in names}
        causes = {f"{call}: {cause}" for one in observation["answers"] for call, cause in one["failures"].items()}
        first = self.measures(options)[0]
        right = values.get(first.of[0]) if first.share else None
        correct = None if right is None else right > 0.5
        return Score(correct=correct, reason="\n".join(sorted(causes)), values=values)

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: JudgedOptions,
        context: Context,
    ) -> dict[str, Any]:
        """``scores.json``: what any suite has, and metrics by task with bounds, floor and the judge's account."""
        metrics = self.measures(options)
        expects = functools.partial(self.expects, options=options)
        rows = summaries.rows_of(cases, scored, context.images_per_prompt, expects)
        repeats, floor = [], []
        for one in scored:
            case = one.sample.case
            each = [self.combine(case, answers["scores"], options) for answers in one.observation["answers"]]
            repeats.append([value for values in each if (value := values.get(metrics[0].of[0])) is not None])
            for answers in one.observation["floor"]:
                lowest = self.combine(case, answers["scores"], options)
                floor.append(
                    summaries.Judged(
                        task=case.tag, subtask="", cluster=case.id, values=lowest, expected=frozenset(lowest)
                    )
                )
        about = {
            "edition": self.edition(options),
            "cases": {"run": len(cases), "of": len(self._set(options).items)},
            "unit": "edits" if self.edits else "prompts",
            "wording": self._wording(options).kind,
            "licence": self.origin.licence,
            "official_judge": self.origin.judge,
            "notes": list(self._set(options).notes),
            "reported": [dataclasses.asdict(row) for row in self.rows_beside(self.edition(options))],
            "rewritten_from": None if options.rewritten_from is None else str(options.rewritten_from),
            **summaries.summarize(rows, scored, floor, repeats, metrics, options, context, self.origin.levels),
        }
        own = {"suite": self.name, "version": self.version, "title": self.title, **context.describe(), "detector": None}
        pooled = metrics[0].over == "cases"
        shares = plain.summarize(
            cases, scored, failures, context.images_per_prompt, pooled=pooled, cluster=summaries.cluster_of
        )
        if not about["judge"]["headline"]:
            overall = shares["overall"]
            for one in (
                overall["score"],
                overall["prompts_any"],
                shares["images"],
                *overall.get("values", {}).values(),
            ):
                one |= {"value": None, "low": None, "high": None}
        return {**own, **shares, **about}

    def sheets(
        self, run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored], options: Any
    ) -> list[Path]:
        """Contact sheets; and copies of sources, for reports."""
        for one in scored:
            case = one.sample.case
            if case.edit is not None and one.sample.index == 0:
                contact_sheets.keep_copies(run / "images" / case.id, case.edit)
        return super().sheets(run, results, scored, options)

    def tables(self, scores: Mapping[str, Any]) -> list[Table]:
        """Metrics by task, and reported rows beside them."""
        return summaries.tables(scores, self.rows_beside(scores["edition"]))

    def rows_beside(self, edition: str) -> list[Reported]:
        """What others report of the same data: nothing of other data than the published."""
        return [] if "-other" in edition else self.reported(edition)

    def headline(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """The few numbers that end a run."""
        return summaries.headline(scores)

    def nothing_scored(self, scores: Mapping[str, Any]) -> str | None:
        """Why no image has a score."""
        return summaries.nothing_scored(scores)

    def costs(self, cases: Sequence[Case], options: JudgedOptions, images_per_prompt: int) -> dict[str, Any]:
        """Questions of a run, and at `--judge-price` about what they cost."""
        words = self._wording(options).texts
        floor = self._floor(options) if options.floor else frozenset()
        times = images_per_prompt * options.judge_repeats
        asked = [calls for case in cases for calls in [self.ask(case, words, options)] * (times + (case.id in floor))]
        return summaries.costs(asked, judges.sent_as(options, self.way(options)), options.judge_price)


def question(case: Case, name: str, text: str, images: Sequence[Shown], read: Reader, *, system: str = "") -> Call:
    """A question about an image of a case.

    Args:
        case: Its texts fill the placeholders.
        name: Of the call.
        text: Of the wording.
        images: What is shown, in order.
        read: The reply -> scores by name.
        system: The message that comes before, as it is.
    """
    filled = wording.fill(text, case.metadata["texts"])
    return Call(name=name, text=filled, images=tuple(images), read=read, system=system)


def _blank(like: Image.Image) -> Image.Image:
    from PIL import Image

    return Image.new("RGB", like.size, "white")


def prompts_of(path: Path) -> dict[str, str]:
    """Rewritten prompts by case id, from a file, or from all ``*_rewrite.json`` of a folder as WISE has them.

    Raises:
        UserError: There are none, or not one text for each case.
    """
    places = sorted(path.glob("*_rewrite.json")) if path.is_dir() else [path]
    found: dict[str, str] = {}
    for place in places:
        for id, text in _pairs_of(load_json(place)):
            if not isinstance(text, str) or id in found:
                what = "a second prompt" if id in found else json.dumps(text)[:60]
                raise UserError(f"--rewritten-from {place}: expected one prompt for case {id} but got {what}")
            found[id] = text
    if not found:
        what = "*_rewrite.json in the folder" if path.is_dir() else "prompts by case id, or a list of rows with them"
        raise UserError(f"--rewritten-from {path}: expected {what} but found none")
    return found


def _pairs_of(content: Any) -> list[tuple[str, Any]]:
    """Case and prompt: of an object, of lines with id and prompt, or of WISE's rows."""
    if isinstance(content, dict):
        return list(content.items())
    rows = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    return [(str(one.get("id", one.get("prompt_id"))), one.get("prompt", one.get("Prompt"))) for one in rows]


def _rewritten(case: Case, prompts: Mapping[str, str], path: Path) -> Case:
    if case.id not in prompts:
        raise UserError(f"--rewritten-from {path}: no prompt for case {case.id}")
    prompt = prompts[case.id]
    edit = None if case.edit is None else dataclasses.replace(case.edit, instruction=prompt)
    return dataclasses.replace(case, prompt=prompt, metadata={**case.metadata, "rewritten": prompt}, edit=edit)
