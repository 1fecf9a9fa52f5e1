"""Comparison of runs, baselines and the gate, on runs of the real scorer and detector."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import runner_kit
from PIL import Image
from report_kit import BOTH, CHAIN, NO_DOG, write_json, write_lines, write_run

from evals.core.records import UserError
from evals.geneval import prompts as geneval_prompts
from evals.geneval import suite
from evals.harness import cli
from reports import __main__ as reports_main
from reports import changes, compare, gate, style
from reports.frames import load

LIMIT = ["--limit", "12", "--images-per-prompt", "2"]


def outcomes(name, right):
    return compare.Outcomes(
        name=name,
        made_by={"detector": "icon"},
        tasks=dict.fromkeys(right, "t"),
        right={c: tuple(v) for c, v in right.items()},
    )


def call(capsys, *words):
    code = reports_main.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The oracle's run; its images with their halves exchanged; the oracle with another seed."""
    root = tmp_path_factory.mktemp("runs")
    assert cli.main(suite.SUITE, ["--model", "oracle", "--output", str(root / "good"), *LIMIT]) == 0
    for path in (root / "good" / "images").glob("*/samples/*.png"):
        broken = root / "broken-images" / path.relative_to(root / "good" / "images")
        broken.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray(np.roll(np.asarray(image), 32, axis=(0, 1))).save(broken)
    words = ["--model", f"folder:{root / 'broken-images'}", "--detector", "icon", "--output", str(root / "bad"), *LIMIT]
    assert cli.main(suite.SUITE, words) == 0
    words = ["--model", "oracle", "--seed", "7", "--output", str(root / "seed"), *LIMIT]
    assert cli.main(suite.SUITE, words) == 0
    return root


