"""Images that come with an editing set, in a model's place: its floor, its ceiling, and what others released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.core.records import Generated, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.backends import Generator
    from evals.core.records import Sample
    from evals.generators.options import GeneratorOptions

IMAGES = {"identity": "source", "target": "target", "released": "released"}
"""Name of the model -> image of an `EditCase`. `identity` is the source untouched, `target` the true outcome,
`released` a published system's own result: it shows which encoder gives the published row."""


class DatasetImages:
    """Hands out an image that comes with an editing set, in place of a model's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """Each sample's image; a set that has none for it is a mistake, a damaged file is an error of its sample."""
        return [self._read(sample) for sample in samples]

    def _read(self, sample: Sample) -> Generated:
        edit = sample.case.edit
        if edit is None:
            raise UserError(f"--model {self.name} is for editing suites: case {sample.case.id} has no source image")
        image = getattr(edit, IMAGES[self.name])
        if image is None:
            raise UserError(f"--model {self.name}: the set has no such image for case {sample.case.id}")
        try:
            return Generated(image=image.load())
        except ValueError as error:
            return Generated(image=None, error=str(error))


def make_dataset_images(options: GeneratorOptions) -> Generator:
    """The generator of ``--model identity``, ``target`` or ``released``."""
    return DatasetImages(options.model)
