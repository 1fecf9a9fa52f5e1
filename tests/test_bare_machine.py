"""A machine without a compiler and without the libraries of the system that OpenCV is linked with."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

BROKEN = ("cv2", "mmcv", "mmengine", "mmdet")
SUITES = ("emu_edit", "imagenhub", "reason_edit", "multi_turn", "interactive")
COMMANDS = {
    "main job": ("evals.geneval", "--model", "got", "--limit", "6", "--images-per-prompt", "1", "--output", "main"),
    **{name: (f"evals.{name}", "--model", "oracle", "--limit", "2", "--output", name) for name in SUITES},
    "doctor": ("evals.geneval", "--doctor", "--model", "oracle"),
    "photographs": ("evals.geneval", "--model", "oracle", "--detector", "mask2former:nowhere.pth", "--output", "none"),
    "compiled": ("evals.geneval", "--model", "got", "--compile", "--device", "cpu", "--output", "none"),
    "compiled pipeline": (
        "evals.geneval",
        "--model",
        "diffusers:x",
        "--compile",
        "--device",
        "cpu",
        "--output",
        "none",
    ),
    "ablation": (
        "evals.ablation",
        "--grid",
        "table3",
        "--limit",
        "1",
        "--compile",
        "--device",
        "cpu",
        "--output",
        "none",
    ),
    "generate": ("got", "generate", "a dog", "--compile", "--device", "cpu"),
    "edit": ("got", "edit", "source.png", "remove the dog", "--compile", "--device", "cpu"),
    "chat": ("got", "chat", "--compile", "--device", "cpu", "--output", "none"),
}
# One process for all commands: importing torch takes longer than most of them.
RUN = """
import contextlib, importlib, io, json, pkgutil, runpy, sys

import evals, got, reports
from PIL import Image

Image.new("RGB", (64, 64)).save("source.png")
for package in (got, evals, reports):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

done = {}
for name, (module, *words) in json.load(sys.stdin).items():
    sys.argv = [module, *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_module(module, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
    done[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
json.dump(done, sys.stdout)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What every command answered, after every module of the project was imported."""
    folder = tmp_path_factory.mktemp("bare")
    for name in BROKEN:
        (folder / f"{name}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    project = os.path.dirname(importlib.util.find_spec("evals").submodule_search_locations[0])
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input=json.dumps(COMMANDS),
        cwd=folder,
        env={**kept, "PATH": str(folder), "PYTHONPATH": os.pathsep.join([str(folder), project])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {**json.loads(ran.stdout), "folder": folder}


def headline(end):
    assert end["code"] == 0, end
    return json.loads(end["out"].splitlines()[-1])


def test_the_main_job_runs(done):
    scores = headline(done["main job"])
    assert scores["overall"] > 0.5
    assert scores["missing"] == 0


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_runs(done, suite):
    scores = headline(done[suite])
    assert scores["measured"]["both"] == 1.0
    assert scores["missing"] == 0


def test_the_doctor_calls_it_sound_and_says_what_photographs_lack(done):
    report = headline(done["doctor"])
    assert report["sound"]
    (note,) = report["notes"]
    assert "libGL.so.1" in note
    assert "wanted by --detector mask2former alone" in note


def test_the_detector_that_needs_it_is_refused_in_one_line(done):
    end = done["photographs"]
    assert end["code"] == 2
    line = end["err"].splitlines()[-1]
    assert "libGL.so.1" in line
    assert "pip install --force-reinstall --no-deps opencv-python-headless" in line
    assert "apt-get install libgl1 libglib2.0-0" in line
    assert "Traceback" not in end["err"]


@pytest.mark.parametrize("command", ["compiled", "compiled pipeline", "ablation", "generate", "edit", "chat"])
def test_compiling_without_a_compiler_is_refused_in_one_line_and_leaves_nothing(done, command):
    end = done[command]
    assert end["code"] == 2
    assert "g++ cannot be run: install one (on Debian, apt-get install g++) or name one in CXX" in end["err"]
    assert "Traceback" not in end["err"]
    assert not (done["folder"] / "none").exists()
    assert not (done["folder"] / "got.png").exists()
