"""The icon world's detector: a small RTMDet in plain torch, run on whole batches of images at once.

Layers, names and numbers of the network are those of MMDetection's RTMDet, so either library runs the same weights.
What its config could say otherwise (a depth, another activation) is fixed here: `IconNetwork` gets the figures alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from evals.core import weights
from evals.core.records import Detection, UserError
from evals.core.vocabulary import CLASSES
from evals.metrics.boxes import suppress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

    from evals.core.records import BoxPx


# ---------------------------------------------------------------------------------------------------------- the network
class IconNetwork(nn.Module):
    """Class scores and box sides at every cell of square grids, one grid per stride."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: dict[str, Any]) -> None:
        """A network with arbitrary weights.

        Args:
            model: The part `model` of MMDetection's config.
        """
        super().__init__()
        head, preprocessor = model["bbox_head"], model["data_preprocessor"]
        self.strides: tuple[int, ...] = tuple(head["anchor_generator"]["strides"])
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocessor[name]).view(-1, 1, 1), persistent=False)
        width, channels = model["backbone"]["base_channels"], model["neck"]["out_channels"]
        self.backbone = ResNet18(width)
        self.neck = Pyramid([2 * width, 4 * width, 8 * width], channels)
        widths = [channels, *[head["feat_channels"]] * head["stacked_convs"]]
        self.bbox_head = SharedHead(widths, head["num_classes"], self.strides)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level class logits (n, classes, side, side), and distances in pixels (n, 4, side, side).

        The distances are from a cell's centre to the left, upper, right and lower side of its box.

        Args:
            images: (n, 3, size, size) RGB in [0, 255].
        """
        pixels = (images.float() - self.mean) / self.std
        scores, distances = self.bbox_head(
            self.neck(self.backbone(pixels.contiguous(memory_format=torch.channels_last)))
        )
        return scores, distances


class ResNet18(nn.Module):
    """A ResNet-18 of any width; gives its last three stages, of strides 8, 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Features, finest first."""
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels)), inplace=True), 3, 2, 1)
        second = self.layer2(self.layer1(stem))
        third = self.layer3(second)
        return [second, third, self.layer4(third)]


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    """Two residual blocks; the first one changes width and resolution, on its shortcut as well."""
    shortcut = None
    if inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


class Pyramid(nn.Module):
    """A feature pyramid: coarse features are added to finer ones, all of one width."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Named(conv=nn.Conv2d(count, channels, 1)) for count in inputs)
        self.fpn_convs = nn.ModuleList(_Named(conv=nn.Conv2d(channels, channels, 3, padding=1)) for _ in inputs)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features of the same resolutions, finest first."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral_convs, features, strict=True)]
        for coarse in range(len(levels) - 1, 0, -1):
            finer = levels[coarse - 1]
            levels[coarse - 1] = finer + F.interpolate(levels[coarse], size=finer.shape[2:])
        return [smooth(level) for smooth, level in zip(self.fpn_convs, levels, strict=True)]


class SharedHead(nn.Module):
    """RTMDet's head: levels share their convolutions; normalisations and outputs are each level's own."""

    def __init__(self, widths: Sequence[int], classes: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = strides
        self.cls_convs, self.reg_convs = _towers(widths, len(strides)), _towers(widths, len(strides))
        self.rtm_cls = nn.ModuleList(nn.Conv2d(widths[-1], classes, 1) for _ in strides)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(widths[-1], 4, 1) for _ in strides)

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level class logits, and distances in pixels."""
        scores, distances = [], []
        for i, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            scores.append(self.rtm_cls[i](self.cls_convs[i](level)))
            distances.append(self.rtm_reg[i](self.reg_convs[i](level)).exp() * stride)
        return scores, distances


def _towers(widths: Sequence[int], levels: int) -> nn.ModuleList:
    """For each level the same convolutions, each followed by a normalisation of the level's own."""
    convs = [nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(widths)]
    return nn.ModuleList(nn.Sequential(*map(_normalized, convs)) for _ in range(levels))


def _normalized(conv: nn.Conv2d) -> _Named:
    return _Named(conv=conv, bn=nn.BatchNorm2d(conv.out_channels), activate=nn.ReLU(inplace=True))


