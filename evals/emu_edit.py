"""Emu-Edit: follow an instruction, keep the rest. CLIP-I, CLIP-T, CLIPdir, DINO and L1 against the source.

Source: Sheynin et al., *Emu Edit: Precise Image Editing via Recognition and Generation Tasks*, arXiv 2311.10089, and
its released test set (3,589 edits of seven tasks, captions before and after, no targets). Without ``--data`` the icon
world's edition is run: 400 edits of eight kinds with true targets, which a detector measures as well.

    python -m evals.emu_edit --model got
    python -m evals.emu_edit --model identity --data facebook/emu_edit_test_set --variant filtered
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
    group.add_argument("--variant", choices=("all", "filtered"), default="all", help="filtered: without equal captions")


def load(args: argparse.Namespace) -> EditSet:
    """The published set, or the icon world's edition."""
    return icon_cases.icon_set("emu_edit") if args.data is None else published.load_emu_edit(args.data, args.variant)


SUITE = suite.make_suite(
    name="emu_edit",
    version=4,
    protocol="emu-edit",
    title="Emu-Edit",
    add_arguments=add_arguments,
    load=load,
)

if __name__ == "__main__":
    from evals.harness import cli

    raise SystemExit(cli.main(SUITE))
