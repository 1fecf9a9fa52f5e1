import dataclasses
import json

import pytest

from evals import cli, doctor
from evals.geneval import SUITE
from evals.records import Verdict


def run(suite, capsys):
    code = cli.main(suite, ["--doctor"])
    shown = capsys.readouterr().out
    return code, shown, json.loads(shown.splitlines()[-1])


def test_this_installation_is_sound(capsys):
    code, shown, report = run(SUITE, capsys)
    assert report["problems"] == []
    assert (code, report["sound"]) == (0, True)
    assert "This installation is sound." in shown
    assert {"packages", "device", "detector operators", "scorer self-test"} <= set(report["found"])
    assert len(report["found"]["icon_detector.safetensors"]) == 64  # a sha256


def test_missing_weights_are_a_sentence_and_an_exit_code(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ASSETS", tmp_path)
    code, shown, report = run(SUITE, capsys)
    assert code == 1
    assert "no weights at" in shown
    assert any("icon_clip.safetensors" in problem for problem in report["problems"])


def test_a_scorer_that_likes_everything_is_found_out(capsys):
    generous = dataclasses.replace(SUITE, verdict=lambda *_: Verdict(correct=True, reason=""))
    code, _, report = run(generous, capsys)
    assert code == 1
    assert any("blue is not red" in problem for problem in report["problems"])


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("no mmcv")])
def test_a_check_that_breaks_is_a_finding_not_a_crash(error):
    def look():
        raise error

    check = doctor._guarded("detector operators", look)
    assert str(error) in check.problem
