"""A generator that draws nothing but a ground of one colour: the floor of any benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageColor

from evals.core.backends import ICON_WORLD, Backend
from evals.core.records import Generated, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.records import Sample
    from evals.generators.registry import GeneratorOptions

SIDE_PX = 128


class PlainGenerator:
    """Draws a ground."""

    name = "plain"

    def __init__(self, color: str) -> None:
        try:
            self._color = ImageColor.getrgb(color)
        except ValueError as error:
            raise UserError(f"--model plain:{color}: {error}") from error

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The same image for each sample."""
        return [Generated(image=Image.new("RGB", (SIDE_PX, SIDE_PX), self._color)) for _ in samples]


def make_plain(options: GeneratorOptions) -> PlainGenerator:
    """The generator of ``--model plain`` or ``--model plain:COLOR``."""
    return PlainGenerator(options.argument or "white")


RECORD: Backend[PlainGenerator] = Backend(factory=make_plain, argument="[COLOR]", world=ICON_WORLD)
