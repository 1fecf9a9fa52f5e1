"""The icon world: the 80 COCO classes as tinted icons, with scenes, captions, chains, boxes and masks by seed."""

from got.iconworld.glyphs import CLASSES, DRAWINGS, aspect, glyph
from got.iconworld.render import PALETTE, Rendered, render
from got.iconworld.scenes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_BACKGROUNDS,
    Scene,
    SceneObject,
    caption,
    chain_text,
    parse_phrase,
    sample_scene,
    scene_from_chain,
    scene_from_include,
    stable_rng,
    vocabulary,
)
from got.iconworld.spoil import SPOILS, spoil

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLORS",
    "DRAWINGS",
    "HELD_OUT_BACKGROUNDS",
    "PALETTE",
    "SPOILS",
    "Rendered",
    "Scene",
    "SceneObject",
    "aspect",
    "caption",
    "chain_text",
    "glyph",
    "parse_phrase",
    "render",
    "sample_scene",
    "scene_from_chain",
    "scene_from_include",
    "spoil",
    "stable_rng",
    "vocabulary",
]
