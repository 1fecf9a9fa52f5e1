"""What a gate shows of a change: settings, lost images, pixels, a JUnit case per task; how many prompts it needs."""

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from report_kit import BOTH, CHAIN, NO_DOG, WRONG_CHAIN, write_run
from scipy import stats

from evals.core.records import UserError
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.metrics import statistics
from reports import __main__ as reports_main
from reports import compare, gate, power

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *words):
    code = reports_main.main([str(word) for word in words])
    return code, capsys.readouterr().out


@pytest.fixture
def pair(tmp_path):
    """A run all right, and a later one with other steps whose second image lost its dog, and whose pixels differ."""
    before = write_run(tmp_path / "before", [(CHAIN, BOTH, None)] * 3)
    after = write_run(tmp_path / "after", [(CHAIN, BOTH, None), (WRONG_CHAIN, NO_DOG, None), (CHAIN, BOTH, None)])
    for folder, steps in ((before, None), (after, 4)):
        spec = json.loads((folder / "run.json").read_text())
        spec["identity"]["generate"] |= {"model": "got", "steps": steps}
        spec["arguments"] = {"given": [], "resolved": {"steps": steps or 10}}
        spec["machine"] = {"device": "cpu", "packages": {"torch": "2.9.0" if steps is None else "2.10.0"}}
        (folder / "run.json").write_text(json.dumps(spec))
    path = after / "images" / "00000" / "samples" / "0001.png"
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(path)
    return before, after


def test_a_summary_shows_what_changed_and_each_lost_image(pair, tmp_path, capsys, monkeypatch):
    before, after = pair
    summary, baseline = tmp_path / "summary.md", tmp_path / "b.json"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert call(capsys, "baseline", before, "--output", baseline)[0] == 0
    assert json.loads(baseline.read_text())["settings"] == {
        "images_per_prompt": 3, "seed": 42, "model": "got", "steps": 10, "detector": "icon", "device": "cpu",
        "torch": "2.9.0",
    }  # fmt: skip
    code, out = call(capsys, "gate", "--baseline", baseline, "--run", after, "--junit", tmp_path / "j.xml")
    assert code == 2, "one prompt is too few to be sure"
    text = summary.read_text()
    assert "\n\nChanged settings: steps 10 → 4; torch 2.9.0 → 2.10.0.\n\n" in out
    (row,) = [line for line in text.splitlines() if line.startswith("| 00000/1 |")]
    assert "images lost" not in text, "the table says it"
    assert "0 images won" in text
    said = ("color attribution", "a photo of a red apple and a blue dog", "dog&gt;=1, found 0", "plan")
    assert [words for words in said if words not in row] == []
    (command,) = re.findall(r"`(.*?)`", row)
    monkeypatch.chdir(tmp_path)
    assert reports_main.main(shlex.split(command)[3:]) == 0, "the command opens it"
    assert (tmp_path / "lost-00000-1.png").is_file()
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert [case.attrib["name"] for case in suite] == ["overall score", "color attribution"]
    assert [suite.attrib[name] for name in ("tests", "errors", "failures")] == ["2", "2", "0"]
    failed = suite[1].find("error")
    assert "lost 00000/1: a photo of a red apple" in failed.text
    assert (suite[1].find("system-out"), failed.attrib["message"] in failed.text) == (None, False), "nothing twice"


def test_several_reasons_of_an_image_are_told_apart(tmp_path, capsys):
    before = write_run(tmp_path / "before", [(CHAIN, BOTH, None)] * 2)
    after = write_run(tmp_path / "after", [(CHAIN, [], None)] * 2)
    assert call(capsys, "baseline", before, "--output", tmp_path / "b.json")[0] == 0
    _, out = call(capsys, "gate", "--baseline", tmp_path / "b.json", "--run", after, "--junit", tmp_path / "j.xml")
    said = "expected apple>=1, found 0; expected dog>=1, found 0"
    assert said in out
    assert said in ElementTree.parse(tmp_path / "j.xml").getroot()[1].find("error").text


def test_two_runs_are_gated_with_their_images(pair, tmp_path, capsys):
    before, after = pair
    words = ["gate", "--baseline-run", before, "--run", after, "--max-drop", "0.5", "--output", tmp_path / "page"]
    code, out = call(capsys, *words)
    assert code == 0
    assert "Images: 2 of 3 are equal, pixel by pixel. The others differ by " in out
    assert "at most (00000/1)" in out
    assert f"{before}/images/00000/samples/0001.png" in out
    assert (tmp_path / "page" / "report.html").is_file()
    assert "steps 4 against steps 10, paired by prompt." in out
    code, out = call(capsys, "gate", "--baseline-run", before, "--run", before.parent / "before")
    assert code == 2, "a run against itself is a mistake"


def test_a_page_needs_the_earlier_images(pair, tmp_path, capsys):
    code = reports_main.main(["gate", "--baseline", "b.json", "--run", str(pair[1]), "--output", str(tmp_path / "p")])
    assert code == 2
    assert "--output needs --baseline-run" in capsys.readouterr().err


