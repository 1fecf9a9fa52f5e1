"""`studio`: loads a checkpoint, opens a port and serves the page until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from got.studio.observers import announced
from got.util.errors import UserError, note

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from got.pipeline import GoTPipeline
    from got.studio.observers import Observer, Run

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serves; returns what the last line of output says.

    Raises:
        ValueError: If something about the command or the checkpoint is wrong.
        OSError: If the port cannot be had.
    """
    if not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))):
        raise UserError("the studio needs starlette and uvicorn: pip install 'got-bench[studio]'")
    if arguments.sample is not None and arguments.run is None:
        raise UserError("--sample names a sample of --run, which is missing")
    with _listen(arguments.host, arguments.port) as listening:
        root, query = _places(arguments.output)
        recorded: Run | None = None if arguments.run is None else announced("run")(arguments.run)
        if recorded is not None and arguments.sample is not None:
            recorded.sample(arguments.sample)  # a slip is better known now
            query = {"sample": arguments.sample}
        import torch  # which takes seconds: mistakes are told first

        from got.cli.draw import load_pipeline
        from got.studio.jobs import Studio
        from got.studio.server import Server, Serving
        from got.studio.sessions import Sessions
        from got.studio.worker import Worker

        pipeline = load_pipeline(arguments)
        pipeline.set_progress_bar_config(disable=True)
        observer = _observer(arguments, pipeline)
        if pipeline.config.scale == "mini":  # the first call is slow, and here it costs little
            pipeline("a photo of a dog", num_inference_steps=1, generator=torch.Generator())
        token = None if arguments.host in LOOPBACK else secrets.token_urlsafe(24)
        sessions, worker = Sessions(root, pipeline), Worker(arguments.queue)
        studio = Studio(sessions=sessions, arguments=arguments, observer=observer, run=recorded)
        app = Server(studio, worker).app([*LOOPBACK, "[::1]"] if token is None else ["*"], token)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        query |= {} if token is None else {"token": token}
        address = f"http://{host}:{listening.getsockname()[1]}/{'?' if query else ''}{urlencode(query)}"
        sys.stderr.write(f"sessions are kept in {root}\nopen {address}\n(Ctrl-C ends)\n")
        sys.stderr.flush()
        with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
            Serving(app, worker).run(sockets=[listening])
    return {"sessions": str(root)}


def _observer(arguments: argparse.Namespace, pipeline: GoTPipeline) -> Observer | None:
    """Who looks at images: asked for by name, or of the icon world where mini draws, if it is installed."""
    detector = arguments.detector or ("icon" if pipeline.config.scale == "mini" else "none")
    try:
        return None if detector == "none" else announced("observer")(detector, str(pipeline._execution_device))
    except UserError as error:
        if arguments.detector is not None:
            raise
        note(f"nobody looks at the images: {error}")
        return None


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}; --port takes another one") from error


def _places(output: Path) -> tuple[Path, dict[str, str]]:
    """The folder of sessions, and what the address asks for: --output may also be one session, say a chat's."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, but it is a file")
    from got.conversation import STATE_FILE

    one = output.resolve()
    return (one.parent, {"session": one.name}) if (one / STATE_FILE).is_file() else (output, {})
