"""Processes to kill, to interrupt and to train in: forks of a server that has torch and what a training needs loaded.

To import all that takes longer than most of them run.
"""

import multiprocessing
import os
import sys

_LOADED = ["torch", "got.data.__main__", "got.finetune.run", "got.checkpoint", "evals.harness.cli"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_LOADED)


class Process:
    """`call(*arguments)` in a process of its own, as `subprocess.Popen` would run a program.

    Args:
        call: A function of a module, say a command's `main`; what it returns is the exit status.
        arguments: Of the call.
        folder: Where ``out`` and ``err`` are written: what the process prints.
        environment: Variables besides those of this process.
    """

    def __init__(self, call, *arguments, folder, environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / "out", folder / "err"]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        places = [str(path) for path in self._files]
        self._process = _context.Process(target=_begin, args=(call, arguments, variables, places))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    @property
    def out(self):
        return self._files[0].read_text()

    @property
    def err(self):
        return self._files[1].read_text()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout=300):
        """The exit status; the process is killed if it takes longer than so many seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _begin(call, arguments, variables, places):
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, place in enumerate(places, start=1):
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    status = call(*arguments)
    sys.exit(status)
