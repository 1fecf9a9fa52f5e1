"""GenEval: does an image show what its prompt names: objects, counts, colours, positions?

Source: Ghosh, Hajishirzi, Schmidt, *GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment*,
arXiv 2310.11513; protocol and prompts of its public code (MIT), re-implemented from its described behaviour.
Protocol: 553 prompts in six tasks, 4 images each. A detector finds the objects of 80 classes (score > 0.3, > 0.9
for counting); a CLIP names the colour of an object's crop; rules compare both with the prompt. The overall score is
the mean of the six task scores.

One case, ``00188``::

    {"tag": "counting", "include": [{"class": "person", "count": 3}], "exclude": [{"class": "person", "count": 4}],
     "prompt": "a photo of three persons"}

An image with two persons is wrong for the reason ``expected person>=3, found 2``.

Known deviations, none of which changes a verdict:
- every detection above 0.05 is logged, so other thresholds can be tried later with ``--from verdict``;
- colours are asked for in one batch over all crops of a batch of images, only where a prompt names a colour;
- where the model wrote a chain with boxes, a wrong image is traced to its plan or to its drawing.

    python -m evals.geneval --model got
    python -m evals.geneval --model oracle --limit 60
    python -m evals.geneval --model folder:my_images --detector mask2former
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evals.core.run_directory import RunDirectory
from evals.core.vocabulary import COLORS
from evals.geneval import prompts, scores
from evals.metrics import boxes, layout
from evals.suite import (
    CASES,
    VERDICT,
    Case,
    Context,
    Detection,
    Drawn,
    Score,
    Scored,
    Suite,
    Tools,
    UserError,
    option,
    plans,
)
from evals.suite.objects import from_log
from evals.suite.plans import LOGGED_SCORE, Outcome
from evals.suite.tables import load_reference, reference_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table


# ------------------------------------------------------------------------------------------------------------ options
def _rule(default: float, low: float, high: float, words: str) -> Any:
    metavar = "N" if isinstance(default, int) else "X"
    return option(default, f"{words} (default: %(default)s)", stage=VERDICT, low=low, high=high, metavar=metavar)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The prompts, and the scorer's settings; the defaults are the benchmark's."""

    prompts: str | None = option(
        None,
        "own prompts, formatted as evaluation_metadata.jsonl; folder: those that the metadata.jsonl files of"
        " --model folder:PATH hold",
        stage=CASES,
        metavar="FILE|folder",
    )
    threshold: float = _rule(0.3, LOGGED_SCORE, 1.0, "a detection counts if its score is above this")
    counting_threshold: float = _rule(0.9, LOGGED_SCORE, 1.0, "the same, for the counting task")
    max_objects: int = _rule(16, 1, 10_000, "so many best detections of a class count")
    max_overlap: float = _rule(1.0, 0.0, 1.0, "IoU from which the lesser of two detections is dropped; 1 = never")
    position_threshold: float = _rule(0.1, 0.0, 1.0, "share of the summed sides by which centres must be apart")

    def rules(self) -> dict[str, Any]:
        """The scorer's settings alone."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "prompts"}


# ------------------------------------------------------------------------------------------------------------ verdict
def keep(detections: Sequence[Detection], tag: str, options: Options) -> dict[str, tuple[Detection, ...]]:
    """Detections that count, by class, best first; those of equal score stay in the order given."""
    threshold = options.counting_threshold if tag == "counting" else options.threshold
    ranked = sorted((d for d in detections if d.score > threshold), key=lambda d: -d.score)
    by_class: dict[str, list[Detection]] = {}
    for detection in ranked:
        by_class.setdefault(detection.name, []).append(detection)
    kept = {}
    for name, found in by_class.items():
        best = found[: options.max_objects]
        kept[name] = tuple(best[i] for i in boxes.suppress([d.box_xyxy_px for d in best], options.max_overlap))
    return kept


def verdict(case: Case, detections: Sequence[Detection], options: Options) -> Score:
    """Is the image correct, and if not, why? Pure.

    Args:
        case: Its metadata say what must be there (``include``) and what must not (``exclude``).
        detections: Everything detected in the image; ``color`` is set where the case asks for a colour.
        options: Thresholds.

    >>> from evals.core.records import Case
    >>> metadata = {"include": [{"class": "dog", "count": 2}]}
    >>> case = Case(id="0", prompt="a photo of two dogs", tag="two_object", metadata=metadata)
    >>> verdict(case, [Detection(name="dog", score=0.8, box_xyxy_px=(0, 0, 9, 9))], Options()).reason
    'expected dog>=2, found 1'
    """
    kept = keep(detections, case.tag, options)
    reasons: list[str] = []
    matched: list[tuple[Detection, ...] | None] = []
    for item in case.metadata["include"]:
        found = kept.get(item["class"], ())[: item["count"]]
        fault = _wrong_count(item, found) or _wrong_color(item, found) or _wrong_place(item, found, matched, options)
        reasons += [fault] if fault else []
        matched.append(None if fault else found)
    for item in case.metadata.get("exclude", ()):
        number = len(kept.get(item["class"], ()))
        if number >= item["count"]:
            reasons.append(f"expected {item['class']}<{item['count']}, found {number}")
    return Score(correct=not reasons, reason="\n".join(reasons), kept=kept)


def _wrong_count(item: dict[str, Any], found: Sequence[Detection]) -> str | None:
    if len(found) >= item["count"]:
        return None
    return f"expected {item['class']}>={item['count']}, found {len(found)}"


def _wrong_color(item: dict[str, Any], found: Sequence[Detection]) -> str | None:
    color = item.get("color")
    seen = [d.color for d in found]
    if color is None or seen.count(color) >= item["count"]:
        return None
    others = ", ".join(f"{seen.count(other)} {other}" for other in COLORS if other in seen)
    expected = f"expected {color} {item['class']}>={item['count']}, found {seen.count(color)} {color}"
    return f"{expected}; and {others or 'no known colour'}"


def _wrong_place(
    item: dict[str, Any],
    found: Sequence[Detection],
    matched: Sequence[tuple[Detection, ...] | None],
    options: Options,
) -> str | None:
    if "position" not in item:
        return None
    wanted, index = item["position"]
    targets = matched[index]
    if targets is None:
        return f"no target for {item['class']} to be {wanted}"
    for detection in found:
        for target in targets:
            holds = boxes.relations(detection.box_xyxy_px, target.box_xyxy_px, options.position_threshold)
            if wanted not in holds:
                return f"expected {item['class']} {wanted} target, found {' and '.join(holds)} target"
    return None


# ------------------------------------------------------------------------------------------------------------ observe
def _to_color(case: Case, detections: Sequence[Detection], options: Options) -> list[Detection]:
    """The detections whose colour a verdict can ask for, under these options or any later threshold."""
    wanted: dict[int, Detection] = {}
    for setting in (options, dataclasses.replace(options, threshold=0.0, counting_threshold=0.0, max_overlap=1.0)):
        kept = keep(detections, case.tag, setting)
        for item in case.metadata["include"]:
            if "color" in item:
                wanted |= {id(d): d for d in kept.get(item["class"], ())[: item["count"]]}
    return list(wanted.values())


def _judged(case: Case, observation: Mapping[str, Any], options: Options) -> Score:
    return verdict(case, from_log(observation["detections"]), options)


def _kept(context: Context) -> Path | None:
    """Where a run has its own copy of what its folder said, if the folder is gone; else None."""
    gone = not Path(context.model.partition(":")[2]).is_dir()
    return context.drawn if gone and context.drawn is not None and context.drawn.is_dir() else None


# -------------------------------------------------------------------------------------------------------------- suite
_PROMPTS_FILE = """
three lines of a file for --prompts; position names a relation to another object of the list, by its place in it:
  {"tag": "counting", "include": [{"class": "dog", "count": 3}], "prompt": "three dogs"}
  {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a red apple"}
  {"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, \
"position": ["left of", 0]}], "prompt": "a cat left of a dog"}
"""


class GenEval(Suite[Options]):
    """The benchmark."""

    name = "geneval"
    title = "GenEval"
    options = Options
    examples: ClassVar = {**Suite.examples, "more": _PROMPTS_FILE}

    def cases(self, options: Options, context: Context) -> list[Case]:
        """The 553 prompts, or the user's own."""
        if options.prompts == prompts.FOLDER:
            kind, _, root = context.model.partition(":")
            if kind != "folder":
                raise UserError(f"--prompts folder is for --model folder:PATH, not for --model {context.model}")
            # A run keeps the metadata of its cases: it can be scored again where the folder is gone.
            return prompts.from_folder(_kept(context) or Path(root), options.max_objects)
        own = options.prompts
        return prompts.cases(prompts.read(Path(own), options.max_objects) if own else prompts.generate())

    def left_out(self, options: Options, context: Context) -> list[str]:
        """Of ``--prompts folder``, the sub-folders that do not tell what they are of; from the run where it is gone."""
        if options.prompts != prompts.FOLDER:
            return []
        kept = _kept(context)
        if kept is None:
            return prompts.untold(Path(context.model.partition(":")[2]))
        names: list[str] = (RunDirectory(kept.parent).read_scores() or {}).get("left_out", [])
        return names

    def classes(self, case: Case) -> frozenset[str]:
        """All classes that a verdict counts: those that must be there, and those of which there must not be more."""
        return frozenset(item["class"] for item in (*case.metadata["include"], *case.metadata.get("exclude", ())))

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """Whether any case names a colour, which a CLIP must see."""
        return any("color" in item for case in cases for item in case.metadata["include"])

    def prepare(self, tools: Tools, options: Options) -> Tools:
        """Refuses thresholds below what the detector returns."""
        lowest, least = min(options.threshold, options.counting_threshold), tools.detector.min_score
        if least > lowest:
            raise UserError(f"a threshold of {lowest} is below {least}, the least that {tools.detector.name} returns")
        return tools

    def observe(self, batch: Sequence[Drawn], tools: Tools, options: Options) -> list[dict[str, Any]]:
        """Detect, name colours, and where a plan is right but its image is not, look at the plan's exact drawing."""

        def look(images: Sequence[Drawn]) -> list[dict[str, Any]]:
            return plans.look(images, tools, lambda case, found: _to_color(case, found, options))

        def in_doubt(case: Case, seen: Mapping[str, Any]) -> bool:
            return not _judged(case, seen, options).correct and bool(
                verdict(case, plans.planned(seen), options).correct
            )

        observations = look(batch)
        plans.add_plans(batch, observations, tools, look, in_doubt)
        return observations

    def score(self, case: Case, observation: Mapping[str, Any], options: Options) -> Outcome:
        """Right or wrong, and where it went wrong if its model had a plan; `UserError` if a colour was not named."""
        judged = _judged(case, observation, options)
        for item in case.metadata["include"]:
            counted = judged.kept.get(item["class"], ())[: item["count"]] if "color" in item else ()
            if any(detection.color is None for detection in counted):
                raise UserError(
                    f"case {case.id}: a {item['class']} counts whose colour was not named; use --from observe"
                )
        of_image: dict[str, Any] = {"correct": judged.correct, "reason": judged.reason, "kept": judged.kept}
        if observation["plan"] is None:
            return Outcome(**of_image)
        planned, exact = plans.planned(observation), plans.exactly_drawn(observation)
        kept = [detection for found in judged.kept.values() for detection in found]
        return Outcome(
            **of_image,
            plan_correct=verdict(case, planned, options).correct,
            oracle_correct=None if exact is None else verdict(case, exact, options).correct,
            fit=layout.fit(planned, kept, observation["width"], observation["height"]),
        )

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: Options,
        context: Context,
    ) -> dict[str, Any]:
        """``scores.json``: per task and overall, with intervals, bounds for missing images, and faults."""
        wording = prompts.wording(cases)
        reference = None if wording else load_reference(self.name, context.detector, options.rules())
        return {
            "suite": self.name,
            "version": self.version,
            **context.describe(),
            "prompts": "geneval" if options.prompts is None else str(Path(options.prompts)),
            "wording": wording,
            "options": options.rules(),
            **scores.summarize(cases, scored, failures, context.images_per_prompt),
            "faults": {one.key: one.score.fault for one in scored if one.score.fault},
            "reference": reference_of(reference, [case.tag for case in cases]),
        }

    def sheets(
        self, run: Path, results: Sequence[dict[str, Any]], scored: Sequence[Scored], options: Options
    ) -> list[Path]:
        """Contact sheets; behind a count that is too low stand the detections that nearly counted."""
        rules = options.rules()
        said = [
            scores.explained(one.score.reason, one.sample.case.tag, one.observation["detections"], rules)
            for one in scored
        ]
        told = [{**result, "reason": reason} for result, reason in zip(results, said, strict=True)]
        return super().sheets(run, told, scored, options)

    def headline(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """With the number of cases that its folder could not tell."""
        left_out = {"left_out": len(scores["left_out"])} if "left_out" in scores else {}
        return {**super().headline(scores), **left_out}

    def tables(self, found: Mapping[str, Any]) -> list[Table]:
        """Scores, faults, and how drawings keep to their plans."""
        return scores.tables(found)


SUITE = GenEval()
