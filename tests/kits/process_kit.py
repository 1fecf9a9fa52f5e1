"""Processes to kill, to interrupt and to train in: forks of a server that has torch and what a training needs loaded.

To import all that takes longer than most of them run.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

_LOADED = ["torch", "got.data.__main__", "got.finetune.run", "got.checkpoint", "evals.harness.cli"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_LOADED)


class Process:
    """`call(*arguments)` in a process of its own, as `subprocess.Popen` would run a program.

    Args:
        call: A function of a module, say a command's `main`; what it returns is the exit status.
        arguments: Of the call.
        folder: Where ``out`` and ``err`` are written: what the process prints.
        cwd: Where it works, if not where this process does.
        environment: Variables besides those of this process.
    """

    def __init__(self, call, *arguments, folder, cwd=None, environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / "out", folder / "err"]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        given = (call, arguments, cwd or Path.cwd(), variables, self._files)
        self._process = _context.Process(target=_begin, args=given)
        self._process.start()
        self.pid = self._process.pid

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


def _begin(call, arguments, cwd, variables, files):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, path in enumerate(files, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.exit(call(*arguments))
