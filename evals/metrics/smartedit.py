"""Metrics of SmartEdit's public script, its quirks included, and its foreground without them.

Source: SmartEdit (arXiv 2312.06739), ``test/metrics_evaluation.py``. All at 256 px: images bicubic, masks nearest.
Networks are the caller's: the script's LPIPS (squeeze) is one of a `hidden_pair`, its CLIP score one of a `foreground`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evals.metrics import images

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from PIL import Image


def hidden(image: images.Pixels, mask_levels: ArrayLike) -> images.Pixels:
    """SmartEdit's way to look outside a mask: the image times ``1 - level / 255``, the hole kept as black pixels.

    PSNR and SSIM of two such images over the whole frame are that paper's; they grow with the mask, for a hole is
    equal to a hole. The plain ``region`` argument does without this.

    >>> hidden(np.ones((1, 2, 3)), [[255, 51]])[0, :, 0].round(3).tolist()
    [0.0, 0.8]
    """
    return image * (1 - np.asarray(mask_levels, dtype=np.float64) / 255)[..., None]


def hidden_pair(
    source: Image.Image, result: Image.Image, mask_levels: ArrayLike
) -> tuple[images.Pixels, images.Pixels]:
    """Both images as SmartEdit's script compares them: at 256 px, with the edit's place `hidden`.

    Images are bicubic, the mask is nearest and with all its grey levels.

    >>> from PIL import Image
    >>> a, b = hidden_pair(Image.new("RGB", (8, 8), "#fff"), Image.new("RGB", (9, 8)), np.full((8, 8), 51))
    >>> a.shape, float(a.min().round(3)), float(b.max())
    ((256, 256, 3), 0.8, 0.0)
    """
    from PIL import Image

    frame = images.FRAMES["smartedit"]
    assert frame.size_px is not None, "SmartEdit's frame has a size"
    levels = Image.fromarray(np.asarray(mask_levels, dtype=np.uint8)).resize(frame.size_px, Image.Resampling.NEAREST)
    a, b = (hidden(image, np.asarray(levels)) for image in images.pair(source, result, frame))
    return a, b


def background(source: Image.Image, result: Image.Image, mask_levels: ArrayLike) -> dict[str, images.Score]:
    """PSNR, SSIM and L2 outside the mask exactly as SmartEdit's public script has them, of a `hidden_pair`.

    A hidden hole counts as equal pixels, so these do not compare with `images.pixel_scores`, and a report must say that
    they are SmartEdit's.

    >>> from PIL import Image
    >>> white, grey = Image.new("RGB", (8, 8), "#fff"), Image.new("RGB", (8, 8), "#808080")
    >>> half = np.repeat([[255, 0]], 8, axis=0).repeat(4, axis=1)
    >>> plain, hole = (background(white, grey, m)["l2"].value for m in (np.zeros((8, 8)), half))
    >>> round(hole / plain, 3)
    0.5
    """
    a, b = hidden_pair(source, result, mask_levels)
    return {"psnr": images.psnr(a, b), "ssim": images.ssim(a, b), "l2": images.l2(a, b)}


def foreground(result: Image.Image, mask: ArrayLike, *, as_smartedit: bool = False) -> Image.Image | None:
    """The part of an image in which the edit belongs: the box around the mask. None for an empty mask.

    SmartEdit's foreground score is the CLIP similarity of this part and the words for what is to be seen there.

    Args:
        result: The edited image.
        mask: ``(height, width)`` bool, or levels 0 to 255.
        as_smartedit: The box as the public script has it; see `images.mask_box`.

    >>> from PIL import Image
    >>> mask = np.zeros((256, 256), np.uint8)
    >>> mask[64:128, 32:96] = 255
    >>> image = Image.new("RGB", (512, 512))
    >>> foreground(image, mask).size, foreground(image, mask, as_smartedit=True).size
    ((64, 64), (63, 63))
    """
    from PIL import Image

    frame = images.FRAMES["smartedit"]
    assert frame.size_px is not None, "SmartEdit's frame has a size"
    given = np.asarray(mask)
    levels = given.astype(np.uint8) * 255 if given.dtype == bool else given.astype(np.uint8)
    fitted = Image.fromarray(levels).resize(frame.size_px, Image.Resampling.NEAREST)
    box = images.mask_box(np.asarray(fitted), as_smartedit=as_smartedit)
    if box is None or box[0] == box[2] or box[1] == box[3]:
        return None
    return images.resized(result, frame.size_px, frame.resample).crop(box)
