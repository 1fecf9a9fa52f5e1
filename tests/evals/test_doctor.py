import dataclasses
import json

import pytest

from evals import emu_edit
from evals.core.records import Score
from evals.embedders.registry import EMBEDDERS
from evals.geneval.suite import SUITE, GenEval
from evals.harness import cli, doctor


class Quick(GenEval):
    """Without the self-tests of GenEval's own scorer."""

    name = "quick"


def run(suite, capsys, *words):
    code = cli.main(suite, ["--doctor", *(words or ("--model", "oracle"))])
    shown = capsys.readouterr().out
    return code, shown, json.loads(shown.splitlines()[-1])


def test_this_installation_is_sound(capsys):
    code, shown, report = run(SUITE, capsys, "--model", "got")
    assert report["problems"] == []
    assert (code, report["sound"]) == (0, True)
    assert "This installation is sound." in shown
    assert {"packages", "device", "MMDetection", "scorer self-test", "--model got"} <= set(report["found"])
    assert "│ ✓ │ packages" in shown
    assert "[green]" not in shown
    assert len(report["found"]["icon_detector.safetensors"]) == 64  # a sha256


def test_missing_weights_are_a_sentence_and_an_exit_code(capsys, monkeypatch, tmp_path):
    broken = dataclasses.replace(EMBEDDERS["icon"], weights=lambda _: tmp_path / "icon_clip.safetensors")
    monkeypatch.setitem(EMBEDDERS.records, "icon", broken)
    code, shown, report = run(SUITE, capsys)
    assert code == 1
    assert "no weights at" in shown
    assert any("icon_clip.safetensors" in problem for problem in report["problems"])


def test_a_scorer_that_likes_everything_is_found_out(capsys):
    class Generous(GenEval):
        def score(self, case, observation, options):
            return Score(correct=True)

    code, _, report = run(Generous(), capsys)
    assert code == 1
    assert any("blue is not red" in problem for problem in report["problems"])


@pytest.fixture
def broken(tmp_path):
    """A weights file, a folder and an index that are none."""
    (tmp_path / "broken.safetensors").write_text("not weights")
    (tmp_path / "broken.pth").write_text("<html>")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--detector", "icon:{}/broken.safetensors"), "broken.safetensors is text, not weights: not weights"),
        (("--detector", "hf:{}/folder", "--embedder", "icon"), "hf:{}/folder cannot be loaded"),
        (("--detector", "nothing", "--embedder", "icon"), "Expected a detector among"),
        (("--embedder", "openclip:ViT-B-32/{}/broken.pth"), "broken.pth"),
        (("--device", "nothing"), "--device nothing cannot be used"),
        (("--model", "diffusers:{}/folder", "--detector", "icon"), "--model diffusers:{}/folder cannot be loaded"),
        (("--model", "got", "--checkpoint", "{}/folder"), "--checkpoint {}/folder cannot be loaded"),
    ],
)
def test_what_the_command_names_is_tried(capsys, broken, words, problem):
    words = [word.format(broken) for word in words]
    if words[0] != "--model":
        words = ["--model", "oracle", *words]
    code, shown, report = run(Quick(), capsys, *words)
    assert code == 1
    assert not report["sound"]
    (found,) = report["problems"]  # of this alone
    assert problem.format(broken) in found
    assert "│ ✗ │" in shown


def test_a_file_that_the_canonical_detector_cannot_read_is_found(capsys, broken):
    words = ("--model", "oracle", "--detector", f"mask2former:{broken}/broken.pth", "--embedder", "icon")
    code, _, report = run(Quick(), capsys, *words)
    assert code == 1
    assert any("broken.pth is a web page" in problem for problem in report["problems"])


def test_a_lack_of_mmdetection_is_a_note_unless_the_detector_needs_it(capsys, monkeypatch):
    def fail():
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("evals.detectors.mmcv_ops._import_quietly", fail)
    quick = Quick()
    code, shown, report = run(quick, capsys)
    assert (code, report["sound"]) == (0, True)
    assert "apt-get install libgl1" in report["notes"][0]
    assert "│ ! │ MMDetection" in shown
    code, _, report = run(quick, capsys, "--model", "oracle", "--detector", "mask2former", "--embedder", "icon")
    assert code == 1
    assert report["problems"] == report["notes"]


def test_every_suite_is_examined(capsys):
    code, _, report = run(emu_edit.EmuEdit(), capsys)
    assert (code, report["problems"]) == (0, [])
    assert {"--model oracle", "--detector icon", "--embedder icon"} <= set(report["found"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "oracle", "--compile"), "--compile has no effect with --model oracle"),
        (("--model", "folder:nowhere", "--detector", "icon"), "--model folder:nowhere: no such folder"),
        (("--model", "folder:nowhere"), "--model folder:nowhere needs --detector"),
    ],
)
def test_a_command_that_cannot_be_run_is_a_line_of_the_table(capsys, words, message):
    code, shown, report = run(Quick(), capsys, *words)
    assert code == 1
    (problem,) = report["problems"]
    assert message in problem
    assert {"packages", "device", "--detector icon", "--embedder icon"} <= set(report["found"])
    assert "│ ✗ │ --model" in shown


def test_a_mistake_of_the_command_line_is_refused_before_anything_is_examined(capsys):
    assert cli.main(SUITE, ["--doctor", "--limit", "0"]) == 2
    assert "expected a whole number from 1 up but got 0" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("no scipy")])
def test_a_check_that_breaks_is_a_finding_not_a_crash(error):
    def look():
        raise error

    check = doctor._guarded("device", look)
    assert str(error) in check.problem
