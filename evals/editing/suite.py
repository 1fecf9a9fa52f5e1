"""What the editing suites share: an edit becomes a case, its result is observed, and the log is summed up.

A suite brings its data and its protocol, `make_suite` the rest::

    SUITE = editing.make_suite(name="emu_edit", version=1, protocol="emu-edit", add_arguments=..., load=...)

`load` gives an `EditSet`; the generator finds the source picture in ``sample.case.edit``. An observation holds every
metric of the result (``source/l1_outside`` is L1 to the source outside the mask), and the same metrics of two pictures
that no model made: the source untouched (``identity``: an editor that does nothing is perfect in CLIP-I to the source)
and the target (``target``, where there is one).

A picture that is all black, as a safety checker leaves it, is an edit that failed: it is counted, and measured like any
other.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.protocols import Suite
from evals.core.records import Case, Judgement, JudgeQuestion, UserError, Verdict
from evals.editing import metrics, sheets
from evals.editing import scores as editing_scores
from evals.editing.datasets import ids_sha256
from evals.judges import measured
from evals.metrics import images, judging, layout
from evals.metrics.edits import EditTruth

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image

    from evals.core.protocols import Tools
    from evals.core.records import EditCase, Sample
    from evals.editing.datasets import EditSet
    from evals.editing.metrics import Instruments
    from evals.metrics.images import Score

OBSERVE_OPTIONS = (
    "clip",
    "dino",
    "lpips",
    "judge",
    "judge_protocol",
    "judge_prompt",
    "judge_prompts",
    "judge_place",
    "judge_repeats",
    "judge_temperature",
    "judge_json",
)
"""Arguments that decide what is observed."""
VERDICT_OPTIONS = ("judge_max_failed",)


# ------------------------------------------------------------------------------------------------------------ arguments
def add_shared_arguments(group: argparse._ArgumentGroup) -> None:
    """The flags that all editing suites have."""
    from evals.judges import vlm_judge

    group.set_defaults(images_per_prompt=1, judge_prompts=None, judge_place=None)
    add = group.add_argument
    add("--clip", nargs="+", default=[], metavar="NAME", help="more CLIPs to measure with, beside --embedder")
    add("--dino", default="none", metavar="dino:ID|PATH", help="a DINO to measure with (default: %(default)s)")
    add("--lpips", default="none", metavar="NET[:PATH]", help="squeeze, alex or vgg (default: %(default)s)")
    add("--judge", default="none", metavar="NAME", help="openai, hf:PATH|ID, measured (default: %(default)s)")
    add(
        "--judge-log",
        type=Path,
        default=Path("runs") / "judge_replies.jsonl",
        metavar="FILE",
        help="all replies of judges; the same is never asked twice (default: %(default)s)",
    )
    vlm_judge.add_arguments(group)


def add_data_argument(group: argparse._ArgumentGroup) -> None:
    """The flag of where a published set lies."""
    group.add_argument(
        "--data",
        metavar="ID|PATH",
        help="published set: hub id, folder or Parquet file (default: the icon world's edition)",
    )


def as_case(edit: EditCase) -> Case:
    """An edit as the runner wants it. Its metadata are what may be written down: words, no pictures."""
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


def classes(case: Case) -> frozenset[str]:
    """The classes of all objects in the truth of an embedded case. Of a published set none is known, or looked for."""
    truth = case.metadata.get("truth")
    if truth is None:
        return frozenset()
    known = EditTruth.from_dict(truth)
    return frozenset(thing.name for thing in (*known.kept, *known.erased, *known.drawn))


# -------------------------------------------------------------------------------------------------------------- observe
def prepare(tools: Tools, args: argparse.Namespace) -> None:
    """Builds the encoders, the LPIPS network and the judge that `observe` will use."""
    metrics.instruments(tools, args)


def observe(
    samples: list[Sample],
    results: list[Image.Image],
    chains: list[str | None],
    tools: Tools,
    args: argparse.Namespace,
    *,
    protocol: str,
) -> list[dict[str, Any]]:
    """Metrics and judgements of each result, as JSON.

    Args:
        samples: What each picture was made for.
        results: The edited pictures, RGB.
        chains: The chain behind each, if there is one.
        tools: The run's encoder and device.
        args: The run's arguments.
        protocol: A key of `images.FRAMES`: how pictures come to one size.
    """
    with_ = metrics.instruments(tools, args)
    edits = [_edit(sample) for sample in samples]
    sources = [edit.source.load() for edit in edits]
    targets = [edit.target.load() if edit.target else None for edit in edits]
    masks = [edit.mask.load_mask() if edit.mask else None for edit in edits]
    frame = images.FRAMES[protocol]
    metrics.embed(with_, edits, [*sources, *results, *(target for target in targets if target is not None)])
    judged = _judge(with_, edits, sources, results)
    observations = []
    comparisons = [metrics.Comparison(edit, mask, frame) for edit, mask in zip(edits, masks, strict=True)]
    metrics.compare(comparisons, sources, results, targets)
    measure = functools.partial(metrics.measure, with_)
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
                **_truncated(with_, edit),
                "metrics": _log(
                    measure(compared, sources[i], results[i], target)
                    | _plan_score(None if "turns" in edit.extra else chains[i], masks[i])
                ),
                "identity": _log(floor),
                "target": _log(ceiling),
                "judgements": [one.as_dict() for one in judged[i]],
                "plan": _planned(chains[i]),
            }
        )
    if all("truth" in edit.extra for edit in edits):
        seen = measured.measure(edits, results, chains, tools.detector, tools.embedder)
        for observation, edit, one in zip(observations, edits, seen, strict=True):
            observation |= {"truth": edit.extra["truth"], "measured": one, "detections": one["result"]["objects"]}
    return observations


def _plan_score(chain: str | None, mask: Any) -> dict[str, Score]:
    """How well the boxes of a chain cover the mask. A plan without a box, as for a ground, covers nothing."""
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


def _truncated(with_: Instruments, edit: EditCase) -> dict[str, list[str]]:
    """CLIPs that do not read the end of the target's caption, and CLIPs of which that is not known."""
    caption = edit.captions.get("target")
    cut = {label: _is_truncated(clip, caption) for label, clip in with_.clips.items()} if caption else {}
    return {
        "truncated": [label for label, is_cut in cut.items() if is_cut],
        "truncation_unknown": [label for label, is_cut in cut.items() if is_cut is None],
    }


