"""Edited images against source and target, pixel by pixel, in numpy; and what all editing metrics share.

Pixels are float64 ``(height, width, 3)`` in [0, 1], as `pixels` and `pair` make them. A value that does not exist (the
PSNR of equal images) comes back as a `Score` that says why: it is counted, never replaced.

Sources: L1 of Emu Edit (arXiv 2311.10089), L1 and L2 of MagicBrush (2306.10012), SSIM by Wang et al. 2004. SSIM is
written out for numpy so that scoring needs no torch; it equals torchmetrics' defaults.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    Pixels = NDArray[np.float64]
    """``(height, width, 3)`` in [0, 1]."""
    Mask = NDArray[np.bool_]
    """``(height, width)``."""

EMPTY_REGION = "no pixel in the region"
EQUAL_IMAGES = "infinite: images are equal"

HIGHER_IS_BETTER = {
    "clip_i_source": True,  # but an untouched image has 1.0
    "clip_i_target": True,
    "clip_t": True,
    "clip_t_object": True,  # of the mask's box and the words for what belongs there
    "clip_direction": True,
    "dino_source": True,
    "dino_target": True,
    "l1": False,
    "l2": False,
    "psnr": True,
    "ssim": True,
    "lpips": False,
    "mask_iou": True,  # of a plan's boxes
}
"""Metric, without encoder and region -> its direction."""

_MEANINGS = {
    "clip_i_source": "cosine of CLIP's embeddings of result and source, up to 1, which an untouched source has",
    "clip_i_target": "cosine of CLIP's embeddings of result and true target, up to 1",
    "clip_t": "cosine of CLIP's embeddings of the result and of the target's caption, up to 1",
    "clip_t_object": "cosine of CLIP's embeddings of the mask's box and of the words for what belongs there, up to 1",
    "clip_direction": "cosine of the change from source to result and the change of the captions, up to 1",
    "dino_source": "cosine of DINO's embeddings of result and source, up to 1",
    "dino_target": "cosine of DINO's embeddings of result and true target, up to 1",
    "l1": "mean absolute difference of pixels, 0 to 1",
    "l2": "mean squared difference of pixels, 0 to 1",
    "psnr": "peak signal-to-noise ratio in decibels; there is none for equal images",
    "ssim": "structural similarity, up to 1",
    "lpips": "distance of LPIPS's features, from 0 up",
    "mask_iou": "overlap of the plan's boxes with the mask, 0 to 1",
}


def base_of(name: str) -> str:
    """A metric's full name without what it is compared with, its region and its encoder.

    >>> base_of("source/lpips_inside@lpips-alex"), base_of("clip_t@ViT-B-32")
    ('lpips', 'clip_t')
    """
    return name.partition("@")[0].rpartition("/")[2].removesuffix("_inside").removesuffix("_outside")


def arrow(name: str) -> str:
    """An arrow up or down: which way is better.

    >>> arrow("clip_t@ViT-B-32"), arrow("source/l1_outside"), arrow("source/lpips_inside@lpips-alex")
    ('↑', '↓', '↓')
    """
    return "↑" if HIGHER_IS_BETTER[base_of(name)] else "↓"


def meanings(names: Iterable[str]) -> list[str]:
    r"""A line for each metric among full names: what it measures, its unit, and which way is better.

    >>> print(*meanings(["source/l1", "source/l1_outside", "clip_t@icon"]), sep="\n")
    l1 ↓: mean absolute difference of pixels, 0 to 1; lower is better.
    clip_t ↑: cosine of CLIP's embeddings of the result and of the target's caption, up to 1; higher is better.
    Before a slash: what the result is compared with; inside, outside: of the mask; after @: the encoder.
    """
    better = {True: "higher", False: "lower"}
    bases = dict.fromkeys(map(base_of, names))
    lines = [f"{base} {arrow(base)}: {_MEANINGS[base]}; {better[HIGHER_IS_BETTER[base]]} is better." for base in bases]
    known = "Before a slash: what the result is compared with; inside, outside: of the mask; after @: the encoder."
    return [*lines, known]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A value, or the reason why there is none."""

    value: float | None
    undefined: str = ""
    """Why there is no value; empty if there is one."""


def named(metric: str, encoder: str = "", region: str = "") -> str:
    """A metric's full name: no column without its encoder and its region.

    Args:
        metric: A key of `HIGHER_IS_BETTER`.
        encoder: Label of the CLIP, DINO or LPIPS network that was used; empty for pixels.
        region: ``"inside"`` or ``"outside"`` the mask; empty for the whole image.

    >>> named("clip_i_source", "ViT-B-32"), named("l1", region="outside")
    ('clip_i_source@ViT-B-32', 'l1_outside')
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"Expected a metric among {', '.join(HIGHER_IS_BETTER)} but got {metric!r}")
    return metric + (f"_{region}" if region else "") + (f"@{encoder}" if encoder else "")


# -------------------------------------------------------------------------------------------------------- preprocessing
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How a protocol brings two images to one size before it compares their pixels."""

    size_px: tuple[int, int] | None
    """Width and height of both; None: the second takes the first one's size."""
    resample: str
    """Pillow's filter, e.g. ``"BICUBIC"``."""


