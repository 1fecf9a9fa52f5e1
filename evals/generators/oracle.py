"""The icon world's own renderer: flawless images, the ceiling of every suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.records import Generated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from evals.core.backends import Generator
    from evals.core.records import EditCase, Sample
    from evals.generators.registry import GeneratorOptions


class OracleGenerator:
    """Draws exactly what the prompt's metadata ask for, or gives an edit's true target: the ceiling."""

    name = "oracle"

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """A flawless scene per sample, with the chain that a flawless reasoner would write."""
        from got import iconworld

        made = []
        for sample in samples:
            if sample.case.edit is not None:
                made.append(self._target(sample.case.edit))
                continue
            scene = iconworld.scene_from_include(sample.case.metadata["include"], sample.seed)
            made.append(Generated(image=draw(scene), chain=iconworld.chain_text(scene)))
        return made

    def _target(self, edit: EditCase) -> Generated:
        """The image after the edit, as the data have it."""
        if edit.target is None:
            return Generated(image=None, error="this set has no image after the edit")
        try:
            return Generated(image=edit.target.load(), chain=edit.extra.get("chain"))
        except ValueError as error:
            return Generated(image=None, error=str(error))


def oracle_render(chain_text: str, seed: int) -> Image.Image:
    """What a chain plans, drawn by the icon world's renderer instead of a model."""
    from got import iconworld

    return draw(iconworld.scene_from_chain(chain_text, seed))


def draw(scene: Any) -> Image.Image:
    """A scene of the icon world at mini's size."""
    from PIL import Image

    from got import iconworld
    from got.model.config import CONFIGS

    return Image.fromarray(iconworld.render(scene, CONFIGS["mini"].image_size_px).image)


def make_oracle(_: GeneratorOptions) -> Generator:
    """The icon world's renderer, which has no settings."""
    return OracleGenerator()
