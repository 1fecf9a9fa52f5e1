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
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import contact_sheets
from evals.core.protocols import Suite
from evals.core.records import Detection, UserError, Verdict, world_of
from evals.core.vocabulary import COLORS
from evals.geneval import prompts, scores, tables
from evals.metrics import boxes, layout

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from PIL import Image

    from evals.core.protocols import Tools
    from evals.core.records import Case, Sample

LOGGED_SCORE = 0.05
"""Detections below this score are not logged."""
BACKGROUND = "#999"
"""Paint for what lies outside an object's mask when its colour is asked for."""


# ------------------------------------------------------------------------------------------------------------ options
def _option(default: float, low: float, high: float, words: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "help": words})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The scorer's settings, each with its allowed range and meaning; the defaults are the benchmark's."""

    threshold: float = _option(0.3, LOGGED_SCORE, 1.0, "a detection counts if its score is above this")
    counting_threshold: float = _option(0.9, LOGGED_SCORE, 1.0, "the same, for the counting task")
    max_objects: int = _option(16, 1, 10_000, "so many best detections of a class count")
    max_overlap: float = _option(1.0, 0.0, 1.0, "IoU from which the lesser of two detections is dropped; 1 = never")
    position_threshold: float = _option(0.1, 0.0, 1.0, "share of the summed sides by which centres must be apart")


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """GenEval's own flags."""
    group.add_argument(
        "--prompts",
        type=lambda text: text if text == prompts.FOLDER else Path(text),
        metavar="FILE|folder",
        help="own prompts, formatted as evaluation_metadata.jsonl; folder: those that the"
        " metadata.jsonl files of --model folder:PATH hold",
    )
    for field in dataclasses.fields(Options):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            metavar="N" if isinstance(field.default, int) else "X",
            help=f"{field.metadata['help']} (default: %(default)s)",
        )


def options_from(args: argparse.Namespace) -> Options:
    """The options given on the command line, checked."""
    options = Options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)})
    for field in dataclasses.fields(Options):
        value, low, high = getattr(options, field.name), field.metadata["low"], field.metadata["high"]
        if not low <= value <= high:
            raise UserError(f"--{field.name.replace('_', '-')} is {value}; expected a number from {low} to {high}")
    return options


def load_cases(args: argparse.Namespace) -> list[Case]:
    """The 553 prompts, or the user's own."""
    most = options_from(args).max_objects
    if args.prompts == prompts.FOLDER:
        kind, _, root = args.model.partition(":")
        if kind != "folder":
            raise UserError(f"--prompts folder is for --model folder:PATH, not for --model {args.model}")
        drawn = None if args.start in (None, "generate") or args.output is None else args.output / "images"
        # A run keeps the metadata of its cases: it can be scored again where the folder is gone.
        gone = not Path(root).is_dir() and drawn is not None and drawn.is_dir()
        return prompts.from_folder(drawn if gone and drawn is not None else Path(root), most)
    own = args.prompts
    return prompts.cases(prompts.read(own, most) if own else prompts.generate())


# ------------------------------------------------------------------------------------------------------------ verdict
def classes(case: Case) -> frozenset[str]:
    """All classes that a verdict counts: those that must be there, and those of which there must not be more."""
    return frozenset(item["class"] for item in (*case.metadata["include"], *case.metadata.get("exclude", ())))


def asks_for_colors(cases: Sequence[Case]) -> bool:
    """Whether any case names a colour, which a CLIP must see."""
    return any("color" in item for case in cases for item in case.metadata["include"])


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


def verdict(case: Case, detections: Sequence[Detection], options: Options) -> Verdict:
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
    return Verdict(correct=not reasons, reason="\n".join(reasons), kept=kept)


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
def prepare(tools: Tools, args: argparse.Namespace) -> None:
    """Refuse thresholds below what the detector returns."""
    lowest, least = min(args.threshold, args.counting_threshold), tools.detector.min_score
    if least > lowest:
        raise UserError(f"a threshold of {lowest} is below {least}, the least that {tools.detector.name} returns")


