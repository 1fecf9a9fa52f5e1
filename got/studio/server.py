"""The studio's pages and requests, and who may send them."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from got.cli.parser import SEED
from got.model.schedulers import SCHEDULERS
from got.studio import jobs, views
from got.studio.worker import MISTAKES, Busy, Job, Worker
from got.util.errors import UserError, one_line
from got.util.files import json_object
from got.util.images import open_image, png_bytes

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from got.conversation import Conversation, Entry

COOKIE = "studio_token"
EXAMPLES = (
    "a photo of a red apple and a blue dog",
    "a photo of three cups",
    "a photo of a green chair left of a cat",
    "a photo of a yellow banana below a purple umbrella",
    "a photo of two clocks",
)
_MOST_JSON = 1_000_000
_HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-cache"),
]  # fmt: skip


class Guard:
    """Lets in whoever has the token, if there is one; refuses pages of other sites.

    Args:
        app: What is guarded.
        token: What a visitor must bring, once in the address and then in a cookie; None lets in everybody.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request."""
        await (self._refusal(Request(scope)) or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("requests of other sites are refused\n", 403)
        if self._knows(request.cookies.get(COOKIE, "")):
            return None
        if self._knows(request.query_params.get("token", "")):
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(COOKIE, self._token or "", httponly=True, samesite="strict")
            return welcome
        return Response("open the address that the program printed, with its token\n", 401)

    def _knows(self, token: str) -> bool:
        return self._token is None or secrets.compare_digest(token.encode(), self._token.encode())


class Server:
    """Answers the page.

    Args:
        studio: What does the work.
        worker: The thread that it is done in.
    """

    def __init__(self, studio: jobs.Studio, worker: Worker) -> None:
        self._studio, self._sessions, self._worker = studio, studio.sessions, worker

    def app(self, hosts: list[str], token: str | None) -> Starlette:
        """The application.

        Args:
            hosts: What the server may be called in an address: a page of another name that leads here is refused.
            token: As of `Guard`.
        """
        one, image, job = "/api/sessions/{name}", "/api/sessions/{name}/{number:int}", "/api/jobs/{job}"
        upload = self._studio.arguments.max_upload * 1_000_000
        routes = [
            Route("/api/about", self._about),
            Route("/api/plan", _taking(self._plan), methods=["POST"]),
            Route("/api/sessions", lambda _: JSONResponse(self._sessions.listed())),
            Route("/api/sessions", lambda _: JSONResponse({"name": self._sessions.new()}), methods=["POST"]),
            Route(one, lambda request: self._session(request.path_params["name"])),
            Route(f"{one}/jobs", self._begin, methods=["POST"]),
            Route(f"{one}/go", _taking(self._go), methods=["POST"]),
            Route(f"{one}/open", _taking(self._open, upload), methods=["POST"]),
            Route(f"{image}.png", self._image),
            Route(f"{image}.txt", lambda request: PlainTextResponse(self._entry(request)[1].chain + "\n")),
            Route(f"{image}/changed.png", self._changed),
            Route(job, self._follow),
            Route(f"{job}/stop", self._stop, methods=["POST"]),
            Route("/api/samples", lambda _: JSONResponse(self._studio.run.samples() if self._studio.run else [])),
            Route("/api/samples/{key:path}", self._sample, methods=["POST"]),
            Mount("/", StaticFiles(directory=Path(__file__).parent / "web", html=True)),
        ]
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Guard, token=token)]
        mistakes: dict[Any, Any] = dict.fromkeys(MISTAKES, _in_words)
        return Starlette(routes=routes, middleware=guards, exception_handlers=mistakes)

    def _about(self, request: Request) -> Response:
        studio, pipeline, arguments = self._studio, self._sessions.pipeline, self._studio.arguments
        config, usual = pipeline.got_config, type(pipeline.scheduler).__name__.removesuffix("Scheduler")
        scales = {"draw": dataclasses.asdict(config.text_to_image), "edit": dataclasses.asdict(config.edit)}
        return JSONResponse({
            "checkpoint": arguments.checkpoint, "samplers": list(SCHEDULERS), "sampler": arguments.scheduler or usual,
            "steps": config.steps, "size": pipeline.size_px(), "factor": pipeline.vae_scale_factor, "scales": scales,
            "seed": SEED, "examples": EXAMPLES, "icons": pipeline.config.scale == "mini", "first": studio.first,
            "upload_mb": arguments.max_upload, "most_images": jobs.MOST_IMAGES, "observer": studio.observer is not None,
            "run": None if studio.run is None else studio.run.name, "root": str(self._sessions.root),
        })  # fmt: skip

    def _plan(self, request: Request, body: bytes) -> Response:
        """A plan read, and changed if a change is asked for: ``[how, ...]``, by the methods of `Chain`."""
        asked = json_object(body, "the request", UserError)
        chain = jobs.read_plan(asked.get("plan"))
        match asked.get("change"):
            case None:
                pass
            case ["replace" | "move" | "add" | "remove" as how, *what]:
                try:
                    chain = getattr(chain, how)(*what)
                except (TypeError, AttributeError) as error:
                    raise UserError(f"this change cannot be read: {one_line(error)}") from error
            case other:
                raise UserError(f"expected replace, move, add or remove, and what, but got {other!r:.100}")
        return JSONResponse(views.plan(chain))

    async def _begin(self, request: Request) -> Response:
        asked = json_object(await _body(request, _MOST_JSON), "the request", UserError)
        job = Job(request.path_params["name"], asked, self._studio.work)
        self._worker.submit(job)
        return _told(job)

    async def _follow(self, request: Request) -> Response:
        """All of a job once more, for a page that was loaded again; of one that is over, that it is."""
        job = self._job(request)
        return Response('{"kind": "done"}\n') if job is None else _told(job)

    async def _stop(self, request: Request) -> Response:
        job = self._job(request)
        if job is not None:
            job.stop()
        return Response(status_code=204)

    def _job(self, request: Request) -> Job | None:
        return next((job for job in self._worker.jobs if job.id == request.path_params["job"]), None)

    def _go(self, request: Request, body: bytes) -> Response:
        to: Any = json_object(body, "the request", UserError).get("to")
        with self._sessions.changing(request.path_params["name"]) as talk:
            if to in ("undo", "redo"):
                getattr(talk, to)()
            else:
                talk.go_to(to)
        return self._session(request.path_params["name"])

    def _open(self, request: Request, body: bytes) -> Response:
        image = open_image(body, "the file")
        with self._sessions.changing(request.path_params["name"]) as talk:
            talk.open(image)
        return self._session(request.path_params["name"])

    def _image(self, request: Request) -> Response:
        file = self._sessions.folder(request.path_params["name"]) / "{number:04d}.png".format(**request.path_params)
        return Response(file.read_bytes(), media_type="image/png")

    def _changed(self, request: Request) -> Response:
        talk, entry = self._entry(request)
        if entry.source is None:
            raise UserError("this image is no edit of another one")
        return Response(png_bytes(views.changed(talk.at(entry.source).image, entry.image)), media_type="image/png")

    def _sample(self, request: Request) -> Response:
        """Begins a session with a sample of the run."""
        if self._studio.run is None:
            raise UserError("no run was opened; --run names one")
        sample, name = self._studio.run.sample(request.path_params["key"]), self._sessions.new()
        with self._sessions.changing(name) as talk:
            if sample["source"] is not None:
                talk.open(open_image(sample["source"]))
            image, chain = open_image(sample["image"]), sample["chain"]
            if chain is None:
                talk.open(image)
            else:
                talk.adopt(image, sample["prompt"], chain, seed=sample["seed"], **sample["options"])
        return self._session(name)

    def _entry(self, request: Request) -> tuple[Conversation, Entry]:
        talk = self._sessions.get(request.path_params["name"])
        return talk, talk.at(request.path_params["number"])

    def _session(self, name: str) -> Response:
        """A session, and the job that goes on in it, which a page that was loaded again has lost from sight."""
        jobs = [job.id for job in self._worker.jobs if job.session == name and job.asked.get("kind") != "observe"]
        return JSONResponse(self._studio.session(name) | {"job": jobs[0] if jobs else None})


class Serving(uvicorn.Server):
    """Serves without a word per request; ends all jobs before it waits for the pages that listen to them."""

    def __init__(self, app: Starlette, worker: Worker, port: int = 0) -> None:
        quiet: dict[str, Any] = {"log_level": "error", "access_log": False, "lifespan": "off", "ws": "none"}
        super().__init__(uvicorn.Config(app, port=port, headers=_HEADERS, timeout_graceful_shutdown=1, **quiet))
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `run` once it was asked to end."""
        self._worker.end()
        await super().shutdown(sockets)


def _told(job: Job) -> Response:
    """What a job tells, a line of JSON each, as long as it goes on."""
    lines = (json.dumps(event) + "\n" async for event in job.events())
    return StreamingResponse(lines, media_type="application/x-ndjson")


def _in_words(request: Request, error: Exception) -> Response:
    """A person's mistake is an answer in plain words."""
    return JSONResponse({"error": one_line(error, 400)}, 503 if isinstance(error, Busy) else 400)


def _taking(
    answer: Callable[[Request, bytes], Response], most: int = _MOST_JSON
) -> Callable[[Request], Awaitable[Response]]:
    """An answer to a request and its body, in a thread."""

    async def read(request: Request) -> Response:
        return await run_in_threadpool(answer, request, await _body(request, most))

    return read


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise UserError(f"expected a file of at most {most / 1e6:g} MB")
        parts.append(part)
    return b"".join(parts)
