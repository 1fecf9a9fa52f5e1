"""Edits of the icon world measured from detections: edit done, rest untouched, and where a wrong one went wrong.

A picture is looked at once (`look`), and what was seen is logged; everything after that is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Detection, Judgement, UserError
from evals.core.vocabulary import COLORS
from evals.generators.oracle import icon_world
from evals.metrics import statistics
from evals.metrics.boxes import iou_matrix, to_pixels
from evals.metrics.edits import SAME_PLACE_IOU, EditChecks, EditTruth, Thing, check_edit, ground_color

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from evals.core.protocols import Detector, Embedder
    from evals.core.records import EditCase, JudgeQuestion

SCORE = 0.3
"""Detections count above this."""


def look(
    pictures: Sequence[Image.Image], truths: Sequence[EditTruth], detector: Detector, embedder: Embedder
) -> list[dict[str, Any]]:
    """What is in pictures, JSON-able: detections with colours, and the tint of the ground.

    The ground is read outside the boxes of detections and of the truth's objects.
    """
    from evals.embedders.colors import classify_colors

    found = [[d for d in detections if d.score > SCORE] for detections in detector.detect(pictures)]
    crops = [_crop(picture, d) for picture, seen in zip(pictures, found, strict=True) for d in seen]
    colors = iter(classify_colors(embedder, crops, [d.name for seen in found for d in seen], COLORS))
    observed = []
    for picture, seen, truth in zip(pictures, found, truths, strict=True):
        things = (*truth.kept, *truth.erased, *truth.drawn)
        covered = [d.box_xyxy_px for d in seen] + [to_pixels(t.box_1000, *picture.size) for t in things]
        objects = [
            {
                "name": d.name,
                "score": float(d.score),
                "box_xyxy_px": [float(v) for v in d.box_xyxy_px],
                "color": next(colors),
            }
            for d in seen
        ]
        ground = ground_color(np.asarray(picture.convert("RGB")), covered)
        observed.append({"objects": objects, "ground": ground, "width": picture.width, "height": picture.height})
    return observed


def _crop(picture: Image.Image, detection: Detection) -> Image.Image:
    x1, y1, x2, y2 = (round(value) for value in detection.box_xyxy_px)
    return picture.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


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
    """What the chain plans; a chain that was given is not the model's plan, the last of several not all of it."""
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
    seen = [
        Detection(name=o["name"], score=o["score"], box_xyxy_px=tuple(o["box_xyxy_px"]), color=o["color"])
        for o in observed["objects"]
    ]
    return check_edit(truth, seen, observed["ground"], observed["width"], observed["height"])


def planned(truth: EditTruth, chain: str, side_px: int) -> dict[str, Any] | None:
    """What a result would show that follows a chain to the letter, in the form of `look`; None if it plans no edit."""
    operation = icon_world().read_operation(chain)
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


def details(detections: Sequence[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Boxes and scores by class, as GenEval's results have them."""
    found: dict[str, list[list[float]]] = {}
    for item in detections:
        found.setdefault(item["name"], []).append([*item["box_xyxy_px"], item["score"]])
    return found


# -------------------------------------------------------------------------------------------------------------- verdict
def verdict(truth: EditTruth, measured: dict[str, Any]) -> tuple[bool, str]:
    """Whether an edit is done with the rest untouched, and what is wrong if not. Pure."""
    found = checks(truth, measured["result"])
    faults = [*(f"not so: {name}" for name, holds in found.edit.items() if not holds)]
    faults += [f"touched: {name.removesuffix(' stays')}" for name, holds in found.rest.items() if not holds]
    return not faults, "; ".join(faults)


def stage_of(truth: EditTruth, measured: dict[str, Any]) -> str | None:
    """Where a wrong result went wrong: `plan`, `drawing`, or None if it is right or had no plan."""
    if verdict(truth, measured)[0] or measured["plan"] is None:
        return None
    plan = checks(truth, measured["plan"])
    return "drawing" if plan.done and plan.untouched else "plan"


def summarize(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of edits done, of rests untouched, and of both, with floor and ceiling; and where the others failed.

    Args:
        lines: Observations with ``measured``, ``truth`` and ``group``.
    """
    groups = [line["group"] for line in lines]
    found = {side: [checks(_truth(line), line["measured"][side]) for line in lines] for side in _SIDES}
    shares = {}
    for name, holds in _SHARES.items():
        values = {side: [float(holds(one)) for one in found[side]] for side in _SIDES}
        shares[name] = {
            **statistics.share(*statistics.by_cluster(values["result"], groups)).as_dict(),
            "identity": float(np.mean(values["source"])),
            "target": float(np.mean(values["target"])),
        }
    stages = [stage_of(_truth(line), line["measured"]) for line in lines]
    plans = [line["measured"]["plan"] for line in lines]
    with_plan = [checks(_truth(line), plan) for line, plan in zip(lines, plans, strict=True) if plan is not None]
    right = [plan.done and plan.untouched for plan in with_plan]
    return {
        "shares": shares,
        "plans": len(right),
        "plans_right": float(np.mean(right)) if right else None,
        "wrong_plan": stages.count("plan"),
        "wrong_drawing": stages.count("drawing"),
    }


_SIDES = ("result", "source", "target")
_SHARES: dict[str, Callable[[EditChecks], bool]] = {
    "edit done": lambda found: found.done,
    "rest untouched": lambda found: found.untouched,
    "both": lambda found: found.done and found.untouched,
}


def _truth(line: dict[str, Any]) -> EditTruth:
    return EditTruth.from_dict(line["truth"])


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
