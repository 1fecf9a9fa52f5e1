"""Detectors of transformers, by hub id or folder: object detection, instance segmentation, open vocabulary."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from evals.core.records import Detection, UserError
from evals.detectors import open_vocabulary
from evals.detectors.photo import MIN_SCORE, best_first, map_labels, mask_box
from got.util.errors import described
from got.util.hub import unreachable
from got.util.weight_files import why

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.backends import Detector


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
        self.classes = frozenset(self._names.values())

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""
        import torch

        found: list[list[Detection]] = []
        for start in range(0, len(images), self.batch):
            chunk = [image.convert("RGB") for image in images[start : start + self.batch]]
            inputs = self._processor(images=chunk, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                outputs = self.network(**{key: inputs[key] for key in inputs if key in open_vocabulary.IMAGE_INPUTS})
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
        # Some processors give a map of numbers in place of a mask for each instance.
        binary = "return_binary_maps" in inspect.signature(post).parameters
        options = {"return_binary_maps": True} if binary else {}
        for one in post(outputs, threshold=self.min_score, target_sizes=sizes, **options):
            found = []
            for index, info in enumerate(one["segments_info"]):
                plane = one["segmentation"][index] > 0 if binary else one["segmentation"] == info["id"]
                pixels: NDArray[np.bool_] = plane.cpu().numpy()
                box = mask_box(pixels)
                if box is not None and info["label_id"] in self._names:
                    name = self._names[info["label_id"]]
                    found.append(Detection(name=name, score=float(info["score"]), box_xyxy_px=box, mask=pixels))
            yield found


def load_transformers(model: str, device: str = "cpu") -> Detector:
    """Any detector of transformers by hub id or folder. It looks at one blank image before it is handed out.

    Raises:
        UserError: it cannot be loaded, is no detector, its weights leave parts of it untrained, or it cannot look at an
            image with nothing else beside it.
    """
    if fault := unreachable(model):
        raise UserError(f"hf:{model} cannot be loaded: {fault}")
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        family, masks, words = _family(model)
        network, report = family.from_pretrained(model, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model) if words else None
    except UserError:
        raise
    except Exception as error:  # transformers, hub, tokenizers and safetensors each raise their own
        raise UserError(f"hf:{model} cannot be loaded: {why(model, error)}") from error
    unfit = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if unfit:
        raise UserError(f"hf:{model}: its weights do not fit its config; missing or mis-shaped: {', '.join(unfit[:5])}")
    _refuse_more_inputs(model, network, words)
    if tokenizer is not None:
        made: Detector = open_vocabulary.load(f"hf:{model}", network, processor, tokenizer, device)
    else:
        made = TransformersDetector(f"hf:{model}", network, processor, device, masks=masks)
    _try_out(model, network, made)
    return made


def _family(model: str) -> tuple[Any, bool, tuple[str, ...]]:
    """The class that loads a model, whether it gives masks, and the inputs that it wants beside the image."""
    from transformers import (
        AutoConfig,
        AutoModelForObjectDetection,
        AutoModelForUniversalSegmentation,
        AutoModelForZeroShotObjectDetection,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
        MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
    )

    config = AutoConfig.from_pretrained(model)
    kind = config.model_type
    if kind in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES:
        return AutoModelForZeroShotObjectDetection, False, open_vocabulary.TEXT_INPUTS
    masks = kind in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES and not any(
        "ObjectDetection" in name for name in config.architectures or ()
    )
    if not masks and kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        raise UserError(f"hf:{model}: a {kind} model is no object detector")
    return AutoModelForUniversalSegmentation if masks else AutoModelForObjectDetection, masks, ()


def _refuse_more_inputs(model: str, network: Any, words: tuple[str, ...]) -> None:
    """Refuses a network that asks for what nobody gives it, as OneFormer for a task."""
    asked = inspect.signature(network.forward).parameters.values()
    named = [one for one in asked if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    more = [
        one.name
        for one in named
        if one.default is one.empty and one.name not in (*open_vocabulary.IMAGE_INPUTS, *words)
    ]
    if more:
        kind = network.config.model_type
        raise UserError(f"hf:{model}: a {kind} model cannot be used here, because it needs more: {', '.join(more)}")


def _try_out(model: str, network: Any, made: Detector) -> None:
    """Looks at a blank image: what cannot work fails now, and not on each of a run's images."""
    from PIL import Image

    try:
        made.detect([Image.new("RGB", (64, 64), "grey")])
    except Exception as error:
        kind = network.config.model_type
        raise UserError(f"hf:{model}: a {kind} model cannot look at an image here: {described(error, 300)}") from error
