"""What the editing suites share: an edit becomes a case, its result is observed, and the log is summed up.

A suite brings its data and its protocol, `EditingSuite` the rest: `load` gives an `EditSet`; the generator finds the
source image in ``sample.case.edit``. An observation holds every metric of the result (``source/l1_outside`` is L1 to
the source outside the mask), and the same metrics of two images that no model made: the source untouched
(``identity``: an editor that does nothing is perfect in CLIP-I to the source) and the target (``target``, where there
is one).

An image that is all black, as a safety checker leaves it, is an edit that failed: it is counted, and measured like any
other.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from evals.core.backends import PHOTOGRAPHS
from evals.core.records import Case, JudgeQuestion, UserError
from evals.editing import metrics, sheets
from evals.editing import scores as editing_scores
from evals.editing.datasets import ids_sha256
from evals.editing.options import EditOptions
from evals.judges import detection_scores
from evals.judges import registry as judges
from evals.metrics import images, judging, layout
from evals.metrics.edits import EditTruth
from evals.suite import Score, Suite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

    from evals.core.backends import Judge
    from evals.core.records import Drawn, EditCase, Sample, Scored
    from evals.editing.datasets import EditSet
    from evals.editing.metrics import Instruments
    from evals.metrics.images import Score as Measure
    from evals.suite import Context, Tools


class EditingSuite(Suite[EditOptions]):
    """An editing benchmark."""

    options = EditOptions
    images_per_prompt = 1
    examples: ClassVar = {"photographs": "", "stage": "verdict"}
    protocol: ClassVar[str]
    """A key of `images.FRAMES`: how images come to one size."""
    pools: ClassVar[Mapping[str, Callable[[str], bool]]] = {}
    """Categories that are summed up together, too: name -> whether a category belongs to it."""

    @abc.abstractmethod
    def load(self, options: Any) -> EditSet:
        """Loads the benchmark's edits."""

    @functools.lru_cache(maxsize=2)  # noqa: B019  # suites are few, and what is read is asked for again at the end
    def _edits(self, options: EditOptions) -> EditSet:
        return self.load(options)

    def cases(self, options: EditOptions, context: Context) -> list[Case]:
        """All edits of the set."""
        return [as_case(edit) for edit in self._edits(options).cases]

    def resolve(self, options: EditOptions, world: str) -> EditOptions:
        """The options, completed by the hashes of what the judge depends on."""
        return judges.resolve(options, world)

    def detects(self, options: EditOptions) -> bool:
        """Whether a detector looks: at images of the icon edition only."""
        return options.data is None

    def shows(self, options: EditOptions) -> str | None:
        """Published sets are photographs."""
        return None if options.data is None else PHOTOGRAPHS

    def classes(self, case: Case) -> frozenset[str]:
        """The classes of all objects in an icon case's truth; none for a published case, which has no truth."""
        truth = case.metadata.get("truth")
        if truth is None:
            return frozenset()
        known = EditTruth.from_dict(truth)
        return frozenset(thing.name for thing in (*known.kept, *known.erased, *known.drawn))

    def concurrent_requests(self, options: EditOptions) -> int:
        """How many questions a judge behind an endpoint is asked at a time."""
        return judges.concurrent_requests(options)

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """Every image is embedded."""
        return True

    def prepare(self, tools: Tools, options: EditOptions) -> Instruments:
        """Builds the encoders and the LPIPS network."""
        return metrics.Instruments(tools, options)

    def observe(self, batch: Sequence[Drawn], tools: Instruments, options: EditOptions) -> list[dict[str, Any]]:
        """Metrics of each result."""
        return observe(batch, tools, self.protocol)

    def make_judge(self, tools: Tools, options: EditOptions) -> Judge | None:
        """Builds the judge, if there is to be one."""
        return judges.make_judge(options, tools)

    def judge(
        self, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]], judge: Judge | None, options: EditOptions
    ) -> Sequence[dict[str, Any]]:
        """With the judgements of each result: all repeats of all edits in one go, so that they are asked together."""
        if judge is None:
            return seen
        repeats = options.judge_repeats
        edits = [_edit(drawn.sample) for drawn in batch]
        questions = [
            JudgeQuestion(case=edit, source=source, result=drawn.image, repeat=repeat)
            for edit, source, drawn in zip(edits, [edit.source.load() for edit in edits], batch, strict=True)
            for repeat in range(repeats)
        ]
        said = [one.as_dict() for one in judge.judge(questions)]
        return [{**one, "judgements": said[i * repeats : (i + 1) * repeats]} for i, one in enumerate(seen)]

    def incomplete(self, observation: Mapping[str, Any]) -> bool:
        """Whether an image has no judgement because the judge could not be reached or the budget was used up."""
        return any(one["failure"] in judging.UNASKED for one in observation["judgements"])

    def unanswered(self, observation: Mapping[str, Any]) -> str | None:
        """Why the judge said nothing of use."""
        found = observation["judgements"]
        in_vain = bool(found) and all(one["failure"] in judging.UNANSWERED for one in found)
        return f"{found[0]['failure']}: {found[0]['detail']}" if in_vain else None

    def score(self, case: Case, observation: Mapping[str, Any], options: EditOptions) -> Score:
        """In the icon world, an edit is correct if it is done and the rest untouched.

        Of a published set no truth is known: a black image is wrong, and of any other nothing is claimed.
        """
        black: dict[str, Any] = {"correct": False, "reason": "the picture is black"} if observation["black"] else {}
        if "measured" not in observation:
            return Score(**black)
        found = detection_scores.score(EditTruth.from_dict(observation["truth"]), observation["measured"])
        return dataclasses.replace(found, **black)

    def result(self, scored: Scored, filename: str) -> dict[str, Any]:
        """The line of ``results.jsonl``."""
        line, case = super().result(scored, filename), scored.sample.case
        return {
            "filename": filename,
            "case": case.id,
            "category": case.tag,
            "instruction": case.prompt,
            "correct": line["correct"],
            "reason": line["reason"],
            "metrics": scored.observation["metrics"],
            "judge": [one["value"] for one in scored.observation["judgements"]],
            "details": line["details"],
        }

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: EditOptions,
        context: Context,
    ) -> dict[str, Any]:
        """``scores.json``: metrics and judgements, overall and by category."""
        described = self._edits(options).describe()
        # What was run may be a part of the set (--limit).
        data = {**described, "of": described["cases"], "cases": len(cases), "ids_sha256": ids_sha256(cases)}
        title = f"{self.title}'s protocol, own data" if "own" in described else self.title
        about = {"suite": self.name, "version": self.version, "title": title, "protocol": self.protocol}
        summed = editing_scores.summarize(cases, scored, failures, options, context, self.pools)
        return {**about, "data": data, **summed}

    def tables(self, scores: Mapping[str, Any]) -> list[Table]:
        """All metrics, the main ones by category, the judge, and what a detector measured."""
        return editing_scores.tables(scores)

    def headline(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """The few numbers that end a run."""
        return editing_scores.headline(scores)

    def nothing_scored(self, scores: Mapping[str, Any]) -> str | None:
        """Why no image has a score, or a judge that was asked gave none."""
        return editing_scores.nothing_scored(scores)

    def sheets(
        self, run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored], options: EditOptions
    ) -> list[Path]:
        """A contact sheet per category: source, result, target."""
        return sheets.draw(run, results, scored)


