"""No search for garbage among what libraries make while a command loads them: it stays until the command ends.

torch, transformers and diffusers make 800,000 objects. Python would look through them again and again while they are
made. `got.util.interrupts.leave` spares it taking them apart at the end.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

from got.util import interrupts
from got.util.postponed import postponed

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around imports of heavy libraries, and what builds models: what is made inside is never searched for garbage.

    Before and after, Python collects as ever. Inside, packages that few need are `postponed`. In a process that is no
    command of ours it does nothing, because the objects of somebody else's program are among those that would never be
    searched.
    """
    if not interrupts.IS_COMMAND or not gc.isenabled():
        yield
        return
    if gc.get_freeze_count():  # a later load, of an ablation's next cell: what it lets go of is not kept for good
        gc.collect()
    gc.disable()
    try:
        with postponed():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Around what makes very many objects and lets go of few: Python does not look through them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
