"""Trainings in processes of their own: killed and resumed, and shared by two, with whole weights and with shards."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time

import finetune_kit as kit
import pytest
import sharded_finetune
import torch
from process_kit import Process

from got.checkpoint import load
from got.finetune import folder
from got.finetune.__main__ import main
from got.util.files import read_lines

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
    finish(begin(root, "straight", arguments(root, "straight")))
    return read_lines(root / "straight" / folder.LOG)[0]


def weights(root, name):
    state = torch.load(root / name / f"checkpoint-{STEPS:08d}" / "state.pt", weights_only=True)
    return state["weights"]


def begin(root, name, words, *, processes=1, ranks=None, config=None, port=PORTS[0]):
    """Start a training in processes that find each other as those of a launcher do; with a config, in shards."""
    call, given = main, ["--device", "cpu", *words]
    if config is not None:
        call, given = sharded_finetune.main, [kit.ROOT / "docs" / "training" / f"{config}.yaml", *words]
        if config == "fsdp":  # asked for, it keeps accelerate from DeepSpeed
            given += ["--device", "cpu"]
    common = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {name: str(value) for name, value in common.items()} if processes > 1 or config else {}
    return [
        Process(
            call,
            [str(word) for word in given],
            folder=root / f"{name} said {rank}",
            environment=common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if common else {}),
        )
        for rank in ranks or range(processes)
    ]


def sharded(root, name, config, words, *, processes=2, micro=1):
    return begin(root, name, [*words, "--micro", micro], processes=processes, config=config, port=PORTS[3])


def finish(processes):
    """Wait for the end of a training; gives the numbers of its last line."""
    ended = [process.wait() for process in processes]
    assert ended == [0] * len(processes), "\n".join(process.err[-4000:] for process in processes)
    return json.loads(processes[0].out.splitlines()[-1])


def killed_behind(step, log, processes):
    """Kill a training when it has logged a step."""
    try:
        while len(read_lines(log)[0]) < step:
            assert processes[0].poll() is None, processes[0].err[-4000:]
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * len(processes)


def test_after_kill_9_losses_and_weights_are_as_without(root, straight):
    words = arguments(root, "killed")
    killed_behind(3, root / "killed" / folder.LOG, begin(root, "killed", words))
    assert not (root / "killed" / "model").exists()
    assert finish(begin(root, "killed", words))["step"] == STEPS
    assert read_lines(root / "killed" / folder.LOG)[0] == straight
    expected, found = weights(root, "straight"), weights(root, "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_two_processes_give_the_losses_of_one(root, straight):
    finish(begin(root, "two", [*arguments(root, "two"), "--micro", 1], processes=2))
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


def complaint(stderr):
    """The end of what a training said, without the launcher's summary, which holds no traceback."""
    return stderr.split("torch/distributed/run.py")[0][-4000:]


@pytest.mark.slow
def test_two_machines_give_the_losses_of_one_and_go_on_from_a_checkpoint(root, straight):
    """Two launchers and one disk."""
    command = arguments(root, "machines")
    begun = begin(root, "machines", [*command, "--micro", 1], processes=2, port=PORTS[1])
    killed_behind(3, root / "machines" / folder.LOG, begun)
    ended = two_machines(command, command)
    assert [code for code, *_ in ended] == [0, 0], complaint(ended[0][2] + ended[1][2])
    rows = read_lines(root / "machines" / folder.LOG)[0]
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    assert json.loads(ended[0][1].splitlines()[-1])["step"] == STEPS  # the first machine alone gives the result
    assert not ended[1][1]


def test_machines_that_do_not_share_the_folder_are_told(root):
    begun = [
        begin(root, name, arguments(root, name), processes=2, ranks=[rank], port=PORTS[2])[0]
        for rank, name in enumerate(("here", "there"))
    ]
    assert all(process.wait() for process in begun)
    for process, name in zip(begun, ("here", "there"), strict=True):
        assert f"Expected all machines to share {root / name} but they find different things there" in process.err


needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="pip install deepspeed")
needs_fsdp = pytest.mark.skipif(torch.__version__ < "2.10", reason="FSDP needs torch 2.10: pip install -U torch")
CONFIGS = (pytest.param("fsdp", marks=needs_fsdp), pytest.param("zero2", marks=needs_deepspeed))


def networks(root, name):
    """All weights of a finished model."""
    model = load(root / name / "model")
    parts = {part: getattr(model, part).state_dict() for part in ("mllm", "unet", "projector")}
    return {f"{part}.{key}": weight for part, state in parts.items() for key, weight in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_shards_killed_and_resumed_give_the_losses_and_the_model_of_one_process(config, root, straight):
    """Looks change nothing, and neither does it that in an update only some of the batches have a source image."""
    words = [*arguments(root, config), "--look-every", 3]
    killed_behind(3, root / config / folder.LOG, sharded(root, config, config, words))
    if config == "fsdp":
        (alone,) = sharded(root, config, config, words, processes=1)
        assert alone.wait() != 0
        assert "saved in shards by 2 processes and can only be resumed by as many, but there are 1" in alone.err
    finish(sharded(root, config, config, words))
    rows = read_lines(root / config / folder.LOG)[0]
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    expected, found = networks(root, "straight"), networks(root, config)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_shards_go_on_with_other_passes(config, root, straight):
    """Behind three updates of one pass, each of two passes must still end in a change of the weights."""
    name = f"{config}-passes"
    words = [*arguments(root, name), "--save-every", 1, "--keep", STEPS]
    killed_behind(4, root / name / folder.LOG, sharded(root, name, config, words, micro=2))
    for number in range(4, STEPS + 1):
        shutil.rmtree(root / name / f"checkpoint-{number:08d}", ignore_errors=True)
    assert folder.latest(root / name).name == "checkpoint-00000003"
    finish(sharded(root, name, config, words))
    rows = read_lines(root / name / folder.LOG)[0]
    assert len(rows) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_shards_in_short_floats_with_looks(config, root, straight):
    name = f"{config}-short"
    settings = [*SETTINGS[: SETTINGS.index("--log-every")], "precision=bf16", "gradient_checkpointing=true"]
    words = ["--model", root / "model", "--data", root / "data", "--output", root / name, *settings]
    finish(sharded(root, name, config, [*words, "--look-every", 3, "--log-every", 1]))
    rows = read_lines(root / name / folder.LOG)[0]
    assert [row["noise"] for row in rows] == pytest.approx([row["noise"] for row in straight], rel=0.01)
    assert [row["cross_entropy"] for row in rows] == pytest.approx([row["cross_entropy"] for row in straight], rel=0.01)
    looks = read_lines(root / name / folder.HELD_OUT)[0]
    assert [row["step"] for row in looks] == [3, 6]
    assert sorted(grid.name for grid in (root / name / "grids").iterdir()) == ["00000003.png", "00000006.png"]
    assert looks[1]["held_out/cross_entropy"] < looks[0]["held_out/cross_entropy"]