def observe(
    samples: list[Sample],
    images: list[Image.Image],
    chains: list[str | None],
    tools: Tools,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Detect, name colours, and where a plan is right but its picture is not, look at the plan's oracle render too.

    Args:
        samples: What each image was made for.
        images: RGB, EXIF orientation applied.
        chains: The chain behind each image, if its model wrote one.
        tools: Detector, CLIP and the icon world's renderer.
        args: The run's arguments (thresholds).

    Returns:
        One JSON-able observation per image.
    """
    options = options_from(args)
    cases = [sample.case for sample in samples]
    observations = _look(cases, images, tools, options)
    doubtful = []
    for index, (chain, observation) in enumerate(zip(chains, observations, strict=True)):
        if not chain:
            continue
        observation["plan"] = {"objects": [item.as_dict() for item in layout.parse_plan(chain)], "oracle": None}
        drawn_right = verdict(cases[index], logged(observation), options).correct
        if not drawn_right and plan_verdict(cases[index], observation, options).correct:
            doubtful.append(index)
    if tools.oracle_render is not None and doubtful:
        renders = [tools.oracle_render(chains[i] or "", samples[i].seed) for i in doubtful]
        seen = _look([cases[i] for i in doubtful], renders, tools, options)
        for index, oracle in zip(doubtful, seen, strict=True):
            observations[index]["plan"]["oracle"] = {key: oracle[key] for key in ("width", "height", "detections")}
    return observations


def _look(cases: Sequence[Case], images: Sequence[Image.Image], tools: Tools, options: Options) -> list[dict[str, Any]]:
    """Detections of each image, with colours where its case asks for them: one detector call, one colour check."""
    found = [
        [detection for detection in detections if detection.score >= LOGGED_SCORE]
        for detections in tools.detector.detect(images)
    ]
    wanted = [
        (image, detection)
        for image, (case, detections) in enumerate(zip(cases, found, strict=True))
        for detection in _to_color(case, detections, options)
    ]
    colors: dict[int, str] = {}
    if wanted:
        from evals.embedders.colors import classify_colors

        crops = [crop(images[image], detection) for image, detection in wanted]
        named = classify_colors(tools.embedder, crops, [detection.name for _, detection in wanted], COLORS)
        colors = {id(detection): color for (_, detection), color in zip(wanted, named, strict=True)}
    return [
        {
            "width": image.width,
            "height": image.height,
            "detections": [_log(detection, colors.get(id(detection))) for detection in detections],
            "plan": None,
        }
        for image, detections in zip(images, found, strict=True)
    ]


def _to_color(case: Case, detections: Sequence[Detection], options: Options) -> list[Detection]:
    """The detections whose colour a verdict can ask for: under these options, and under any other threshold."""
    wanted: dict[int, Detection] = {}
    for setting in (options, dataclasses.replace(options, threshold=0.0, counting_threshold=0.0, max_overlap=1.0)):
        kept = keep(detections, case.tag, setting)
        for item in case.metadata["include"]:
            if "color" in item:
                wanted |= {id(d): d for d in kept.get(item["class"], ())[: item["count"]]}
    return list(wanted.values())


def crop(image: Image.Image, detection: Detection) -> Image.Image:
    """The object's box cut out of its image, everything outside its mask painted grey if there is a mask."""
    from PIL import Image

    if detection.mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), Image.fromarray(detection.mask))
    x1, y1, x2, y2 = (round(value) for value in detection.box_xyxy_px)
    return image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def _log(detection: Detection, color: str | None) -> dict[str, Any]:
    # Every digit: a rounded score or box could change a verdict when the log is scored again.
    return {
        "name": detection.name,
        "score": float(detection.score),
        "box_xyxy_px": [float(value) for value in detection.box_xyxy_px],
        "color": color,
    }


def logged(observation: dict[str, Any]) -> list[Detection]:
    """The detections of an observation (or of its plan's oracle render)."""
    return [
        Detection(name=item["name"], score=item["score"], box_xyxy_px=tuple(item["box_xyxy_px"]), color=item["color"])
        for item in observation["detections"]
    ]


def plan_verdict(case: Case, observation: dict[str, Any], options: Options) -> Verdict:
    """The verdict on the plan itself: the chain's own boxes, taken as detections."""
    planned = [layout.PlannedObject.from_dict(item) for item in observation["plan"]["objects"]]
    return verdict(case, layout.as_detections(planned, observation["width"], observation["height"]), options)


