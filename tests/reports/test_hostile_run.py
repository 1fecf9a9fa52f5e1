"""One run whose every word is hostile, through all that prints or writes: nothing steers a terminal or a page."""

import json
import re
import shutil

import pytest
from runner_kit import make_plan

from evals import ablation, merge
from evals.geneval import suite
from evals.harness import cli
from evals.harness.runner import run
from reports import __main__ as reports_main

EVIL = "<script>alert(1)</script>|\x1b]0;owned\x07\u202e[x](javascript:y)`"
STEERS = re.compile("[\x1b\x07\u202e]")
PAGE = re.compile(STEERS.pattern + r"|<script>alert")
RAW = re.compile(STEERS.pattern + r"|<script>alert|</script>\||(?<!\\)\[x\]\(javascript")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two runs, and two parts of a third, of prompts and tags in which every word is hostile."""
    root = tmp_path_factory.mktemp("hostile")
    own = root / f"p{EVIL.replace('/', '')}.jsonl"
    include = [{"class": "dog", "count": 1}]
    rows = [{"tag": EVIL, "include": include, "prompt": f"a dog {n} {EVIL}", "note" + EVIL: EVIL} for n in range(3)]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--prompts", str(own), "--images-per-prompt", "1", "--batch-size", "1"]
    for name, seed in (("a", "1"), ("b", "2")):
        run(make_plan(root / f"{name}{EVIL.replace('/', '')}", *words, "--seed", seed))
    for share in ("1/2", "2/2"):
        run(make_plan(root / "parts-of", *words, "--shard", share))
    return root, words


def runs_of(root):
    return [str(path) for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] in "ab"]


def leaks(what, *texts):
    """What got through, with what stands around it."""
    return [text[max(0, match.start() - 80) : match.end() + 80] for text in texts for match in what.finditer(text)]


def without_code(text):
    """Markdown without what stands between backticks, as it is."""
    return re.sub(r"`[^`\n]*`", "", text)


def written(folder):
    """Texts that people open; in a page, what is data for its own program stands in JSON."""
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".md", ".tex", ".svg", ".xml", ".csv"):
            yield path, path.read_text()


def test_no_command_of_reports_lets_a_word_of_a_run_out(hostile, tmp_path, capsys, monkeypatch):
    root, _ = hostile
    a, b = runs_of(root)
    out, summary = tmp_path / "out", tmp_path / "summary.md"
    out.mkdir()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    commands = [
        [a, b, "--output", str(out / "report"), "--samples", "all", "--title", EVIL],
        *(["table", a, b, "--format", form] for form in ("text", "markdown", "latex")),
        ["compare", a, b, "--output", str(out / "changes")],
        ["baseline", a, "--output", str(tmp_path / "base.json")],
        ["gate", "--baseline", str(tmp_path / "base.json"), "--run", b, "--junit", str(out / "j.xml")],
        ["gate", "--baseline-run", a, "--run", b, "--output", str(out / "gate")],
        ["power", "--baseline", str(tmp_path / "base.json")],
        ["teaser", a, "00000", "--output", str(out / "t.png")],
        ["table", str(root / "no such run" / EVIL.replace("/", ""))],
    ]
    for words in commands:
        assert reports_main.main(words) in (0, 1, 2)
        said = capsys.readouterr()
        assert leaks(RAW if "markdown" in words else STEERS, said.out, said.err) == [], words
    shutil.copy(summary, out / "summary.md")
    for path, text in written(out):
        what = {".csv": STEERS, ".md": RAW}.get(path.suffix, PAGE)
        assert leaks(what, without_code(text)) == [], path


def test_no_command_of_evals_lets_a_word_of_a_run_out(hostile, tmp_path, capsys):
    root, words = hostile
    shutil.copytree(root / "parts-of", tmp_path / "parts-of")
    assert merge.main([str(tmp_path / "parts-of")]) == 0
    (_, a) = "", runs_of(root)[0]
    assert cli.main(suite.SUITE, ["--output", a, "--from", "verdict", *words, "--model", "oracle"]) in (0, 2)
    assert cli.main(suite.SUITE, ["--prompts", f"{tmp_path}/{EVIL.replace('/', '')}"]) == 2
    assert cli.main(suite.SUITE, [f"--{EVIL}"]) == 2
    assert cli.main(suite.SUITE, ["--model", EVIL]) == 2
    grid = tmp_path / "grid.toml"
    grid.write_text(f'[cells]\n{json.dumps(EVIL)} = "--seed 1"\nb = "--seed 2"\n')
    given = [*words, "--model", "oracle", "--detector", "icon", "--device", "cpu"]
    assert ablation.main(["--grid", str(grid), *given, "--output", str(tmp_path / "cells")]) == 0
    said = capsys.readouterr()
    assert leaks(STEERS, said.out, said.err) == []
    assert leaks(RAW, without_code((tmp_path / "cells" / "ablation.md").read_text())) == []
