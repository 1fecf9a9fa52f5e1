"""Trainings in processes of their own: killed and resumed, and shared by two."""

import signal
import subprocess
import time

import finetune_kit as kit
import pytest
import torch

from got.finetune import folder

pytestmark = pytest.mark.slow
STEPS = 6
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
    return folder.rows(root / "straight" / folder.LOG)


def weights(root, name):
    state = torch.load(root / name / f"checkpoint-{STEPS:08d}" / "state.pt", weights_only=True)
    return state["weights"]


def killed_behind(step, root, name):
    """Start a training and kill it when it has logged a step."""
    process = subprocess.Popen(
        kit.command(*arguments(root, name)), env=kit.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while len(folder.rows(root / name / folder.LOG)) < step:
            assert process.poll() is None, process.stderr.read().decode()[-3000:]
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_after_kill_9_losses_and_weights_are_as_without(root, straight):
    killed_behind(3, root, "killed")
    assert not (root / "killed" / "model").exists()
    result = kit.train(*arguments(root, "killed"))
    assert result["step"] == STEPS
    assert folder.rows(root / "killed" / folder.LOG) == straight
    expected, found = weights(root, "straight"), weights(root, "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_two_processes_give_the_losses_of_one(root, straight):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    kit.train(*arguments(root, "two"), "--micro", 1, launcher=launcher)
    rows = folder.rows(root / "two" / folder.LOG)
    assert len(rows) == len(straight) == STEPS
    for one, two in zip(straight, rows, strict=True):
        assert one.keys() == two.keys()
        assert two == pytest.approx(one, rel=1e-3)
    expected, found = weights(root, "straight"), weights(root, "two")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=2e-4, rtol=1e-2, msg=name)
