"""Suites and back-ends of other packages: found by name, run, scored again, reported, ablated."""

import argparse
import dataclasses
import importlib
import json
import pickle
import subprocess
import sys

import pytest
from plugin_kit import SOURCE, install
from runner_kit import lines

from evals import ablation
from evals import run as any_suite
from evals.core import options as flags
from evals.core.backends import Backend, Registry
from evals.core.records import UserError
from evals.detectors.registry import DETECTORS
from evals.embedders.registry import EMBEDDERS, IMAGE_EMBEDDERS
from evals.generators.registry import GENERATORS
from evals.harness import cli
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
    assert any_suite.main(["geneval", "--output", str(finished), "--model", "oracle"]) == 2
    assert f"{finished} is a run of nothing_else, not of geneval; choose another --output" in capsys.readouterr().err
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
    assert "there is no suite geneva; installed are geneval, geneval2, emu_edit" in capsys.readouterr().err
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


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """An installed package whose generator and suite cannot be imported."""
    (tmp_path / "torn_plugin.py").write_text("raise RuntimeError('no such driver')\n")
    info = tmp_path / "torn_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn-plugin\nVersion: 1\n")
    groups = "[got_evals.generators]\ntorn = torn_plugin:RECORD\n[got_evals.suites]\ntorn = torn_plugin:Torn\n"
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_a_broken_package_stops_only_what_names_it(broken, tmp_path, capsys):
    assert "torn" not in GENERATORS.written()
    assert "RuntimeError: no such driver" in GENERATORS.broken("torn")
    words = ["--limit", "1", "--images-per-prompt", "1", "--output", str(tmp_path / "run")]
    assert any_suite.main(["geneval", "--model", "oracle", *words]) == 0
    assert any_suite.main(["geneval", "--model", "torn", *words]) == 2
    assert any_suite.main(["torn", *words]) == 2
    said = capsys.readouterr().err.splitlines()[-2:]
    assert all("cannot be imported: RuntimeError: no such driver" in line for line in said)


@pytest.mark.parametrize("name", ["os:getcwd", ":", "os", "no_such_module:Suite", "evals.suite:Case"])
def test_what_is_no_suite_is_one_line(name, capsys):
    assert any_suite.main([name, "--model", "oracle"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("ids", [["a", "a"], ["../up"], ["a/b"], ["."]])
def test_case_ids_that_cannot_name_folders_are_refused(ids, tmp_path):
    from evals.suite import Case

    class Odd(type(find_suite("geneval"))):
        def cases(self, options, context):
            wanted = {"include": [{"class": "dog", "count": 1}]}
            return [Case(id=one, prompt="a dog", tag="single_object", metadata=wanted) for one in ids]

    with pytest.raises(UserError, match="expected case ids that differ and can name a folder"):
        _ = cli.make_plan(Odd(), ["--model", "oracle", "--output", str(tmp_path / "run")]).samples


@pytest.mark.parametrize(
    ("told", "allowed"), [({"low": 1}, "from 1 up"), ({"high": 1}, "up to 1"), ({"low": 1, "high": 2}, "from 1 to 2")]
)
def test_a_range_may_have_one_end(told, allowed):
    value = 0 if "low" in told else 2

    @dataclasses.dataclass(frozen=True)
    class Some:
        number: int = flags.option(value, "how many", stage=flags.RUN, **told)

    with pytest.raises(UserError, match=f"--number is {value}; expected a number {allowed}"):
        flags.read(Some, argparse.Namespace(number=value))


@pytest.mark.parametrize("suite", ["emu_edit", "geneval"])
def test_a_spec_of_a_command_can_be_read_by_any_process(suite, tmp_path):
    words = ["--model", "oracle", "--limit", "1", "--output", str(tmp_path)]
    spec = cli.make_plan(find_suite(suite), words).spec
    assert not spec.suite.startswith("__main__")
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).suite)"
    ended = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(spec), capture_output=True, check=True)
    assert ended.stdout.decode().strip() == spec.suite
