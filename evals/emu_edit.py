"""Emu-Edit: follow an instruction, keep the rest. CLIP-I, CLIP-T, CLIPdir, DINO and L1 against the source.

Source: Sheynin et al., *Emu Edit: Precise Image Editing via Recognition and Generation Tasks*, arXiv 2311.10089, and
its released test set (3,589 edits of seven tasks, captions before and after, no targets). Without ``--data`` the icon
world's edition is run: 400 edits of eight kinds with true targets, which a detector measures as well.

    python -m evals.emu_edit --model got
    python -m evals.emu_edit --model identity --data facebook/emu_edit_test_set --variant filtered
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

    variant: str = option("all", "filtered: without equal captions", stage=CASES, choices=("all", "filtered"))


class EmuEdit(EditingSuite):
    """The benchmark."""

    name = "emu_edit"
    version = 4
    title = "Emu-Edit"
    protocol = "emu-edit"
    options = Options

    def load(self, options: Options) -> EditSet:
        """The published set, or the icon world's edition."""
        if options.data is None:
            return icon_cases.icon_set(self.name)
        return published.load_emu_edit(options.data, options.variant)


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("emu_edit"))
