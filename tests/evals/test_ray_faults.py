"""Runs on workers of a real Ray that cannot end well: one line, and nothing is held against a sample."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import engine_kit
import pytest
from engine_kit import geneval, last_line, lines_of, on, pids, same_run, third_machine, words
from runner_kit import lines

from evals.harness import cli
from evals.harness.run_spec import find_suite
from got.util import provenance
from got.util.workers import pool

pytest.importorskip("ray", reason="Ray is not installed: pip install 'got-bench[ray]'")
pytestmark = pytest.mark.slow

ROOT = Path(cli.__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    with engine_kit.announced(tmp_path_factory.mktemp("kit")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(path):
    with engine_kit.running(path) as made:
        yield made


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The folder of a generator that nothing disturbs."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def reference(path, paper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert geneval(*words(paper, folder)) == 0
    return folder


# ------------------------------------------------------------------------------------------------------------- no hope
def told(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(str(text))
    return folder


def test_a_breakdown_ends_a_run_at_the_sample_at_which_one_process_ends_it(cluster, reference, tmp_path, capsys):
    """One guard for all: each of three workers has seen two or three exceptions when there are eight."""
    cases = [line["case"] for line in lines(reference / "observations.jsonl")][::2]
    folder = told(tmp_path / "paper", broken=" ".join(cases[5:]))
    ends = {}
    for name, more in {"local": (), "ray": on(cluster, 3)}.items():
        run = tmp_path / name
        assert geneval(*words(folder, run, "--batch-size", "1", *more)) == 2
        logs = [lines_of(run / log) for log in ("observations.jsonl", "failures.jsonl")]
        ends[name] = last_line(capsys), logs, (run / "scores.json").exists()
    assert ends["ray"] == ends["local"]
    assert "generate failed on 8 samples in a row: RuntimeError: no paint" in ends["ray"][0]
    assert len(ends["ray"][1][0]) == 10
    (folder / "broken").unlink()
    assert geneval(*words(folder, tmp_path / "ray", "--batch-size", "1", *on(cluster, 2))) == 0
    kept = [lines(one / "observations.jsonl") for one in (tmp_path / "ray", reference)]
    assert kept[0] == kept[1]


EVERY = " ".join(f"{i:05d}" for i in range(553))
"""All cases of GenEval."""


def test_six_samples_that_all_fail_are_no_success(cluster, tmp_path, capsys):
    folder = told(tmp_path / "paper", broken=EVERY)
    short = ("--limit", "3", "--batch-size", "1")
    assert geneval(*words(folder, tmp_path / "run", *short, *on(cluster, 3))) == 2
    assert "generate failed on 6 samples in a row: RuntimeError: no paint" in last_line(capsys)
    assert not (tmp_path / "run" / "scores.json").exists()


def test_samples_that_all_kill_end_the_run_in_one_line(cluster, tmp_path, capsys):
    folder = told(tmp_path / "paper", deadly=EVERY)
    given = words(folder, tmp_path / "run", "--limit", "3", "--images-per-prompt", "1", "--batch-size", "1")
    assert geneval(*given, *on(cluster, 3)) == 2
    said = last_line(capsys)
    assert "generate failed on 3 samples in a row: its worker died each time (killed or crashed); once that" in said
    assert len(pids(folder)) <= 3 * 5 + 3


def test_workers_that_die_as_soon_as_they_have_loaded_are_not_started_without_end(
    cluster, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pool, "_DEATHS", 2)
    folder = told(tmp_path / "paper", fading="", seconds=60)
    assert geneval(*words(folder, tmp_path / "run", *on(cluster, 1))) == 2
    said = last_line(capsys)
    assert "workers died 2 times and computed nothing in between: killed or crashed; once that is mended" in said
    assert len(pids(folder)) == 2


# ------------------------------------------------------------------------------------------------------------- patience
def test_loading_is_no_absence_and_is_spoken_of(cluster, reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "_SILENT_SECONDS", 2.0)
    folder = told(tmp_path / "paper", loading=20)
    assert geneval(*words(folder, tmp_path / "run", *on(cluster, 2, "--worker-wait", "0.25"))) == 0
    same_run(tmp_path / "run", reference)
    assert re.search(r"note: [12] of 2 workers are loading on \S+, for \d+s now", capsys.readouterr().err)


def test_what_workers_have_to_say_is_passed_on_once(cluster, reference, tmp_path, capsys):
    folder = told(tmp_path / "paper", word="thin wet")
    assert geneval(*words(folder, tmp_path / "run", *on(cluster, 2))) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sorted(said) == ["warning: the paint is thin", "warning: the paint is wet"]
    same_run(tmp_path / "run", reference)


def test_a_ray_of_ones_own_leaves_no_token_behind(tmp_path):
    """Ray's would make every later `ray start` of this person ask for it."""
    code = (
        "from got.util.workers import cluster; cluster.set_environment('local'); cluster.connect('local'); import ray; "
        "assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42"
    )
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    there = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | own
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".ray" / "auth_token").exists()


# ----------------------------------------------------------------------------------------------------------- mistakes
def refused(tmp_path, capsys, *given):
    assert geneval(*given, "--output", str(tmp_path / "run"), "--limit", "6") == 2
    assert not (tmp_path / "run").exists()
    return last_line(capsys)


