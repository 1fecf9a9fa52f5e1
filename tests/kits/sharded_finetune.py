"""`got.finetune` with sharded weights in processes on the CPU, which accelerate offers on accelerators only.

Nothing else is different: the sharding, the gathering and the checkpoints are those of torch and DeepSpeed.
"""

import os
from pathlib import Path

from accelerate import DistributedType, PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from yaml import safe_load

from got.finetune.__main__ import main as finetune


def environment(config):
    """What `accelerate launch --config_file` sets, by name."""
    options, *_ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", config, "--num_processes", "2", __file__])
    )
    if not options.use_deepspeed:
        return prepare_multi_gpu_env(options)
    fields = safe_load(Path(config).read_text())["deepspeed_config"]
    options.deepspeed_fields_from_accelerate_config = ",".join(fields)
    return prepare_deepspeed_cmd_env(options)[1]


def main(words):
    """Train; the first word, one of ``docs/training/*.yaml``, reaches accelerate as `accelerate launch` hands it on."""
    config, *arguments = words
    given = environment(config)
    os.environ.update({name: value for name, value in given.items() if name.startswith(("ACCELERATE_", "FSDP_"))})
    if given.get("ACCELERATE_USE_FSDP") == "true":
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    else:
        PartialState(backend="gloo")
    return finetune(arguments)
