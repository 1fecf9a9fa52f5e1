"""Suites and back-ends of other packages: found by name, run, scored again, reported, ablated."""

import importlib
import json
import sys

import pytest
from plugin_kit import SOURCE, install
from runner_kit import lines

from evals import ablation
from evals import run as any_suite
from evals.core.backends import Backend, Registry
from evals.core.records import UserError
from evals.detectors.registry import DETECTORS
from evals.embedders.registry import EMBEDDERS, IMAGE_EMBEDDERS
from evals.generators.registry import GENERATORS
from evals.harness.run_spec import find_suite, suite_names
from evals.judges.registry import JUDGES
from reports.__main__ import main as reports_main

REGISTRIES = (GENERATORS, DETECTORS, EMBEDDERS, IMAGE_EMBEDDERS, JUDGES)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example on the path, as if it were installed."""
    folder = str(install(tmp_path_factory.mktemp("site")))
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    yield
    sys.path.remove(folder)
    GENERATORS.records.pop("plain", None)


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "oracle"
    words = ["--model", "oracle", "--limit", "8", "--images-per-prompt", "1", "--output", str(folder)]
    assert any_suite.main(["nothing_else", *words]) == 0
    return folder


def test_the_example_is_a_whole_suite_in_a_hundred_lines():
    assert len((SOURCE / "nothing_else.py").read_text().splitlines()) <= 100


def test_a_suite_of_another_package_runs_by_name(finished):
    scores = json.loads((finished / "scores.json").read_text())
    assert (scores["suite"], scores["title"], scores["world"]) == ("nothing_else", "Nothing else", "icon world")
    assert scores["overall"]["score"]["value"] >= 0.8
    assert scores["overall"]["values"]["wanted objects"]["value"] >= 0.9
    assert set(scores["tasks"]) == {"one", "two"}
    assert {path.stem for path in (finished / "sheets").iterdir()} == {"one", "two"}
    assert len(lines(finished / "results.jsonl")) == 8


def test_it_is_scored_again_with_its_own_options(finished, capsys):
    assert any_suite.main(["nothing_else", "--output", str(finished), "--seed", "1"]) == 2
    assert "made with other arguments" in capsys.readouterr().err
    strict = ["--output", str(finished), "--from", "verdict", "--threshold", "1.0"]
    assert any_suite.main(["nothing_else", *strict]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["overall"] == 0
    assert any_suite.main(["nothing_else", *strict[:-2], "--threshold", "0.3"]) == 0


def test_a_generator_of_another_package_is_one_of_the_models(installed, tmp_path, capsys):
    assert "plain[:COLOR]" in GENERATORS.written()
    words = ["--limit", "4", "--images-per-prompt", "1", "--output", str(tmp_path / "run")]
    assert any_suite.main(["nothing_else", "--model", "plain:grey", *words]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["overall"] == 0
    assert any_suite.main(["nothing_else", "--model", "plain:grey", "--steps", "3"]) == 2
    assert "--steps has no effect with --model plain" in capsys.readouterr().err
    assert any_suite.main(["nothing_else", "--model", "plain:sand", *words[:-1], str(tmp_path / "other")]) == 2
    assert "unknown color" in capsys.readouterr().err


def test_reports_show_a_suite_that_nobody_knows(finished, tmp_path, capsys):
    assert reports_main(["table", str(finished), "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "wanted objects" in text
    assert reports_main(["report", str(finished), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Nothing else" in page
    assert any((tmp_path / "report" / "figures").glob("*score-by-task.svg"))


def test_an_ablation_takes_it_too(installed, tmp_path, capsys):
    words = ["--suite", "nothing_else", "--model", "oracle", "--limit", "4", "--images-per-prompt", "1"]
    output = tmp_path / "ablation"
    assert ablation.main([*words, "--axis", "seed=1,2", "--output", str(output)]) == 0
    rows = json.loads((output / "ablation.json").read_text())["cells"]
    assert [set(row["tasks"]) for row in rows] == [{"one", "two"}] * 2
    capsys.readouterr()
    assert reports_main(["report", str(output), "--output", str(tmp_path / "report")]) == 0


def test_a_name_that_nobody_has_is_one_line(capsys):
    assert any_suite.main(["geneva"]) == 2
    assert "there is no suite geneva; installed are geneval, emu_edit" in capsys.readouterr().err
    assert any_suite.main([]) == 2
    assert any_suite.main(["--help"]) == 0


def test_every_suite_of_this_package_is_found_by_its_name():
    assert [find_suite(name).name for name in suite_names()[:6]] == suite_names()[:6]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.group)
def test_every_record_names_a_factory_that_is_there(registry):
    from evals.core.backends import load

    for name in registry.names():
        factory = registry[name].factory
        assert callable(load(factory) if isinstance(factory, str) else factory), name


def test_a_record_that_is_none_is_refused(monkeypatch):
    class Point:
        name = "odd"

        @staticmethod
        def load():
            return object()

    registry = Registry("a model", "got_evals.generators", {"good": Backend(factory="os:getcwd")})
    monkeypatch.setattr("evals.core.backends.entry_points", lambda group: {"odd": Point})
    with pytest.raises(UserError, match=r"a model odd of got_evals.generators is no evals.core.backends.Backend"):
        registry.find("odd")
    assert registry.names() == ["good", "odd"]