def test_tasks_fail_only_where_the_gate_does_not_pass():
    def row(task, value):
        change = statistics.Difference(value=value, low=-0.3, high=0.1, p_value=0.01, cases=9, distinguishable=True)
        return compare.Row(task=task, before=1.0, after=1.0 + value, images=9, difference=change, words="worse")

    rows = (row("overall", -0.1), row("counting", -0.2), row("colors", 0.0))
    for answer, failed in ((gate.REGRESSION, ["overall score", "counting"]), (gate.PASS, [])):
        decision = gate.Decision(answer=answer, why="why", rows=rows)
        suite = ElementTree.fromstring(gate.junit(decision, "geneval", 0.02))
        assert [case.attrib["name"] for case in suite if case.find("failure") is not None] == failed
        assert suite.attrib["failures"] == str(len(failed))


# --------------------------------------------------------------------------------------------------------------- power
def outcomes(right):
    cases = {str(number): tuple(values) for number, values in enumerate(right)}
    return compare.Outcomes(name="b", made_by={}, tasks=dict.fromkeys(cases, "t"), right=cases)


def test_a_gate_with_the_prompts_it_needs_finds_the_drop_four_times_in_five():
    rng, drop, images, score = np.random.default_rng(0), 0.05, 2, 0.9
    prompts = power.prompts_needed(drop, 2 * score * (1 - score), images)
    found = 0
    for _ in range(60):
        before, after = (rng.random((prompts, images)) < right for right in (score, score - drop))
        decision = gate.decide(outcomes(before.tolist()), outcomes(after.tolist()), drop / 2, 0.05)
        found += decision.answer == gate.REGRESSION
    assert 0.65 <= found / 60 <= 0.95


@pytest.mark.parametrize("certainty", [0.8, 0.95, 0.99, 0.999])
def test_half_of_the_drop_is_exceeded_as_surely_as_asked(certainty):
    """Images that are lost with the probability of the drop: more than half of them, by the binomial distribution."""
    prompts = power.prompts_needed(0.2, 0.0, 1, 0.2, certainty)
    assert stats.binom.sf(0.1 * prompts, prompts, 0.2) >= certainty - 0.0002


def test_fewer_prompts_do_where_less_varies():
    few, many = (power.prompts_needed(0.02, noise, 4) for noise in (0.0, 0.1))
    assert 6 <= few < many
    assert power.prompts_needed(0.5, 0.0, 1) >= 6, "of fewer a permutation test can reject nothing"
    assert power.within(outcomes([[True, False], [True, True]])) == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"no prompt with two images: .*; make one with --images-per-prompt of 2"):
        power.within(outcomes([[True], [False]]))


def test_power_is_told_in_a_table(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    call(capsys, "baseline", run, "--output", tmp_path / "b.json")
    code, out = call(capsys, "power", "--baseline", tmp_path / "b.json", "--drop", "0.01")
    assert code == 0
    lines = out.splitlines()
    assert "a drop of 0.005 finds one of 0.01 in 80%" in " ".join(lines)
    assert max(map(len, lines[:-1])) <= 80
    numbers = json.loads(lines[-1])
    assert numbers["prompts_by_images"]["4"][0] == power.prompts_needed(0.01, 0.0, 4)


# ---------------------------------------------------------------------------------------------------------- docs/ci.md
def test_the_first_commands_of_the_documents_find_the_drop_that_they_ask_for():
    text = (ROOT / "docs" / "ci.md").read_text()
    commands, prose = re.search(r"```bash\n(.*?)```", text, re.DOTALL).group(1), " ".join(text.split())
    limits = {int(n) for n in re.findall(r"--limit (\d+)", commands)}
    drop, allowed = (float(re.search(rf"--{flag} ([\d.]+)", commands).group(1)) for flag in ("drop", "max-drop"))
    needed = power.prompts_needed(drop, 0.0, 4)
    assert (len(limits), max(limits) >= needed, allowed) == (1, True, drop / 2)
    assert f"a drop of {drop} takes {needed} prompts (`--limit {max(limits)}`" in prose
    assert f"one of 0.02 takes {power.prompts_needed(0.02, 0.0, 4)}" in prose
    assert "12 prompts of the baseline in this repository. They find a drop of 0.24 and more" in prose
    assert power.prompts_needed(0.24, 0.0, 4) == 12 < power.prompts_needed(0.23, 0.0, 4)


@pytest.mark.slow
def test_the_workflows_of_the_documents_run_line_by_line(tmp_path, capsys, monkeypatch):
    text = (ROOT / "docs" / "ci.md").read_text()
    github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    lines = [step["run"] for step in github["jobs"]["gate"]["steps"] if "run" in step]
    assert lines == gitlab["gate"]["script"]
    assert lines.pop(0) == "pip install -e ."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "reports").mkdir()
    shutil.copytree(ROOT / "reports" / "baselines", tmp_path / "reports" / "baselines")
    for line in lines:
        python, flag, module, *words = shlex.split(line)
        assert (python, flag) == ("python", "-m")
        code = reports_main.main(words) if module == "reports" else cli.main(find_suite(module.split(".")[1]), words)
        assert code == 0, line
    assert "**pass**" in (tmp_path / "summary.md").read_text()
    junit = tmp_path / gitlab["gate"]["artifacts"]["reports"]["junit"]
    assert len(ElementTree.parse(junit).getroot()) == 7
