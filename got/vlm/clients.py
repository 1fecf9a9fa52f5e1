"""Vision-language models that answer questions: any OpenAI-compatible endpoint, or one on this machine.

Annotation asks them for chains, `evals` for judgements. A key is never written anywhere; of an address only a hash.
Needs neither torch nor the client library until a model is named.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import email.utils
import functools
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from got.util import weight_files
from got.util.images import open_image

if TYPE_CHECKING:
    from collections.abc import Sequence


REFUSED = "refusal"
"""Why a reply ends in which the model, or a filter before it, would not answer; it is paid like any other."""


_OPENAI = "https://api.openai.com/v1"
"""Where the client goes if nobody names an address."""


class SetupError(ValueError):
    """A model cannot be had or asked at all, in words for a person: a library, a key or a name is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskParams:
    """What a request says beside prompt and images. None leaves a thing to the endpoint."""

    temperature: float | None = 0.0
    """0 does not make an endpoint deterministic, but less random."""
    max_tokens: int = 1400
    seed: int | None = 0
    """First seed; repeats count up from it."""
    json_mode: bool = False
    """Ask for JSON by the protocol's own means, where the endpoint has them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    text: str
    tokens_in: int | None
    """None where the endpoint does not count."""
    tokens_out: int | None
    served_by: str = ""
    """Model and fingerprint as the endpoint names them: a silent change of the model shows here."""
    finish: str = ""
    """Why it ends, e.g. ``"stop"``, ``"length"`` where it was cut off, or `REFUSED`."""


class AskFailed(Exception):
    """No reply. `cause` is ``"transport"``, ``"rate limit"``, ``"rejected"``, ``"refusal"`` or ``"budget"``."""

    def __init__(
        self,
        cause: str,
        detail: str,
        *,
        retry: bool,
        after_seconds: float | None = None,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(" ".join(detail.split())[:200])
        self.cause, self.retry, self.after_seconds = cause, retry, after_seconds
        self.may_be_billed = may_be_billed


class Backend(Protocol):
    """Answers questions; several tasks of one event loop may ask."""

    id: str
    """Names the model in everything that it wrote."""
    secret_free_place: str
    """Part of the cache key: tells two endpoints with one model name apart, and gives nothing away."""

    async def ask(self, prompt: str, images: Sequence[bytes], params: AskParams, seed: int | None) -> Reply:
        """The reply to a text with images (PNG files); raises `AskFailed`."""

    async def close(self) -> None:
        """Closes connections; the next question opens new ones."""


# ------------------------------------------------------------------------------------------------------------- endpoint
class OpenAIBackend:
    """An OpenAI-compatible chat endpoint."""

    def __init__(
        self,
        model: str,
        base_url: str | None,
        key: str,
        *,
        timeout_seconds: float = 60.0,
        max_retries: int = 0,
        images_first: bool = False,
    ) -> None:
        """Opens no connection yet.

        Args:
            model: Its name there.
            base_url: Address, e.g. ``"http://localhost:8000/v1"``; None is OpenAI's own.
            key: Secret of the account.
            timeout_seconds: Longest wait for one answer.
            max_retries: How often the client library itself asks again, with growing pauses, after an answer that a
                second request may mend. 0 leaves this to the caller.
            images_first: Images before the text. A server that keeps the work on a common beginning of requests then
                sees each image once.

        Raises:
            SetupError: If the client library is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise SetupError("an endpoint needs the openai client: pip install 'got-bench[judge]'") from error
        self.id = model
        self._key, self._length_name, self._images_first = key, "max_tokens", images_first
        self._retries = max_retries
        self._connect = functools.partial(
            openai.AsyncOpenAI, base_url=base_url, api_key=key, timeout=timeout_seconds, max_retries=max_retries
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

    async def ask(self, prompt: str, images: Sequence[bytes], params: AskParams, seed: int | None) -> Reply:
        """One request; raises `AskFailed`, or `SetupError` where the key or the model's name is wrong."""
        import openai

        if self._client is None:
            self._client = self._connect()
        try:
            answer = await self._client.chat.completions.create(**self._request(prompt, images, params, seed))
        except (openai.APIError, ValueError) as error:
            raise self._failure(error) from None
        return _read_answer(answer)

    async def close(self) -> None:
        """Closes connections; the next question opens new ones, in any event loop."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _request(self, prompt: str, images: Sequence[bytes], params: AskParams, seed: int | None) -> dict[str, Any]:
        text: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        urls = ("data:image/png;base64," + base64.b64encode(data).decode() for data in images)
        image_parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = image_parts + text if self._images_first else text + image_parts
        options: dict[str, Any] = {"temperature": params.temperature, "seed": seed}
        options[self._length_name] = params.max_tokens
        if params.json_mode:
            options["response_format"] = {"type": "json_object"}
        given = {name: value for name, value in options.items() if value is not None}
        return {"model": self.id, "messages": [{"role": "user", "content": content}], **given}

    def _failure(self, error: Exception) -> AskFailed:
        failed = self._meaning(error)
        # What the client has asked again already, the caller need not; another name of the length it must.
        failed.retry &= not self._retries or failed.cause == "rejected"
        return failed

    def _meaning(self, error: Exception) -> AskFailed:
        """What an error means; a wrong key or model name, or an account that is used up, ends everything."""
        import openai

        if not isinstance(error, openai.APIStatusError):
            # A request that timed out or broke off may have been worked on, and be on the bill.
            return AskFailed("transport", self._clean(error), retry=True, may_be_billed=True)
        detail = f"HTTP {error.status_code}: {self._clean(error)}"
        if error.status_code in (401, 403, 404) or error.code == "insufficient_quota":
            raise SetupError(detail) from None
        if error.status_code == 429:
            return AskFailed("rate limit", detail, retry=True, after_seconds=_seconds_to_wait(error.response.headers))
        if error.status_code >= 500 or error.status_code in (408, 409):
            return AskFailed("transport", detail, retry=True, after_seconds=_seconds_to_wait(error.response.headers))
        if "max_completion_tokens" in detail:
            # OpenAI's newer models know the length under this name only; other servers know the older one.
            self._length_name = "max_completion_tokens"
            return AskFailed("rejected", detail, retry=True, after_seconds=0.0)
        words = f"{error.code} {detail}".lower()
        filtered = any(
            word in words for word in ("content_filter", "content_policy", "content management", "jailbreak")
        )
        return AskFailed("refusal" if filtered else "rejected", detail, retry=False)

    def _clean(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._key, "***") if len(self._key) > 4 else text


def endpoint_hash(base_url: str | None) -> str:
    """Tells two addresses apart and gives neither away; None is OpenAI's, unless `OPENAI_BASE_URL` names another."""
    address = base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
    return hashlib.sha256((address if address.endswith("/") else f"{address}/").encode()).hexdigest()[:12]


def _read_answer(answer: Any) -> Reply:
    # An answer that is not JSON at all, a proxy's error page for one, comes back as a string.
    choices = getattr(answer, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise AskFailed("transport", "the answer holds no message", retry=True)
    message = choices[0].message
    refusal = getattr(message, "refusal", None)
    refused = bool(refusal) or choices[0].finish_reason == "content_filter"
    usage = answer.usage
    return Reply(
        text=str(refusal or "content filter") if refused else message.content or "",
        tokens_in=None if usage is None else usage.prompt_tokens,
        tokens_out=None if usage is None else usage.completion_tokens,
        served_by=" ".join(str(part) for part in (answer.model, answer.system_fingerprint) if part),
        finish=REFUSED if refused else choices[0].finish_reason or "",
    )


def _seconds_to_wait(headers: Any) -> float | None:
    """The server's wish, from ``retry-after-ms``, or ``retry-after`` in seconds or as a date."""
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


# --------------------------------------------------------------------------------------------------------- local model
class TransformersBackend:
    """A vision-language model of transformers, greedy: one question has one answer."""

    secret_free_place = "local"

    def __init__(self, place: str, device: str = "cpu", dtype: str = "float32", *, images_first: bool = False) -> None:
        """Loads it.

        Raises:
            SetupError: If there is no such model.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor: Any = AutoProcessor.from_pretrained(place)
            model: Any = AutoModelForImageTextToText.from_pretrained(place, dtype=getattr(torch, dtype))
            self._model: Any = model.to(device).eval()
        # The last three: a damaged file, or no such device.
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, AssertionError) as error:
            raise SetupError(f"{place} cannot be loaded: {weight_files.why(place, error)}") from error
        self._images_first, self._lock = images_first, threading.Lock()
        self.id = model_name(place)

    async def ask(self, prompt: str, images: Sequence[bytes], params: AskParams, seed: int | None) -> Reply:
        """In a thread of its own, one question at a time; greedy, so temperature and seed change nothing."""
        del seed
        return await asyncio.to_thread(self._ask, prompt, images, params)

    def _ask(self, prompt: str, images: Sequence[bytes], params: AskParams) -> Reply:
        import torch

        words, marks = [{"type": "text", "text": prompt}], [{"type": "image"} for _ in images]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": marks + words if self._images_first else words + marks}],
            add_generation_prompt=True,
            tokenize=False,
        )
        opened = [open_image(data) for data in images]
        with self._lock, torch.inference_mode():
            inputs = self._processor(text=[text], images=opened or None, return_tensors="pt").to(self._model.device)
            length = int(inputs["input_ids"].shape[1])
            written = self._model.generate(**inputs, do_sample=False, max_new_tokens=params.max_tokens)[0, length:]
        reply = self._processor.batch_decode(written[None], skip_special_tokens=True)[0]
        ends = self._model.generation_config.eos_token_id
        whole = len(written) < params.max_tokens or int(written[-1]) in (ends if isinstance(ends, list) else [ends])
        return Reply(
            text=reply,
            tokens_in=length,
            tokens_out=len(written),
            served_by=self.id,
            finish="stop" if whole else "length",
        )

    async def close(self) -> None:
        """Nothing to close."""


def model_name(place: str) -> str:
    """The last part of a folder's name with eight digits of its weights' content; a hub id as it is."""
    found = weight_files.below(Path(place))
    return f"{Path(place).resolve().name}-{weight_files.digest_of(found)}" if found else place
