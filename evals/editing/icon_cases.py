"""The icon world's editions of the editing suites: cases by seed, with true targets, masks and captions.

A case's truth lies in ``extra["truth"]`` (see `evals.metrics.edits`), the chain that a flawless reasoner would write in
``extra["chain"]``.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import Any

import numpy as np

from evals.core.records import EditCase, EncodedImage
from evals.editing.datasets import EditSet, Origin
from evals.generators.oracle import draw
from evals.metrics.boxes import to_pixels

ICON_EDITS = Origin(
    name="icon world",
    licence="made by this program from a seed",
    page="got/iconworld",
)
COUNTS = {"emu_edit": 400, "imagenhub": 179, "reason_edit": 300}
"""Cases of each suite's edition: ImagenHub's own number, and 50 of each task elsewhere."""
_TASKS = {
    "add": "add", "remove": "remove", "replace": "local", "recolor": "texture",
    "move": "move", "background": "background", "count": "count", "global": "global",
}  # fmt: skip
"""Our kinds of edits under Emu-Edit's names; moving and counting have none there."""


# ----------------------------------------------------------------------------------------------------------------- data
@functools.cache
def icon_set(suite: str) -> EditSet:
    """The embedded edition of a suite: `emu_edit`, `imagenhub` or `reason_edit`.

    Kinds take turns, so that any beginning of the list has all of them.
    """
    from got import iconworld

    kinds = iconworld.REASONING_CATEGORIES if suite == "reason_edit" else iconworld.EDIT_KINDS
    sample = iconworld.sample_reasoning_edit if suite == "reason_edit" else iconworld.sample_edit
    cases = []
    for i in range(COUNTS[suite]):
        kind = kinds[i % len(kinds)]
        edit = sample(iconworld.stable_rng("edit suite", suite, i), kind)
        category = kind if suite == "reason_edit" else _TASKS[kind]
        cases.append(_case(f"{category}-{i:04d}", category, edit))
    notes = ("embedded edition: icons, with true targets; no numbers of photographs beside these",)
    return EditSet(origin=ICON_EDITS, variant=f"{suite} edition", cases=tuple(cases), notes=notes)


@functools.cache
def intervention_set(count: int) -> EditSet:
    """Prompts whose plan a person changed: ``extra["given_chain"]`` is to be drawn, and no source is shown.

    The plan is a flawless one, the same for every model. Source and target are the icon world's renders of the plan as
    it was and as it is: what an image that ignores the change, and one that follows it, would show.
    """
    from got import iconworld

    cases = []
    for i in range(count):
        kind = iconworld.INTERVENTIONS[i % len(iconworld.INTERVENTIONS)]
        edit = iconworld.sample_intervention(iconworld.stable_rng("interventions", i), kind)
        case = _case(f"{kind}-{i:04d}", kind, edit)
        cases.append(dataclasses.replace(case, extra={**case.extra, "given_chain": edit.chain}))
    return EditSet(origin=ICON_EDITS, variant="interventions", cases=tuple(cases))


@functools.cache
def multi_turn_set(count: int, most_turns: int) -> EditSet:
    """Instructions of two steps; ``extra["turns"]`` is how many images a model may take for them.

    Two categories: steps that change objects only, and those of which one changes the background.
    """
    from got import iconworld

    cases = []
    for i in range(count):
        edit = iconworld.sample_steps(iconworld.stable_rng("steps", i))
        case = _case(f"steps-{i:04d}", "ground too" if edit.wanted else "objects", edit)
        cases.append(dataclasses.replace(case, extra={**case.extra, "turns": most_turns}))
    return EditSet(origin=ICON_EDITS, variant="two steps", cases=tuple(cases))


def _case(name: str, category: str, edit: Any) -> EditCase:
    source, target = (functools.partial(_png, getattr(edit, side)) for side in ("source", "target"))
    return EditCase(
        id=name,
        instruction=edit.instruction,
        source=EncodedImage(name=f"{name} source", read=source),
        target=EncodedImage(name=f"{name} target", read=target),
        mask=EncodedImage(name=f"{name} mask", read=functools.partial(_mask, edit)),
        captions={"source": _caption(edit.source), "target": _caption(edit.target), **_object(edit)},
        category=category,
        group=name,
        extra={"truth": edit.truth(), "chain": edit.chain},
    )


def _object(edit: Any) -> dict[str, str]:
    """Words for what is inside the mask, if it is one object; none for a move: its mask has the old place, too."""
    if edit.kind == "move" or len(edit.drawn) != 1:
        return {}
    return {"object": f"{edit.drawn[0].color} {edit.drawn[0].name}"}


def _caption(scene: Any) -> str:
    from got import iconworld

    words = iconworld.described(scene)
    ground = f" on a {scene.ground_color} background" if scene.ground_color else ""
    return f"a photo of {words}{ground}"


@functools.lru_cache(maxsize=256)  # a batch asks for its sources and targets several times
def _png(scene: Any) -> bytes:
    buffer = io.BytesIO()
    draw(scene).save(buffer, "PNG")
    return buffer.getvalue()


def _mask(edit: Any) -> bytes:
    """White where the edit belongs: boxes of what goes and comes, or all but what is kept if the background changes."""
    from PIL import Image, ImageDraw

    side = draw(edit.source).width
    whole = edit.source.ground_color != edit.target.ground_color
    mask = Image.new("L", (side, side), 255 if whole else 0)
    for item in edit.kept if whole else (*edit.erased, *edit.drawn):
        x1, y1, x2, y2 = to_pixels(item.box_1000, side, side)
        ImageDraw.Draw(mask).rectangle(
            (int(x1), int(y1), int(np.ceil(x2)) - 1, int(np.ceil(y2)) - 1), 0 if whole else 255
        )
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()