FRAMES = {
    "emu-edit": Frame(size_px=None, resample="BICUBIC"),
    "imagenhub": Frame(size_px=(512, 512), resample="LANCZOS"),
    "smartedit": Frame(size_px=(256, 256), resample="BICUBIC"),
}
"""Protocol -> its frame. Sides are not kept in proportion where a size is fixed."""


def pixels(image: Image.Image) -> Pixels:
    """An RGB image as numbers in [0, 1].

    >>> from PIL import Image
    >>> pixels(Image.new("RGB", (2, 1), (255, 0, 51)))[0, 0].round(3).tolist()
    [1.0, 0.0, 0.2]
    """
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def resized(image: Image.Image, size_px: tuple[int, int], resample: str) -> Image.Image:
    """An image at another size; of that size already, it is left as it is.

    >>> from PIL import Image
    >>> resized(Image.new("RGB", (4, 4)), (2, 3), "BICUBIC").size
    (2, 3)
    """
    from PIL import Image

    if image.size == size_px:
        return image
    return image.resize(size_px, Image.Resampling[resample])


def pair(reference: Image.Image, result: Image.Image, frame: Frame) -> tuple[Pixels, Pixels]:
    """Source (or target) and result as pixels of one size.

    >>> from PIL import Image
    >>> a, b = pair(Image.new("RGB", (8, 4)), Image.new("RGB", (3, 3)), FRAMES["emu-edit"])
    >>> a.shape, b.shape
    ((4, 8, 3), (4, 8, 3))
    """
    size = frame.size_px or reference.size
    return pixels(resized(reference, size, frame.resample)), pixels(resized(result, size, frame.resample))


def fit_mask(mask: ArrayLike, height: int, width: int) -> Mask:
    """A mask at another size, nearest pixel.

    >>> fit_mask([[True, False]], 2, 4).tolist()
    [[True, True, False, False], [True, True, False, False]]
    """
    given = np.asarray(mask, dtype=bool)
    if given.ndim != 2 or given.size == 0:
        raise ValueError(f"Expected a mask (height, width) but got {given.shape}")
    rows = ((np.arange(height) + 0.5) * given.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * given.shape[1] / width).astype(int)
    fitted: Mask = given[rows[:, None], columns[None]]
    return fitted


def is_black(image: Pixels, tolerance: float = 2 / 255) -> bool:
    """Whether an image is all black, as safety checkers paint it: a failed edit, not one to leave out.

    >>> is_black(np.zeros((2, 2, 3))), is_black(np.full((2, 2, 3), 0.1))
    (True, False)
    """
    return bool(image.max(initial=0.0) <= tolerance)


# --------------------------------------------------------------------------------------------------------------- pixels
def l2(a: Pixels, b: Pixels, region: Mask | None = None) -> Score:
    """Mean squared difference in [0, 1], lower is closer. MagicBrush calls it L2; no root is taken.

    >>> l2(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.5)).value
    0.25
    """
    return _mean(_same(a, b) ** 2, region)


def psnr(a: Pixels, b: Pixels, region: Mask | None = None) -> Score:
    """Peak signal-to-noise ratio in dB, ``10 log10(1 / mse)``, higher is closer. Equal images have none.

    >>> round(psnr(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.1)).value, 6)
    20.0
    >>> psnr(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))
    Score(value=None, undefined='infinite: images are equal')
    """
    return _in_decibels(l2(a, b, region))


def _in_decibels(error: Score) -> Score:
    if error.value is None:
        return error
    if error.value == 0:
        return Score(value=None, undefined=EQUAL_IMAGES)
    return Score(value=-10 * math.log10(error.value))


def ssim(a: Pixels, b: Pixels, region: Mask | None = None) -> Score:
    """Structural similarity in [-1, 1], higher is closer: 11 px Gaussian windows, sigma 1.5, K1 0.01, K2 0.03.

    The mean of `ssim_map` over the region.

    >>> ramp = np.linspace(0, 1, 16 * 16 * 3).reshape(16, 16, 3)
    >>> ssim(ramp, ramp).value, ssim(ramp, 1 - ramp).value < 0
    (1.0, True)
    """
    _same(a, b)
    return _mean(ssim_map(a, b), region)


