"""The studio's pages and requests, and who may send them."""

from __future__ import annotations

import functools
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from PIL import Image, ImageChops
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from got.model.schedulers import SCHEDULERS
from got.studio import jobs, views
from got.studio.worker import Busy, Job, Worker
from got.util.errors import UserError, one_line
from got.util.images import open_image, png_bytes

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from got.conversation import Entry
    from got.plan.chain import Chain
    from got.studio.jobs import Studio
    from got.studio.observers import Run

COOKIE = "studio_token"
EXAMPLES = (
    "a photo of a red apple and a blue dog",
    "a photo of three cups",
    "a photo of a green chair left of a cat",
    "a photo of a yellow banana below a purple umbrella",
    "a photo of two clocks",
)
_WEB = Path(__file__).parent / "web"
_CHANGED = 24
"""Grey levels, in any channel, that the autoencoder may move a pixel by without having changed it."""
_MOST_JSON = 1_000_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Lets in whoever has the token, if there is one; refuses pages of other sites; sets headers.

    Args:
        app: What is guarded.
        token: What a visitor must bring, once in the address and then in a cookie; None lets in everybody.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)
        await (refusal or self._app)(scope, receive, functools.partial(_with_headers, send))

    def _refusal(self, request: Request) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("requests of other sites are refused\n", 403)
        if self._token is None or secrets.compare_digest(
            request.cookies.get(COOKIE, "").encode(), self._token.encode()
        ):
            return None
        if secrets.compare_digest(request.query_params.get("token", "").encode(), self._token.encode()):
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return welcome
        return Response("open the address that the program printed, with its token\n", 401)


async def _with_headers(send: Send, message: Any) -> None:
    if message["type"] == "http.response.start":
        message["headers"] += [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
    await send(message)


class Server:
    """Answers the page.

    Args:
        studio: What does the work.
        worker: The thread that it is done in.
        run: Samples to open.
        first: The session or the sample to begin with, as ``("session", name)`` or ``("sample", key)``.
    """

    def __init__(
        self, studio: Studio, worker: Worker, run: Run | None = None, first: tuple[str, str] | None = None
    ) -> None:
        self._studio, self._sessions, self._worker = studio, studio.sessions, worker
        self._run, self._first = run, first

    def app(self, hosts: list[str], token: str | None) -> Starlette:
        """The application.

        Args:
            hosts: What the server may be called in an address: a page of another name that leads here is refused.
            token: As of `Guard`.
        """
        one, image = "/api/sessions/{name}", "/api/sessions/{name}/{number:int}"
        routes = [
            Route("/", lambda _: Response((_WEB / "index.html").read_bytes(), media_type="text/html; charset=utf-8")),
            Mount("/web", StaticFiles(directory=_WEB)),
            Route("/api/about", self._about),
            Route("/api/plan", _taking(self._plan), methods=["POST"]),
            Route("/api/sessions", lambda _: JSONResponse(self._sessions.listed())),
            Route("/api/sessions", lambda _: JSONResponse({"name": self._sessions.new()}), methods=["POST"]),
            Route(one, lambda request: self._session(request.path_params["name"])),
            Route(f"{one}/jobs", self._begin, methods=["POST"]),
            Route(f"{one}/go", _taking(self._go), methods=["POST"]),
            Route(f"{one}/open", self._open, methods=["POST"]),
            Route(f"{image}.png", self._image),
            Route(f"{image}.txt", lambda request: PlainTextResponse(self._entry(request).chain + "\n")),
            Route(f"{image}/changed.png", self._changed),
            Route("/api/jobs/{job}/stop", self._stop, methods=["POST"]),
            Route("/api/samples", lambda _: JSONResponse([] if self._run is None else self._run.samples())),
            Route("/api/samples/{key:path}", self._sample, methods=["POST"]),
        ]
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Guard, token=token)]
        mistakes: dict[Any, Any] = dict.fromkeys((UserError, ValueError, IndexError, OSError), _in_words)
        return Starlette(routes=routes, middleware=guards, exception_handlers=mistakes)

    def _about(self, request: Request) -> Response:
        pipeline, arguments = self._studio.pipeline, self._studio.arguments
        config, size = pipeline.got_config, pipeline.size_px()
        scales = {
            kind: {name: getattr(guidance, name) for name in ("semantic", "spatial", "reference")}
            for kind, guidance in (("draw", config.text_to_image), ("edit", config.edit))
        }
        sampler = arguments.scheduler or type(pipeline.scheduler).__name__.removesuffix("Scheduler")
        return JSONResponse({
            "checkpoint": arguments.checkpoint, "samplers": list(SCHEDULERS), "sampler": sampler, "steps": config.steps,
            "size": size, "factor": pipeline.vae_scale_factor, "scales": scales, "seed": 42, "examples": EXAMPLES,
            "icons": pipeline.config.scale == "mini", "upload_mb": arguments.max_upload,
            "most_images": jobs.MOST_IMAGES, "observer": self._studio.observer is not None, "first": self._first,
            "run": None if self._run is None else self._run.name, "root": str(self._sessions.root),
        })  # fmt: skip

    def _plan(self, request: Request, asked: dict[str, Any]) -> Response:
        """A plan read, and changed if a change is asked for."""
        chain = jobs.read_plan(asked.get("plan"))
        return JSONResponse(views.plan(_with_change(chain, asked["change"]) if asked.get("change") else chain))

    async def _begin(self, request: Request) -> Response:
        name, asked = request.path_params["name"], await _json(request)
        await run_in_threadpool(self._sessions.get, name)
        job = Job(lambda job: self._studio.work(job, name, asked))
        job.say("accepted", job=job.id)
        self._worker.submit(job)
        lines = (json.dumps(event) + "\n" async for event in job.events())
        return StreamingResponse(lines, media_type="application/x-ndjson")

    def _stop(self, request: Request) -> Response:
        self._worker.stop(request.path_params["job"])
        return Response(status_code=204)

    def _go(self, request: Request, asked: dict[str, Any]) -> Response:
        to = asked.get("to")
        with self._sessions.changing(request.path_params["name"]) as talk:
            if to in ("undo", "redo"):
                getattr(talk, to)()
            elif isinstance(to, int):
                talk.go_to(to)
            else:
                raise UserError(f"expected undo, redo or the number of an image but got {to!r}")
        return self._session(request.path_params["name"])

    async def _open(self, request: Request) -> Response:
        content = await _body(request, self._studio.arguments.max_upload * 1_000_000)

        def take() -> Response:
            image = open_image(content, "the file")
            with self._sessions.changing(request.path_params["name"]) as talk:
                talk.open(image)
            return self._session(request.path_params["name"])

        return await run_in_threadpool(take)

    def _image(self, request: Request) -> Response:
        file = self._sessions.folder(request.path_params["name"]) / f"{self._entry(request).number:04d}.png"
        return Response(file.read_bytes(), media_type="image/png")

    def _changed(self, request: Request) -> Response:
        """Which pixels of an edit differ from its source: white ones, clear elsewhere."""
        entry = self._entry(request)
        if entry.source is None:
            raise UserError("this image is no edit of another one")
        result = entry.image
        source = self._sessions.get(request.path_params["name"]).entries[entry.source].image.resize(result.size)
        most = functools.reduce(ImageChops.lighter, ImageChops.difference(source, result).split())
        mask = most.point(lambda value: 255 if value > _CHANGED else 0)
        return Response(png_bytes(Image.merge("LA", (mask.point(lambda _: 255), mask))), media_type="image/png")

    def _sample(self, request: Request) -> Response:
        """Begins a session with a sample of the run."""
        if self._run is None:
            raise UserError("no run was opened; --run names one")
        sample, name = self._run.sample(request.path_params["key"]), self._sessions.new()
        with self._sessions.changing(name) as talk:
            if sample["source"] is not None:
                talk.open(open_image(sample["source"]))
            image, chain = open_image(sample["image"]), sample["chain"]
            if chain is None:
                talk.open(image)
            else:
                talk.adopt(image, sample["prompt"], chain, seed=sample["seed"], **sample["options"])
        return self._session(name)

    def _entry(self, request: Request) -> Entry:
        entries, number = self._sessions.get(request.path_params["name"]).entries, request.path_params["number"]
        if number >= len(entries):
            raise UserError(f"there is no image {number} in this session")
        return entries[number]

    def _session(self, name: str) -> Response:
        talk = self._sessions.get(name)
        return JSONResponse(views.session(name, talk, self._sessions.folder(name), self._studio.arguments))