def as_case(edit: EditCase) -> Case:
    """An edit as the runner wants it. Its metadata are what may be written down: words, no images."""
    metadata = {
        "id": edit.id,
        "prompt": edit.instruction,
        "category": edit.category,
        "source": edit.source.name,
        "group": edit.group,
        "captions": dict(edit.captions),
        **edit.extra,
    }
    return Case(id=edit.id, prompt=edit.instruction, tag=edit.category, metadata=metadata, edit=edit)


# -------------------------------------------------------------------------------------------------------------- observe
def observe(batch: Sequence[Drawn], instruments: Instruments, protocol: str) -> list[dict[str, Any]]:
    """Metrics of each result, as JSON, with room for judgements.

    Args:
        batch: The edited images.
        instruments: What they are looked at with.
        protocol: A key of `images.FRAMES`: how images come to one size.
    """
    edits = [_edit(drawn.sample) for drawn in batch]
    results, chains = [drawn.image for drawn in batch], [drawn.chain for drawn in batch]
    sources = [edit.source.load() for edit in edits]
    targets = [edit.target.load() if edit.target else None for edit in edits]
    masks = [edit.mask.load_mask() if edit.mask else None for edit in edits]
    frame = images.FRAMES[protocol]
    metrics.embed(instruments, edits, [*sources, *results, *(target for target in targets if target is not None)])
    observations = []
    comparisons = [metrics.Comparison(edit, mask, frame) for edit, mask in zip(edits, masks, strict=True)]
    metrics.compare(comparisons, sources, results, targets)
    measure = functools.partial(metrics.measure, instruments)
    for i, edit in enumerate(edits):
        compared, target = comparisons[i], targets[i]
        floor = measure(compared, sources[i], sources[i], target)
        ceiling = {} if target is None else measure(compared, sources[i], target, target)
        observations.append(
            {
                "width": results[i].width,
                "height": results[i].height,
                "category": edit.category,
                "group": edit.group or edit.source.sha256(),
                "black": images.is_black(images.pixels(results[i])),
                **_truncated(instruments, edit),
                "metrics": _log(
                    measure(compared, sources[i], results[i], target)
                    | _plan_score(None if "turns" in edit.extra else chains[i], masks[i])
                ),
                "identity": _log(floor),
                "target": _log(ceiling),
                "judgements": [],
                "plan": _planned(chains[i]),
            }
        )
    if all("truth" in edit.extra for edit in edits):
        seen = detection_scores.measure(edits, results, chains, instruments.tools.detector, instruments.tools.embedder)
        for observation, edit, one in zip(observations, edits, seen, strict=True):
            observation |= {"truth": edit.extra["truth"], "measured": one, "detections": one["result"]["objects"]}
    return observations