class _Named(nn.Sequential):
    """Layers one after the other, under names."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))


ASSETS = Path(__file__).parents[1] / "assets"
CONFIG = ASSETS / "icon_detector.json"
"""In MMDetection's words, which builds the same network of it; its losses and `train_cfg` serve that library alone."""
WEIGHTS = ASSETS / "icon_detector.safetensors"
FINE_PX = 192
"""Side of the larger square that `FineIconDetector` brings images to."""
SAME_OBJECT = 0.5
"""IoU above which two detections of one class, of different squares, are one object."""
BATCH = 64
"""Images in one forward pass."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Turns a network's raw score into the probability that the detection is right: sigmoid(slope * logit + bias).

    Monotone, so it changes no ranking; fitted on held-out icon scenes (see the model card).
    """

    slope: float
    bias: float

    def __call__(self, score: ArrayLike) -> NDArray[np.float64]:
        """Calibrated scores in (0, 1).

        >>> Calibration(slope=1.0, bias=0.0)([0.25, 0.5]).round(3).tolist()
        [0.25, 0.5]
        """
        raw = np.clip(np.asarray(score, np.float64), 1e-7, 1 - 1e-7)
        return 1 / (1 + np.exp(-(self.slope * np.log(raw / (1 - raw)) + self.bias)))

    def raw(self, score: float) -> float:
        """The raw score that calibrates to `score`.

        >>> round(Calibration(slope=2.0, bias=1.0).raw(float(Calibration(slope=2.0, bias=1.0)(0.3))), 6)
        0.3
        """
        return 1 / (1 + math.exp(-(math.log(score / (1 - score)) - self.bias) / self.slope))


UNCALIBRATED = Calibration(slope=1.0, bias=0.0)


def read_config() -> dict[str, Any]:
    """`model` as MMDetection has it, and `image_size_px`, the side of the square that images are brought to.

    64 px icon images are seen at twice their size, so that strides of 8, 16 and 32 fit icons of 12 to 45 px.
    """
    config: dict[str, Any] = json.loads(CONFIG.read_text(encoding="utf-8"))
    return config


def config_sha256() -> str:
    """Hash of the config's content, whatever its formatting; weights carry it, and a changed config refuses them."""
    return sha256(json.dumps(read_config(), sort_keys=True).encode()).hexdigest()


def build() -> IconNetwork:
    """The config's network, with arbitrary weights, in training mode."""
    return IconNetwork(read_config()["model"])


class IconDetector:
    """Finds the 80 classes as icons. Any image size: each is brought to the network's square."""

    name = "icon"
    classes = frozenset(CLASSES)

    def __init__(
        self,
        network: IconNetwork,
        *,
        device: str,
        calibration: Calibration = UNCALIBRATED,
        min_score: float = 0.05,
        image_size_px: int | None = None,
    ) -> None:
        """A detector with the config's weights.

        Args:
            network: With its weights.
            device: torch device.
            calibration: Of its scores.
            min_score: Detections below are not returned.
            image_size_px: Side of the square that images are brought to, a multiple of 32; None for the config's.
        """
        self.network = network.to(device, torch.float32).to(memory_format=torch.channels_last).eval()
        self.calibration = calibration
        self.min_score = min_score
        self._device = device
        config = read_config()
        self.image_size_px = image_size_px or int(config["image_size_px"])
        self._suppression = config["model"]["test_cfg"]
        self._points, _ = points(network.strides, self.image_size_px, device)

    @classmethod
    def load(cls, path: Path | str = "", device: str = "cpu", **how: Any) -> IconDetector:
        """The embedded detector, or another training of the same config.

        Args:
            path: Its weights; by default the embedded ones.
            device: torch device.
            how: Other arguments of the class.

        Raises:
            UserError: the weights are missing or belong to another config.
        """
        network, path = build(), Path(path or WEIGHTS)
        state, metadata = weights.read(path)
        weights.fit(network, state, str(path))
        if metadata.get("config_sha256") != config_sha256():
            raise UserError(f"{path} was trained with another version of {CONFIG.name}: train it again")
        return cls(network, device=device, calibration=Calibration(**json.loads(metadata["calibration"])), **how)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""
        found: list[list[Detection]] = []
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            pixels = np.stack([self._squared(image) for image in chunk])
            for image, (scores, labels, boxes) in zip(chunk, self.raw_detections(pixels), strict=True):
                scale = np.array([image.width, image.height] * 2) / self.image_size_px
                found.append(
                    [
                        Detection(
                            name=CLASSES[label], score=float(score), box_xyxy_px=cast("BoxPx", tuple(map(float, box)))
                        )
                        for score, label, box in zip(self.calibration(scores), labels, boxes * scale, strict=True)
                    ]
                )
        return found

    def _squared(self, image: Image.Image) -> NDArray[np.uint8]:
        from PIL import Image as PILImage

        if image.size != (self.image_size_px, self.image_size_px):
            image = image.resize((self.image_size_px, self.image_size_px), PILImage.Resampling.BILINEAR)
        return np.asarray(image.convert("RGB"))

    def raw_detections(
        self, images: NDArray[np.uint8]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]]:
        """Uncalibrated detections of a batch, best first.

        Args:
            images: uint8 (n, size, size, 3) RGB.

        Returns:
            per image: scores (k,), labels (k,), boxes x1, y1, x2, y2 (k, 4) in the network's frame.
        """
        pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits, boxes = predict(self.network, pixels, self._points)
            kept = _suppressed(
                logits.sigmoid(),
                boxes.clamp(0, self.image_size_px),
                min_score=self.calibration.raw(self.min_score),
                max_overlap=self._suppression["nms"]["iou_threshold"],
                candidates=self._suppression["nms_pre"],
                max_boxes=self._suppression["max_per_img"],
            )
        return [tuple(part.cpu().numpy() for part in one) for one in kept]  # type: ignore[misc]


