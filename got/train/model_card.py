"""The model card of a variant of the ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from got.util.precision import has_native_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from got.train.trainer import Plan

_WHAT = {
    "baseline": "It writes no chain: image tokens follow the prompt at once. Its UNet never gets a layout.",
    "got": "It writes a chain, and its image tokens follow that. Its UNet never gets the chain's boxes as a layout.",
    "ssgm": "It writes a chain, and its UNet gets the chain's boxes as a layout.",
    "full": "It writes a chain, and its UNet gets the chain's boxes as a layout. Its language model was pretrained: "
    "it is the start's, trained for far more steps than the others', on edits as well.",
}
_READING = """
The first stage starts from a language model that knows nothing. Its loss is the cross-entropy of what is written plus
the distance of the projected image tokens from the scene tokens that the UNet learned to draw from.
"""
_MEAN = """A prompt does not say where things are to be; without a chain, what is learned here is the mean of all scene
tokens that it may mean. Only the second stage shows it images.
"""
_CARD = """# GoT mini, variant "{title}"

A row of the GoT paper's ablation (arXiv 2503.10639, Table 3) at mini's size. {what}
`model_index.json` says so and every pipeline that is loaded from here keeps to it. Text-to-image only.
Licence: Apache-2.0.

## Data
Scenes of `got.iconworld` with caption and chain, seed {seed}. The last stage has {scenes:,} rendered ones. All variants
see the same scenes in the same order, drawn with the same noise.

## Recipe
`python -m got.train variants`, seed {seed}, torch {torch}, {products} products, AdamW. Autoencoder and UNet are the
start's and stand for SDXL; the autoencoder stays as it is. SHA-256 of the start's weights: `{start}`.

| stage | steps | batch | peak rate | minutes | at its end |
|---|---:|---:|---:|---:|---|
{stages}
{reading}
The last stage is the paper's loss, end to end: cross-entropy plus noise, with the same share of dropped conditions in
all variants. The `.jsonl` files have the curves.

## Images
Held-out captions, row by row:

![samples](samples.png)

{prompts}
"""
_CLOCK = ("step", "minutes")


def card(
    name: str,
    title: str,
    stages: Sequence[tuple[Plan, Mapping[str, float]]],
    prompts: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """The card of a variant, as Markdown.

    Args:
        name: Of the variant's folder.
        title: Its row in the paper.
        stages: How each stage was run, and the last line of its curve.
        prompts: Of the images in ``samples.png``.
        settings: ``seed``, ``scenes``, ``start`` and ``device`` of the training.
    """
    rows = []
    for plan, last in stages:
        measured = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in last.items() if k not in _CLOCK)
        rows.append(
            f"| {plan.stage} | {last['step']:,} | {plan.batch} | {plan.lr:g} | {last['minutes']:.1f} | {measured} |"
        )
    reading = {"full": "", "baseline": _READING + _MEAN}.get(name, _READING)
    return _CARD.format(
        title=title,
        what=_WHAT[name],
        stages="\n".join(rows),
        reading=reading,
        prompts="\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1)),
        torch=torch.__version__,
        products="bfloat16" if has_native_dtype(torch.bfloat16, settings["device"]) else "float32",
        **{key: settings[key] for key in ("seed", "scenes", "start")},
    )