def test_mistakes_are_one_line_and_write_nothing(cluster, paper, tmp_path, capsys, monkeypatch):
    kit = ["--model", f"kit:{paper}", "--detector", "kit"]
    said = refused(tmp_path, capsys, *kit, "--engine", "ray", "--ray-address", "127.0.0.1:9")
    assert "--ray-address 127.0.0.1:9: nobody answers" in said
    assert "expected auto, HOST:PORT" in refused(tmp_path, capsys, *kit, "--engine", "ray", "--ray-address", "here")
    said = refused(tmp_path, capsys, *kit, *on(cluster, 2, "--gpus-per-worker", "1"))
    assert "the cluster has 0 GPUs, too few for 2 of 1 GPUs each" in said or "--device cpu" in said
    assert "the cluster has 4 CPUs, too few for 9 of 1 CPUs each" in refused(tmp_path, capsys, *kit, *on(cluster, 9))
    assert "--workers belongs to --engine ray" in refused(tmp_path, capsys, *kit, "--workers", "2")
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused(tmp_path, capsys, *kit, "--engine", "ray")
    assert "--engine ray needs Ray: pip install 'got-bench[ray]'" in said


FINDER = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class Finder:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [str(Path(__file__).parent)]) if name in ("got", "evals") else None

sys.meta_path.insert(0, Finder)
"""


def test_a_worker_with_other_code_and_packages_is_refused(cluster, path, paper, tmp_path, capsys):
    """Its copy of this repository has one line more, and is no checkout."""
    site = tmp_path / "site"
    info = site / "torchmetrics-99.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchmetrics\nVersion: 99\n")
    for package in ("got", "evals"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = site / "evals" / "geneval" / "suite.py"
    changed.write_text(changed.read_text() + "\n")
    (site / "sitecustomize.py").write_text(FINDER)  # Ray has workers import from where their driver does
    given = ["--model", f"kit:{paper}", "--detector", "kit", *on(cluster, 1, "--cpus-per-worker", "3")]
    with third_machine(cluster, cpus=3, PYTHONPATH=os.pathsep.join([str(site), *path])):
        said = refused(tmp_path, capsys, *given)
    here = provenance.installed()
    there = {
        name: re.search(rf"{name} {here[name]} here and (\w+) there", said)[1] for name in ("torchmetrics", "code")
    }
    assert there["torchmetrics"] == "99"
    assert there["code"] != here["code"]
    assert here["commit"] is None or f"commit {here['commit']} here and None there" in said


HOLDER = """
import os

os.dup2(os.open({folder!r}, os.O_RDONLY), 99)
"""


@pytest.mark.parametrize("flag", ["--judge", "--dino", "--clip", "--lpips", "--detector"])
def test_a_worker_with_other_weights_is_refused_whatever_flag_names_them(cluster, path, tmp_path, capsys, flag):
    """A path through a file handle leads to this process's file here, and to another one there."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, size in ((here, 10), (there, 20)):
        (folder / "vl").mkdir(parents=True)
        for name in ("vl/model.safetensors", "net.safetensors"):
            (folder / name).write_bytes(struct.pack("<Q", 2 + size) + b"{}" + b" " * size)
        (folder / "vl" / "config.json").write_text("{}")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOLDER.format(folder=str(there)))
    forms = {"--judge": "hf:{}/vl", "--dino": "dino:{}/vl", "--clip": "openclip:ViT-B-32/{}/net.safetensors"}
    forms |= {"--lpips": "squeeze:{}/net.safetensors", "--detector": "icon:{}/net.safetensors"}
    given = ["--model", "oracle", "--limit", "1", "--device", "cpu", "--output", str(tmp_path / "run")]
    given += [flag, forms[flag].format("/proc/self/fd/99"), *on(cluster, 1, "--cpus-per-worker", "3")]
    os.dup2(os.open(here, os.O_RDONLY), 99)
    try:
        with third_machine(cluster, cpus=3, PYTHONPATH=os.pathsep.join([str(site), *path])):
            assert cli.main(find_suite("emu_edit"), given) == 2
    finally:
        os.close(99)
    who = {"--detector": "detector", "--judge": "judge"}.get(flag, flag)
    said = last_line(capsys)
    assert f"differs from this process: {who}'s weights 1 file, 20 bytes here and 1 file, 30 bytes there" in said
    assert not (tmp_path / "run").exists()


def test_nobody_comes(cluster, paper, tmp_path, capsys):
    """Workers ask for what no machine has free."""
    import ray

    class Holder:  # in here, it is sent along: a module of tests is found by no worker
        def is_there(self):
            return True

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        held = [ray.remote(num_cpus=2)(Holder).remote() for _ in range(2)]
        assert all(ray.get([one.is_there.remote() for one in held])), "each has all of one machine"
        said = refused(
            tmp_path, capsys, "--model", f"kit:{paper}", "--detector", "kit", *on(cluster, 2, "--worker-wait", "0.05")
        )
    finally:
        ray.shutdown()
    assert "no worker for 0.05 minutes; the same command resumes" in said
