"""Detectors for photographs: GenEval's own Mask2Former of MMDetection, and any detector of transformers."""

from __future__ import annotations

import contextlib
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from evals import mmcv_ops, weights
from evals.records import Detection, UserError
from evals.vocabulary import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from evals.records import BoxPx

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

_LOG = logging.getLogger(__name__)


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

    Classes that no label names are never found, which looks like a bad model in every score: they are reported.

    Raises:
        UserError: no label names a GenEval class.
    """
    named = {number: name for number, label in labels.items() if (name := geneval_name(label)) is not None}
    missing = [name for name in CLASSES if name not in set(named.values())]
    if not named:
        some = ", ".join(list(labels.values())[:5])
        raise UserError(f"{detector}: none of its {len(labels)} labels names a GenEval class ({some}, ...)")
    if missing:
        _LOG.warning("%s has no label for %d GenEval classes: %s", detector, len(missing), ", ".join(missing))
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
    """By falling score."""
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
    """Names in a config mean mmdet's classes; nothing global is left behind."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def _test_pipeline(config: Any, image_scale: tuple[int, int] | None) -> Any:
    """The config's steps from a picture in memory to the network's input; its files and annotations left out."""
    from mmcv.transforms import Compose

    with mmcv_ops.quiet():
        import mmdet.datasets.transforms  # noqa: F401

    steps: list[dict[str, Any]] = [{"type": "LoadImageFromNDArray"}]
    for step in config.test_dataloader.dataset.pipeline:
        if not step["type"].startswith("Load"):
            scaled = image_scale is not None and step["type"] == "Resize"
            steps.append({**step, "scale": image_scale} if scaled else dict(step))
    with _mmdet_scope():
        return Compose(steps)


def mmdet_config(name: str) -> Any:
    """A config that MMDetection is installed with, by name, set to start from no other weights."""
    mmcv_ops.ensure_mmcv_ops()
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


def load_mask2former(
    checkpoint: Path | None = None, *, device: str = "cpu", image_scale: tuple[int, int] | None = None
) -> MMDetDetector:
    """GenEval's detector: Mask2Former with Swin-S, trained on COCO.

    Args:
        checkpoint: `.pth` of MMDetection 3 or `.safetensors`; None downloads the published one, once.
        device: torch device.
        image_scale: longest and shortest side of the network's input; None for the config's own 1333 x 800.

    Raises:
        UserError: the weights cannot be read, downloaded, or do not fit.
    """
    path = checkpoint or _download(MASK2FORMER_URL)
    state = _read_checkpoint(path)
    config = mmdet_config(MASK2FORMER)
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


class _Inert:
    """Stands for everything in a pickle that is no weight: takes what is done to it, and does nothing."""

    def __new__(cls, *_arguments: object, **_named: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None: ...

    def __call__(self, *_arguments: object, **_named: object) -> _Inert:
        return self

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None:
        """As a list's."""

    def extend(self, _values: object) -> None:
        """As a list's."""


class _TensorsOnly(pickle.Unpickler):
    """Builds tensors and plain containers, and nothing else: unpickling whatever is named would run its code."""

    _KNOWN = frozenset(
        {
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch.serialization", "_get_layout"),
            ("torch", "Size"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._KNOWN or (module in ("torch", "torch.storage") and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Inert


def _load_tensors(file: IO[bytes], **options: Any) -> Any:
    return _TensorsOnly(file, **options).load()


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a `.safetensors` file or of a checkpoint as mmengine writes it."""
    import torch

    if path.suffix == ".safetensors":
        return weights.read(path)[0]
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    # mmengine pickles training records beside the weights, which torch's own safe reading refuses.
    readers = SimpleNamespace(__name__="pickle", Unpickler=_TensorsOnly, load=_load_tensors)
    try:
        read = torch.load(path, map_location="cpu", weights_only=False, pickle_module=readers)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors; save it again as safetensors ({str(error)[:80]})"
        ) from error
    state: dict[str, torch.Tensor] = read.get("state_dict", read)
    return state


# ------------------------------------------------------------------------------------------------------- transformers
class TransformersDetector:
    """An object detection or instance segmentation model of transformers."""

    min_score = MIN_SCORE
    batch = 8

    def __init__(self, name: str, network: Any, processor: Any, device: str, *, masks: bool) -> None:
        self.name = name
        self.network = network.to(device).eval()
        self._processor = processor
        self._device = device
        self._masks = masks
        self._names = map_labels(network.config.id2label, name)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""
        import torch

        found: list[list[Detection]] = []
        for start in range(0, len(images), self.batch):
            chunk = [image.convert("RGB") for image in images[start : start + self.batch]]
            inputs = self._processor(images=chunk, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                outputs = self.network(**{key: inputs[key] for key in inputs if key in ("pixel_values", "pixel_mask")})
            sizes = [(image.height, image.width) for image in chunk]
            read = self._instances if self._masks else self._boxes
            found += [best_first(detections) for detections in read(outputs, sizes)]
        return found

    def _boxes(self, outputs: Any, sizes: list[tuple[int, int]]) -> Iterator[list[Detection]]:
        post = self._processor.post_process_object_detection
        for one in post(outputs, threshold=self.min_score, target_sizes=sizes):
            parts = zip(one["labels"].tolist(), one["scores"].tolist(), one["boxes"].tolist(), strict=True)
            yield [
                Detection(name=self._names[label], score=score, box_xyxy_px=tuple(box))
                for label, score, box in parts
                if label in self._names
            ]

    def _instances(self, outputs: Any, sizes: list[tuple[int, int]]) -> Iterator[list[Detection]]:
        post = self._processor.post_process_instance_segmentation
        for one in post(outputs, threshold=self.min_score, target_sizes=sizes, return_binary_maps=True):
            found = []
            for mask, info in zip(one["segmentation"], one["segments_info"], strict=False):
                pixels = mask.cpu().numpy() > 0
                box = mask_box(pixels)
                if box is not None and info["label_id"] in self._names:
                    name = self._names[info["label_id"]]
                    found.append(Detection(name=name, score=float(info["score"]), box_xyxy_px=box, mask=pixels))
            yield found


def load_transformers(model: str, *, device: str = "cpu") -> TransformersDetector:
    """Any detector of transformers by hub id or folder.

    Raises:
        UserError: it cannot be loaded, is no detector, or its weights leave parts of it untrained.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForObjectDetection,
        AutoModelForUniversalSegmentation,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    )

    try:
        config = AutoConfig.from_pretrained(model)
        masks = config.model_type in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES and not any(
            "ObjectDetection" in name for name in config.architectures or ()
        )
        if not masks and config.model_type not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
            raise UserError(f"hf:{model}: a {config.model_type} model is no object detector")
        family = AutoModelForUniversalSegmentation if masks else AutoModelForObjectDetection
        network, report = family.from_pretrained(model, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"hf:{model} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    unfit = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if unfit:
        raise UserError(f"hf:{model}: its weights do not fit its config; missing or mis-shaped: {', '.join(unfit[:5])}")
    return TransformersDetector(f"hf:{model}", network, processor, device, masks=masks)
