"""GenEval's own detector for photographs, Mask2Former of MMDetection; names that others have for its classes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from evals.core import weights
from evals.core.records import Detection, UserError
from evals.core.vocabulary import CLASSES
from evals.detectors import mmcv_ops

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.records import BoxPx

MIN_SCORE = 0.05
MASK2FORMER = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"
MASK2FORMER_URL = (
    f"https://download.openmmlab.com/mmdetection/v3.0/mask2former/{MASK2FORMER}/"
    f"{MASK2FORMER}_20220504_001756-c9d0c4f2.pth"
)
SYNONYMS = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "remote control": "tv remote",
    "keyboard": "computer keyboard",
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "television": "tv",
    "doughnut": "donut",
    "hair dryer": "hair drier",
    "cellphone": "cell phone",
    "ski": "skis",
}
"""Names that data sets give to GenEval's classes."""


def geneval_name(label: str) -> str | None:
    """GenEval's name of a detector's label; None for what is no GenEval class.

    >>> geneval_name("diningtable"), geneval_name("Mouse"), geneval_name("N/A")
    ('dining table', 'computer mouse', None)
    """
    word = label.strip().lower().replace("_", " ").replace("-", " ")
    word = SYNONYMS.get(word, word)
    if word in CLASSES:
        return word
    return {name.replace(" ", ""): name for name in CLASSES}.get(word)


def map_labels(labels: Mapping[int, str], detector: str) -> dict[int, str]:
    """Label number -> GenEval class, for the labels that name one.

    Raises:
        UserError: no label names a GenEval class.
    """
    named = {number: name for number, label in labels.items() if (name := geneval_name(label)) is not None}
    if not named:
        some = ", ".join(list(labels.values())[:5])
        raise UserError(f"{detector}: of its {len(labels)} labels none names a GenEval class ({some}, ...)")
    return named


def mask_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Tight box around a mask in pixels, None for an empty one.

    >>> mask_box(np.pad(np.ones((2, 3), bool), 1))
    (1.0, 1.0, 4.0, 3.0)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def best_first(detections: list[Detection]) -> list[Detection]:
    """The detections by falling score."""
    return sorted(detections, key=lambda detection: -detection.score)


# -------------------------------------------------------------------------------------------------------- mmdetection
class MMDetDetector:
    """A COCO model of MMDetection with that library's own test pipeline, as GenEval runs it."""

    min_score = MIN_SCORE
    classes = frozenset(CLASSES)

    def __init__(
        self, name: str, network: torch.nn.Module, config: Any, device: str, image_scale: tuple[int, int] | None = None
    ) -> None:
        self.name = name
        self.network: Any = network.to(device).eval()
        self._pipeline = _test_pipeline(config, image_scale)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels, with masks where the model has them.

        One image at a time: padding to a common size would move scores in the last digits.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> list[Detection]:
        import torch

        bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        data = self._pipeline({"img": bgr, "img_id": 0})
        with torch.inference_mode():
            (result,) = self.network.test_step({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]})
        found = result.pred_instances.cpu().numpy()
        return best_first(
            [
                Detection(
                    name=CLASSES[int(found.labels[i])],
                    score=float(found.scores[i]),
                    box_xyxy_px=cast("BoxPx", tuple(map(float, found.bboxes[i]))),
                    mask=found.masks[i].astype(bool) if "masks" in found else None,
                )
                for i in np.flatnonzero(found.scores >= self.min_score)
            ]
        )


@contextlib.contextmanager
def _mmdet_scope() -> Iterator[None]:
    """While it lasts, names in a config mean mmdet's classes; global state is put back afterwards."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def _test_pipeline(config: Any, image_scale: tuple[int, int] | None) -> Any:
    """The config's steps from an image in memory to the network's input; its files and annotations left out."""
    from mmcv.transforms import Compose

    steps: list[dict[str, Any]] = [{"type": "LoadImageFromNDArray"}]
    for step in config.test_dataloader.dataset.pipeline:
        if not step["type"].startswith("Load"):
            scaled = image_scale is not None and step["type"] == "Resize"
            steps.append({**step, "scale": image_scale} if scaled else dict(step))
    with _mmdet_scope():
        return Compose(steps)


def mmdet_config(name: str) -> Any:
    """A config that MMDetection is installed with, by name, set to start from no other weights."""
    mmcv_ops.import_mmdet()
    import mmdet
    from mmengine.config import Config

    found = sorted(Path(mmdet.__file__).parent.glob(f".mim/configs/*/{name}.py"))
    if not found:
        raise UserError(f"MMDetection is installed without the config {name!r}: install onedl-mmdetection again")
    config = Config.fromfile(found[0])
    config.model.backbone.init_cfg = None
    return config


def build_mmdet(config: Any) -> torch.nn.Module:
    """The network of a config, with arbitrary weights."""
    from mmdet.registry import MODELS

    with _mmdet_scope(), mmcv_ops.quiet():
        network: torch.nn.Module = MODELS.build(config.model)
    return network


_MMDET_2 = tuple(
    (re.compile(rf"^(panoptic_head\.{part}\.layers\.\d+)\.{old}\."), rf"\1.{new}.")
    for part, old, new in (
        (r"pixel_decoder\.encoder", r"attentions\.0", "self_attn"),
        (r"pixel_decoder\.encoder", r"ffns\.0", "ffn"),
        (r"transformer_decoder", r"attentions\.0", "cross_attn"),
        (r"transformer_decoder", r"attentions\.1", "self_attn"),
        (r"transformer_decoder", r"ffns\.0", "ffn"),
    )
)
"""Names of MMDetection 2, which GenEval's own checkpoint has, and those that replace them."""


def _today(key: str) -> str:
    """The name that MMDetection 3 has for a weight of MMDetection 2.

    >>> _today("panoptic_head.transformer_decoder.layers.3.attentions.0.attn.in_proj_bias")
    'panoptic_head.transformer_decoder.layers.3.cross_attn.attn.in_proj_bias'
    """
    for pattern, name in _MMDET_2:
        key = pattern.sub(name, key)
    return key


def load_mask2former(
    checkpoint: Path | str = "", device: str = "cpu", image_scale: tuple[int, int] | None = None
) -> MMDetDetector:
    """GenEval's detector: Mask2Former with Swin-S, trained on COCO.

    Args:
        checkpoint: `.pth` of MMDetection 3 or 2, or `.safetensors`; empty downloads the published one, once.
        device: torch device.
        image_scale: longest and shortest side of the network's input; None for the config's own 1333 x 800.

    Raises:
        UserError: MMDetection cannot be imported, or the weights cannot be read, downloaded, or do not fit.
    """
    if checkpoint:  # a file that is none is said even where MMDetection cannot be imported
        weights.refuse_file(Path(checkpoint))
    config = mmdet_config(MASK2FORMER)  # first: where MMDetection cannot be imported, nothing is downloaded for it
    path = Path(checkpoint) if checkpoint else _download(MASK2FORMER_URL)
    state = {_today(key): value for key, value in weights.read_checkpoint(path).items()}
    network = build_mmdet(config)
    weights.fit(network, state, str(path))
    return MMDetDetector("mask2former", network, config, device, image_scale)


def _download(url: str) -> Path:
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rsplit("-", 1)[-1]
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:  # no network, or another file than the published one
            raise UserError(
                f"--detector mask2former: cannot download {url} ({error}); fetch it elsewhere and name the file: "
                "--detector mask2former:FILE"
            ) from error
    return path