def ssim_map(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Structural similarity around each pixel, ``(height, width, 3)``; borders are mirrored.

    >>> ssim_map(np.zeros((12, 12, 3)), np.zeros((12, 12, 3))).min()
    np.float64(1.0)
    """
    from scipy.ndimage import correlate1d

    if min(a.shape[:2]) <= 5:
        raise ValueError(f"Expected an image of 6 pixels a side or more but got {a.shape[1]}x{a.shape[0]}")
    if np.array_equal(a, b):
        return np.ones(a.shape)
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        rows: NDArray[np.float64] = correlate1d(x, weights, axis=0, mode="mirror")
        both: NDArray[np.float64] = correlate1d(rows, weights, axis=1, mode="mirror")
        return both

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    variance_a = np.maximum(blur(a * a) - mean_a**2, 0)
    variance_b = np.maximum(blur(b * b) - mean_b**2, 0)
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    similarity: NDArray[np.float64] = luminance * structure
    return similarity


def mask_box(mask: ArrayLike, *, as_smartedit: bool = False) -> tuple[int, int, int, int] | None:
    """Smallest box (x1, y1, x2, y2 in px, ends exclusive) around a mask; None if it is empty.

    Args:
        mask: ``(height, width)`` bool, or levels 0 to 255, of which those above 127 count.
        as_smartedit: As the public script has it: any level above 0 counts, and the last row and column are lost.

    >>> mask_box([[0, 0, 0], [0, 255, 200]]), mask_box([[0, 0, 0], [9, 255, 200]], as_smartedit=True)
    ((1, 1, 3, 2), (0, 1, 2, 1))
    """
    given = np.asarray(mask)
    set_ = given if given.dtype == bool else given > (0 if as_smartedit else 127)
    rows, columns = np.flatnonzero(set_.any(1)), np.flatnonzero(set_.any(0))
    if len(rows) == 0:
        return None
    end = 0 if as_smartedit else 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + end, int(rows[-1]) + end


def _same(a: Pixels, b: Pixels) -> Pixels:
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"Expected two images (height, width, 3) of one size but got {a.shape} and {b.shape}")
    return a - b


def _mean(values: NDArray[np.float64], region: Mask | None) -> Score:
    if region is None:
        return Score(value=float(values.mean())) if values.size else Score(value=None, undefined=EMPTY_REGION)
    if region.shape != values.shape[:2]:
        raise ValueError(f"Expected a mask of {values.shape[:2]} but got {region.shape}")
    if not (pixels_inside := np.count_nonzero(region)):
        return Score(value=None, undefined=EMPTY_REGION)
    # A product with the mask, because picking its pixels would take longer than all that is done with them.
    sums = region.ravel().astype(np.float64) @ values.reshape(region.size, -1)
    return Score(value=float(sums.mean() / pixels_inside))


# ------------------------------------------------------------------------------------------------------------- together
def pixel_scores(a: Pixels, b: Pixels, mask: ArrayLike | None = None) -> dict[str, Score]:
    """All pixel metrics by full name: whole, and where there is a mask, inside and outside of it.

    >>> a, b = np.zeros((8, 8, 3)), np.full((8, 8, 3), 0.5)
    >>> scores = pixel_scores(a, b, np.eye(8, dtype=bool))
    >>> sorted(scores)[:3], scores["l2_outside"].value
    (['l1', 'l1_inside', 'l1_outside'], 0.25)
    """
    regions: dict[str, Mask | None] = {"": None}
    if mask is not None:
        fitted = fit_mask(mask, *a.shape[:2])
        regions |= {"inside": fitted, "outside": ~fitted}
    difference, similarity = _same(a, b), ssim_map(a, b)
    distance, squared = np.abs(difference), difference**2
    scores: dict[str, Score] = {}
    for where, region in regions.items():
        scores[named("l1", region=where)] = _mean(distance, region)
        scores[named("l2", region=where)] = error = _mean(squared, region)
        scores[named("psnr", region=where)] = _in_decibels(error)
        scores[named("ssim", region=where)] = _mean(similarity, region)
    return scores


def summarize(
    scores: Sequence[Score], groups: Sequence[str], rng: np.random.Generator, resamples: int = 2000
) -> dict[str, Any]:
    """Mean with its interval, clustered by source image; what is undefined is counted by cause.

    Args:
        scores: One per case.
        groups: Source image of each case.
        rng: Source of the resamples.
        resamples: How many.

    >>> some = [Score(value=0.2), Score(value=0.4), Score(value=None, undefined="captions are equal")]
    >>> found = summarize(some, ["a", "b", "b"], np.random.default_rng(0))
    >>> round(found["value"], 3), found["n"], found["clusters"], found["undefined"]
    (0.3, 2, 2, {'captions are equal': 1})
    """
    from evals.metrics.statistics import by_cluster, ratio

    estimate = ratio(*by_cluster([score.value for score in scores], groups), rng, resamples)
    return {**estimate.as_dict(), "undefined": _counted(score.undefined for score in scores if score.undefined)}


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items()))
