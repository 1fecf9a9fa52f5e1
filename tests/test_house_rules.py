"""The rules that no linter knows: file length, light imports, and a README that tells the truth."""

import ast
import contextlib
import csv
import functools
import io
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evals.core.vocabulary import TASKS
from evals.harness.run_spec import SUITES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("got", "evals", "reports")
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT_SUFFIXES = {".cff", ".csv", ".ini", ".json", ".jsonl", ".md", ".py", ".toml", ".yaml", ".yml", ""}
HEAVY = ("torch", "transformers", "diffusers", "open_clip", "mmdet", "mmcv", "mmengine", "cv2", "matplotlib", "pandas")


def tracked_files():
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listing.returncode:
        pytest.skip(f"git cannot list this tree: {listing.stderr.strip().splitlines()[-1]}")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files():
    return [path for path in tracked_files() if path.suffix == ".py"]


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_file_is_longer_than_500_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


@pytest.mark.parametrize(
    "module", ["evals.geneval", "evals.harness.cli", "evals.harness.runner", "got.plan.chain", "got.iconworld"]
)
def test_scoring_and_planning_import_no_heavy_library(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module", ["evals.geneval", "evals.ablation", "evals.run", "got.data", "got.finetune", "got.train", "reports"]
)
def test_help_needs_no_heavy_library(module):
    # -X importtime writes every import to stderr, those inside functions included.
    done = run_python("-X", "importtime", "-m", module, "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({*HEAVY, "scipy.stats"})


def test_every_dependency_says_the_oldest_version_that_works():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    needed = [*project["project"]["dependencies"], *itertools.chain(*extras), *project["build-system"]["requires"]]
    assert [name for name in needed if not re.fullmatch(r"[\w-]+>=[\d.]+", name)] == []
    assert sorted(set(needed)) == sorted({re.split(">=", name)[0]: name for name in needed}.values()), "one bound each"
    assert project["project"]["requires-python"] == ">=3.11"


def test_every_metric_shows_an_example():
    files = [*sorted((ROOT / "evals/metrics").glob("*.py")), ROOT / "got/plan/chain.py", ROOT / "got/plan/layout.py"]
    missing = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in files
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        if not node.name.startswith("_") and ">>>" not in (ast.get_docstring(node) or "")
    ]
    assert missing == []


def test_every_suite_stands_in_the_contracts_and_in_the_readme():
    """What CONTRIBUTING asks of a benchmark that lives here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {one["name"]: one for one in project["tool"]["importlinter"]["contracts"]}
    apart = set(contracts["Suites do not import each other"]["modules"])
    bare = set(contracts["A suite knows no back-end, no model and no engine"]["source_modules"])
    files = {name: re.sub(r"\.suite$", "", reference.partition(":")[0]) for name, reference in SUITES.items()}
    assert [name for name, file in files.items() if file not in apart & bare] == []
    assert [name for name in files if not re.search(rf"\b{name}\b", README)] == []


def readme_commands():
    blocks = [b for page in PAGES for b in re.findall(r"```(?:bash|console|sh)\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({line[line.index("python -m ") :].split(" #")[0] for line in lines if "python -m " in line})


@functools.cache
def flags_of(module, *words):
    """What the help of a command names."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [module, *words, "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(module, run_name="__main__")
    assert end.value.code == 0
    return set(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue()))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # another test has imported what is run here
@pytest.mark.parametrize("command", [c for c in readme_commands() if re.match(r"python -m (evals|got|reports)\b", c)])
def test_readme_commands_use_flags_that_exist(command):
    words = shlex.split(command)[1:]
    subcommand = words[2:3] if words[1] in ("got", "got.data", "reports") else []
    subcommand = ["geneval"] if words[1] == "evals.run" else subcommand  # a suite of another package has its flags
    known = flags_of(words[1], *subcommand)
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_the_gate_runs_what_the_readme_says():
    """The README has two set-up commands: one ends in the main job, one in the tests."""
    commands = [line.split(" && ") for line in README.splitlines() if line.startswith("python3 -m venv")]
    gate = (ROOT / ".ci" / "run").read_text()
    main_job, tests = commands
    for step in (*tests[2:], main_job[-1]):
        assert step.replace("pip install", "pip install --quiet").replace("[test]", "[test,dev]") in gate


def test_files_that_the_gate_names_exist():
    gate = (ROOT / ".ci" / "run").read_text()
    words = re.findall(r"\b(?:tests|reports|benchmarks)(?:/[\w.{},-]+)+", gate)
    assert words
    script = f"printf '%s\\n' {' '.join(words)}"
    listed = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in listed.stdout.split() if not (ROOT / name).exists()] == []


def test_readme_links_and_images_exist():
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text())]
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []
    assert len(README.splitlines()) <= 180


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_scores_on_pages_are_those_of_the_committed_results(page):
    with (ROOT / "reports" / "results" / "geneval.csv").open() as file:
        measured = {row["method"]: row for row in csv.DictReader(file)}
    lines = (ROOT / page).read_text().splitlines()
    for label, method in (("GoT mini", "got"), ("oracle (ceiling)", "oracle")):
        row = measured[method]
        overall, low, high = (float(row[f"overall{end}"]) for end in ("", "_low", "_high"))
        cells = next(line for line in lines if line.startswith(f"| {label} |")).strip("| ").split(" | ")
        assert cells[1:] == [f"{overall:.3f} ({low:.3f}–{high:.3f})", *(f"{float(row[task]):.3f}" for task in TASKS)]


def test_texts_name_no_machine_and_no_tracker():
    """A path of one machine, or a ticket of one tracker, means nothing to a reader."""
    foreign = re.compile(r"(?<![\w.~])/(?:work|root|home|tmp)/\w|\b[Ii]ssues? #?\d+|\bTODO\b|\bFIXME\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_files()
        if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if len(line) < 2000 and foreign.search(line)
    ]
    assert found == []
