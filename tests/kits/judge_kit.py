"""An OpenAI-compatible endpoint on 127.0.0.1 that follows a script, faults included."""

import contextlib
import dataclasses
import http.server
import json
import threading
import time

from PIL import Image

from evals.core.records import EditCase, EncodedImage, JudgeQuestion
from evals.judges.protocols import make_protocol
from evals.judges.vlm_judge import VlmJudge
from got.vlm.asker import AskSettings
from got.vlm.clients import AskParams
from got.vlm.endpoint import OpenAIBackend

KEY = "sk-secret-key-of-the-tests"


def says(text, finish="stop", refusal=None, usage=(1000, 50)):
    """A well-formed answer."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    counted = usage and {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1",
        "system_fingerprint": "fp_7",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": counted,
    }


def fails(status, message="no", code=None, body=None, **headers):
    """An HTTP error."""
    return {"status": status, "headers": headers, "body": body or {"error": {"message": message, "code": code}}}


@dataclasses.dataclass
class Endpoint:
    """The script, and what was asked."""

    script: list
    """Answers in turn, the last one for ever; a function is called with the request."""
    requests: list = dataclasses.field(default_factory=list)
    headers: list = dataclasses.field(default_factory=list)
    most_at_once: int = 0
    url: str = ""


def _handler(endpoint):
    lock = threading.Lock()
    running = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running[0] += 1
                endpoint.most_at_once = max(endpoint.most_at_once, running[0])
                step = endpoint.script[min(len(endpoint.requests), len(endpoint.script) - 1)]
                endpoint.requests.append(request)
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
            try:
                step = step(request) if callable(step) else step
            finally:
                with lock:  # before the answer: whoever has it may ask again at once
                    running[0] -= 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._answer(step)

        def _answer(self, step):
            if isinstance(step, float):  # too late for the client
                time.sleep(step)
                step = says("[1, 1]")
            body = json.dumps(step.get("body", step)).encode() if isinstance(step, dict) else step
            cut = isinstance(step, dict) and step.get("cut")
            self.send_response(step.get("status", 200) if isinstance(step, dict) else 200)
            self.send_header("Content-Type", "application/json" if isinstance(step, dict) else "text/html")
            self.send_header("Content-Length", str(len(body)))
            for name, value in (step.get("headers", {}) if isinstance(step, dict) else {}).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = bool(cut)

        def log_message(self, *words):
            pass

    return Handler


@contextlib.contextmanager
def serve(*script):
    """An endpoint for as long as the block lasts."""
    endpoint = Endpoint(list(script))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(endpoint))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def question(instruction="add a red hat", seed=0, repeat=0, case="c0"):
    """An edit of two small images."""

    def encoded():
        raise AssertionError("the judge gets images, not files")

    return JudgeQuestion(
        case=EditCase(id=case, instruction=instruction, source=EncodedImage(name="s", read=encoded), category="add"),
        source=Image.new("RGB", (8, 8), (seed, 0, 0)),
        result=Image.new("RGB", (8, 8), (0, seed, 9)),
        repeat=repeat,
    )


class Waits:
    """Remembers how long it was asked to sleep instead of sleeping."""

    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(seconds)


def judge_at(endpoint, protocol="got", log=None, sleep=None, timeout=20.0, params=None, **settings):
    """A judge that asks the endpoint with the real client."""
    backend = OpenAIBackend("judge-1", endpoint.url, KEY, timeout_seconds=timeout)
    chosen = AskSettings(params=params or AskParams(), **settings)
    return VlmJudge(make_protocol(protocol), backend, chosen, log, sleep or Waits())


def together(number, answer):
    """A script that answers nobody before so many requests are under way; those that come later, at once."""
    come, all_here, lock = [0], threading.Event(), threading.Lock()

    def script(request):
        with lock:
            come[0] += 1
            if come[0] == number:
                all_here.set()
        if not all_here.wait(60):  # a failure shall have an end
            all_here.set()
        return answer(request)

    return script


def crowded(most, answer, retry_after_ms):
    """A script that takes so many requests at a time and refuses more; and a list of how many it has refused."""
    running, refused, lock = [0], [0], threading.Lock()

    def script(request):
        with lock:
            running[0] += 1
            full = running[0] > most
            refused[0] += full
        try:
            if full:
                return fails(429, "slow down", retry_after_ms=retry_after_ms)
            time.sleep(0.02)
            return answer(request)
        finally:
            with lock:
                running[0] -= 1

    return script, refused