def _is_truncated(clip: Any, caption: str) -> bool | None:
    """Whether the encoder itself says so; None if its tokenizer does not tell lengths, as SigLIP's."""
    inner = getattr(clip, "embedder", clip)  # below the cache
    inner = inner.build() if hasattr(inner, "build") else inner  # and the run's own, which is built when first used
    try:
        return bool(hasattr(inner, "truncated") and inner.truncated([caption])[0])
    except NotImplementedError:
        return None


def _judge(
    with_: Instruments, edits: Sequence[EditCase], sources: Sequence[Image.Image], results: Sequence[Image.Image]
) -> list[list[Judgement]]:
    """All repeats of all edits, in one batch, so that they are asked side by side."""
    if with_.judge is None:
        return [[] for _ in edits]
    questions = [
        JudgeQuestion(case=edit, source=source, result=result, repeat=repeat)
        for edit, source, result in zip(edits, sources, results, strict=True)
        for repeat in range(with_.repeats)
    ]
    answers = with_.judge.judge(questions)
    return [answers[i : i + with_.repeats] for i in range(0, len(answers), with_.repeats)]


def _log(scores: dict[str, Score]) -> dict[str, Any]:
    """Values, and the reason in place of a value that does not exist."""
    return {name: score.undefined if score.value is None else score.value for name, score in sorted(scores.items())}