def _plan_score(chain: str | None, mask: Any) -> dict[str, Measure]:
    """How well the boxes of a chain cover the mask. A plan without a box, as for a background, covers nothing."""
    if chain is None or mask is None:
        return {}
    value = layout.plan_mask_iou(layout.parse_plan(chain), mask)
    return {"plan/mask_iou": images.Score(value=value)}


def _planned(chain: str | None) -> dict[str, Any] | None:
    """The boxes of a chain, as GenEval's observations have them."""
    return None if chain is None else {"objects": [item.as_dict() for item in layout.parse_plan(chain)], "oracle": None}


def _edit(sample: Sample) -> EditCase:
    if sample.case.edit is None:
        raise UserError(f"case {sample.case.id} is no edit")
    return sample.case.edit


def _truncated(instruments: Instruments, edit: EditCase) -> dict[str, list[str]]:
    """The CLIPs that cut off the end of the target's caption, and the CLIPs of which that is not known."""
    caption = edit.captions.get("target")
    cut = {label: _is_truncated(clip, caption) for label, clip in instruments.clips.items()} if caption else {}
    return {
        "truncated": [label for label, is_cut in cut.items() if is_cut],
        "truncation_unknown": [label for label, is_cut in cut.items() if is_cut is None],
    }


def _is_truncated(clip: Any, caption: str) -> bool | None:
    """Whether the encoder itself says so; None if its tokenizer does not tell lengths, as SigLIP's."""
    inner = getattr(clip, "embedder", clip)  # below the cache
    try:
        return bool(hasattr(inner, "truncated") and inner.truncated([caption])[0])
    except NotImplementedError:
        return None


def _log(scores: dict[str, Measure]) -> dict[str, Any]:
    """The metrics as logged: a value each, or the reason why there is none."""
    return {name: score.undefined if score.value is None else score.value for name, score in sorted(scores.items())}
