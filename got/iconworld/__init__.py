"""The icon world: the 80 COCO classes as tinted icons, with scenes, captions, chains, boxes and masks by seed."""

from got.iconworld.edits import KINDS as EDIT_KINDS
from got.iconworld.edits import Edit, described, sample_edit, sample_steps
from got.iconworld.glyphs import DRAWINGS, aspect, glyph
from got.iconworld.plans import CORRUPTIONS, INTERVENTIONS, Operation, corrupted, read_operation, sample_intervention
from got.iconworld.referring import CATEGORIES as REASONING_CATEGORIES
from got.iconworld.referring import sample_reasoning_edit
from got.iconworld.render import PALETTE, Rendered, render
from got.iconworld.scenes import (
    BACKGROUNDS,
    HELD_OUT_BACKGROUNDS,
    Scene,
    SceneObject,
    caption,
    chain_text,
    sample_scene,
    scene_from_chain,
    scene_from_include,
    stable_rng,
)
from got.iconworld.vocabulary import CLASSES, COLORS, parse_phrase, vocabulary

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLORS",
    "CORRUPTIONS",
    "DRAWINGS",
    "EDIT_KINDS",
    "HELD_OUT_BACKGROUNDS",
    "INTERVENTIONS",
    "PALETTE",
    "REASONING_CATEGORIES",
    "Edit",
    "Operation",
    "Rendered",
    "Scene",
    "SceneObject",
    "aspect",
    "caption",
    "chain_text",
    "corrupted",
    "described",
    "glyph",
    "parse_phrase",
    "read_operation",
    "render",
    "sample_edit",
    "sample_intervention",
    "sample_reasoning_edit",
    "sample_scene",
    "sample_steps",
    "scene_from_chain",
    "scene_from_include",
    "stable_rng",
    "vocabulary",
]