def incomplete(observation: dict[str, Any]) -> bool:
    """Whether a judge was not there, or not paid, for a picture."""
    return any(one["failure"] in judging.UNASKED for one in observation["judgements"])


# -------------------------------------------------------------------------------------------------------------- verdict
def verdict(case: Case, observation: dict[str, Any], args: argparse.Namespace) -> Verdict:
    """In the icon world, an edit is correct if it is done and the rest untouched.

    Of a published set no truth is known: a black picture is wrong, and of any other nothing is claimed.
    """
    del case, args
    if observation["black"]:
        return Verdict(correct=False, reason="the picture is black")
    if "measured" not in observation:
        return Verdict(correct=None, reason="")
    correct, reason = measured.verdict(EditTruth.from_dict(observation["truth"]), observation["measured"])
    return Verdict(correct=correct, reason=reason)


def result(sample: Sample, filename: str, observation: dict[str, Any], judged: Verdict) -> dict[str, Any]:
    """The line of ``results.jsonl``."""
    return {
        "filename": filename,
        "case": sample.case.id,
        "category": sample.case.tag,
        "instruction": sample.case.prompt,
        "correct": judged.correct,
        "reason": judged.reason,
        "metrics": observation["metrics"],
        "judge": [one["value"] for one in observation["judgements"]],
        "details": json.dumps(measured.details(observation.get("detections", ()))),
    }


# ---------------------------------------------------------------------------------------------------------------- suite
def make_suite(
    *,
    name: str,
    version: int,
    protocol: str,
    title: str,
    add_arguments: Callable[[argparse._ArgumentGroup], None],
    load: Callable[[argparse.Namespace], EditSet],
    observe_options: tuple[str, ...] = (),
    pools: Mapping[str, Callable[[str], bool]] | None = None,
) -> Suite:
    """An editing suite.

    Args:
        name: Its module's name.
        version: Bumped when numbers change.
        protocol: A key of `images.FRAMES`.
        title: For tables.
        add_arguments: Adds its own flags (where the data are, which variant).
        load: Its cases, from these flags.
        observe_options: Which of its flags change observations.
        pools: Categories that are summed up together, too: name -> whether a category belongs to it.
    """
    described: dict[str, Any] = {}
    known: dict[str, EditCase] = {}

    def add_all(group: argparse._ArgumentGroup) -> None:
        add_shared_arguments(group)
        add_arguments(group)

    def load_cases(args: argparse.Namespace) -> list[Case]:
        from evals.judges import vlm_judge

        vlm_judge.resolve(args)
        edits = load(args)
        described.update(edits.describe())
        known.update((edit.id, edit) for edit in edits.cases)
        return [as_case(edit) for edit in edits.cases]

    def summarize(
        cases: list[Case],
        results: list[dict[str, Any]],
        observations: list[dict[str, Any]],
        failures: list[dict[str, Any]],
        args: argparse.Namespace,
    ) -> dict[str, Any]:
        del results
        # What was run may be a part of the set (--limit).
        data = {**described, "of": described["cases"], "cases": len(cases), "ids_sha256": ids_sha256(cases)}
        about = {"suite": name, "version": version, "title": title, "protocol": protocol, "data": data}
        return {**about, **editing_scores.summarize(cases, observations, failures, args, pools or {})}

    return Suite(
        name=name,
        version=version,
        add_arguments=add_all,
        load_cases=load_cases,
        observe=functools.partial(observe, protocol=protocol),
        verdict=verdict,
        result=result,
        summarize=summarize,
        tables=editing_scores.tables,
        headline=editing_scores.headline,
        nothing_scored=editing_scores.nothing_scored,
        classes=classes,
        sheets=lambda run, results, observations: sheets.draw(run, known, results, observations),
        verdict_options=VERDICT_OPTIONS,
        observe_options=(*OBSERVE_OPTIONS, *observe_options),
        prepare=prepare,
        incomplete=incomplete,
    )