class Serving(uvicorn.Server):
    """Ends all jobs before it waits for the pages that listen to them."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `run` once it was asked to end."""
        self._worker.end()
        await super().shutdown(sockets)


def settings(app: Starlette) -> uvicorn.Config:
    """How it is served: without a word per request, and without waiting for pages that stay open."""
    return uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )


def _with_change(chain: Chain, change: Any) -> Chain:
    """A plan with one change, ``[how, ...]``, by the methods of `Chain`."""
    hows = {"replace": 2, "move": 2, "add": 2, "remove": 1}
    if not isinstance(change, list) or not isinstance(change[0], str) or hows.get(change[0]) != len(change) - 1:
        raise UserError(f"expected one of {', '.join(hows)} with what it is about but got {str(change)[:100]}")
    try:
        changed: Chain = getattr(chain, change[0])(*change[1:])
    except (TypeError, AttributeError) as error:
        raise UserError(f"this change cannot be read: {one_line(error)}") from error
    return changed


def _in_words(request: Request, error: Exception) -> Response:
    """A person's mistake is an answer in plain words."""
    return JSONResponse({"error": one_line(error, 400)}, 503 if isinstance(error, Busy) else 400)


def _taking(answer: Callable[[Request, dict[str, Any]], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An answer to a request with a JSON object."""

    async def read(request: Request) -> Response:
        return await run_in_threadpool(answer, request, await _json(request))

    return read


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise UserError(f"expected a file of at most {most / 1e6:g} MB")
        parts.append(part)
    return b"".join(parts)


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await _body(request, _MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise UserError("expected JSON") from error
    if not isinstance(found, dict):
        raise UserError("expected a JSON object")
    return found
