"""ImagenHub, text-guided image editing: 179 edits with masks, captions and targets, for metrics and judges.

Source: Ku et al., *ImagenHub: Standardizing the Evaluation of Conditional Image Generation Models*, arXiv 2310.01596.
GoT's paper reports a judge's score; ``--judge`` asks one. Without ``--data`` the icon world's edition is run: as many
edits, of the same schema.

    python -m evals.imagenhub --model got --judge measured
    python -m evals.imagenhub --model folder:results --data ImagenHub/Text_Guided_Image_Editing --judge openai
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.editing import icon_cases, published, suite

if TYPE_CHECKING:
    import argparse

    from evals.editing.datasets import EditSet


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Where the data are."""
    suite.add_data_argument(group)
    group.add_argument("--split", choices=("filtered", "dev", "extra"), default="filtered", help="part of the set")


def load(args: argparse.Namespace) -> EditSet:
    """The published set, or the icon world's edition."""
    return icon_cases.icon_set("imagenhub") if args.data is None else published.load_imagenhub(args.data, args.split)


SUITE = suite.make_suite(
    name="imagenhub",
    version=4,
    protocol="imagenhub",
    title="ImagenHub",
    add_arguments=add_arguments,
    load=load,
)

if __name__ == "__main__":
    from evals.harness import cli

    raise SystemExit(cli.main(SUITE))
