"""How good the icon detector is: precision, calibration, GenEval on flawless images, silence on empty ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.assets.training import icon_scenes
from evals.core.records import Detection, sample_seed
from evals.core.vocabulary import CLASSES, TASKS
from evals.detectors.icon import Calibration, IconDetector
from evals.geneval import prompts as geneval_prompts
from evals.geneval import suite
from evals.metrics.boxes import iou_matrix
from got import iconworld

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from evals.assets.training.icon_scenes import Batch

MATCH_IOU = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matches:
    """Detections of many images, each judged right or wrong, and how many objects there were."""

    scores: NDArray[Any]
    """float (d,) raw scores."""
    labels: NDArray[Any]
    """int (d,)"""
    right: NDArray[Any]
    """bool (d,): overlaps a true object of its class that no better detection has taken."""
    objects: NDArray[Any]
    """int (classes,) true objects of each class."""


def match(
    scores: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any], true_labels: NDArray[Any], true_boxes: NDArray[Any]
) -> NDArray[Any]:
    """Which detections of one image are right, bool (d,). Detections come best first; an object is taken once.

    >>> square = np.array([[0.0, 0, 10, 10]])
    >>> match(np.array([0.9, 0.8]), np.array([3, 3]), np.repeat(square, 2, 0), np.array([3]), square).tolist()
    [True, False]
    """
    right = np.zeros(len(scores), bool)
    if len(scores) == 0 or len(true_labels) == 0:
        return right
    overlap = iou_matrix(boxes, true_boxes) * (labels[:, None] == true_labels)
    for i in range(len(scores)):
        best = int(overlap[i].argmax())
        if overlap[i, best] >= MATCH_IOU:
            right[i] = True
            overlap[:, best] = 0
    return right


def judge(detector: IconDetector, batches: Iterable[Batch]) -> Matches:
    """Run the detector on held-out scenes and compare with the truth."""
    scores, labels, right = [], [], []
    objects = np.zeros(len(CLASSES), int)
    for batch in batches:
        pixels = batch.images.round().byte().permute(0, 2, 3, 1).numpy()
        found = detector.raw_detections(pixels)
        for (s, c, b), true_boxes, true_labels in zip(found, batch.boxes.numpy(), batch.labels.numpy(), strict=True):
            there = true_labels >= 0
            objects += np.bincount(true_labels[there], minlength=len(CLASSES))
            scores.append(s)
            labels.append(c)
            right.append(match(s, c, b, true_labels[there], true_boxes[there]))
    return Matches(
        scores=np.concatenate(scores), labels=np.concatenate(labels), right=np.concatenate(right), objects=objects
    )


def average_precision(matches: Matches) -> dict[str, float]:
    """AP at IoU 0.5 of each class that occurs: area under the precision envelope over recall, in [0, 1]."""
    result = {}
    for label in np.flatnonzero(matches.objects):
        mine = matches.labels == label
        right = matches.right[mine][np.argsort(-matches.scores[mine], kind="stable")]
        hits = np.cumsum(right)
        precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
        result[CLASSES[label]] = float((precision * right).sum() / matches.objects[label])
    return result


def calibrate(matches: Matches) -> Calibration:
    """Platt's fit of P(right | raw score), by Newton's method on two parameters."""
    raw = np.clip(matches.scores, 1e-7, 1 - 1e-7)
    design = np.stack([np.log(raw / (1 - raw)), np.ones_like(raw)], 1).astype(np.float64)
    # Platt's targets: one more right and one more wrong than was seen, so that perfect data give finite answers.
    good, bad = matches.right.sum(), (~matches.right).sum()
    target = np.where(matches.right, (good + 1) / (good + 2), 1 / (bad + 2))
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -40, 40)))
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        weights = weights - np.clip(np.linalg.solve(hessian, gradient), -1, 1)
    return Calibration(slope=max(float(weights[0]), 0.05), bias=float(weights[1]))


def oracle_geneval(detector: IconDetector, every: int = 1) -> dict[str, float]:
    """GenEval on the icon world's flawless images of its prompts; colours are the scene's own.

    Args:
        detector: calibrated.
        every: take each prompt of this many.

    Returns:
        score of each task, and their mean as `overall`; in [0, 1], higher is better.
    """
    cases = geneval_prompts.cases(geneval_prompts.generate())[::every]
    scenes = [
        iconworld.scene_from_include(case.metadata["include"], sample_seed("detector", case.id, 0, 0)) for case in cases
    ]
    correct: dict[str, list[bool]] = {task: [] for task in TASKS}
    for start in range(0, len(cases), 50):
        drawn = [iconworld.render(scene, 64) for scene in scenes[start : start + 50]]
        found = detector.detect([_image(image.image) for image in drawn])
        for case, scene, image, seen in zip(
            cases[start : start + 50], scenes[start : start + 50], drawn, found, strict=True
        ):
            named = _true_colors(seen, scene, image.boxes_xyxy_px)
            correct[case.tag].append(bool(suite.verdict(case, named, suite.Options()).correct))
    scores = {task: float(np.mean(right)) for task, right in correct.items()}
    return {"overall": float(np.mean(list(scores.values()))), **scores}


def _image(pixels: NDArray[Any]) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _true_colors(found: Sequence[Detection], scene: Any, boxes: NDArray[Any]) -> list[Detection]:
    """Detections with the colour of the object that each overlaps most."""
    if not found:
        return []
    nearest = iou_matrix([d.box_xyxy_px for d in found], boxes).argmax(1)
    return [dataclasses.replace(d, color=scene.objects[i].color) for d, i in zip(found, nearest, strict=True)]


def silence(detector: IconDetector, count: int = 400) -> dict[str, float]:
    """Share of empty images with any detection above 0.3, and the highest score on them; both should be near 0."""
    found = detector.detect([_image(pixels) for pixels in icon_scenes.empty_pictures(count, 64, seed=1)])
    best = [max((d.score for d in seen), default=0.0) for seen in found]
    return {"above_threshold": float(np.mean(np.array(best) > 0.3)), "highest_score": max(best)}


def report(detector: IconDetector, scenes: int = 1500) -> dict[str, Any]:
    """Fits the calibration on one held-out set, measures on others, and returns all numbers of the model card."""
    size_px = detector.image_size_px
    fitted_on = [
        *icon_scenes.held_out(scenes // 2, size_px, seed=1),
        *icon_scenes.held_out(scenes // 2, size_px, seed=2, degraded=True),
    ]
    detector.calibration = Calibration(slope=1.0, bias=0.0)
    calibration = calibrate(judge(detector, fitted_on))
    clean = judge(detector, icon_scenes.held_out(scenes, size_px, seed=3))
    soft = judge(detector, icon_scenes.held_out(scenes, size_px, seed=4, degraded=True))
    detector.calibration = calibration
    per_class = average_precision(clean)
    sure = calibration(clean.scores)
    return {
        "map50": float(np.mean(list(per_class.values()))),
        "map50_degraded": float(np.mean(list(average_precision(soft).values()))),
        "recall_above_0.9": float(clean.right[sure > 0.9].sum() / clean.objects.sum()),
        "precision_above_0.9": float(clean.right[sure > 0.9].mean()) if (sure > 0.9).any() else 0.0,
        "precision_above_0.3": float(clean.right[sure > 0.3].mean()) if (sure > 0.3).any() else 0.0,
        "oracle_geneval": oracle_geneval(detector, every=1 if scenes >= 500 else 25),
        "empty_pictures": silence(detector, count=max(8, scenes // 3)),
        "calibration": dataclasses.asdict(calibration),
        "ap50_per_class": per_class,
    }
