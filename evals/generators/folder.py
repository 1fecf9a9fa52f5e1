"""Images made elsewhere: those of a folder, or those that come with an editing set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evals.core.records import Generated, UserError
from evals.generators.registry import GeneratorOptions
from got.util.images import ImageError, open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.backends import Generator
    from evals.core.records import Sample
    from evals.generators.folder_images import Assignment


class FolderGenerator:
    """Images made elsewhere; `evals.generators.folder_images` says which file is which image."""

    name = "folder"

    def __init__(self, folder: Assignment) -> None:
        self._folder = folder

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The image of each sample; a missing, damaged or foreign one is an error of that sample only."""
        return [self._read(sample) for sample in samples]

    def _read(self, sample: Sample) -> Generated:
        place = f"{sample.case.id}/samples/{sample.index:04d}"
        if fault := self._folder.faults.get(sample.case.id):
            return Generated(image=None, error=fault)
        path = self._folder.files.get(sample.case.id, {}).get(sample.index)
        if path is None:
            return Generated(image=None, error=f"{place}: no such image")
        try:
            return Generated(image=open_image(path, "the file", max_aspect=math.inf))
        except ImageError as error:
            return Generated(image=None, error=f"{place}: {error}")


def make_folder(options: GeneratorOptions) -> Generator:
    """A folder whose files have been matched with the suite's cases."""
    assert options.folder is not None, "a folder's files are matched with the cases before the run"
    return FolderGenerator(options.folder)


# --------------------------------------------------------------------------------------------- images of an editing set
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
