"""Loading and saving whole pipelines: the embedded one, a folder, or a repository on the hub."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import Qwen2_5_VLForConditionalGeneration

from got.model.networks import SemanticProjector
from got.pipeline import GoTPipeline
from got.released.reference import ReferencePipeline
from got.util.errors import first_line
from got.util.hub import CheckpointError, locate, quiet, read_index
from got.util.precision import lay_out_for_cpu, missing_to_compile, warn_if_emulated
from got.util.weight_files import fault_in

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import DiffusionPipeline
    from torch import nn


OFFLOADS = ("model", "sequential")
"""Ways of keeping weights in main memory, see `place`."""
_NETWORKS = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "mllm": Qwen2_5_VLForConditionalGeneration,
    "projector": SemanticProjector,
}
# Kept in float32 whatever is asked for: SDXL's autoencoder overflows in float16, and the embedded reasoner costs so
# little next to the UNet that its chains need not depend on the precision.
_FLOAT32_PARTS = {"mini": ("vae", "mllm", "projector"), "got-6b": ("vae",)}


class PlaceError(ValueError):
    """A pipeline cannot be brought to where it should compute, whatever its weights."""


def load(
    name: str | Path = "mini",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    offload: str | None = None,
    compiled: bool = False,
    reference_compat: bool = False,
) -> GoTPipeline:
    """Load a pipeline, whatever precision it is stored in.

    Args:
        name: ``"mini"`` or ``"got/mini"`` (the embedded weights), a folder written by `got.released.convert` or by
            `GoTPipeline.save_pretrained`, or a hub id.
        device: Where the networks go.
        dtype: Precision of the UNet and, at the published scale, of the reasoner. The VAE stays in float32.
        offload: As of `place`.
        compiled: As of `place`.
        reference_compat: Behave as the released code where ours differs on purpose; `got.released.reference`
            lists where.

    Raises:
        CheckpointError: If there is nothing under that name, a file is missing, or weights do not fit their config.
        PlaceError: As of `check_place`, before anything is read.
    """
    check_place(device, offload, compiled=compiled)
    path = locate(name)
    exact = _FLOAT32_PARTS.get(_read_index(path).get("scale", "mini"), ())
    pipeline_class = ReferencePipeline if reference_compat else GoTPipeline
    with quiet():
        networks = {
            part: load_network(path / part, torch.float32 if part in exact else dtype, part) for part in _NETWORKS
        }
        try:
            pipeline = pipeline_class.from_pretrained(path, **networks)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"Cannot load {path}: {first_line(error)}") from error
    place(pipeline, device, offload, compiled=compiled)
    return pipeline


def place(pipeline: DiffusionPipeline, device: str, offload: str | None = None, *, compiled: bool = False) -> None:
    """Bring a pipeline to where it computes.

    Args:
        pipeline: Any of diffusers, on the CPU.
        device: Where the networks go. If it only emulates the denoising network's precision, the log says so.
        offload: ``"model"`` keeps networks in main memory and moves each to the device when it is its turn;
            ``"sequential"`` does so layer by layer, slower and in the least memory.
        compiled: Let torch compile the denoising network, at its first call for each size of batch and image. It is
            faster from then on; numbers move by rounding.

    Raises:
        PlaceError: As of `check_place`.
        ValueError: If it has no denoising network.
    """
    check_place(device, offload, compiled=compiled)
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if denoiser is None:
        raise ValueError(f"Expected a pipeline with a unet or a transformer but {type(pipeline).__name__} has neither")
    warn_if_emulated(denoiser.dtype, device)
    if offload is None:
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    if torch.device(device).type == "cpu":
        lay_out_for_cpu(pipeline)
    if compiled:
        denoiser.compile()


def check_place(device: str, offload: str | None, *, compiled: bool) -> None:
    """Refuse what `place` cannot do.

    Raises:
        PlaceError: If `offload` is none of the known ways, has no device to move networks to, or is to be compiled,
            too; or if there is no compiler, or there are no headers of Python, to compile with.
    """
    if offload not in (None, *OFFLOADS):
        raise PlaceError(f"Expected offload to be {', '.join(OFFLOADS)} or None but got {offload!r}")
    if offload is not None and device == "cpu":
        raise PlaceError("Expected a device other than cpu to move networks to, because offload keeps them on the cpu")
    if offload is not None and compiled:
        raise PlaceError("Expected offload or compiling but got both: weights would move inside a graph")
    if compiled and (missing := missing_to_compile(device)):
        raise PlaceError(
            f"Expected a compiler and Python's headers, because torch compiles the UNet with them, but {missing}"
        )


def save_fp16(pipeline: GoTPipeline, path: str | Path) -> None:
    """Save a pipeline with its weights rounded to float16; the pipeline itself keeps its precision."""
    half: dict[str, Any] = {
        # torch's own `to`: diffusers' logs a warning about a method meant for inference.
        name: torch.nn.Module.to(copy.deepcopy(part), torch.float16) if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
    }
    with quiet():
        kept = {name: pipeline.config[name] for name in ("scale", "chains", "layout")}
        GoTPipeline(**half, **kept).save_pretrained(path)


def _read_index(path: Path) -> dict[str, Any]:
    """The index of a saved `GoTPipeline`, which must have a folder for each of its components."""
    content = read_index(path)
    listed = [name for name, value in content.items() if isinstance(value, list) and value[0] is not None]
    missing = [name for name in dict.fromkeys((*_NETWORKS, *listed)) if not (path / name).is_dir()]
    if missing:
        raise CheckpointError(f"{path} has no folder {missing[0]}")
    return content


def load_network(folder: Path, dtype: torch.dtype, part: str) -> nn.Module:
    """Load one network and refuse weights that do not fit it.

    The libraries fill in what is missing with random numbers and only log it; a benchmark must not go on with those.

    Args:
        folder: With its configuration and weights.
        dtype: Of the loaded weights.
        part: ``"vae"``, ``"unet"``, ``"mllm"`` or ``"projector"``.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights are others than the configuration wants.
    """
    try:
        network, info = _NETWORKS[part].from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"Cannot load {folder}: {fault_in(folder) or first_line(error)}") from error
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
        if info[problem]:
            raise CheckpointError(f"{folder} does not fit its config: {problem} {sorted(map(str, info[problem]))[0]}")
    return network.eval()
