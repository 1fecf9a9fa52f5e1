"""MMDetection without a compiler: `mmcv._ext` made of torchvision's own operators.

mmcv installs as pure Python where no compiler meets it, and then lacks `mmcv._ext`, the module of its compiled
operators; `import mmdet` fails on it. The models used here need exactly one of them at inference, NMS, which
torchvision ships compiled; deformable attention has a pure torch form inside mmcv. `ensure_mmcv_ops` registers a
stand-in built of these, unless a compiled `mmcv._ext` is there: then that one is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EXTENSION = "mmcv._ext"


class MissingOperatorError(NotImplementedError):
    """A compiled mmcv operator was called that torchvision has no counterpart for."""


class TorchvisionOps(types.ModuleType):
    """Stands in for `mmcv._ext`.

    mmcv checks at import that each operator's name exists, for all of its hundred operators. So every name exists here;
    one without a torchvision counterpart says so when it is called.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """An operator that explains its absence. Dunder names stay absent: the import system probes for them."""
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: object, **_kwargs: object) -> None:
            raise MissingOperatorError(
                f"mmcv operator {name!r} needs mmcv's compiled extension: install mmcv built for your torch. "
                "Without it only NMS and multi-scale deformable attention are available."
            )

        return missing


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    """Indices of the boxes that survive greedy suppression, best first.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        scores: (n,).
        iou_threshold: boxes that overlap a better one by more than this are dropped, in [0, 1].
        offset: 1 for the convention in which a box includes its last pixel (width = x2 - x1 + 1), else 0.
    """
    from torchvision.ops import nms as torchvision_nms

    if offset:
        # torchvision measures width as x2 - x1; moving x2, y2 by one gives the other convention's IoU.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: torch.Tensor = torchvision_nms(boxes.float(), scores.float(), iou_threshold)
    return kept


def ms_deform_attn_forward(
    value: torch.Tensor,
    value_spatial_shapes: torch.Tensor,
    value_level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
    im2col_step: int,
) -> torch.Tensor:
    """Multi-scale deformable attention, mmcv's own pure torch form (the one it takes by itself on a CPU).

    Args:
        value: (b, keys, heads, channels).
        value_spatial_shapes: (levels, 2) heights and widths.
        value_level_start_index: unused, kept for the compiled operator's signature.
        sampling_locations: (b, queries, heads, levels, points, 2) in [0, 1].
        attention_weights: (b, queries, heads, levels, points).
        im2col_step: unused.

    Returns:
        (b, queries, heads * channels)
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    attended: torch.Tensor = multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )
    return attended


def operators_in_use() -> str:
    """`"mmcv"` if mmcv's compiled operators are (or would be) used, else `"torchvision"`."""
    registered = sys.modules.get(EXTENSION)
    if registered is not None:
        return "torchvision" if isinstance(registered, TorchvisionOps) else "mmcv"
    return "mmcv" if importlib.util.find_spec(EXTENSION) is not None else "torchvision"


def ensure_mmcv_ops() -> str:
    """Make `import mmdet` work; call it before that import. Safe to call again.

    Returns:
        which operators are in use: `"mmcv"` or `"torchvision"`.
    """
    if operators_in_use() == "torchvision" and EXTENSION not in sys.modules:
        module = TorchvisionOps(EXTENSION)
        module.nms = nms  # type: ignore[attr-defined]
        module.ms_deform_attn_forward = ms_deform_attn_forward  # type: ignore[attr-defined]
        # mmengine and mmcv probe with find_spec, which insists on a spec.
        module.__spec__ = importlib.util.spec_from_loader(EXTENSION, loader=None)
        sys.modules[EXTENSION] = module
    _import_quietly()
    return operators_in_use()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes that MMDetection's libraries give about their own code: no user can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_quietly() -> None:
    with quiet():
        import mmdet.models  # noqa: F401
        import torch

        # mmdet calls it like this; torch warns of it once in a process, and has done so then.
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
