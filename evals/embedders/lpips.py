"""LPIPS through torchmetrics: how different two images look to a network trained on photographs.

The small linear layers come with torchmetrics. The backbone's ImageNet weights do not: they are downloaded by
torchvision, or read from a file given as ``squeeze:PATH``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core import weights
from evals.core.records import UserError
from evals.metrics import images

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from evals.metrics.images import Mask, Pixels, Score

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS's name -> torchvision's. SmartEdit takes squeeze, most others alex."""


class Lpips:
    """Distances of pairs of images, 0 for equal ones, lower is closer."""

    def __init__(self, label: str, network: Any, device: str) -> None:
        self.label = label
        """What stands behind the ``@`` of the metric's name."""
        self._network, self._device = network.to(device).eval(), device

    def maps(self, a: Sequence[Pixels], b: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        """Distance around each pixel, ``(height, width)`` of each pair; images are at least 64 px a side.

        Raises:
            ValueError: The images of a pair differ in size, or are too small for the network.
        """
        import torch

        found = []
        for x, y in zip(a, b, strict=True):
            if x.shape != y.shape or x.ndim != 3 or min(x.shape[:2]) < 64:
                raise ValueError(f"Expected two images of one size, 64 px or more, but got {x.shape} and {y.shape}")
            with torch.inference_mode():
                both = [torch.from_numpy(z).float().permute(2, 0, 1)[None].to(self._device) for z in (x, y)]
                distance: torch.Tensor = self._network(*both, normalize=True)
            found.append(distance[0, 0].cpu().numpy())
        return found

    def distances(
        self, a: Sequence[Pixels], b: Sequence[Pixels], regions: Sequence[Mask] | None = None
    ) -> list[float | None]:
        """Mean distance of each pair, over a region if one is given; None where a region has no pixel.

        The network sees the whole image in any case: its map is averaged over the region.
        """
        maps = self.maps(a, b)
        if regions is None:
            return [float(distance.mean()) for distance in maps]
        return [
            float(distance[region].mean()) if region.any() else None
            for distance, region in zip(maps, regions, strict=True)
        ]


def make_lpips(spec: str = "squeeze", device: str = "cpu") -> Lpips:
    """LPIPS by name.

    Args:
        spec: `squeeze`, `alex` or `vgg`, which download the backbone if it is not in torch's cache; or with a file,
            `squeeze:PATH`: a state dict of torchvision's squeezenet1_1, as `.pth` or `.safetensors`.
        device: torch device.

    Raises:
        UserError: no such network, or its weights cannot be had or do not fit.
    """
    net, _, path = spec.partition(":")
    if net not in BACKBONES:
        raise UserError(f"Expected an LPIPS network among squeeze, alex, vgg, with :PATH or without, but got {spec!r}")
    try:
        from torchmetrics.functional.image import lpips
    except ImportError as error:
        raise UserError("LPIPS needs torchmetrics: pip install torchmetrics") from error
    # The distance before averaging is not among torchmetrics' public functions.
    if not path:
        try:
            network = lpips._LPIPS(net=net, spatial=True)
        except OSError as error:
            raise UserError(
                f"the weights of {BACKBONES[net]} cannot be downloaded ({str(error)[:120]}); give a file as {net}:PATH"
            ) from error
        return Lpips(f"lpips-{net}", network, device)
    network = lpips._LPIPS(net=net, spatial=True, pnet_rand=True)
    _load_backbone(network.net, Path(path))
    return Lpips(f"lpips-{net}", network, device)


def _load_backbone(backbone: torch.nn.Module, path: Path) -> None:
    """Fills torchmetrics' slices of a torchvision network from that network's own state dict."""
    given = weights.read_checkpoint(path)
    # torchmetrics keeps torchvision's layer numbers as names: "slices.1.4.weight" is "features.4.weight".
    own = {name: "features." + name.split(".", 2 if name.startswith("slices.") else 1)[-1] for name in _names(backbone)}
    known = {key: value for key, value in given.items() if key.startswith("features.")}
    state = {name: known[source] for name, source in own.items() if source in known}
    weights.fit(backbone, state, str(path))


def _names(module: torch.nn.Module) -> list[str]:
    return list(module.state_dict())


def lpips_scores(network: Lpips, before: Pixels, after: Pixels, mask: Mask | None) -> dict[str, Score]:
    """LPIPS of a pair of images by full name: of the whole, and where there is a mask, inside and outside."""
    regions: dict[str, Mask | None] = {"": None}
    if mask is not None:
        fitted = images.fit_mask(mask, *before.shape[:2])
        regions |= {"inside": fitted, "outside": ~fitted}
    (distances,) = network.maps([before], [after])
    return {
        f"source/{images.named('lpips', network.label, where)}": _region_mean(distances, region)
        for where, region in regions.items()
    }


def _region_mean(values: NDArray[np.float32], region: Mask | None) -> Score:
    chosen = values if region is None else values[region]
    if chosen.size == 0:
        return images.Score(value=None, undefined=images.EMPTY_REGION)
    return images.Score(value=float(chosen.mean()))
