"""Trainings in processes of their own: killed and resumed, and shared by two, with whole weights and with shards."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import finetune_kit as kit
import pytest
import torch

from got.checkpoint import load
from got.finetune import folder
from got.util.files import read_lines

pytestmark = pytest.mark.slow
STEPS = 6
_FIRST_PORT = 29611 + 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
PORTS = [str(_FIRST_PORT + number) for number in range(4)]  # no other process of these tests has them
SETTINGS = [
    "--set", f"steps={STEPS}", "batch=4", "warmup_steps=2", "lora_rank=4", "learning_rate=1e-3", "most_tokens=400",
    "--log-every", 1, "--save-every", 2, "--look-every", 0,
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    kit.saved_pipeline(root / "model")
    kit.dataset(root / "data", drawings=5, edits=3, conversations=1)
    return root


def arguments(root, name):
    return ["--model", root / "model", "--data", root / "data", "--output", root / name, *SETTINGS]


@pytest.fixture(scope="module")
def straight(root):
    kit.train(*arguments(root, "straight"))
    return read_lines(root / "straight" / folder.LOG)[0]


def weights(root, name):
    state = torch.load(root / name / f"checkpoint-{STEPS:08d}" / "state.pt", weights_only=True)
    return state["weights"]


def complaint(stderr):
    """The end of what a training said, without the launcher's summary, which holds no traceback."""
    return stderr.split("torch/distributed/run.py")[0][-4000:]


def killed_behind(step, root, name, command=None):
    """Start a training and kill it, with all its processes, when it has logged a step."""
    process = subprocess.Popen(
        command or kit.command(*arguments(root, name)),
        env=kit.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while len(read_lines(root / name / folder.LOG)[0]) < step:
            assert process.poll() is None, complaint(process.stderr.read().decode())
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_after_kill_9_losses_and_weights_are_as_without(root, straight):
    killed_behind(3, root, "killed")
    assert not (root / "killed" / "model").exists()
    result = kit.train(*arguments(root, "killed"))
    assert result["step"] == STEPS
    assert read_lines(root / "killed" / folder.LOG)[0] == straight
    expected, found = weights(root, "straight"), weights(root, "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_two_processes_give_the_losses_of_one(root, straight):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", PORTS[0]]
    kit.train(*arguments(root, "two"), "--micro", 1, launcher=launcher)
    rows = read_lines(root / "two" / folder.LOG)[0]
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert one.keys() == two.keys()
        assert two == pytest.approx(one, rel=1e-3)
    expected, found = weights(root, "straight"), weights(root, "two")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=2e-4, rtol=1e-2, msg=name)


def two_machines(*of_machines):
    """Launch a training on two machines of one process each; gives how each ended and what it said."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", PORTS[2], "--machine_rank"]
    machines = [
        subprocess.Popen(
            kit.command(*arguments, "--micro", 1, launcher=[*launch, str(rank)]),
            env=kit.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, arguments in enumerate(of_machines)
    ]
    try:
        said = [machine.communicate(timeout=300) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    return [(machine.returncode, *one) for machine, one in zip(machines, said, strict=True)]


def test_two_machines_give_the_losses_of_one_and_go_on_from_a_checkpoint(root, straight):
    """Two launchers and one disk."""
    command = arguments(root, "machines")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", PORTS[1]]
    killed_behind(3, root, "machines", kit.command(*command, "--micro", 1, launcher=launcher))
    ended = two_machines(command, command)
    assert [code for code, *_ in ended] == [0, 0], complaint(ended[0][2] + ended[1][2])
    rows = read_lines(root / "machines" / folder.LOG)[0]
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    assert json.loads(ended[0][1].splitlines()[-1])["step"] == STEPS  # the first machine alone gives the result
    assert not ended[1][1]


def test_machines_that_do_not_share_the_folder_are_told(root):
    ended = two_machines(arguments(root, "here"), arguments(root, "there"))
    assert all(code for code, *_ in ended)
    for (_, _, said), name in zip(ended, ("here", "there"), strict=True):
        assert f"error: Expected all machines to share {root / name} but they find different things there" in said


needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="pip install deepspeed")
CONFIGS = ("fsdp", pytest.param("zero2", marks=needs_deepspeed))


def sharded(config, *more):
    """Command of a training that two processes with shards share."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", PORTS[3]]
    program = [kit.ROOT / "tests" / "kits" / "sharded_finetune.py", kit.ROOT / "docs" / "training" / f"{config}.yaml"]
    device = ["--device", "cpu"] if config == "fsdp" else []  # asked for, it keeps accelerate from DeepSpeed
    return [sys.executable, *map(str, [*launcher, *program, *device, *more, "--micro", 1])]


def with_processes(count, command):
    where = command.index("--nproc_per_node") + 1
    return [*command[:where], str(count), *command[where + 1 :]]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kit.environment())
    assert done.returncode == 0, complaint(done.stderr)


def networks(root, name):
    """All weights of a finished model."""
    model = load(root / name / "model")
    parts = {part: getattr(model, part).state_dict() for part in ("mllm", "unet", "projector")}
    return {f"{part}.{key}": weight for part, state in parts.items() for key, weight in state.items()}


@pytest.mark.parametrize("config", CONFIGS)
def test_shards_that_were_killed_and_resumed_give_the_losses_and_the_model_of_one_process(config, root, straight):
    """Looks change nothing, and neither does it that in an update only some of the batches have a source picture."""
    command = sharded(config, *arguments(root, config), "--look-every", 3)
    killed_behind(3, root, config, command)
    if config == "fsdp":
        alone = subprocess.run(with_processes(1, command), capture_output=True, text=True, env=kit.environment())
        assert alone.returncode != 0
        assert "saved in shards by 2 processes and can only be resumed by as many, but there are 1" in alone.stderr
    run(command)
    rows = read_lines(root / config / folder.LOG)[0]
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    expected, found = networks(root, "straight"), networks(root, config)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("config", CONFIGS)
def test_shards_go_on_with_other_passes(config, root, straight):
    """Behind three updates of one pass, each of two passes must still end in a change of the weights."""
    name = f"{config}-passes"
    command = sharded(config, *arguments(root, name), "--save-every", 1, "--keep", STEPS)
    killed_behind(4, root, name, [*command[:-1], "2"])
    for number in range(4, STEPS + 1):
        shutil.rmtree(root / name / f"checkpoint-{number:08d}", ignore_errors=True)
    assert folder.latest(root / name).name == "checkpoint-00000003"
    run(command)
    rows = read_lines(root / name / folder.LOG)[0]
    assert len(rows) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_shards_in_short_floats_with_looks(config, root, straight):
    name = f"{config}-short"
    settings = [*SETTINGS[: SETTINGS.index("--log-every")], "precision=bf16", "gradient_checkpointing=true"]
    more = ["--look-every", 3, "--log-every", 1]
    run(sharded(config, "--model", root / "model", "--data", root / "data", "--output", root / name, *settings, *more))
    rows = read_lines(root / name / folder.LOG)[0]
    assert [row["noise"] for row in rows] == pytest.approx([row["noise"] for row in straight], rel=0.01)
    assert [row["cross_entropy"] for row in rows] == pytest.approx([row["cross_entropy"] for row in straight], rel=0.01)
    looks = read_lines(root / name / folder.HELD_OUT)[0]
    assert [row["step"] for row in looks] == [3, 6]
    assert sorted(grid.name for grid in (root / name / "grids").iterdir()) == ["00000003.png", "00000006.png"]
    assert looks[1]["held_out/cross_entropy"] < looks[0]["held_out/cross_entropy"]
