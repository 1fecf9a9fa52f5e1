"""MMDetection without a compiler: `mmcv._ext` made of torch's own operators; and one line where it cannot be imported.

mmcv installs as pure Python where no compiler meets it, and then lacks `mmcv._ext`, the module of its compiled
operators; `import mmdet` fails on it. GenEval's detector needs exactly one of them, deformable attention on a GPU, of
which mmcv has a pure torch form. `import_mmdet` registers a stand-in built of it, unless a compiled `mmcv._ext` is
there: then that one is used.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from got.util.errors import one_line

if TYPE_CHECKING:
    import torch

EXTENSION = "mmcv._ext"
_DISTRIBUTIONS = {
    "mmdet": "onedl-mmdetection",
    "mmcv": "onedl-mmcv",
    "mmengine": "onedl-mmengine",
    "cv2": "opencv-python-headless",
}


class MMDetectionError(UserError):
    """MMDetection cannot be imported on this machine."""


class MissingOperatorError(NotImplementedError):
    """A compiled mmcv operator was called that has no counterpart here."""


class TorchOps(types.ModuleType):
    """Stands in for `mmcv._ext`.

    mmcv checks at import that each operator's name exists, for all of its hundred operators. So every name exists here;
    one without a counterpart says so when it is called.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """An operator that explains its absence. Dunder names stay absent: the import system probes for them."""
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: object, **_kwargs: object) -> None:
            raise MissingOperatorError(
                f"mmcv operator {name!r} needs mmcv's compiled extension: install mmcv built for your torch. "
                "Without it only multi-scale deformable attention is available."
            )

        return missing


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


def import_mmdet() -> str:
    """Import MMDetection; call it before any other import of its packages. Safe to call again.

    Returns:
        which operators are in use: `"mmcv"`, its compiled ones, or `"torch"`.

    Raises:
        MMDetectionError: it or a library that it needs cannot be loaded; the message says how to mend that.
    """
    path = list(sys.path)
    try:
        _import_quietly()
    except Exception as error:  # packages that do not fit each other raise anything when they are imported
        # OpenCV leaves its own folder there, whose `typing` hides Python's in processes that are started later.
        sys.path[:] = path
        raise MMDetectionError(
            "MMDetection (wanted by --detector mask2former alone) cannot be imported: "
            f"{one_line(error)}; this mends it: {_remedy(error)}"
        ) from error
    return "torch" if isinstance(sys.modules.get(EXTENSION), TorchOps) else "mmcv"


def _remedy(error: Exception) -> str:
    """The command that mends a failed import.

    >>> _remedy(ModuleNotFoundError("No module named 'mmdet'", name="mmdet"))
    'pip install onedl-mmdetection'
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"pip install {_DISTRIBUTIONS.get(package, package)}"
    if re.search(r"\blib(?:E?GL\w*|gthread|glib|SM|ICE|X11|Xext|Xrender|xcb)\b[\w.+-]*\.so", str(error)):
        # Both builds of OpenCV bring the same files; the headless one is linked with no library of the system's.
        return (
            f"pip install --force-reinstall --no-deps opencv-python-headless{_opencv_version()} "
            "(or, on Debian, apt-get install libgl1 libglib2.0-0)"
        )
    return "install the project again in a fresh environment"


def _opencv_version() -> str:
    try:
        return f"=={importlib.metadata.version('opencv-python')}"
    except importlib.metadata.PackageNotFoundError:
        return ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings that MMDetection's libraries give about their own code, on which no user can act."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _import_quietly() -> None:
    if EXTENSION not in sys.modules and importlib.util.find_spec(EXTENSION) is None:
        module = TorchOps(EXTENSION)
        module.ms_deform_attn_forward = ms_deform_attn_forward  # type: ignore[attr-defined]
        # mmengine and mmcv probe with find_spec, which insists on a spec.
        module.__spec__ = importlib.util.spec_from_loader(EXTENSION, loader=None)
        sys.modules[EXTENSION] = module
    with quiet():
        import mmdet.datasets.transforms
        import mmdet.models  # noqa: F401
        import torch

        # mmdet calls it like this; torch warns of it once in a process, and has done so then.
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
