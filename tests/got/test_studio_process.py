"""The studio as a program: killed and begun again, and what it says draws an image once more."""

import json
import os
import shlex
import signal

import pytest
from PIL import Image

from got import checkpoint
from got.__main__ import main
from got.conversation import Conversation
from got.util.images import png_bytes

pytest.importorskip("starlette", reason="the studio needs starlette")
pytest.importorskip("uvicorn", reason="the studio needs uvicorn")

import studio_kit

pytestmark = pytest.mark.slow
PROMPT = "a photo of a red apple and a blue dog"
FEW = {"num_inference_steps": 3}


def test_a_killed_studio_has_all_that_was_shown(tmp_path):
    running = studio_kit.Running(tmp_path / "one", tmp_path / "talks")
    name = running.visitor.new()
    running.visitor.work(name, kind="draw", prompt=PROMPT, options=FEW)
    before = running.visitor.json(f"/api/sessions/{name}")
    events = running.visitor.events(name, {"kind": "draw", "prompt": PROMPT, "options": {"num_inference_steps": 500}})
    while next(events)["kind"] != "step":
        pass
    running.process.kill()
    running.process.wait()
    again = studio_kit.Running(tmp_path / "two", tmp_path / "talks" / name)
    assert f"/?session={name}\n" in again.process.err, "the printed address leads to it"
    assert again.visitor.json(f"/api/sessions/{name}")["entries"] == before["entries"]

    events = again.visitor.events(name, {"kind": "draw", "prompt": PROMPT, "options": {"num_inference_steps": 500}})
    while next(events)["kind"] != "step":
        pass
    os.killpg(again.process.pid, signal.SIGINT)  # as a terminal does it: to all of the command's processes
    assert again.process.wait(60) == 0, again.process.err
    assert again.process.err.endswith("(Ctrl-C ends)\n"), "nothing is said beside the one line on the output"
    assert json.loads(again.process.out) == {"sessions": str(tmp_path / "talks")}
    kept = Conversation.load(tmp_path / "talks" / name).entries
    assert [entry.chain for entry in kept] == [entry["plan"]["text"] for entry in before["entries"]]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = checkpoint.load()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_command_and_the_python_draw_the_same_file(tmp_path, pipeline, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with studio_kit.served(tmp_path / "talks", pipeline) as address:
        visitor = studio_kit.Visitor(address)
        name = visitor.new()
        visitor.work(name, kind="draw", prompt=PROMPT, seed="5", options=FEW | {"scheduler": "ddpm"})
        plan = visitor.json(f"/api/sessions/{name}")["entries"][0]["plan"]
        changed = plan["text"].replace("red apple", "cat with a hat")
        visitor.work(name, kind="revise", entry=0, chain={"text": changed, "names": ["a cat with a hat", "a blue dog"]})
        steps = "replace the apple with a cat , then turn the background pink"
        visitor.work(name, kind="edit", prompt=steps, entry=0, options=FEW | {"spatial": False, "semantic_scale": 2})
        visitor.work(name, kind="revise", entry=2, chain={"text": plan["text"], "names": []})
        visitor.json(f"/api/sessions/{name}/open", png_bytes(Image.new("RGB", (70, 40), "green")))
        visitor.work(name, kind="edit", prompt="-make it blue", entry=5, options=FEW | {"width": 64, "height": 96})
        visitor.work(
            name, kind="edit", prompt="make it blue", entry=5, options=FEW, chain={"text": plan["text"], "names": []}
        )
        entries = visitor.json(f"/api/sessions/{name}")["entries"]
    kinds = ["drawn", "drawn", "edited", "edited", "edited", "opened", "edited", "edited"]
    assert [entry["kind"] for entry in entries] == kinds
    assert entries[5]["command"] == entries[5]["python"] == ""
    for entry in entries[:5] + entries[6:]:
        kept = (tmp_path / "talks" / name / f"{entry['number']:04d}.png").read_bytes()
        verb, *words = shlex.split(entry["command"])[3:]
        assert main([verb, "--overwrite", *words]) == 0, capsys.readouterr().err
        assert (tmp_path / "again.png").read_bytes() == kept, entry["command"]
        (tmp_path / "again.png").unlink()
        exec(compile(entry["python"], "again", "exec"), {})
        assert (tmp_path / "again.png").read_bytes() == kept, entry["python"]


def test_memory_does_not_grow(tmp_path):
    psutil = pytest.importorskip("psutil")
    running = studio_kit.Running(tmp_path / "one", tmp_path / "talks")
    name, process = running.visitor.new(), psutil.Process(running.process.pid)
    request = {"kind": "draw", "prompt": "a photo of two clocks", "options": {"num_inference_steps": 1}}
    for i in range(5):
        running.visitor.work(name, **request, seed=str(i), chain={"text": "two clocks", "names": []})
    before = process.memory_info().rss
    for i in range(30):
        running.visitor.work(name, **request, seed=str(i), chain={"text": "two clocks", "names": []})
    growth = process.memory_info().rss - before
    running.process.kill()
    running.process.wait()
    assert len(Conversation.load(tmp_path / "talks" / name).entries) == 35
    assert growth < 40_000_000, (
        "what a step of the UNet holds is larger, 30 times"
    )  # an allocator's own pools come and go
