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

    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "studio_token"
_HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-cache"),
]  # fmt: skip


def guarded(app: ASGIApp, token: str | None) -> ASGIApp:
    """Lets in whoever has the token, if there is one; refuses pages of other sites.

    Args:
        app: What is guarded.
        token: What a visitor must bring, once in the address and then in a cookie; None lets in everybody.
    """

    def is_known(brought: str | None) -> bool:
        return token is None or secrets.compare_digest((brought or "").encode(), token.encode())

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        request, answer = Request(scope), app
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            answer = PlainTextResponse("requests of other sites are refused", 403)
        elif not is_known(request.cookies.get(COOKIE)):
            answer = PlainTextResponse("open the address that the program printed, with its token", 401)
            if is_known(request.query_params.get("token")):
                answer = RedirectResponse(request.url.remove_query_params("token").replace(scheme="", netloc=""), 303)
                answer.set_cookie(COOKIE, token or "", httponly=True, samesite="strict")
        await answer(scope, receive, send)

    return guard


class Server:
    """Answers the page: JSON and images, and a mistake in plain words.

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
            token: As of `guarded`.
        """
        one, image, job = "/api/sessions/{name}", "/api/sessions/{name}/{number:int}", "/api/jobs/{job}"
        routes = [
            Route("/api/about", self._about),
            Route("/api/plan", self._plan, methods=["POST"]),
            Route("/api/sessions", lambda _: JSONResponse(self._sessions.listed())),
            Route("/api/sessions", lambda _: self._session(self._sessions.new()), methods=["POST"]),
            Route(one, lambda request: self._session(request.path_params["name"])),
            Route(f"{one}/jobs", self._begin, methods=["POST"]),
            Route(f"{one}/go/{{to}}", self._go, methods=["POST"]),
            Route(f"{one}/open", self._open, methods=["POST"]),
            Route(f"{image}.png", self._image),
            Route(f"{image}/changed.png", self._changed),
            Route(job, self._follow),
            Route(f"{job}/stop", self._stop, methods=["POST"]),
            Route("/api/samples/{key:path}", self._sample, methods=["POST"]),
            Mount("/", StaticFiles(directory=Path(__file__).parent / "web", html=True)),
        ]
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(guarded, token=token)]
        return Starlette(
            routes=routes, middleware=guards, exception_handlers=dict.fromkeys(MISTAKES, _in_words),
            max_body_size=self._studio.arguments.max_upload * 1_000_000,
        )  # fmt: skip

    def _about(self, request: Request) -> Response:
        studio, pipeline, arguments = self._studio, self._sessions.pipeline, self._studio.arguments
        config, sampler = pipeline.got_config, type(pipeline.scheduler).__name__.removesuffix("Scheduler")
        width, height = pipeline.size_px()
        return JSONResponse({
            "checkpoint": arguments.checkpoint, "icons": pipeline.config.scale == "mini", "seed": SEED,
            "sampler": arguments.scheduler or sampler, "samplers": tuple(SCHEDULERS),
            "factor": pipeline.vae_scale_factor,
            "usual": {"num_inference_steps": config.steps, "width": width, "height": height},
            "scales": {"draw": dataclasses.asdict(config.text_to_image), "edit": dataclasses.asdict(config.edit)},
            "most_images": jobs.MOST_IMAGES, "upload_mb": arguments.max_upload, "root": str(self._sessions.root),
            "observer": studio.observer is not None, "run": None if studio.run is None else studio.run.name,
            "samples": [] if studio.run is None else studio.run.samples(),
        })  # fmt: skip

    async def _plan(self, request: Request) -> Response:
        asked = json_object(await request.body(), "the request", UserError)
        chain = await run_in_threadpool(jobs.changed_plan, asked.get("plan"), asked.get("change"))
        return JSONResponse(views.plan(chain))

    async def _begin(self, request: Request) -> Response:
        asked = json_object(await request.body(), "the request", UserError)
        job = Job(request.path_params["name"], asked, self._studio.work)
        self._worker.submit(job)
        return _told(job)

    async def _follow(self, request: Request) -> Response:
        """All of a job once more, for a page that was loaded again; of one that is over, that it is."""
        job = self._worker.jobs.get(request.path_params["job"])
        return Response('{"kind": "done"}\n') if job is None else _told(job)

    async def _stop(self, request: Request) -> Response:
        if job := self._worker.jobs.get(request.path_params["job"]):
            job.stop()
        return Response(status_code=204)

    def _go(self, request: Request) -> Response:
        name, to = request.path_params["name"], request.path_params["to"]
        with self._sessions.changing(name) as talk:
            if to in ("undo", "redo"):
                getattr(talk, to)()
            else:
                talk.go_to(int(to) if to.isdecimal() else to)
        return self._session(name)

    async def _open(self, request: Request) -> Response:
        return await run_in_threadpool(self._opened, request.path_params["name"], await request.body())

    def _opened(self, name: str, content: bytes) -> Response:
        image = open_image(content, "the file")
        with self._sessions.changing(name) as talk:
            talk.open(image)
        return self._session(name)

    def _image(self, request: Request) -> Response:
        file = self._sessions.folder(request.path_params["name"]) / "{number:04d}.png".format(**request.path_params)
        return Response(file.read_bytes(), media_type="image/png")

    def _changed(self, request: Request) -> Response:
        talk = self._sessions.get(request.path_params["name"])
        entry = talk.at(request.path_params["number"])
        if entry.source is None:
            raise UserError("this image is no edit of another one")
        mask = views.changed(talk.at(entry.source).image, entry.image)
        return Response(png_bytes(mask), media_type="image/png")

    def _sample(self, request: Request) -> Response:
        """Begins a session with a sample of the run."""
        if self._studio.run is None:
            raise UserError("no run was opened; --run names one")
        sample, name = self._studio.run.sample(request.path_params["key"]), self._sessions.new()
        with self._sessions.changing(name) as talk:
            if sample["source"] is not None:
                talk.open(open_image(sample["source"]))
            image = open_image(sample["image"])
            if sample["chain"] is None:
                talk.open(image)
            else:
                talk.adopt(image, sample["prompt"], sample["chain"], seed=sample["seed"], **sample["options"])
        return self._session(name)

    def _session(self, name: str) -> Response:
        """A session, and the job that goes on in it, which a page that was loaded again has lost from sight."""
        every = [*self._worker.jobs.values()]  # a copy: the event loop goes on
        going = [job.id for job in every if job.session == name and job.asked.get("kind") != "observe"]
        return JSONResponse(self._studio.session(name) | {"job": going[0] if going else None})


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
    return PlainTextResponse(one_line(error, 400), 503 if isinstance(error, Busy) else 400)
