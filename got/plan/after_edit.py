"""What an image holds after an edit, as a plan of all its objects."""

from __future__ import annotations

import re

from got.plan.chain import Chain, Region, format_box, iou

_NOW = re.compile(r".*\bnow there (?:is|are) ([^.]*)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\s*<\|box_start\|>.*?<\|box_end\|> \(\w+\)")
_SAME_PLACE = 0.3
"""Overlap of boxes from which an edit's object is one that was there."""


def after_edit(before: Chain, edit: Chain) -> Chain | None:
    """The plan of an image after an edit.

    Args:
        before: All objects of the image that was edited.
        edit: The edit's chain. Its last sentence says what there is now; boxes are taken from both chains.

    Returns:
        A plan to draw, or None if the edit's chain does not say what there is now, or says nothing is.

    >>> before = Chain.read("there are a red cup (0,0),(300,300) and a dog (500,500),(900,900)")
    >>> told = "move the dog (500,510),(900,910) up : the dog (500,0),(900,400) . now there are a red cup and a dog"
    >>> edit = Chain.read(told)
    >>> [(region.text, region.box_1000) for region in after_edit(before, edit).regions]
    [('a red cup', (0, 0, 300, 300)), ('a dog', (500, 0, 900, 400))]
    """
    said = _NOW.match(_BOX.sub("", edit.text))
    names = [] if said is None else [name.strip() for name in re.split(r",| and ", said[1]) if name.strip()]
    touched = [_touched(before, region) for region in edit.regions]
    there = [region for region in before.regions if region not in touched] + list(reversed(edit.regions))
    plan = Chain.parse("")
    for name in names:
        region = next((one for one in there if _noun(one.text) == _noun(name)), None)
        if region is not None:
            there.remove(region)
            plan = plan.add(name, region.box_1000) if plan.regions else _first(name, region)
    return plan if plan.regions else None


def _first(name: str, region: Region) -> Chain:
    return Chain.parse(f"there is {name} {format_box(region.box_1000, 'red')}")


def _touched(before: Chain, region: Region) -> Region | None:
    """The object that was there before and is meant by a region of the edit."""
    alike = [one for one in before.regions if _noun(one.text) == _noun(region.text)]
    nearest = max(alike, key=lambda one: iou(one.box_1000, region.box_1000), default=None)
    return nearest if nearest is not None and iou(nearest.box_1000, region.box_1000) >= _SAME_PLACE else None


def _noun(name: str) -> str:
    return name.lower().split()[-1] if name.split() else ""
