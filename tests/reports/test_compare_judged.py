"""Comparison of runs of judged benchmarks, against a server that answers as their judges do."""

import json
import re

import judged_kit as kit
import pytest
from judge_kit import serve

from evals.harness import cli
from evals.harness.run_spec import find_suite
from reports import __main__ as reports


def draw(name, root, output, monkeypatch, rule=kit.official, judge="judge-1"):
    """The scores of a run on the small set below `root`."""
    words = ["--data", root, "--allow-other-data", "--model", f"folder:{root / 'results'}", "--judge",
             f"openai:{judge}", "--floor", "0", "--output", output, "--judge-log", f"{output}.jsonl"]  # fmt: skip
    with serve(kit.answers(rule)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        assert cli.main(find_suite(name), list(map(str, words))) == 0
    return json.loads((output / "scores.json").read_text())


def all_but_one(words):
    reply = kit.official(words)
    return reply.replace("1", "0") if re.search(r"number 1\b", words) else reply


@pytest.mark.parametrize(("name", "pooled"), [("wise", True), ("genevalpp", False)])
def test_cases_or_tasks_weigh_as_in_the_benchmark_s_own_metric(name, pooled, tmp_path, monkeypatch, capsys):
    """Tasks of one case and of two, and a run with one case wrong; a run of another judge is refused."""
    root = kit.SETS[name](tmp_path / "data")
    kit.results(root / "results", name)
    if name == "wise":
        path = root / "data_verified/cultural_common_sense_verified.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    draw(name, root, tmp_path / "all", monkeypatch)
    scores = draw(name, root, tmp_path / "some", monkeypatch, all_but_one)
    first, how = next(iter(scores["metrics"]["names"].items()))
    overall = scores["metrics"]["all"][first]["value"]
    assert how["over"] == ("cases" if pooled else "tasks")
    assert overall == pytest.approx(1 - 1 / (11 if pooled else 7))
    assert scores["overall"]["score"]["value"] == pytest.approx(overall)
    capsys.readouterr()
    assert reports.main(["compare", str(tmp_path / "all"), str(tmp_path / "some")]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["difference"] == pytest.approx(overall - 1)
    assert ("permutation test over cases" in out) == pooled
    draw(name, root, tmp_path / "other", monkeypatch, judge="judge-2")
    assert reports.main(["compare", str(tmp_path / "all"), str(tmp_path / "other")]) == 2
    assert re.search(r" by judge-1#\S+ and .* by judge-2#\S+: their scores do not compare\n$", capsys.readouterr().err)
