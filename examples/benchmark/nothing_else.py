"""Nothing else: does an image show what its prompt names, in its colour, and nothing that nobody asked for?

40 prompts in two tasks, of one object and of two. Right are images in which every object is found once and no other
object is found. Measured beside it: the share of the wanted objects, and the number of the others.

    python -m evals.run nothing_else --model got --limit 12
    python -m evals.run nothing_else --model plain:grey
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from evals.suite import CLASSES, COLORS, VERDICT, Case, Context, Drawn, Score, Suite, Tools, option
from evals.suite.objects import as_log, by_class, from_log, with_colors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROMPTS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What decides a score; `--from verdict` may change it."""

    threshold: float = option(
        0.3, "a detection counts if its score is above this (default: %(default)s)", stage=VERDICT, low=0.05, high=1.0
    )


class NothingElse(Suite[Options]):
    """The benchmark."""

    name = "nothing_else"
    title = "Nothing else"
    options = Options

    def cases(self, options: Options, context: Context) -> list[Case]:
        """One object and two by turns; the numbers 7 and 3 lead to every class and every colour."""
        found = []
        for number in range(PROMPTS):
            objects = [
                {"class": CLASSES[(7 * number + 40 * i) % 80], "count": 1, "color": COLORS[(3 * number + i) % 10]}
                for i in range(1 + number % 2)
            ]
            prompt = "a photo of " + " and ".join(f"one {each['color']} {each['class']}" for each in objects)
            tag = ("one", "two")[number % 2]
            metadata = {"tag": tag, "include": objects, "prompt": prompt}
            found.append(Case(id=f"{number:05d}", prompt=prompt, tag=tag, metadata=metadata))
        return found

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """It names colours."""
        return True

    def observe(self, batch: Sequence[Drawn], tools: Tools, options: Options) -> list[dict[str, Any]]:
        """All objects with their colours."""
        images = [drawn.image for drawn in batch]
        found = tools.detector.detect(images)
        colored = with_colors(images, found, found, tools.embedder)
        return [
            {"width": image.width, "height": image.height, "detections": as_log(some)}
            for image, some in zip(images, colored, strict=True)
        ]

    def score(self, case: Case, observation: Mapping[str, Any], options: Options) -> Score:
        """Every wanted object once, and no other."""
        kept = [one for one in from_log(observation["detections"]) if one.score > options.threshold]
        left = list(kept)
        missing = []
        for item in case.metadata["include"]:
            match = next((one for one in left if (one.name, one.color) == (item["class"], item["color"])), None)
            if match is None:
                missing.append(f"no {item['color']} {item['class']}")
            else:
                left.remove(match)
        reasons = [*missing, *(f"nobody asked for a {one.color} {one.name}" for one in left)]
        share = 1 - len(missing) / len(case.metadata["include"])
        return Score(
            correct=not reasons,
            reason="\n".join(reasons),
            kept=by_class(kept),
            values={"wanted objects": share, "other objects": float(len(left))},
        )
