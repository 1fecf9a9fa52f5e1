"""Plans: what a model said it would draw, whether that is right, and where a wrong image went wrong.

For suites whose images are observed by a detector. An observation has ``width``, ``height``, ``detections`` and
``plan``: None without a chain, else the chain's boxes and, where it was looked at, what its exact drawing shows.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

from evals.core.records import Score
from evals.core.vocabulary import task_title
from evals.metrics import layout, statements, statistics
from evals.suite import plain
from evals.suite.objects import as_log, from_log, with_colors
from evals.suite.tables import interval, table
from got.util.tables import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from rich.table import Table

    from evals.core.backends import Tools
    from evals.core.records import Case, Detection, Drawn
    from evals.metrics.layout import LayoutFit
    from evals.suite.plain import Group

LOGGED_SCORE = 0.05
"""Detections below this score are not logged."""

FAULTS = ("plan_wrong", "drawing_wrong", "detector_doubt", "unchecked", "no_plan")
"""Where a wrong image went wrong:

- plan_wrong: the chain's own boxes, taken as detections, fail the case;
- drawing_wrong: the plan is right, the image is not, and an exact drawing of the plan passes;
- detector_doubt: the plan is right, but even its exact drawing fails: the detector may be to blame;
- unchecked: the plan is right, the image is not, and there was no exact drawing to look at;
- no_plan: the model wrote no chain.
"""

DIRECTIONS = {
    **plain.DIRECTIONS,
    "plan": "higher",
    "layout.iou": "higher",
    "layout.recall": "higher",
    "layout.offset": "lower",
}
"""Which way is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Score):
    """What became of one image."""

    plan_correct: bool | None = None
    """Whether the plan passes the case; None without a chain."""
    oracle_correct: bool | None = None
    """Whether an exact drawing of the plan passes; None where none was looked at."""
    fit: LayoutFit | None = None
    """How the image keeps to the plan; None without a chain."""

    @property
    def fault(self) -> str | None:
        """One of :data:`FAULTS`, or None for a correct image.

        >>> Outcome(correct=False, plan_correct=True, oracle_correct=False).fault
        'detector_doubt'
        """
        if self.correct:
            return None
        if self.plan_correct is None:
            return "no_plan"
        if not self.plan_correct:
            return "plan_wrong"
        return {None: "unchecked", True: "drawing_wrong", False: "detector_doubt"}[self.oracle_correct]


# ------------------------------------------------------------------------------------------------------------ observe
def look(
    batch: Sequence[Drawn], tools: Tools, to_color: Callable[[Case, Sequence[Detection]], Sequence[Detection]]
) -> list[dict[str, Any]]:
    """The detections of each image, with colours where its case asks for them, in one call of detector and embedder.

    Args:
        batch: The images.
        tools: Detector and CLIP.
        to_color: Those of an image's detections whose colour its score can ask for.
    """
    images = [drawn.image for drawn in batch]
    found = [[one for one in some if one.score >= LOGGED_SCORE] for some in tools.detector.detect(images)]
    wanted = [to_color(drawn.sample.case, some) for drawn, some in zip(batch, found, strict=True)]
    colored = with_colors(images, found, wanted, tools.embedder) if any(wanted) else found
    return [
        {"width": image.width, "height": image.height, "detections": as_log(some), "plan": None}
        for image, some in zip(images, colored, strict=True)
    ]


def add_plans(
    batch: Sequence[Drawn],
    observations: Sequence[dict[str, Any]],
    tools: Tools,
    look: Callable[[Sequence[Drawn]], list[dict[str, Any]]],
    in_doubt: Callable[[Case, Mapping[str, Any]], bool],
) -> None:
    """Adds the plan to each observation of an image with a chain; where in doubt, looks at the plan's exact drawing.

    Args:
        batch: The images.
        observations: Of each, as `look` has it.
        tools: With the icon world's renderer, where there is one.
        look: Observes images.
        in_doubt: Whether an image is wrong where its plan, now part of the observation, is right.
    """
    doubtful = []
    for drawn, observation in zip(batch, observations, strict=True):
        if drawn.chain:
            objects = [item.as_dict() for item in layout.parse_plan(drawn.chain)]
            observation["plan"] = {"objects": objects, "oracle": None}
            if in_doubt(drawn.sample.case, observation):
                doubtful.append((drawn, observation["plan"]))
    if tools.oracle_render is None or not doubtful:
        return
    exact = [
        dataclasses.replace(drawn, image=tools.oracle_render(drawn.chain or "", drawn.sample.seed))
        for drawn, _ in doubtful
    ]
    for (_, plan), seen in zip(doubtful, look(exact), strict=True):
        plan["oracle"] = {key: seen[key] for key in ("width", "height", "detections")}


