"""The model cards, written from the numbers that the trainings leave beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from got.util.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence


def curve(lines: list[dict[str, float]], keys: list[str], rows: int = 12) -> str:
    """The training log, thinned to some rows."""
    shown = lines[:: max(1, len(lines) // rows)]
    if lines and shown[-1] is not lines[-1]:
        shown = [*shown, lines[-1]]
    return markdown(keys, [[f"{line[key]:g}" for key in keys] for line in shown], words=len(keys))


def _flags(recipe: dict[str, Any]) -> str:
    return " ".join(f"--{name} {recipe[name]:g}" for name in ("minutes", "batch", "seed"))


def _scores(per_class: dict[str, float]) -> str:
    weakest = sorted(per_class.items(), key=lambda item: item[1])
    return _table("class (weakest first)", "AP50", [(name, f"{score:.3f}") for name, score in weakest])


def _table(what: str, value: str, rows: Sequence[tuple[str, str]]) -> str:
    return markdown([what, value], rows, words=2)


def detector_card(n: dict[str, Any]) -> str:
    """The detector's card.

    Args:
        n: content of `icon_detector_numbers.json`.
    """
    recipe, oracle, empty = n["recipe"], n["oracle_geneval"], n["empty_pictures"]
    measured = [
        ("mAP at IoU 0.5, held-out scenes", f"{n['map50']:.3f}"),
        ("the same, blurred, noisy, rescaled or compressed", f"{n['map50_degraded']:.3f}"),
        ("objects found with a score above 0.9", f"{n['recall_above_0.9']:.3f}"),
        ("precision above a score of 0.9", f"{n['precision_above_0.9']:.3f}"),
        ("precision above a score of 0.3", f"{n['precision_above_0.3']:.3f}"),
        ("empty images (flat, grounds, noise) with a detection above 0.3", f"{empty['above_threshold']:.3f}"),
        ("highest score on an empty image", f"{empty['highest_score']:.3f}"),
    ]
    tasks = [(task, f"{score:.3f}") for task, score in oracle.items()]
    return f"""# Icon detector

A small RTMDet in plain torch (`icon_detector.json`: ResNet-18 of half width, FPN, strides 8, 16, 32;
{n["parameters"] / 1e6:.1f} M parameters) that finds the 80 GenEval classes in images of the icon world. It knows
nothing of photographs: use `--detector mask2former` or `--detector hf:ID` for those.

## Numbers

Held-out scenes have textures and sizes that training never shows, and jittered colours.

{_table("measure", "value", measured)}

GenEval on flawless images of its 553 prompts (detector alone, colours taken from the scene):

{_table("task", "score", tasks)}

## Training

```
python -m evals.assets.training.train_detector {_flags(recipe)}
```

{recipe["pictures"]:,} images in {recipe["steps"]:,} steps of {recipe["batch"]}, {recipe["minutes"]:g} minutes
({recipe["device"]}), {recipe["products"]} products, AdamW {recipe["lr"]:g} with warm-up and cosine, average of weights
{recipe["ema_decay"]:g}. Every image is a fresh scene of `got.iconworld`, drawn at 64 or 128 px. One in
sixteen has no object, one in sixteen is noise of some grain. Robustness to soft edges comes from generic degradations
only (`augment.py`: light, blur, noise, rescaling, JPEG, mixed colour channels): the detector has never seen an image
of the generator or of its VAE.

The loss (`detector_loss.py`) makes a score the probability of the class, not the overlap of its box; a cross-entropy
between the classes speeds it up. {recipe["note"]}

{curve(n["curves"], ["minutes", "step", "class", "box"])}

## Calibration

GenEval counts objects above a score of 0.9, so scores must mean something. The raw score is replaced by
sigmoid(a logit(raw) + b) with a = {n["calibration"]["slope"]:.3f}, b = {n["calibration"]["bias"]:.3f}: Platt's fit of
the probability that a detection is right (class, and IoU of at least 0.5), on 1,500 held-out scenes, half of them
degraded, that the numbers above do not use. It is monotone: no ranking changes. It is stored with the weights.

## Per class

{_scores(n["ap50_per_class"])}
"""


def clip_card(n: dict[str, Any]) -> str:
    """The CLIP's card.

    Args:
        n: content of `icon_clip_numbers.json`.
    """
    recipe, color = n["recipe"], n["color_accuracy"]
    measured = [
        ("colour of flawless crops, GenEval's zero-shot procedure", f"{color['overall']:.3f}"),
        ("the same, blurred, noisy, rescaled or compressed", f"{n['color_accuracy_degraded']:.3f}"),
        ("caption of an image among 50, right at first (R@1)", f"{n['retrieval']['image_to_text']:.3f}"),
        ("image of a caption among 50, right at first (R@1)", f"{n['retrieval']['text_to_image']:.3f}"),
    ]
    colors = [(name, f"{score:.3f}") for name, score in color["per_color"].items()]
    return f"""# Icon CLIP

A small open_clip model (`icon_clip.json`: ModifiedResNet and text transformer with a word-level vocabulary;
{n["parameters"] / 1e6:.1f} M parameters) for images of the icon world. It names the colour of an icon through
GenEval's zero-shot procedure, and is the icon world's measure of image-text likeness. It knows nothing of
photographs: use `--embedder openclip:ViT-L-14/openai` for those.

## Numbers

Held-out scenes have textures and sizes that training never shows.

{_table("measure", "value", measured)}

{_table("colour", "accuracy", colors)}

## Training

```
python -m evals.assets.training.train_clip {_flags(recipe)}
```

{recipe["pictures"]:,} images in {recipe["steps"]:,} steps, {recipe["minutes"]:g} minutes ({recipe["device"]}),
{recipe["products"]} products, AdamW {recipe["lr"]:g} with warm-up and cosine, average of weights
{recipe["ema_decay"]:g}. Most of a
batch are whole scenes with their captions, the rest are crops of single icons, cut with some margin or loss, with
captions in the words of GenEval's templates. A crop's caption that is also true of another crop of the batch counts as
right for both. A linear classifier of (class, colour), dropped after training, teaches the image tower to name every
icon. {recipe["note"]}

Robustness comes from generic degradations only (`augment.py`): the model has never seen an image of the generator or
of its VAE.

{curve(n["curves"], ["minutes", "step", "scenes", "crops"])}
"""
