"""Packages that libraries import for few of their classes wait until a command needs them, and are then whole."""

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from got.util import postponed

ROOT = Path(__file__).resolve().parents[2]
DRAWS = """
import sys

sys.argv = sys.argv[1:]  # a command's are ["-m"] while its package is imported
from got.util.garbage import loading

with loading():
    from got import checkpoint

    pipeline = checkpoint.load("mini")
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""
# Each is imported by a package that waits, and by nothing that drawing needs.
INSIDE = (
    "diffusers.models.transformers.transformer_flux",
    "scipy.integrate._ode",
    "scipy.optimize._lsap",
    "scipy.stats._qmc",
)


def run(code, *argv):
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_command_does_not_run_what_drawing_does_not_need():
    assert run(DRAWS, "-m", *INSIDE) == []


def test_a_program_that_imports_the_packages_has_its_libraries_as_ever():
    assert run(DRAWS, "theirs.py", *INSIDE) == list(INSIDE)


def test_what_waits_is_whole_when_it_is_needed():
    code = (
        "from got.util.postponed import postponed\n"
        "with postponed():\n"
        "    import diffusers, scipy.stats as stats\n"
        "    from scipy.optimize import linear_sum_assignment\n"
        "print(*linear_sum_assignment([[3, 1], [1, 3]])[1], stats.norm.cdf(0.0), hasattr(stats, 'nothing'))\n"
        "print(diffusers.FluxTransformer2DModel.__name__, stats.__spec__.loader is stats.__loader__)\n"
        "from scipy.optimize import linear_sum_assignment as real\n"
        "print(real.__name__)"
    )
    assert run(code) == ["1", "0", "0.5", "False", "FluxTransformer2DModel", "True", "linear_sum_assignment"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package that waits and has one function; returns it, not yet run."""

    def write(code):
        (tmp_path / "slow_package.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(postponed.PACKAGES, "slow_package", ("function",))
        with postponed.postponed():
            return importlib.import_module("slow_package")

    yield write
    sys.modules.pop("slow_package", None)


def test_threads_wait_for_the_one_that_runs_it(package):
    made = package("import time\ntime.sleep(0.2)\nlast = 1")
    found = []
    threads = [threading.Thread(target=lambda: found.append(made.last)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 4


def test_a_package_with_names_of_its_own_making_keeps_them(package):
    made = package("def __getattr__(name):\n    return name.upper()")
    assert (made.first, made.second) == ("FIRST", "SECOND")


def test_a_package_that_looks_for_a_name_it_has_not_yet_is_told_so(package):
    assert package("import slow_package\nhad = hasattr(slow_package, 'later')\nlater = 1").had is False


def test_a_package_that_cannot_run_says_so_each_time(package):
    made = package("raise ImportError('half an installation')")
    for _ in range(2):
        with pytest.raises(ImportError, match="half an installation"):
            _ = made.anything


def test_a_function_by_name_runs_its_package_when_it_is_called(package):
    made = package("ran = []\ndef function(*, by):\n    return by + 1")
    function = made.function
    assert "ran" not in vars(made)
    assert (function(by=1), made.function(by=2)) == (2, 3)


def test_a_package_that_puts_another_in_its_place_is_that_one(package):
    made = package("import sys, types\nsys.modules[__name__] = other = types.ModuleType(__name__)\nother.last = 3")
    assert made.last == 3


def test_all_names_of_a_package_are_those_of_what_has_run(package):
    assert package("__all__ = ['last']\nlast = 1").__all__ == ["last"]


@pytest.mark.parametrize("name", postponed.PACKAGES)
def test_what_waits_is_there(name):
    package = importlib.import_module(name)
    assert all(callable(getattr(package, function)) for function in postponed.PACKAGES[name])
