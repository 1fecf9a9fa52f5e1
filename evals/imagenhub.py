"""ImagenHub, text-guided image editing: 179 edits with masks, captions and targets, for metrics and judges.

Source: Ku et al., *ImagenHub: Standardizing the Evaluation of Conditional Image Generation Models*, arXiv 2310.01596.
GoT's paper reports a judge's score; ``--judge`` asks one. Without ``--data`` the icon world's edition is run: as many
edits, of the same schema.

    python -m evals.imagenhub --model got --judge measured
    python -m evals.imagenhub --model folder:results --data ImagenHub/Text_Guided_Image_Editing --judge openai
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from evals.editing import icon_cases, published
from evals.editing.options import PublishedOptions
from evals.editing.suite import EditingSuite
from evals.suite import CASES, option

if TYPE_CHECKING:
    from evals.editing.datasets import EditSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(PublishedOptions):
    """Where the data are."""

    split: str = option("filtered", "part of the set", stage=CASES, choices=("filtered", "dev", "extra"))


class ImagenHub(EditingSuite):
    """The benchmark."""

    name = "imagenhub"
    version = 4
    title = "ImagenHub"
    protocol = "imagenhub"
    options = Options

    def load(self, options: Options) -> EditSet:
        """The published set, or the icon world's edition."""
        if options.data is None:
            return icon_cases.icon_set(self.name)
        return published.load_imagenhub(options.data, options.split)


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("imagenhub"))
