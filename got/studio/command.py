"""`studio`: loads a checkpoint, opens a port and serves the page until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any

from got.util.errors import UserError

if TYPE_CHECKING:
    import argparse

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serves; returns what the last line of output says.

    Raises:
        ValueError: If something about the command or the checkpoint is wrong.
        OSError: If the port cannot be had.
    """
    try:
        import uvicorn

        from got.studio.server import Server
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise UserError("the studio needs starlette and uvicorn: pip install 'got-bench[studio]'") from error

    from got.cli.draw import load_pipeline
    from got.studio import observers
    from got.studio.jobs import Studio
    from got.studio.sessions import Sessions
    from got.studio.worker import Worker

    if arguments.sample is not None and arguments.run is None:
        raise UserError("--sample names a sample of --run, which is missing")
    listening = _listen(arguments.host, arguments.port)
    with listening:
        recorded = None if arguments.run is None else observers.open_run(arguments.run)
        if arguments.run is not None and recorded is None:
            raise UserError("--run: no installed package can read runs")
        root, first = _places(arguments)
        if recorded is not None and arguments.sample is not None:
            recorded.sample(arguments.sample)  # a slip is better known now
            first = ("sample", arguments.sample)
        pipeline = load_pipeline(arguments)
        pipeline.set_progress_bar_config(disable=True)
        detector = arguments.detector or ("icon" if pipeline.config.scale == "mini" else "none")
        observer = None
        if detector != "none":
            observer = observers.make_observer(detector, str(pipeline._execution_device))
        studio = Studio(pipeline=pipeline, sessions=Sessions(root, pipeline), observer=observer, arguments=arguments)
        server = Server(studio, Worker(arguments.queue), recorded, first, arguments.max_upload)
        away = arguments.host not in LOOPBACK
        token = secrets.token_urlsafe(24) if away else None
        hosts = ["*"] if away else [*LOOPBACK, "[::1]"]
        address = _address(arguments.host, listening.getsockname()[1], token)
        sys.stderr.write(f"sessions are kept in {root}\nopen {address}\n(Ctrl-C ends)\n")
        sys.stderr.flush()
        settings = uvicorn.Config(
            server.app(hosts, token), log_level="error", access_log=False, timeout_graceful_shutdown=1, lifespan="off"
        )
        uvicorn.Server(settings).run(sockets=[listening])
    return {"sessions": str(root)}


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}; --port takes another one") from error


def _places(arguments: argparse.Namespace) -> tuple[Any, tuple[str, str] | None]:
    """The folder of sessions, and the session to begin with: --output may also be one session, say a chat's."""
    from got.conversation import STATE_FILE

    output = arguments.output
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, but it is a file")
    if (output / STATE_FILE).is_file():
        output = output.resolve()
        return output.parent, ("session", output.name)
    return output, None


def _address(host: str, port: int, token: str | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