@pytest.mark.slow
def test_a_run_passes_its_own_gate_and_a_broken_generator_does_not(runs, capsys, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    baseline, junit = tmp_path / "baseline.json", tmp_path / "junit.xml"
    assert call(capsys, "baseline", runs / "good", "--output", baseline)[0] == 0
    code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", runs / "good", "--junit", junit)
    assert code == 0
    assert out.startswith("pass: ")
    assert not ElementTree.parse(junit).findall(".//failure")
    code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", runs / "bad", "--junit", junit)
    assert code == 1, out
    assert json.loads(out.splitlines()[-1])["answer"] == "regression"
    assert "regression" in ElementTree.parse(junit).find(".//failure").attrib["message"]
    lost = summary.read_text().partition("Images lost: ")[2]
    assert int(lost.splitlines()[0]) >= 15, "of 24, some of which are right wherever their halves stand"
    assert "| 00000/0 | single object |" in lost


@pytest.mark.slow
def test_unlike_runs_are_not_judged(runs, capsys, tmp_path):
    baseline = tmp_path / "baseline.json"
    call(capsys, "baseline", runs / "good", "--output", baseline)
    code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", runs / "seed")
    assert code == 2
    assert "not comparable: generate.seed: 42 -> 7" in out


@pytest.mark.slow
def test_a_broken_scorer_is_seen(capsys, tmp_path, monkeypatch):
    prompts = [prompt for prompt in geneval_prompts.generate() if prompt["tag"] == "position"][:12]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    words = ["--model", "oracle", "--prompts", str(tmp_path / "prompts.jsonl"), "--images-per-prompt", "1"]
    assert cli.main(suite.SUITE, [*words, "--output", str(tmp_path / "before")]) == 0
    baseline = tmp_path / "baseline.json"
    call(capsys, "baseline", tmp_path / "before", "--output", baseline)
    true = suite.boxes.relations  # and now a scorer that takes left for right, as a careless change might
    monkeypatch.setattr(suite.boxes, "relations", lambda a, b, *rest: true(b, a, *rest))
    assert cli.main(suite.SUITE, [*words, "--output", str(tmp_path / "after")]) == 0
    code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", tmp_path / "after")
    assert code == 1, out


@pytest.mark.slow
def test_two_runs_are_compared_task_by_task(runs, capsys):
    code, out, _ = call(capsys, "compare", runs / "good", runs / "bad")
    assert code == 0
    lines = out.splitlines()
    assert " ".join(lines[:2]).startswith("Changed settings: model oracle → folder:")
    tasks = ("overall", "single object", "two objects", "counting", "colors", "position", "color attribution")
    rows = [lines.index(line) for task in tasks for line in lines if line.startswith(f"{task}  ")]
    assert len(rows) == 7
    assert all(lines[row + 1].startswith("  ") for row in rows), "what may be said of a row stands below it"
    assert max(map(len, lines[rows[0] - 3 : rows[-1] + 2])) <= 80
    assert json.loads(lines[-1])["verdict"] == "worse"


@pytest.mark.slow
def test_cases_of_one_id_and_two_prompts_are_not_compared(capsys, tmp_path):
    for name, prompt in (("a", "a photo of a dog"), ("b", "a photo of a cat")):
        line = {"tag": "single_object", "include": [{"class": prompt.split()[-1], "count": 1}], "prompt": prompt}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        words = ["--model", "oracle", "--prompts", str(tmp_path / f"{name}.jsonl"), "--images-per-prompt", "1"]
        assert cli.main(suite.SUITE, [*words, "--output", str(tmp_path / name)]) == 0
    code, _, err = call(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert "case 00000 is 'a photo of a dog' in a and 'a photo of a cat' in b" in err


# --------------------------------------------------------------------------------------------------------------- small
def test_a_baseline_keeps_every_verdict(tmp_path):
    made = outcomes("a", {"00000": [True, False, True, True], "00001": []})
    path = tmp_path / "b.json"
    path.write_text(json.dumps(made.as_dict()))
    with pytest.raises(Exception, match="no baseline"):
        compare.of_baseline(path)
    made = outcomes("a", {"00000": [True, None, True, True], "00001": [False]})
    path.write_text(json.dumps(made.as_dict()))
    assert compare.of_baseline(path) == made


def test_a_task_of_several_words_is_read_back(tmp_path):
    made = dataclasses.replace(outcomes("a", {"0": [True, False]}), tasks={"0": "change  the colour "})
    (tmp_path / "b.json").write_text(json.dumps(made.as_dict()))
    assert compare.of_baseline(tmp_path / "b.json") == made


def test_a_baseline_of_before_is_still_read(tmp_path):
    kept = compare.of_baseline(Path(compare.__file__).parent / "baselines" / "geneval-mini-limit12.json")
    assert len(kept.right) == 12
    assert gate.decide(kept, kept, 0.0, 0.05).answer == gate.PASS
    # Format 1 leaves out images without a score: which one it was is not known, how many is.
    content = {"format": 1, "name": "old", "made_by": {"detector": "icon"}, "cases": {"0": "t 101", "1": "t 1111"}}
    (tmp_path / "b.json").write_text(json.dumps(content))
    old, new = compare.of_baseline(tmp_path / "b.json"), outcomes("b", {"0": [None, None, True, True], "1": [True] * 4})
    assert "1 image that the baseline has is missing" in gate.decide(old, new, 0.5, 0.05).why
    assert compare.flips(old, new) == {"lost": [], "won": []}
    (tmp_path / "b.json").write_text(json.dumps({**content, "format": 3}))
    with pytest.raises(UserError, match="format 3 is not known"):
        compare.of_baseline(tmp_path / "b.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", *(f'{{"name": "a", "made_by": {{}}, "cases": {{"0": "{x}"}}}}' for x in ("x", "x ", "x 12"))],
)
def test_what_is_no_baseline_is_one_line(capsys, tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    code, out, err = call(capsys, "gate", "--baseline", path, "--run", tmp_path)
    assert (code, out) == (2, "")
    (line,) = (line for line in err.splitlines() if not line.startswith("note: "))
    assert "b.json is no baseline" in line or "b.json is not valid JSON" in line or "Expected a JSON object" in line


def test_a_missing_baseline_says_how_to_make_one(capsys, tmp_path):
    code, _, err = call(capsys, "gate", "--baseline", tmp_path / "b.json", "--run", tmp_path)
    assert code == 2
    assert "reports baseline RUN" in err


def test_a_drop_of_few_cases_cannot_be_decided():
    before = outcomes("a", {str(i): [True] for i in range(12)})
    after = outcomes("b", {str(i): [i > 0] for i in range(12)})
    decision = gate.decide(before, after, 0.02, 0.05)
    assert decision.answer == gate.UNDECIDED
    assert "too few" in decision.why
    assert gate.decide(before, after, 0.1, 0.05).answer == gate.PASS
    assert gate.decide(after, before, 0.0, 0.05).answer == gate.PASS, "a gain passes"


def test_cases_that_are_missing_are_said():
    before = outcomes("a", {str(i): [True] for i in range(12)})
    after = dataclasses.replace(before, right={"0": (True,)})
    said = "not comparable: the baseline has 12 prompts with 1 image each, the run 1 with 1: run it with --limit 12 "
    assert gate.decide(before, after, 0.0, 0.05).why == f"{said}--images-per-prompt 1"
    both = dataclasses.replace(before, tasks={"0": "counting", "1": "left, right"}, right={"0": (True,), "1": (True,)})
    for task, flag in {"counting": "counting", "left, right": """'["left, right"]'"""}.items():
        one = dataclasses.replace(before, tasks={"0": task}, right={"0": (True,)})
        assert gate.decide(one, both, 0.0, 0.05).why.endswith(
            f"run it with --tasks {flag} --limit 1 --images-per-prompt 1"
        )
        assert "--tasks" not in gate.decide(both, one, 0.0, 0.05).why
    other = dataclasses.replace(before, right={str(i): (True,) for i in range(1, 13)})
    assert gate.decide(before, other, 0.0, 0.05).why == "not comparable: their prompts are not the same"
    unnamed = dataclasses.replace(before, made_by={"generate": {"seed": 1}})
    named = dataclasses.replace(before, made_by={"generate": {"seed": 1, "suite": "geneval"}})
    assert "of None" not in gate.decide(unnamed, named, 0.0, 0.05).why


def test_a_run_of_another_suite_or_size_is_told_so_in_one_line(capsys, tmp_path):
    folder = write_run(tmp_path / "run", [(CHAIN, BOTH, None)] * 2)
    assert call(capsys, "baseline", folder, "--output", tmp_path / "b.json")[0] == 0
    other = write_run(tmp_path / "other", [(CHAIN, NO_DOG, None)] * 3)
    spec = json.loads((other / "run.json").read_text())
    spec["identity"]["generate"]["prompts_sha256"] = "1" * 64
    write_json(other / "run.json", spec)
    code, out, _ = call(capsys, "gate", "--baseline", tmp_path / "b.json", "--run", other)
    size = "the baseline has 1 prompt with 2 images each, the run 1 with 3: run it with --limit 1 --images-per-prompt 2"
    assert (code, json.loads(out.splitlines()[-1])["why"]) == (2, f"not comparable: {size}")
    assert " ".join(out.splitlines()[:-1]) == f"cannot decide: not comparable: {size}", "and nothing else"
    spec["identity"]["generate"]["suite"] = "emu_edit"
    write_json(other / "run.json", spec)
    code, out, _ = call(capsys, "gate", "--baseline", tmp_path / "b.json", "--run", other)
    said = "cannot decide: not comparable: the baseline is of geneval and the run of emu_edit"
    assert (code, " ".join(out.splitlines()[:-1])) == (2, said)


def test_missing_images_do_not_pass_unless_they_may_be_wrong():
    before = outcomes("a", {str(i): [True] * 4 for i in range(50)})
    after = dataclasses.replace(before, right=dict.fromkeys(before.right, (True, None, None, None)))
    decision = gate.decide(before, after, 0.02, 0.05)
    assert decision.answer == gate.UNDECIDED
    assert "150 images that the baseline has are missing; were they wrong: overall 1.000 → 0.250" in decision.why
    few = dataclasses.replace(before, right={**before.right, "7": (True, None, True, True)})
    decision = gate.decide(before, few, 0.02, 0.05)
    assert decision.answer == gate.PASS
    assert "1 image that the baseline has is missing" in decision.why
    assert gate.decide(few, few, 0.0, 0.05).why.startswith("overall 1.000 → 1.000"), "nothing was lost"
    assert "1 image is missing in the baseline, too" in gate.decide(few, few, 0.0, 0.05).why
    assert gate.decide(after, before, 0.0, 0.05).answer == gate.PASS
    none = dataclasses.replace(before, right=dict.fromkeys(before.right, (None,) * 4))
    assert gate.decide(before, none, 0.02, 0.05).answer == gate.UNDECIDED


def test_one_missing_image_does_not_hide_a_regression():
    before = outcomes("a", {str(i): [True] * 4 for i in range(50)})
    after = dataclasses.replace(
        before, right={**dict.fromkeys(before.right, (False,) * 4), "7": (False, None, False, False)}
    )
    decision = gate.decide(before, after, 0.02, 0.05)
    assert decision.answer == gate.REGRESSION
    assert "were it right: -0.995" in decision.why


def test_edits_weigh_the_same_in_all_whatever_their_category(tmp_path):
    """Nine of one kind that stay, one of another that is lost: a tenth, not a half."""
    before = outcomes("a", {str(i): [True] for i in range(10)})
    before = dataclasses.replace(before, tasks={case: "add" if case == "9" else "remove" for case in before.right})
    after = dataclasses.replace(before, right={**before.right, "9": (False,)})
    assert compare.compare(before, after)[0].difference.value == pytest.approx(-0.5)
    pooled = dataclasses.replace(before, pooled=True)
    assert compare.compare(pooled, after)[0].difference.value == pytest.approx(-0.1)
    assert compare.compare(pooled, after)[0].after == pytest.approx(0.9)
    (tmp_path / "b.json").write_text(json.dumps(pooled.as_dict()))
    assert compare.of_baseline(tmp_path / "b.json") == pooled


def test_a_sentence_on_edits_says_what_is_counted_and_what_is_flipped():
    before, after = (outcomes(name, {str(i): [right] for i in range(4)}) for name, right in (("a", True), ("b", False)))
    assert "On 4 prompts with" in compare.sentence(compare.compare(before, after), before, after)
    edits = dataclasses.replace(before, pooled=True, groups={str(i): str(i // 2) for i in range(4)})
    said = compare.sentence(compare.compare(edits, after), edits, after)
    assert "On 4 edits with 4 images, b scores 0.000" in said
    assert "permutation test over source images, p = " in said
    assert "so few source images" in said
    assert "prompt" not in said


def test_images_are_paired_by_index():
    before, after = outcomes("a", {"0": [True, False, None, True]}), outcomes("b", {"0": [None, True, True, False]})
    assert compare.flips(before, after) == {"lost": [("0", 3)], "won": [("0", 1)]}
    (overall, _) = compare.compare(before, after)
    assert (overall.before, overall.after) == (0.5, 0.5)
    text = compare.shown([overall], before, after)
    assert "1 of 4 images has no verdict in a" in text
    assert "1 of 4 images has no verdict in b" in text


def test_runs_with_other_numbers_of_images_are_paired_by_index_and_say_so():
    """Of four images and one, the first of each is compared: scores, images lost and the sentence tell the same."""
    before = outcomes("a", {str(i): [True, False, True, True] for i in range(12)})
    after = outcomes("b", {str(i): [False] for i in range(12)})
    rows, left_out = compare.compare(before, after), compare.unpaired(before, after)
    assert (rows[0].before, rows[0].after) == (1.0, 0.0)
    assert len(compare.flips(before, after)["lost"]) == 12
    said = left_out.sentences("a", "b")
    assert said == ["12 cases have 4 images in a and 1 in b: the first image is compared"]
    text = compare.shown(rows, before, after, said)
    assert "12 images lost: 0/0" in text
    assert said[0] in text
    again = compare.compare(after, before)
    assert (again[0].before, again[0].after) == (0.0, 1.0)


def test_images_without_indexes_are_compared_by_prompt_and_that_is_said():
    old = dataclasses.replace(outcomes("a", {"0": [True, False], "1": [True]}), indexed=False)
    new = outcomes("b", {"0": [False, False, False], "1": [True]})
    assert compare.compare(old, new)[0].before == pytest.approx(0.75)
    (said,) = compare.unpaired(old, new).sentences("a", "b")
    assert said.startswith("1 case has other numbers of images in a and b, and nothing tells which image is which")


def test_what_only_one_run_has_is_said_on_the_terminal_and_in_json(capsys, tmp_path):
    for name, cases in (("a", ("0", "1", "2")), ("b", ("1", "2", "3"))):
        lines = [
            {"filename": f"/x/{case.zfill(5)}/samples/{image:04d}.png", "tag": "counting", "prompt": f"p{case}",
             "correct": name == "a", "reason": "", "metadata": json.dumps({"include": [{"class": "dog", "count": 1}]})}
            for case in cases for image in range(2)
        ]  # fmt: skip
        write_lines(tmp_path / f"{name}.jsonl", lines)
    words = ("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--output", tmp_path / "page")
    code, out, _ = call(capsys, *words)
    assert code == 0
    assert "cases not compared: 1 only in a.jsonl, 1 only in b.jsonl" in (tmp_path / "page" / "report.html").read_text()
    assert "cases not compared: 1 only in a.jsonl, 1 only in b.jsonl" in out
    said = json.loads(out.splitlines()[-1])
    assert (said["cases"], said["only_in_a"], said["only_in_b"], said["images_lost"], said["images_won"]) == (
        2,
        1,
        1,
        4,
        0,
    )


def test_cases_without_a_verdict_in_both_are_counted():
    before, after = outcomes("a", {"0": [True, None], "1": [True]}), outcomes("b", {"0": [None, True], "1": [True]})
    assert compare.unpaired(before, after).sentences("a", "b") == [
        "cases not compared, without an image that has a verdict in both: 1"
    ]


def test_a_gate_says_how_many_images_failed(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    folder, baseline, junit = (
        write_run(tmp_path / "run", [(CHAIN, BOTH, None)] * 4),
        tmp_path / "b.json",
        tmp_path / "j",
    )
    assert call(capsys, "baseline", folder, "--output", baseline)[0] == 0
    failures = []
    for kept in (4, 1, 0):
        lost = runner_kit.lines(folder / "observations.jsonl")[kept:]
        for name in ("results", "observations"):
            write_lines(folder / f"{name}.jsonl", runner_kit.lines(folder / f"{name}.jsonl")[:kept])
        failures += [{key: line[key] for key in ("case", "index")} for line in lost]
        write_lines(folder / "failures.jsonl", [{**each, "stage": "generate", "error": "full"} for each in failures])
        code, out, _ = call(capsys, "gate", "--baseline", baseline, "--run", folder, "--junit", junit)
        assert code == (0 if kept == 4 else 2)
        for said in (out, junit.read_text(), (tmp_path / "summary.md").read_text()):
            assert (f"{4 - kept} images that the baseline has are missing" in said) == (kept < 4)
    assert "## Gate of geneval" in (tmp_path / "summary.md").read_text()


def test_flips_name_the_images_both_ways():
    before = outcomes("a", {"0": [True, False], "1": [True]})
    after = outcomes("b", {"0": [False, True], "1": [True]})
    assert compare.flips(before, after) == {"lost": [("0", 0)], "won": [("0", 1)]}


def test_names_cannot_break_the_table():
    before, after = outcomes("a|b\n", {"0": [True]}), outcomes("c", {"0": [True]})
    table = compare.shown(compare.compare(before, after), before, after)
    assert table.splitlines()[0].count(" | ") == 6
    text = compare.shown(compare.compare(before, after), before, after, form="text")
    assert "before: a|b" in " ".join(text.split())


@pytest.mark.parametrize(("groups", "unit"), [({}, "prompts"), ({str(i): str(i // 2) for i in range(4)}, "edits")])
def test_a_comparison_has_one_word_for_its_cases_and_fits_a_terminal(groups, unit):
    name = "scheduler dpmsolver++, steps 20"
    before, after = (outcomes(which, {str(i): [True] for i in range(4)}) for which in (name, f"{name}, seed 7"))
    before = dataclasses.replace(before, groups=groups)
    text = compare.shown(compare.compare(before, after), before, after, form="text")
    table = text.split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 80
    assert table.count(f" {unit}\n") == 1, "the column's title"
    assert f"{unit}, interval" in table
    assert "cases" not in text


def test_a_comparison_without_a_changed_verdict_says_none(tmp_path):
    runs, _ = load([write_run(tmp_path / name / name) for name in ("a", "b")])
    with style.sheet():
        browser = changes.of_two(*runs).page.browser
    assert (browser.lead, browser.records) == ("None.", [])


def test_runs_whose_images_have_numbers_alone_are_told_which_command_shows_them():
    numbers, verdicts = outcomes("numbers", {"1": (None,)}), outcomes("verdicts", {"1": (True,)})
    with pytest.raises(UserError, match=r"verdict in both; python -m reports table shows numbers that are not right"):
        compare.compare(numbers, numbers)
    with pytest.raises(UserError, match=r"verdict in both$"):
        compare.compare(numbers, verdicts)
