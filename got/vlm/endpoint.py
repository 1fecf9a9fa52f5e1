"""OpenAI-compatible chat endpoints: requests that the server accepts, and replies in the forms that servers use.

Servers accept different parameters. One that is refused by name (``seed``, ``temperature``, the length, JSON mode) is
left out from then on, which is reported once and logged; parameters that a protocol needs are never left out. The text
of a reply consists of the text parts of its content; an unknown form is a failure and never taken for a reply.
"""

from __future__ import annotations

import email.utils
import functools
import hashlib
import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

from got.util.errors import note
from got.vlm import failures
from got.vlm.clients import CUT_OFF, REFUSED, TOP_TOKENS, UNREADABLE, AskFailed, AskParams, Reply, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from got.vlm.messages import ImageFile, Message, Messages

_OPENAI = "https://api.openai.com/v1"
"""Where the client goes if nobody names an address."""
_OPTIONAL = ("seed", "temperature", "max_tokens", "max_completion_tokens", "response_format")
"""What a request can do without, if the server says so."""
_FINISHES = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), CUT_OFF),
    **dict.fromkeys(("content_filter", "safety", "prohibited_content", "refusal", "sensitive", "blocklist"), REFUSED),
}
_ROUNDING = 1e-3
"""A server may say a logarithm of a probability that is so much above 0."""
_SILENT_PARTS = ("thinking", "reasoning", "redacted_thinking", "reasoning_content", "summary")
"""Types of the parts of a content that are no answer."""


class OpenAIBackend:
    """An OpenAI-compatible chat endpoint."""

    def __init__(self, model: str, base_url: str | None, key: str, *, timeout_seconds: float = 60.0) -> None:
        """Opens no connection yet.

        Args:
            model: Its name there.
            base_url: Address, e.g. ``"http://localhost:8000/v1"``; None is OpenAI's own.
            key: Secret of the account.
            timeout_seconds: Longest wait for one answer.

        Raises:
            SetupError: If the client library is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise SetupError("an endpoint needs the openai client: pip install 'got-bench[judge]'") from error
        self.id = model
        self._key = key
        self._without: list[str] = []
        # Who asks again, and when, is up to the asker: one pause holds all requests back.
        self._connect = functools.partial(
            openai.AsyncOpenAI, base_url=base_url, api_key=key, timeout=timeout_seconds, max_retries=0
        )
        self._client: Any = None
        self.secret_free_place = endpoint_hash(base_url)

    @classmethod
    def from_environment(cls, model: str, base_url: str | None = None, **options: Any) -> OpenAIBackend:
        """The endpoint of `OPENAI_BASE_URL`, unless an address is given, with the key of `OPENAI_API_KEY`.

        Raises:
            SetupError: There is neither.
        """
        key, url = os.environ.get("OPENAI_API_KEY", ""), base_url or os.environ.get("OPENAI_BASE_URL") or None
        if not key and url is None:
            raise SetupError("set OPENAI_API_KEY, or OPENAI_BASE_URL for an endpoint without a key")
        # A server of one's own often wants no key, but the client insists on one.
        return cls(model, url, key or "none", **options)

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """Sends a request, and repeats it while the server names parameters that it rejects.

        Raises:
            AskFailed: No reply came.
            SetupError: The key or the model's name is wrong, or the account is used up.
        """
        import openai

        while True:
            if self._client is None:
                self._client = self._connect()
            without = tuple(self._without)
            request = request_of(self.id, messages, params, seed, without)
            try:
                answer = await self._client.chat.completions.with_raw_response.create(**request)
            except openai.APIStatusError as error:
                if not self._left_out(error, request):
                    raise self._failure(error) from None
            except (openai.APIError, ValueError) as error:
                # A request that timed out or broke off may have been worked on, and be on the bill.
                words = self._clean(str(error) or type(error).__name__)
                raise AskFailed("transport", words, retry=True, may_be_billed=True) from None
            else:
                dropped = tuple(name for name in without if name not in request)
                return reply_in(_json(answer.text), params, dropped, clean=self._clean)

    async def close(self) -> None:
        """Closes connections; the next question opens new ones, in any event loop."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _left_out(self, error: Any, request: Mapping[str, Any]) -> bool:
        """Whether the parameters that the server refused will be left out of the next request."""
        _, words = failures.reason_in(error.body)
        sent = [name for name in _OPTIONAL if name in request]
        refused = failures.refused_parameters(error.status_code, error.param, words or str(error), sent)
        for name in refused:
            if name not in self._without:  # another request may have learnt it meanwhile
                self._without.append(name)
                instead = ", max_completion_tokens is sent instead" if name == "max_tokens" else ""
                note(f"{self.id} does not take {name}; it is left out{instead}: {self._clean(words)[:200]}")
        return bool(refused)

    def _failure(self, error: Any) -> AskFailed:
        """The exception for an error; a wrong key or model name, or an exhausted account, ends the run."""
        code, words = failures.reason_in(error.body)
        detail = f"HTTP {error.status_code}: {self._clean(words or str(error))}"
        cause = failures.cause_of(error.status_code, f"{error.code or ''} {code}", words)
        if cause == "setup":
            raise SetupError(detail)
        retry = cause in ("transport", "rate limit")
        wait = _seconds_to_wait(error.response.headers) if retry else None
        return AskFailed(cause, detail, retry=retry, after_seconds=wait)

    def _clean(self, words: str) -> str:
        text = " ".join(words.split())
        return text.replace(self._key, "***") if len(self._key) > 4 else text


