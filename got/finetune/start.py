"""Where the paper's training starts: Qwen2.5-VL and SDXL put together as an untrained GoT."""

from __future__ import annotations

from pathlib import Path

import torch

from got.checkpoint import load_network
from got.finetune.joint import untied, widened
from got.model.networks import SemanticProjector, seeded
from got.pipeline import GoTPipeline
from got.released.convert import blueprint, write_sums
from got.util.files import replacing_folder
from got.util.hub import CheckpointError, locate, quiet

_SCALE = "got-6b"


def start(qwen: str | Path, sdxl: str | Path, output: str | Path) -> Path:
    """Write a pipeline to start a training from.

    The language model is Qwen's, with GoT's tokens in the tokenizer and an output layer apart from the embedding; the
    UNet is SDXL's, with eight more input channels that are zero; the projector is new.

    Args:
        qwen: Folder (or hub id) of Qwen2.5-VL.
        sdxl: Folder (or hub id) of SDXL.
        output: The folder to write; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        CheckpointError: If a file is missing or weights do not fit. Nothing has been written then.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise CheckpointError(f"Expected a new or empty folder but {output} exists")
    qwen = locate(qwen, allow_patterns=["*.json", "*.txt", "*.jinja", "*.safetensors"])
    weights = ["unet/*.safetensors*", "vae/*.safetensors*"]
    sdxl = locate(sdxl, allow_patterns=["scheduler/*", "unet/config.json", "vae/config.json", *weights])
    with quiet():
        empty, others = blueprint(qwen, sdxl)
        mllm = untied(load_network(qwen, torch.float32, "mllm"))
        mllm.generation_config = others.pop("generation")
        with seeded(0):
            sizes = empty["projector"].config
            projector = SemanticProjector(sizes.hidden_dim, sizes.cross_attention_dim, sizes.pooled_dim)
        pipeline = GoTPipeline(
            vae=load_network(sdxl / "vae", torch.float32, "vae"),
            unet=widened(load_network(sdxl / "unet", torch.float32, "unet")),
            mllm=mllm,
            projector=projector,
            scale=_SCALE,
            **others,
        )
        with replacing_folder(output) as folder:
            pipeline.save_pretrained(folder)
            write_sums(folder)
    return output
