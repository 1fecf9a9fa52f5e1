"""The wheel, put into an empty folder and run from another one, does what the README shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wheel_kit import unpacked

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("got", "evals", "reports")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what the wheel installs, and nothing else of this project."""
    return unpacked(ROOT, tmp_path_factory.mktemp("wheel") / "site")


def run_python(site, cwd, *words):
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(folder):
    found = (path for package in PACKAGES for path in (folder / package).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_every_file_of_the_packages_is_in_it(site):
    assert files_of(site) == files_of(ROOT)
    (installed,) = site.glob("*.dist-info")
    assert {path.name for path in (installed / "licenses").iterdir()} == {"LICENSE", "NOTICE"}


@pytest.mark.slow
def test_it_does_the_main_job_an_editing_suite_and_a_report_elsewhere(site, tmp_path):
    where = run_python(site, tmp_path, "-c", "import got, evals, reports; print(got.__file__, evals.__file__)")
    assert {Path(word).parents[1] for word in where.split()} == {site}
    few = ["--model", "got", "--limit", "2", "--images-per-prompt", "1"]
    for suite, words in (("geneval", few), ("emu_edit", few[:4])):
        out = run_python(site, tmp_path, "-m", f"evals.{suite}", *words, "--output", tmp_path / suite)
        headline = json.loads(out.splitlines()[-1])
        assert (headline["images"], headline["missing"]) == (2, 0)
    seen = map(json.loads, (tmp_path / "geneval/results.jsonl").read_text().splitlines())
    assert [result["correct"] for result in seen] == [True, True]
    run_python(site, tmp_path, "-m", "reports", tmp_path / "geneval", "--output", tmp_path / "page")
    assert (tmp_path / "page/report.html").stat().st_size > 10_000
    made = json.loads((tmp_path / "geneval/run.json").read_bytes())
    assert made["machine"]["commit"] is None, "a checkout around an installation is another project's"


@pytest.mark.slow
def test_the_readmes_python_example_runs_elsewhere(site, tmp_path):
    section = (ROOT / "README.md").read_text().split("## From Python", 1)[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    run_python(
        site, tmp_path, "-c", example + "\nassert out.images[0].size == (128, 128) and 'apple' in str(out.chains[0])"
    )
