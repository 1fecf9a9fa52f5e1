"""The icon detector's network: a ResNet, a feature pyramid and a head with shared convolutions, in plain torch.

Layers, names and numbers are those of MMDetection's RTMDet, so either library runs the same weights. What its config
could say otherwise (a depth, another activation) is fixed here: `IconNetwork` is given the figures alone.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

if TYPE_CHECKING:
    from collections.abc import Sequence


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
