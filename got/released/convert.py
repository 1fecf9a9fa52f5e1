"""From the released checkpoint to a folder that `got.checkpoint.load` and `GoTPipeline.from_pretrained` read.

    python -m got convert --got GoT-6B --qwen Qwen2.5-VL-3B-Instruct --sdxl stable-diffusion-xl-base-1.0 --output got-6b

The released layout is one flat state dict for the whole model (`got.released`); the Qwen and SDXL folders give the
configurations, the tokenizer and the image processor, none of their weights is read. The result has LoRA merged (in
float32), the fully trained modules in place, the 66 tokens of GoT in the tokenizer, a UNet of 12 input channels and
`SHA256SUMS`, which ``sha256sum -c`` checks. The folder is written under another name and renamed at the end, so it is
there completely or not at all. Weights are mapped from disk and written in pieces of 2 GB: the memory needed is about
that of one piece.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLConfig, Qwen2VLImageProcessor

from got.model.adapter import ADAPTER_FILE, ADAPTER_FOLDER, ADAPTER_KEY, LORA_RANK, LORA_TARGETS
from got.model.config import CONFIGS
from got.model.tokenizer import IMAGE_END, IMAGE_START, image_token, token_id
from got.pipeline import GoTPipeline
from got.released import names
from got.util.errors import first_line
from got.util.files import read_object, replacing_folder, sha256, write_json
from got.util.hub import CheckpointError, locate, quiet
from got.util.weight_files import fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedTokenizerBase

_SCALE = "got-6b"
_SHARD_BYTES = 2 * 10**9
_WEIGHT_FILES = {"mllm": "model{suffix}.safetensors"}
_INDEX_OF = {"mllm": "model.safetensors.index.json"}
_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model{suffix}.safetensors"
_DIFFUSERS_INDEX = "diffusion_pytorch_model.safetensors.index.json"
# SDXL's autoencoder overflows in float16 and loses detail in bfloat16.
_ALWAYS_FLOAT32 = ("vae",)
_CHAIN_TOKENS = 1024


def convert(
    got: str | Path,
    qwen: str | Path,
    sdxl: str | Path,
    output: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    keep_lora: bool = False,
) -> Path:
    """Convert a released checkpoint.

    Args:
        got: Folder (or hub id) with ``pytorch_model.bin``, or its shards and ``pytorch_model.bin.index.json``.
        qwen: Folder (or hub id) of Qwen2.5-VL: configuration, tokenizer, image processor.
        sdxl: Folder (or hub id) of SDXL: configurations of ``unet``, ``vae`` and ``scheduler``.
        output: The folder to write; it must not exist, or be empty.
        dtype: What the weights are stored in. The autoencoder stays in float32. float32 is exact; the others round
            the merged weights once.
        keep_lora: Leave LoRA out of the weights and save it beside them in PEFT's format, float32, for further
            training. Loading merges it.

    Returns:
        The folder.

    Raises:
        CheckpointError: If a file is missing or damaged, or keys are missing, unexpected or of another shape. Nothing
            has been written then.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise CheckpointError(f"Expected a new or empty folder but {output} exists")
    got = locate(got, allow_patterns=["*.bin", "*.bin.index.json"])
    qwen = locate(qwen, allow_patterns=["*.json", "*.txt", "*.jinja"])
    sdxl = locate(sdxl, allow_patterns=["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
    with quiet():
        parts, others = blueprint(qwen, sdxl)
        weights = _open(got)
        problems = names.differences(parts, {key: tuple(tensor.shape) for key, tensor in weights.items()})
        if problems:
            raise CheckpointError(f"{got} is not the released layout of these configurations: {'; '.join(problems)}")
        with replacing_folder(output) as folder:
            for part, network in parts.items():
                exact = part in _ALWAYS_FLOAT32
                _write_network(folder / part, network, weights, torch.float32 if exact else dtype, merge=not keep_lora)
            if keep_lora:
                _write_adapter(folder / ADAPTER_FOLDER, parts["mllm"], weights)
            _write_rest(folder, parts, others, adapter=ADAPTER_FOLDER if keep_lora else None)
            write_sums(folder)
    return output


# ------------------------------------------------------------------------------------------------------------- reading


def blueprint(qwen: Path, sdxl: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The networks, still without weights, and the rest of a pipeline."""
    unet, vae, scheduler = (read_object(sdxl / part, CheckpointError) for part in _SDXL_FILES)
    read_object(qwen / "config.json", CheckpointError)
    try:
        parts = names.networks(Qwen2_5_VLConfig.from_pretrained(qwen, local_files_only=True), unet, vae)
        tokenizer = AutoTokenizer.from_pretrained(qwen, local_files_only=True)
        image_processor = Qwen2VLImageProcessor.from_pretrained(qwen, local_files_only=True)
        others = {
            "tokenizer": _with_got_tokens(tokenizer, qwen, parts["mllm"].config.text_config.vocab_size),
            "image_processor": image_processor,
            # SDXL's configuration is of another class; what that class alone knows is dropped.
            "scheduler": DDPMScheduler.from_config(scheduler),
            "generation": _generation_config(qwen),
        }
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"Cannot use the configurations of {qwen} and {sdxl}: {first_line(error)}") from error
    return parts, others


_SDXL_FILES = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def _with_got_tokens(tokenizer: PreTrainedTokenizerBase, qwen: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer with GoT's tokens, and with the chat template that Qwen's processor uses."""
    tokens = [IMAGE_START, IMAGE_END, *map(image_token, range(CONFIGS[_SCALE].image_tokens))]
    tokenizer.add_tokens(tokens, special_tokens=True)
    last = max(token_id(tokenizer, token) for token in tokens)
    if last >= rows:
        raise CheckpointError(f"Expected ids below {rows}, the rows of the embedding, but GoT's tokens reach {last}")
    if (qwen / "chat_template.json").is_file():
        tokenizer.chat_template = read_object(qwen / "chat_template.json", CheckpointError)["chat_template"]
    return tokenizer


def _generation_config(qwen: Path) -> GenerationConfig:
    """Qwen's, made greedy: it samples at a temperature of 1e-6, which is the same but for the warning."""
    config = GenerationConfig()
    if (qwen / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(qwen, local_files_only=True)
    config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    config.max_new_tokens = _CHAIN_TOKENS
    return config


def _open(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a released checkpoint, mapped from disk rather than read."""
    index = folder / "pytorch_model.bin.index.json"
    if not index.is_file():
        if not (folder / "pytorch_model.bin").is_file():
            raise CheckpointError(f"{folder} has neither pytorch_model.bin nor {index.name}")
        return _open_file(folder / "pytorch_model.bin")
    where = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(where, dict) or not all(Path(str(name)).name == name for name in where.values()):
        raise CheckpointError(f"Expected a weight_map with names of files beside it in {index}")
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(where.values())):
        held = _open_file(folder / name)
        twice = [key for key in held if key in tensors]
        if twice:
            raise CheckpointError(f"{folder / name} holds {twice[0]} a second time")
        tensors |= held
    return tensors


def _open_file(path: Path) -> dict[str, torch.Tensor]:
    what = fault(path)
    if what is not None:
        raise CheckpointError(f"Cannot read {path}: it {what}")
    try:
        # weights_only: a pickle may run any code; this way it may build tensors and nothing else.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what is damaged may ask torch and pickle for anything
        raise CheckpointError(f"Cannot read {path}: {first_line(error)}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"Expected nothing but named tensors in {path}")
    return tensors


# ------------------------------------------------------------------------------------------------------------- writing


def _merged(source: names.Origin, weights: Mapping[str, torch.Tensor], *, merge: bool) -> torch.Tensor:
    weight = weights[source.key]
    if source.lora is None or not merge:
        return weight
    factor_a, factor_b = (weights[key].float() for key in source.lora)
    return torch.addmm(weight.float(), factor_b, factor_a)


def _write_network(
    folder: Path, network: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, *, merge: bool
) -> None:
    """Write a network's configuration and weights, one piece at a time."""
    part = folder.name
    folder.mkdir()
    torch.nn.Module.to(network, dtype)  # on the meta device, for the sizes; diffusers' own `to` logs a warning
    state = network.state_dict()
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern=_WEIGHT_FILES.get(part, _DIFFUSERS_WEIGHTS), max_shard_size=_SHARD_BYTES
    )
    for name, keys in plan.filename_to_tensors.items():
        piece = {key: _merged(names.origin(part, key), weights, merge=merge).to(dtype) for key in keys}
        _save(piece, folder / name)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / _INDEX_OF.get(part, _DIFFUSERS_INDEX), index)


def _write_adapter(folder: Path, mllm: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """LoRA alone, as `peft.PeftModel.from_pretrained` reads it onto the network in ``mllm``."""
    folder.mkdir()
    tensors = {}
    for name in mllm.state_dict():
        source = names.origin("mllm", name)
        if source.lora is not None:
            module = name.removesuffix(".weight")
            for letter, key in zip("AB", source.lora, strict=True):
                tensors[ADAPTER_KEY.format(module=module, letter=letter)] = weights[key].float()
    _save(tensors, folder / ADAPTER_FILE)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": LORA_RANK,
        "lora_alpha": LORA_RANK,
        "lora_dropout": 0.05,
        "target_modules": list(LORA_TARGETS),
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", settings)


def _write_rest(folder: Path, parts: dict[str, Any], others: dict[str, Any], adapter: str | None) -> None:
    """Everything but weights: configurations, tokenizer, image processor, and the index of the pipeline."""
    generation = others.pop("generation")
    GoTPipeline(**parts, **others, scale=_SCALE, adapter=adapter).save_config(folder)
    parts["mllm"].config.dtype = parts["mllm"].config.text_config.dtype = parts["mllm"].dtype
    parts["mllm"].config.save_pretrained(folder / "mllm")
    generation.save_pretrained(folder / "mllm")
    for part in ("unet", "vae", "projector"):
        parts[part].save_config(folder / part)
    for part, component in others.items():
        component.save_pretrained(folder / part)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner alone


def write_sums(folder: Path) -> None:
    """Write the checksum of every file."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        lines.append(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n")
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