class FineIconDetector:
    """The same network on two squares, for many small icons as well as for few large ones.

    On the larger square icons of 24 to 40 px, as where nine share 128 px, are as large as the network knows them.
    """

    name = "icon-fine"
    classes = frozenset(CLASSES)

    def __init__(self, detectors: Sequence[IconDetector]) -> None:
        self._detectors, self.min_score = detectors, detectors[0].min_score

    @classmethod
    def load(cls, path: Path | str = "", device: str = "cpu") -> FineIconDetector:
        """With the weights of `IconDetector.load`."""
        return cls([IconDetector.load(path, device, image_size_px=size) for size in (None, FINE_PX)])

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first; of one object the surer one of both squares."""
        found = zip(*(detector.detect(images) for detector in self._detectors), strict=True)
        return [_merged([one for some in each for one in some]) for each in found]


def _merged(detections: Sequence[Detection]) -> list[Detection]:
    """The best detection of each object."""
    ranked = sorted(detections, key=lambda one: -one.score)
    kept: list[Detection] = []
    for name in dict.fromkeys(one.name for one in ranked):
        own = [one for one in ranked if one.name == name]
        kept += [own[i] for i in suppress([one.box_xyxy_px for one in own], SAME_OBJECT)]
    return sorted(kept, key=lambda one: -one.score)


def points(strides: Sequence[int], size_px: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (p, 2) and strides (p,) in pixels of all cells of square grids with the given strides, row by row."""
    centres, repeated = [], []
    for stride in strides:
        side = size_px // stride
        axis = (torch.arange(side, dtype=torch.float32, device=device) + 0.5) * stride
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 2))
        repeated.append(torch.full((side * side,), float(stride), device=device))
    return torch.cat(centres), torch.cat(repeated)


def predict(network: IconNetwork, images: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (n, p, classes) and boxes (n, p, 4) in pixels at every grid point.

    Args:
        network: The detector's.
        images: (n, 3, size, size) RGB in [0, 255].
        centres: (p, 2), see `points`.
    """
    scores, distances = network(images)
    # each level: (n, c, side, side) -> (n, side * side, c)
    logits = torch.cat([level.flatten(2).transpose(1, 2) for level in scores], 1).float()
    left_top, right_bottom = torch.cat([d.flatten(2).transpose(1, 2) for d in distances], 1).float().split(2, -1)
    return logits, torch.cat([centres - left_top, centres + right_bottom], -1)


def _suppressed(
    scores: torch.Tensor, boxes: torch.Tensor, *, min_score: float, max_overlap: float, candidates: int, max_boxes: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per image the best boxes of each class, by one suppression over all images and classes.

    Args:
        scores: (n, p, classes)
        boxes: (n, p, 4)
        min_score: Lower scores are dropped.
        max_overlap: IoU above which the lesser of two boxes of one class and image is dropped.
        candidates: So many best (point, class) pairs of an image are looked at.
        max_boxes: At most so many per image.
    """
    from torchvision.ops import batched_nms

    classes = scores.shape[2]
    best, pair = scores.flatten(1).topk(min(candidates, scores[0].numel()))
    image, rank = (best >= min_score).nonzero(as_tuple=True)
    score, label = best[image, rank], pair[image, rank] % classes
    box = boxes[image, pair[image, rank] // classes]
    order = batched_nms(box, score, image * classes + label, max_overlap)
    image, score, label, box = image[order], score[order], label[order], box[order]
    found = []
    for index in range(len(scores)):
        mine = (image == index).nonzero(as_tuple=True)[0][:max_boxes]
        found.append((score[mine], label[mine], box[mine]))
    return found
