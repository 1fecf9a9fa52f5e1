"""Edits of the icon world measured from detections: edit done, rest untouched, and where a wrong one went wrong.

An image is looked at once (`look`), and what was seen is logged; everything after that is pure.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Judgement, Score, UserError
from evals.metrics import statistics
from evals.metrics.boxes import iou_matrix, to_pixels
from evals.metrics.edits import SAME_PLACE_IOU, EditChecks, EditTruth, Thing, check_edit, ground_color
from evals.suite.objects import as_log, by_class, from_log, with_colors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from evals.core.backends import Detector, Embedder, Tools
    from evals.core.records import EditCase, JudgeQuestion

_MIN_SCORE = 0.3
"""Detections count above this."""


def look(
    images: Sequence[Image.Image], truths: Sequence[EditTruth], detector: Detector, embedder: Embedder
) -> list[dict[str, Any]]:
    """What is in images, JSON-able: detections with colours, and the tint of the background.

    The ground is read outside the boxes of detections and of the truth's objects.
    """
    found = [[d for d in detections if d.score > _MIN_SCORE] for detections in detector.detect(images)]
    observed = []
    for image, seen, truth in zip(images, with_colors(images, found, found, embedder), truths, strict=True):
        things = (*truth.kept, *truth.erased, *truth.drawn)
        covered = [d.box_xyxy_px for d in seen] + [to_pixels(t.box_1000, *image.size) for t in things]
        ground = ground_color(np.asarray(image.convert("RGB")), covered)
        observed.append({"objects": as_log(seen), "ground": ground, "width": image.width, "height": image.height})
    return observed


def measure(
    edits: Sequence[EditCase],
    results: Sequence[Image.Image],
    chains: Sequence[str | None],
    detector: Detector,
    embedder: Embedder,
) -> list[dict[str, Any]]:
    """What is in each result, in its untouched source (floor), in its target (ceiling), and in its plan."""
    truths = [truth_of(edit) for edit in edits]
    sources = [edit.source.load() for edit in edits]
    targets = [edit.target.load() for edit in edits if edit.target is not None]
    seen = look([*results, *sources, *targets], truths * 3, detector, embedder)
    count = len(edits)
    return [
        {
            "result": seen[i],
            "source": seen[count + i],
            "target": seen[2 * count + i],
            "plan": _plan(edits[i], truth, chain, results[i].width),
        }
        for i, (truth, chain) in enumerate(zip(truths, chains, strict=True))
    ]


def _plan(edit: EditCase, truth: EditTruth, chain: str | None, side_px: int) -> dict[str, Any] | None:
    """What the chain plans; None if the chain was given to the model, or if it is only the last of several."""
    if chain is None or "given_chain" in edit.extra or "turns" in edit.extra:
        return None
    return planned(truth, chain, side_px) or _NO_PLAN


_NO_PLAN: dict[str, Any] = {"objects": [], "ground": None, "width": 1, "height": 1}
"""A chain that plans no edit: nothing of it can be right."""


def truth_of(edit: EditCase) -> EditTruth:
    """The truth of an embedded case.

    Raises:
        UserError: The case is of a published set, of which no truth is known.
    """
    if "truth" not in edit.extra:
        raise UserError(
            f"--judge measured needs the icon world's edition; nothing but a judge that looks can score {edit.id}"
        )
    return EditTruth.from_dict(edit.extra["truth"])


def checks(truth: EditTruth, observed: dict[str, Any]) -> EditChecks:
    """The truth held against what was observed. Pure."""
    seen = from_log(observed["objects"])
    return check_edit(truth, seen, observed["ground"], observed["width"], observed["height"])


def planned(truth: EditTruth, chain: str, side_px: int) -> dict[str, Any] | None:
    """What a result that follows a chain to the letter would show, as `look` has it; None if it plans no edit."""
    from got import iconworld

    operation = iconworld.read_operation(chain)
    if operation is None:
        return None
    before = [*truth.kept, *truth.erased]
    goes = iou_matrix([t.box_1000 for t in before], list(operation.erased)) if operation.erased else None
    stays = [t for i, t in enumerate(before) if goes is None or goes[i].max() < SAME_PLACE_IOU]
    comes = [Thing(name=name, color=color or "", box_1000=box) for name, color, box in operation.drawn]
    objects = [
        {"name": t.name, "score": 1.0, "box_xyxy_px": list(to_pixels(t.box_1000, side_px, side_px)), "color": t.color}
        for t in (*stays, *comes)
    ]
    ground = operation.ground_color or truth.ground_color
    return {"objects": objects, "ground": ground, "width": side_px, "height": side_px}


# ---------------------------------------------------------------------------------------------------------------- score
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredScore(Score):
    """Whether an edit is done with the rest untouched."""

    checks: dict[str, EditChecks]
    """Of the result, of the untouched source (floor), of the target (ceiling), and of the plan, if there was one."""

    @property
    def fault(self) -> str | None:
        """``plan_wrong`` or ``drawing_wrong``; None if the result is right or had no plan."""
        if holds(self.checks["result"]) or "plan" not in self.checks:
            return None
        return "drawing_wrong" if holds(self.checks["plan"]) else "plan_wrong"


def holds(found: EditChecks) -> bool:
    """Whether an edit is done and the rest untouched."""
    return found.done and found.untouched


def score(truth: EditTruth, seen: dict[str, Any]) -> MeasuredScore:
    """What was seen (`measure`), held against the truth. Pure."""
    found = {side: checks(truth, seen[side]) for side in (*_SIDES, "plan") if seen[side] is not None}
    result = found["result"]
    faults = [*(f"not so: {name}" for name, right in result.edit.items() if not right)]
    faults += [f"touched: {name.removesuffix(' stays')}" for name, right in result.rest.items() if not right]
    kept = by_class(from_log(seen["result"]["objects"]))
    return MeasuredScore(correct=not faults, reason="; ".join(faults), kept=kept, checks=found)


def summarize(scores: Sequence[MeasuredScore], groups: Sequence[str]) -> dict[str, Any]:
    """Shares of edits done, of rests untouched, and of both, with floor and ceiling; and where the others failed.

    Args:
        scores: Of each result.
        groups: The source image of each.
    """
    shares = {}
    for name, right in _SHARES.items():
        values = {side: [float(right(one.checks[side])) for one in scores] for side in _SIDES}
        shares[name] = {
            **statistics.share(*statistics.by_cluster(values["result"], groups)).as_dict(),
            "identity": float(np.mean(values["source"])),
            "target": float(np.mean(values["target"])),
        }
    plans = [holds(one.checks["plan"]) for one in scores if "plan" in one.checks]
    faults = [one.fault for one in scores]
    return {
        "shares": shares,
        "plans": len(plans),
        "plans_right": float(np.mean(plans)) if plans else None,
        "wrong_plan": faults.count("plan_wrong"),
        "wrong_drawing": faults.count("drawing_wrong"),
    }


_SIDES = ("result", "source", "target")
_SHARES: dict[str, Callable[[EditChecks], bool]] = {
    "edit done": lambda found: found.done,
    "rest untouched": lambda found: found.untouched,
    "both": holds,
}


# ---------------------------------------------------------------------------------------------------------------- judge
class MeasuredJudge:
    """Scores icon edits from detections, on the scales of a judge that looks: never wavers, never fails.

    Success is ten times the share of the edit's checks that hold. Preservation is ten times the share of the rest's
    checks that hold, times the share of pixels outside the edit's boxes that stay within `PIXEL_TOLERANCE` grey levels.
    The final score is the lower one, over 10. Undoing part of an edit never raises success, touching more never raises
    preservation.
    """

    name = "got/measured@1"

    def __init__(self, detector: Detector, embedder: Embedder) -> None:
        self._detector, self._embedder = detector, embedder

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        """One judgement per question."""
        truths = [truth_of(question.case) for question in questions]
        seen = look([question.result for question in questions], truths, self._detector, self._embedder)
        judged = []
        for question, truth, observed in zip(questions, truths, seen, strict=True):
            scores = measured_scores(checks(truth, observed), _kept_share(question))
            judged.append(
                Judgement(judge=self.name, repeat=question.repeat, scores_0_10=scores, value=min(scores.values()) / 10)
            )
        return judged


PIXEL_TOLERANCE = 24
"""Grey levels, in any channel, that an autoencoder may move a pixel by without having touched it."""


def measured_scores(found: EditChecks, kept_share: float) -> dict[str, float]:
    """Success and preservation, 0 to 10. Pure.

    Args:
        found: The checks of a result.
        kept_share: Of the pixels that the edit leaves alone, those that are as before, in [0, 1].

    >>> measured_scores(EditChecks(edit={"a": True, "b": False}, rest={"c": True}), 0.9)
    {'success': 5.0, 'preservation': 9.0}
    """
    success = float(np.mean(list(found.edit.values())))
    rest = float(np.mean(list(found.rest.values()))) if found.rest else 1.0
    return {"success": 10 * success, "preservation": 10 * rest * kept_share}


def _kept_share(question: JudgeQuestion) -> float:
    before = np.asarray(question.source.convert("RGB"), np.int16)
    after = np.asarray(question.result.convert("RGB").resize(question.source.size), np.int16)
    assert question.case.mask is not None, "embedded cases have masks"
    outside = ~question.case.mask.load_mask()
    if not outside.any():
        return 1.0
    return float((np.abs(after - before).max(-1) <= PIXEL_TOLERANCE)[outside].mean())


def make_measured(_: str, options: Any, tools: Tools) -> MeasuredJudge:
    """The judge of edits of the icon world, which has no settings."""
    return MeasuredJudge(tools.detector, tools.embedder)
