"""A machine without a compiler and without the libraries of the system that OpenCV is linked with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evals

BROKEN = ("cv2", "mmcv", "mmengine", "mmdet")
SUITES = ("emu_edit", "imagenhub", "reason_edit", "multi_turn", "interactive")
COMPILE = ("--compile", "--device", "cpu")
# One process for many commands: importing torch takes longer than most of them.
RUN = """
import contextlib, io, json, runpy, sys

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
IMPORT_ALL = """
import importlib, pkgutil, evals, got, reports

for package in (got, evals, reports):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


@pytest.fixture
def bare(tmp_path):
    """Runs Python code on such a machine, in a folder of its own; returns what it prints."""
    for name in BROKEN:
        (tmp_path / f"{name}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    project = Path(evals.__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}

    def run(code, given):
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            input=json.dumps(given),
            cwd=tmp_path,
            env={**kept, "PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{project}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    return run


def headline(end):
    assert end["code"] == 0, end
    return json.loads(end["out"].splitlines()[-1])


@pytest.mark.slow
def test_the_main_job_every_suite_and_the_doctor_run(bare):
    commands = {
        "main": ("evals.geneval", "--model", "got", "--limit", "6", "--images-per-prompt", "1", "--output", "main"),
        **{name: (f"evals.{name}", "--model", "oracle", "--limit", "2", "--output", name) for name in SUITES},
        "doctor": ("evals.geneval", "--doctor", "--model", "oracle"),
        "photos": ("evals.geneval", "--model", "oracle", "--detector", "mask2former", "--output", "none"),
    }
    done = json.loads(bare(IMPORT_ALL + RUN, commands))

    scores = headline(done["main"])
    assert scores["overall"] > 0.5
    assert scores["missing"] == 0
    assert {suite: headline(done[suite])["measured"]["both"] for suite in SUITES} == dict.fromkeys(SUITES, 1.0)

    report = headline(done["doctor"])
    assert report["sound"]
    (note,) = report["notes"]
    assert "libGL.so.1" in note
    assert "wanted by --detector mask2former alone" in note

    assert done["photos"]["code"] == 2
    assert "Traceback" not in done["photos"]["err"]
    line = done["photos"]["err"].splitlines()[-1]
    assert "libGL.so.1" in line
    assert "pip install --force-reinstall --no-deps opencv-python-headless" in line
    assert "apt-get install libgl1 libglib2.0-0" in line


@pytest.mark.slow
def test_compiling_without_a_compiler_is_refused_in_one_line_and_leaves_nothing(bare, tmp_path):
    commands = {
        **{name: (f"evals.{name}", "--model", "got", *COMPILE, "--output", "none") for name in ("geneval", *SUITES)},
        "diffusers": ("evals.geneval", "--model", "diffusers:x", "--detector", "icon", *COMPILE, "--output", "none"),
        "ablation": ("evals.ablation", "--grid", "components", "--limit", "1", *COMPILE, "--output", "none"),
        "generate": ("got", "generate", "a dog", *COMPILE),
        "edit": ("got", "edit", "source.png", "remove the dog", *COMPILE),
        "chat": ("got", "chat", *COMPILE, "--output", "none"),
    }
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    image = "from PIL import Image\nImage.new('RGB', (64, 64)).save('source.png')\n"
    done = json.loads(bare(image + RUN, commands))
    for name, end in done.items():
        assert (name, end["code"]) == (name, 2)
        assert "g++ cannot be run: install one (on Debian, apt-get install g++) or name one in CXX" in end["err"]
        assert end["err"].splitlines()[-1].count("error: Expected a compiler") == 1, end["err"]
        assert "Traceback" not in end["err"]
    made = {path.name for path in tmp_path.iterdir()} - {f"{name}.py" for name in BROKEN} - {"__pycache__"}
    assert made == {"source.png", "x"}
