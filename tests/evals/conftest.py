"""What tests of suites share."""

import contextlib
import json

import judged_kit as kit
import pytest
from judge_kit import serve

from evals.core import contact_sheets
from evals.harness import cli
from evals.harness.run_spec import find_suite

EDITS = ("imgedit", "gedit", "rise", "kris")


@pytest.fixture(autouse=True)
def _sheets(monkeypatch):
    """Contact sheets of one tile, which are drawn in no time; test_sheets.py looks at whole ones."""
    monkeypatch.setattr(contact_sheets, "MAX_TILES", 1)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a judged suite on its small set, against a server that follows a rule."""

    def _run(name, *words, rule=kit.official, make=None, script=None, endpoint=None):
        root = tmp_path / "data"
        if not root.exists():
            (make or kit.SETS[name])(root)
        model = "identity"
        if name not in EDITS:
            model = f"folder:{root / 'results'}"
            if not (root / "results").exists():
                kit.results(root / "results", name)
        with contextlib.nullcontext(endpoint) if endpoint else serve(script or kit.answers(rule)) as endpoint:
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
            monkeypatch.setenv("JUDGE_MODEL", "judge-1")
            given = ["--data", root, "--allow-other-data", "--model", model, "--judge", "openai", "--output",
                     tmp_path / "run", "--judge-log", tmp_path / "log.jsonl", *words]  # fmt: skip
            code = cli.main(find_suite(name), [str(word) for word in given])
        out, err = capsys.readouterr()
        last = out.strip().splitlines()[-1:] or [""]
        return code, json.loads(last[0]) if last[0].startswith("{") else {}, out, err, endpoint.requests

    return _run
