"""Annotation by workers of a real Ray: each question is asked once, and the chains are those of one process."""

import json
import os
import signal
import threading
import time

import pytest
from annotate_kit import drawn, edited, edits, lines, scenes, stored
from engine_kit import lines_of, worker_pids
from vlm_kit import build

from got.data import storage
from got.data.__main__ import main

pytest.importorskip("ray", reason="Ray is not installed: pip install 'got-bench[ray]'")
pytestmark = pytest.mark.slow

REPLY = json.dumps({
    "prompt": "A dog", "description": "A dog on grass.", "objects": ["A dog"],
    "boxes": [{"object": 1, "bbox_2d": [28, 14, 84, 56]}],
    "task": "remove", "before": ["A dog"], "after": [], "phrase": "A dog", "chain": "Remove A dog [1] from the grass.",
})  # fmt: skip


def annotate(place, output, model, *words):
    given = ["annotate", str(place), "--output", str(output), "--model", f"hf:{model}", "--boxes", "pixels"]
    return main([*given, "--max-pixels", "12544", *words])


def replies(folder):
    """What was asked and answered; which of two samples asks first what both want to know is left open."""
    return {(line["stage"], line["key"], line["text"]) for line in lines(folder / "replies.jsonl")}


def test_workers_write_the_chains_of_one_process(tmp_path, monkeypatch, capsys):
    """Of a model that this process alone has: a path through its file handle leads nowhere in any other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = build(tmp_path / "vl", REPLY)
    (edit,) = edits(1)
    some = [drawn(scene, f"t{i}") for i, scene in enumerate(scenes(3))]
    place = stored(tmp_path / "in", [*some, edited([edit], "e", "remove the dog")])
    assert annotate(place, tmp_path / "local", model) == 0
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        sent = f"/proc/self/fd/{handle}/./vl"
        assert annotate(place, tmp_path / "ray", sent, "--engine", "ray", "--workers", "2") == 0
    finally:
        os.close(handle)
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == out[-2], "the counts"
    made, other = ({e.id: e.chains for e in storage.read(tmp_path / name)} for name in ("local", "ray"))
    assert made == other
    assert len(made) >= 2
    assert replies(tmp_path / "local") == replies(tmp_path / "ray")


def test_workers_killed_during_annotation_cost_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = build(tmp_path / "vl", REPLY)
    place = stored(tmp_path / "in", [drawn(scene, f"t{i}") for i, scene in enumerate(scenes(12))])
    assert annotate(place, tmp_path / "local", model) == 0
    over, killed = threading.Event(), []

    def kill():
        log = tmp_path / "ray" / "replies.jsonl"
        while len(killed) < 3 and not over.is_set():
            time.sleep(0.02)
            found = worker_pids()
            if len(lines_of(log)) > 4 * len(killed) and found:
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
                time.sleep(1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert annotate(place, tmp_path / "ray", model, "--engine", "ray", "--workers", "2") == 0
    finally:
        over.set()
        killer.join()
    said = capsys.readouterr()
    assert len(killed) >= 1
    assert said.err.count("a worker is lost (killed or crashed)") >= 1
    out = said.out.splitlines()
    assert out[-1] == out[-2], "the counts"
    made, other = ({e.id: e.chains for e in storage.read(tmp_path / name)} for name in ("local", "ray"))
    assert made == other
    assert replies(tmp_path / "local") == replies(tmp_path / "ray")
    assert len(lines(tmp_path / "local" / "replies.jsonl")) == len(lines(tmp_path / "ray" / "replies.jsonl"))


def test_an_output_of_other_boxes_is_refused_before_ray_is_started(tmp_path, capsys):
    model = build(tmp_path / "vl", REPLY)
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t")])
    assert annotate(place, tmp_path / "out", model) == 0
    assert annotate(place, tmp_path / "out", model, "--max-pixels", "9000", "--engine", "ray") == 2
    err = capsys.readouterr().err
    assert "was begun with max_pixels 12544 but this is 9000; choose another --output" in err
    assert "Ray: " not in err


def test_mistakes_are_one_line(tmp_path, capsys):
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t")])
    assert annotate(place, tmp_path / "out", tmp_path / "nothing", "--engine", "ray", "--workers", "1") == 2
    assert "nothing cannot be loaded" in capsys.readouterr().err.splitlines()[-1]
    assert annotate(place, tmp_path / "out", tmp_path / "nothing", "--workers", "1") == 2
    assert "--workers belongs to --engine ray" in capsys.readouterr().err.splitlines()[-1]
