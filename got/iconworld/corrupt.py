"""Plans made wrong on purpose, to see how much an image owes to its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from got.plan.chain import Chain

if TYPE_CHECKING:
    from got.plan.chain import Box1000

CORRUPTIONS = ("jitter", "drop", "swap")


def corrupted(text: str, how: str, amount: float, rng: np.random.Generator) -> str:
    """A chain with some of its boxes or names made wrong.

    Args:
        text: The chain.
        how: ``"jitter"`` moves each box by normal noise of `amount` times the image's side, and keeps it inside;
            in steps of a hundredth, so that coordinates stay as round as those the icon world's chains have;
            ``"drop"`` takes away each box with probability `amount` and leaves its words; ``"swap"`` gives that share
            of the names, chosen at random, to each other's boxes.
        amount: 0 leaves the chain as it is.
        rng: Fixes everything.

    >>> boxes = [f"<|box_start|>({x},0),({x + 300},300)<|box_end|> (red)" for x in (0, 500)]
    >>> chain, rng = f"a dog {boxes[0]} and a cat {boxes[1]}", np.random.default_rng(0)
    >>> corrupted(chain, "drop", 1.0, rng)
    'a dog and a cat'
    >>> [region.text for region in Chain.parse(corrupted(chain, "swap", 1.0, rng)).regions]
    ['a cat', 'a dog']

    Raises:
        ValueError: If there is no such way to corrupt a chain.
    """
    chain = Chain.parse(text)
    if how == "jitter":
        for i, region in enumerate(chain.regions):
            chain = chain.edit(i, box_1000=_moved(region.box_1000, 10 * np.round(rng.normal(0, 100 * amount, 2))))
        return chain.text
    chosen = [i for i in range(len(chain.regions)) if rng.random() < amount]
    if how == "drop":
        for i in reversed(chosen):
            _, name_end, _, box_end = chain.spans[i]
            text = text[:name_end] + text[box_end:]
        return text
    if how == "swap":
        names = [chain.regions[i].text for i in chosen]
        for place, i in enumerate(chosen):
            chain = chain.edit(i, text=names[(place + 1) % len(names)])
        return chain.text
    raise ValueError(f"Expected one of {', '.join(CORRUPTIONS)} but got {how!r}")


def _moved(box: Box1000, shift: np.ndarray) -> Box1000:
    x1, y1, x2, y2 = box
    dx, dy = (
        int(np.clip(step, -(low // 10 * 10), max((999 - high) // 10 * 10, 0)))
        for step, low, high in zip(shift, (x1, y1), (x2, y2), strict=True)
    )
    return x1 + dx, y1 + dy, x2 + dx, y2 + dy
