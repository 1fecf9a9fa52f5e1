"""What the studio (`python -m got studio`) says of an image: which planned objects a detector finds, and the verdict.

It is the entry point ``observer`` of the group ``got.studio``; its class is described there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evals.core.backends import Tools
from evals.core.records import Drawn, Sample, UserError
from evals.core.vocabulary import task_title
from evals.detectors.registry import find_detector, make_detector
from evals.embedders.registry import make_embedder
from evals.geneval import prompts, scores
from evals.geneval.suite import GenEval, Options
from evals.metrics import layout
from evals.suite.objects import with_colors

if TYPE_CHECKING:
    from PIL import Image

    from evals.core.records import Case, Detection


class Observer:
    """Looks at images with a detector, and with the embedder that goes with it.

    Args:
        detector: As of ``--detector``.
        device: Where it computes.

    Raises:
        UserError: It cannot be had.
    """

    def __init__(self, detector: str, device: str) -> None:
        self._embedder = find_detector(detector)[0].embedder
        self._tools = Tools(
            detector=lambda: make_detector(detector, device),
            embedder=lambda: make_embedder(self._embedder or "", device),
        )
        self._suite, self._options = GenEval(), Options()
        _ = self._tools.detector  # what cannot be had is better known now, and the first image need not wait for it
        _ = self._embedder and self._tools.embedder

    @functools.cached_property
    def _cases(self) -> dict[str, Case]:
        return {case.prompt: case for case in prompts.cases(prompts.generate())}

    def observe(self, image: Image.Image, prompt: str, chain: str, seed: int) -> dict[str, Any]:
        """What is seen: the planned objects, everything found, and the verdict where the prompt is one of GenEval's."""
        found = [one for one in self._tools.detector.detect([image])[0] if one.score > self._options.threshold]
        if self._embedder is not None and found:
            found = with_colors([image], [found], [found], self._tools.embedder)[0]
        planned = [item for item in layout.parse_plan(chain) if item.name is not None]
        fit = layout.fit(layout.as_detections(planned, *image.size), found, *image.size)
        seen = [
            {
                "name": item.name,
                "color": item.color,
                "box_1000": item.box_1000,
                "iou": iou,
                "found": hit,
                "seen_color": None if match is None else found[match].color,
            }
            for item, iou, hit, match in zip(planned, fit.ious, fit.hits, fit.matches, strict=True)
        ]
        objects = [_described(one, image) for one in found]
        return {"planned": seen, "objects": objects, "verdict": self._verdict(image, prompt, chain, seed)}

    def _verdict(self, image: Image.Image, prompt: str, chain: str, seed: int) -> dict[str, Any] | None:
        """The verdict in the report's words."""
        case = self._cases.get(prompt)
        if case is None or not self._suite.classes(case) <= self._tools.detector.classes:
            return None
        if self._embedder is None and self._suite.needs_embedder([case]):
            return None
        drawn = Drawn(sample=Sample(case=case, index=0, seed=seed), image=image, chain=chain)
        try:
            (observation,) = self._suite.observe([drawn], self._tools, self._options)
            score = self._suite.score(case, observation, self._options)
        except UserError:
            return None
        said = scores.explained(score.reason, case.tag, observation["detections"], self._options.rules())
        return {
            "case": case.id,
            "task": task_title(case.tag),
            "correct": score.correct,
            "reason": said,
            "fault": score.fault,
        }


def _described(one: Detection, image: Image.Image) -> dict[str, Any]:
    sides = (*image.size, *image.size)
    box = [round(1000 * float(value) / side) for value, side in zip(one.box_xyxy_px, sides, strict=True)]
    return {"name": one.name, "color": one.color, "score": float(one.score), "box_1000": box}
