"""What a training runs on: one process or many, its share of an update, and signals that end it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import GradientAccumulationPlugin

from got.finetune.feed import Share
from got.iconworld.scenes import stable_rng

if TYPE_CHECKING:
    from collections.abc import Iterator

    from got.finetune.recipes import Run


_FSDP_TORCH = "2.10"
"""Older ones train under FSDP with wrong gradient norms on CPUs (2.8, 2.9), or not at all (2.6, 2.7)."""


def accelerator_of(run: Run) -> tuple[Accelerator, Share]:
    """The accelerator that the launcher's environment asks for, and this process's share of each update.

    Raises:
        ValueError: If an update cannot be shared out evenly, or torch is too old for FSDP.
    """
    recipe = run.recipe
    # The accelerator needs the number of passes, which needs the number of processes.
    # A look draws in the main process alone: the others must not take it for dead.
    processes = PartialState(cpu=run.device == "cpu", timeout=datetime.timedelta(hours=2)).num_processes
    micro = run.micro or max(1, recipe.batch // processes)
    share = Share(batch=recipe.batch, micro=micro, rank=0, processes=processes)
    accelerator = Accelerator(
        cpu=run.device == "cpu",
        mixed_precision=recipe.precision,
        # As a plugin: plain steps would give way to the launcher's environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=share.passes,
            # Between passes FSDP would else hold the whole gradient on each device, summed up in half precision.
            sync_each_batch=os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true",
        ),
        log_with=run.tracker,
        project_dir=run.output,
    )
    if accelerator.distributed_type == DistributedType.FSDP and torch.__version__ < _FSDP_TORCH:
        raise ValueError(
            f"Expected torch {_FSDP_TORCH} or newer for FSDP but got {torch.__version__}: pip install -U torch"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # It cannot see these: no loader of its own makes the batches.
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=micro,
            gradient_accumulation_steps=share.passes,
            gradient_clipping=recipe.clip_norm,
        )
    return accelerator, dataclasses.replace(share, rank=accelerator.process_index)


def agree(accelerator: Accelerator, number: int) -> bool:
    """Whether all processes have the same number; all of them must ask."""
    numbers = accelerator.gather(torch.tensor([number], device=accelerator.device))
    return bool((numbers == number).all())


@contextlib.contextmanager
def seeded(device: torch.device, *key: object) -> Iterator[None]:
    """Dropout that depends on the key alone; the global random state is left as it was."""
    seed = int(stable_rng(*key).integers(2**62))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