# ------------------------------------------------------------------------------------------------------------- scores
def observed_verdict(case: Case, observation: dict[str, Any], args: argparse.Namespace) -> Verdict:
    """The verdict on a logged observation, under the run's options; `UserError` if a colour it needs was not named."""
    judged = verdict(case, logged(observation), options_from(args))
    for item in case.metadata["include"]:
        counted = judged.kept.get(item["class"], ())[: item["count"]] if "color" in item else ()
        if any(detection.color is None for detection in counted):
            raise UserError(f"case {case.id}: a {item['class']} counts whose colour was not named; use --from observe")
    return judged


def result(sample: Sample, filename: str, observation: dict[str, Any], judged: Verdict) -> dict[str, Any]:
    """The line of ``results.jsonl``, in the schema of the public scorer."""
    del observation  # the verdict holds all that the public schema asks for
    details = {name: [[*d.box_xyxy_px, d.score] for d in found] for name, found in judged.kept.items()}
    return {
        "filename": filename,
        "tag": sample.case.tag,
        "prompt": sample.case.prompt,
        "correct": judged.correct,
        "reason": judged.reason,
        "metadata": json.dumps(sample.case.metadata),
        "details": json.dumps(details),
    }


def trace(case: Case, observation: dict[str, Any], options: Options) -> scores.Outcome:
    """One image's outcome: right or wrong, and where it went wrong if its model had a plan."""
    judged = verdict(case, logged(observation), options)
    if observation["plan"] is None:
        return scores.Outcome(case=case.id, correct=bool(judged.correct))
    plan_correct = plan_verdict(case, observation, options).correct
    oracle = observation["plan"]["oracle"]
    planned = [layout.PlannedObject.from_dict(item) for item in observation["plan"]["objects"]]
    width, height = observation["width"], observation["height"]
    kept = [detection for found in judged.kept.values() for detection in found]
    return scores.Outcome(
        case=case.id,
        correct=bool(judged.correct),
        plan_correct=plan_correct,
        oracle_correct=None if oracle is None else verdict(case, logged(oracle), options).correct,
        fit=layout.fit(layout.as_detections(planned, width, height), kept, width, height),
    )


def summarize(
    cases: list[Case],
    results: list[dict[str, Any]],
    observations: list[dict[str, Any]],
    failures: list[dict[str, Any]],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """``scores.json``: per task and overall, with intervals, bounds for missing images, and wrong images' faults."""
    options = options_from(args)
    by_id = {case.id: case for case in cases}
    outcomes = [trace(by_id[line["case"]], line, options) for line in observations]
    assert [outcome.correct for outcome in outcomes] == [line["correct"] for line in results], (
        "results and observations disagree: they are not of the same run"
    )
    settings = dataclasses.asdict(options)
    wording = prompts.wording(cases)
    reference = None if wording else scores.load_reference(args.detector, settings)
    return {
        "suite": SUITE.name,
        "version": SUITE.version,
        "model": args.model,
        "checkpoint": args.checkpoint if args.model == "got" else None,
        "detector": args.detector,
        "world": world_of(args),
        "prompts": str(args.prompts or "geneval"),
        "wording": wording,
        "options": settings,
        **scores.summarize(cases, outcomes, failures, args.images_per_prompt),
        "faults": {
            f"{line['case']}/{line['index']}": outcome.fault
            for line, outcome in zip(observations, outcomes, strict=True)
            if outcome.fault
        },
        "reference": scores.reference_of(reference, {case.tag for case in cases}),
    }


SUITE = Suite(
    name="geneval",
    version=1,
    add_arguments=add_arguments,
    load_cases=load_cases,
    prepare=prepare,
    observe=observe,
    verdict=observed_verdict,
    result=result,
    summarize=summarize,
    tables=tables.tables,
    headline=scores.headline,
    nothing_scored=scores.nothing_scored,
    sheets=contact_sheets.draw,
    classes=classes,
    needs_embedder=asks_for_colors,
    verdict_options=tuple(field.name for field in dataclasses.fields(Options)),
)