def planned(observation: Mapping[str, Any]) -> Sequence[Detection]:
    """The chain's own boxes as detections, so that the verdict on them is the verdict on the plan."""
    objects = [layout.PlannedObject.from_dict(item) for item in observation["plan"]["objects"]]
    return layout.as_detections(objects, observation["width"], observation["height"])


def exactly_drawn(observation: Mapping[str, Any]) -> list[Detection] | None:
    """What was detected in the exact drawing of the plan; None where none was looked at."""
    oracle = observation["plan"]["oracle"]
    return None if oracle is None else from_log(oracle["detections"])


# ------------------------------------------------------------------------------------------------------------- sum up
def _plan_right(outcome: Outcome) -> Sequence[bool]:
    return [] if outcome.plan_correct is None else [outcome.plan_correct]


def summarize(groups: Sequence[Group], rng: np.random.Generator) -> dict[str, Any]:
    """Plans, faults and layouts of one task, or of all of them; for `evals.suite.plain.summarize`."""
    every = [one for _, outcomes in groups for one in outcomes if isinstance(one, Outcome)]
    faults = collections.Counter(outcome.fault for outcome in every)
    clusters = plain.clusters
    return {
        "plan": statistics.share(*clusters(groups, _plan_right)).as_dict(),
        "faults": {name: faults[name] for name in FAULTS},
        "right_despite_plan": sum(bool(one.correct) and one.plan_correct is False for one in every),
        "layout": {
            "iou": statistics.ratio(*clusters(groups, lambda o: o.fit.ious if o.fit else ()), rng).as_dict(),
            "recall": statistics.share(*clusters(groups, lambda o: o.fit.hits if o.fit else ())).as_dict(),
            "offset": statistics.ratio(*clusters(groups, lambda o: o.fit.offsets if o.fit else ()), rng).as_dict(),
        },
    }


# ------------------------------------------------------------------------------------------------------------- tables
def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Where wrong images went wrong and how drawings keep to their plans; nothing where no image had a plan."""
    return [_fault_table(scores), _layout_table(scores)] if scores["overall"]["plan"]["n"] else []


_FAULTS = {
    "plan_wrong": ("plan", "plan: its own boxes, taken as detections, fail the prompt"),
    "drawing_wrong": ("drawing", "drawing: the plan is right, the image is not"),
    "detector_doubt": ("detector\ndoubt", "detector doubt: even an exact drawing of the plan fails"),
    "unchecked": ("unchecked", "unchecked: the plan is right, and no exact drawing of it was looked at"),
    "no_plan": ("no\nplan", "no plan: there is no chain"),
}


def _fault_table(scores: Mapping[str, Any]) -> Table:
    overall = scores["overall"]
    # The last two are rare: a column only where there is something in it.
    shown = [name for index, name in enumerate(_FAULTS) if index < 3 or overall["faults"][name]]
    columns = ["plan\nright ↑", "95 %\ninterval", "wrong\nimages", *(_FAULTS[name][0] for name in shown)]
    columns.append("correct despite\na wrong plan")
    caption = "\n".join(_FAULTS[name][1] for name in shown)
    made = table("Where wrong images went wrong", columns, caption)
    for title, block in _rows(scores):
        faults = block["faults"]
        plan = [number(block["plan"]["value"]), interval(block["plan"])]
        counts = [sum(faults.values()), *(faults[name] for name in shown), block["right_despite_plan"]]
        made.add_row(title, *plan, *(str(count or "·") for count in counts), style=_style(title))
    return made


def _layout_table(scores: Mapping[str, Any]) -> Table:
    measures = {"iou": "box\nIoU ↑", "recall": "recall\n↑", "offset": "offset\n↓"}
    columns = ["boxes", *(name for title in measures.values() for name in (title, "95 %\ninterval"))]
    caption = "detected against planned boxes, class by class\n"
    caption += "box IoU: 0 where nothing was found; recall: share of boxes with IoU ≥ 0.5\n"
    caption += "offset: distance of the centres as a share of the image's sides"
    named = ((f"{name} ({title})", block["layout"][name]) for title, block in _rows(scores) for name in measures)
    caption += "".join(f"\n{line}" for line in statements.no_intervals(named))
    made = table("How drawings keep to their plans", columns, caption)
    for title, block in _rows(scores):
        cells = [str(block["layout"]["iou"]["n"])]
        for name in measures:
            measure = block["layout"][name]
            cells += [number(measure["value"]), interval(measure)]
        made.add_row(title, *cells, style=_style(title))
    return made


_ALL = "all images"


def _rows(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*((task_title(tag), block) for tag, block in scores["tasks"].items()), (_ALL, scores["overall"])]


def _style(title: str) -> str | None:
    return "bold" if title == _ALL else None