def endpoint_hash(base_url: str | None) -> str:
    """Hash of an address, which reveals nothing of it; None: that of `OPENAI_BASE_URL`, or else OpenAI's."""
    address = base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
    return hashlib.sha256((address if address.endswith("/") else f"{address}/").encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------------- request
def request_of(
    model: str, messages: Messages, params: AskParams, seed: int | None, without: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of the client's call.

    Args:
        model: The endpoint's name of it.
        messages: The dialogue.
        params: What else the request says.
        seed: For the server's random numbers; None leaves it to the server.
        without: Parameters that the server does not take.

    >>> from got.vlm.messages import user
    >>> request_of("m", user("Hi"), AskParams(max_tokens=9), 0, ["max_tokens", "seed"])["max_completion_tokens"]
    9
    """
    options: dict[str, Any] = {"temperature": params.temperature, "seed": seed}
    length = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
    options[length] = params.max_tokens
    if params.json_mode:
        options["response_format"] = {"type": "json_object"}
    given = {name: value for name, value in options.items() if value is not None and name not in without}
    if params.spellings:
        given |= {"logprobs": True, "top_logprobs": TOP_TOKENS}
    if params.extra:
        given["extra_body"] = dict(params.extra)
    return {"model": model, "messages": [_turn(message) for message in messages], **given}


def _turn(message: Message) -> dict[str, Any]:
    if message.role != "user":  # many servers take no parts here
        return {"role": message.role, "content": "\n".join(part for part in message.parts if isinstance(part, str))}
    return {"role": "user", "content": [_part(part) for part in message.parts]}


def _part(part: str | ImageFile) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.url, **detail}}


# --------------------------------------------------------------------------------------------------------------- reply
def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a proxy's error page, for one
        return None


def reply_in(
    answer: Any, params: AskParams, dropped: tuple[str, ...] = (), *, clean: Callable[[str], str] = str
) -> Reply:
    """The reply that an answer's JSON holds.

    Args:
        answer: The JSON.
        params: What was asked for.
        dropped: Parameters that were left out of the request.
        clean: Takes secrets out of the words of an error.

    Raises:
        AskFailed: There is no message in it.
        SetupError: It holds an error that no question will get past.

    >>> parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes"}]
    >>> reply_in({"choices": [{"finish_reason": "stop", "message": {"content": parts}}]}, AskParams()).text
    'Yes'
    """
    answer = answer if isinstance(answer, dict) else {}
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _failure_in(answer.get("error"), clean)
    reason = str(choice.get("finish_reason") or "")
    text, finish = _text_of(message.get("content")), _FINISHES.get(reason.lower(), reason)
    if message.get("refusal") or finish == REFUSED:
        text, finish = str(message.get("refusal") or text or "content filter"), REFUSED
    elif text is None:
        text, finish = json.dumps(message.get("content"))[:2000], UNREADABLE
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    return Reply(
        text=text or "",
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        served_by=" ".join(str(answer[name]) for name in ("model", "system_fingerprint") if answer.get(name)),
        finish=finish,
        dropped=dropped,
        first_token=_first_token(choice) if params.spellings else None,
    )


def _failure_in(error: Any, clean: Callable[[str], str]) -> AskFailed:
    """The error in an answer without a message: some gateways send their provider's error with status 200."""
    if not error:
        return AskFailed("transport", "the answer holds no message", retry=True, may_be_billed=True)
    code, words = failures.reason_in({"error": error})
    status = int(code[:3]) if code[:3].isdigit() else 502
    cause = failures.cause_of(status, code, words)
    detail = f"the answer holds no message but an error {clean(code)}: {clean(words)}"
    if cause == "setup":
        raise SetupError(detail)
    return AskFailed(cause, detail, retry=cause in ("transport", "rate limit"), may_be_billed=True)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text_of(content: Any) -> str | None:
    """The text of a message's content; None if it has a form that is not known."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind not in _SILENT_PARTS:
            return None
    return "".join(texts)


def _first_token(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """Probability of each text to begin the reply, summed over tokens of the same text; None if not reported.

    >>> said = [{"token": "Yes", "logprob": 0.0}, {"token": "No", "logprob": float("-inf")}]
    >>> _first_token({"logprobs": {"content": [{"top_logprobs": said}]}})
    {'Yes': 1.0, 'No': 0.0}
    """
    found: dict[str, float] = {}
    try:
        for one in choice["logprobs"]["content"][0]["top_logprobs"]:
            if not (isinstance(one["token"], str) and one["logprob"] <= _ROUNDING):  # NaN is no logarithm either
                return None
            found[one["token"]] = found.get(one["token"], 0.0) + math.exp(one["logprob"])
    except (KeyError, IndexError, TypeError):
        return None
    return found


def _seconds_to_wait(headers: Any) -> float | None:
    """The wait that a server asks for by ``retry-after-ms``, or by ``retry-after`` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if not text:
            continue
        try:
            return max(0.0, float(text) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            continue
    return None
