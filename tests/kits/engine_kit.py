"""A generator, a detector and an embedder that any process finds by entry points, and a real Ray of two machines.

The generator draws as the oracle does, and does what files in its folder say: ``seconds`` holds how long a batch
takes, ``deadly`` the ids of cases that kill the process, ``broken`` of those that raise, ``word`` what warnings say of
each batch, and ``loading`` how long it takes to be made; whoever takes his time reads meanwhile whether it has been
shortened. Where there is ``stillborn``, all but the first process die at once; where there is ``fading``, each dies a
moment after it has loaded. It writes down each process, and in ``built`` each time that one makes such a generator.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runner_kit import ArithmeticDetector, NoEmbedder, contents

from evals.core.backends import ICON_WORLD, Backend
from evals.generators.oracle import OracleGenerator
from evals.harness import cli
from evals.harness.run_spec import find_suite
from got.util.errors import warn

ENTRY_POINTS = """\
[got_evals.generators]
kit = engine_kit:GENERATOR
[got_evals.detectors]
kit = engine_kit:DETECTOR
[got_evals.embedders]
kit = engine_kit:EMBEDDER
"""


class KitGenerator(OracleGenerator):
    """Draws slowly, or kills its process."""

    def __init__(self, folder):
        self._folder = Path(folder)
        (self._folder / f"{os.getpid()}.pid").touch()
        with (self._folder / "built").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if (self._folder / "stillborn").exists() and len(pids(self._folder)) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self._take_time("loading")
        if (self._folder / "fading").exists():
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGKILL]).start()

    def with_options(self, options):
        """Of the same folder, the same generator will do: nothing is loaded twice."""
        return self if Path(options.argument) == self._folder else None

    def _told(self, name):
        path = self._folder / name
        return path.read_text().split() if path.exists() else []

    def _take_time(self, name):
        start = time.monotonic()
        while time.monotonic() - start < float((self._told(name) or ["0"])[0]):
            time.sleep(0.02)

    def generate(self, samples):
        deadly = self._told("deadly")
        if any(sample.case.id in deadly for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)
        for word in self._told("word"):
            warn(f"the paint is {word}")
        self._take_time("seconds")
        broken = self._told("broken")
        if any(sample.case.id in broken for sample in samples):
            raise RuntimeError("no paint")
        return super().generate(samples)


GENERATOR = Backend(factory=lambda options: KitGenerator(options.argument), argument="FOLDER", world=ICON_WORLD)
DETECTOR = Backend(factory=lambda argument, device: ArithmeticDetector(), world=ICON_WORLD, embedder="kit")
EMBEDDER = Backend(factory=lambda argument, device: NoEmbedder(), world=ICON_WORLD)


def install(folder):
    """Announces the kit to whoever has the folder on its path; returns that path, which holds all that is needed."""
    info = folder / "engine_kit-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-kit\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return [str(folder), str(Path(__file__).parent), str(Path(__file__).parents[2])]


def start_ray(path):
    """A Ray of two machines with two CPUs each, in processes of this one, whose workers import from a path."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # the machines are started with it
    node = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    return cluster


@contextlib.contextmanager
def client_server(cluster):
    """The server that ``ray start --head --ray-client-server-port`` starts; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    words = {"address": cluster.address, "host": place[0], "port": place[1], "mode": "proxy"}
    words |= {"runtime-env-agent-address": "http://127.0.0.1:0", "node-id": cluster.head_node.node_id}
    started = [sys.executable, "-m", "ray.util.client.server", *(f"--{name}={word}" for name, word in words.items())]
    # It forks beside threads of gRPC, which then close what the new process has opened.
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    with subprocess.Popen(started, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:

        def answers():
            with contextlib.suppress(OSError), socket.create_connection(place, timeout=1):
                return True

        try:
            wait_until(answers, 60, "the start of the client's server")
            yield "ray://{}:{}".format(*place)
        finally:
            server.terminate()


@contextlib.contextmanager
def third_machine(cluster, cpus=1, **environment):
    """One more, with variables of its own, for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, str(value))
        node = cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    try:
        yield node
    finally:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node)


def words(folder, output, *more):
    return [
        *("--model", f"kit:{folder}", "--detector", "kit", "--images-per-prompt", "2", "--limit", "12"),
        *("--batch-size", "3", "--device", "cpu", "--output", str(output), *more),
    ]


def geneval(*given):
    """The command line of GenEval, as a process runs it."""
    return cli.main(find_suite("geneval"), list(given))


def pids(folder):
    """The processes that have drawn."""
    return [int(path.stem) for path in folder.glob("*.pid")]


def worker_pids():
    """The processes of workers that this one, or the Ray that it has started, has begun."""
    import psutil

    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if child.name().startswith("ray::_Actor")]


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(true, seconds=60, what="that"):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {seconds} s")
        time.sleep(0.05)


SAME = ("results.jsonl", "observations.jsonl", "chains.jsonl", "failures.jsonl")


def same_run(folder, reference):
    """Holds a run's logs and images against another's."""
    assert contents(folder, SAME) == contents(reference, SAME)
    images = [
        {p.relative_to(run): p.read_bytes() for p in run.rglob("images/*/samples/*")} for run in (folder, reference)
    ]
    assert images[0] == images[1]
    assert not list(folder.rglob("*.part"))


def on(cluster, workers, *more):
    """The flags of so many workers of a Ray."""
    return ["--engine", "ray", "--ray-address", cluster.address, "--workers", str(workers), *more]


def lines_of(path):
    """The lines of a log that may not be there yet."""
    return path.read_bytes().splitlines() if path.exists() else []


def last_line(capsys):
    """What was last said to the person at the keyboard."""
    return capsys.readouterr().err.splitlines()[-1]


@contextlib.contextmanager
def announced(folder):
    """The kit is announced here, and to every process that is started from here; gives the path to it."""
    found = install(folder)
    with pytest.MonkeyPatch.context() as patch:
        for place in reversed(found):
            patch.syspath_prepend(place)
        patch.setenv("PYTHONPATH", os.pathsep.join(found))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield found


@contextlib.contextmanager
def running(path):
    """`start_ray` for as long as the block lasts."""
    import ray

    made = start_ray(path)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


if __name__ == "__main__":
    sys.exit(geneval(*sys.argv[1:]))
