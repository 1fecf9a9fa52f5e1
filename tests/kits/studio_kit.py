"""A studio on a port of its own, and requests to it; needs starlette and uvicorn."""

import contextlib
import http.client
import json
import re
import threading
import time
from urllib.parse import urlsplit

from process_kit import Process

from got.__main__ import main
from got.cli.parser import build_parser
from got.studio.command import LOOPBACK
from got.studio.jobs import Studio
from got.studio.server import Server, Serving
from got.studio.sessions import Sessions
from got.studio.worker import Worker


@contextlib.contextmanager
def served(root, pipeline, *flags, observer=None, run=None, token=None):
    """The address of a studio that draws with a pipeline, in threads of this process."""
    arguments = build_parser().parse_args(["studio", "--output", str(root), *flags])
    sessions, worker = Sessions(root, pipeline), Worker(arguments.queue)
    studio = Studio(sessions=sessions, arguments=arguments, observer=observer, run=run)
    server = Serving(Server(studio, worker).app(list(LOOPBACK), token), worker, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        worker.end(wait=True)


class Visitor:
    """Asks a studio as its page does."""

    def __init__(self, address, **headers):
        self.address, self.headers = address, headers

    def ask(self, path, body=None, **headers):
        """Status, headers and content of an answer; a body makes it a POST."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, {**self.headers, **headers})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def json(self, path, body=None):
        """The content of an answer that must be good."""
        status, _, content = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)

    def refused(self, path, body=None):
        """The words of an answer that must not be."""
        status, _, content = self.ask(path, body)
        assert status in (400, 413, 503), (status, content)
        return content.decode()

    def new(self):
        return self.json("/api/sessions", {})["name"]

    def events(self, session, request):
        """The events of a job, as they come."""
        return self.told(f"/api/sessions/{session}/jobs", request)

    def told(self, path, body=None):
        """An answer of many lines, as they come; a body makes it a POST."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, self.headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        with contextlib.closing(connection):
            yield from map(json.loads, answer)

    def work(self, session, **request):
        """All events of a job, by their kind: the last one of each."""
        return {event["kind"]: event for event in self.events(session, request)}


class Running:
    """A studio in a process of its own."""

    def __init__(self, folder, output, *flags):
        words = ["studio", "--port=0", f"--output={output}", "--detector=none", *flags]
        self.process = Process(main, words, folder=folder)
        end = time.monotonic() + 120
        said = folder / "err"  # which the process itself makes
        while not (found := re.search(r"open (http\S+)/", said.read_text() if said.exists() else "")):
            assert self.process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        self.visitor = Visitor(found[1])
