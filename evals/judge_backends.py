"""Who answers a judge's question: any OpenAI-compatible endpoint, or a vision-language model on this machine.

An endpoint is named by the environment alone: ``JUDGE_MODEL``, ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``. The key is
never written anywhere; of the address only a hash.
"""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import hashlib
import io
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evals import provenance
from evals.records import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgeParams:
    """What a request says beside prompt and pictures. None leaves a thing to the endpoint."""

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


class AskFailed(Exception):
    """No reply. `cause` is one of `evals.metrics.judging.CAUSES`."""

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
    """Asks one question at a time; may be called from several threads."""

    id: str
    """Names the judge in every metric."""
    secret_free_place: str
    """Part of the cache key: tells two endpoints with one model name apart, and gives nothing away."""

    def ask(self, prompt: str, images: Sequence[bytes], params: JudgeParams, seed: int | None) -> Reply:
        """The reply to a text followed by pictures (PNG files); raises `AskFailed`."""


# ------------------------------------------------------------------------------------------------------------- endpoint
class OpenAIBackend:
    """An OpenAI-compatible chat endpoint. Retries are the judge's business, so that they are counted."""

    def __init__(self, model: str, base_url: str | None, key: str, *, timeout_seconds: float = 60.0) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("this judge needs the openai client: pip install 'got-bench[judge]'") from error
        self.id = model
        self._key, self._length_name = key, "max_tokens"
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_seconds, max_retries=0)
        self.secret_free_place = hashlib.sha256(str(self._client.base_url).encode()).hexdigest()[:12]

    @classmethod
    def from_environment(cls, model: str = "") -> OpenAIBackend:
        """The endpoint that the environment names, and its model unless one is given.

        Raises:
            UserError: A variable is missing.
        """
        model, url = model or os.environ.get("JUDGE_MODEL", ""), os.environ.get("OPENAI_BASE_URL") or None
        key = os.environ.get("OPENAI_API_KEY", "")
        if not model:
            raise UserError("--judge openai: set JUDGE_MODEL to the model's name")
        if not key and url is None:
            raise UserError("--judge openai: set OPENAI_API_KEY, or OPENAI_BASE_URL for an endpoint without a key")
        # A server of one's own often wants no key, but the client insists on one.
        return cls(model, url, key or "none")

    def ask(self, prompt: str, images: Sequence[bytes], params: JudgeParams, seed: int | None) -> Reply:
        """Text first, then the pictures in order, as VIEScore and GoT send them."""
        import openai

        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        for data in images:
            url = "data:image/png;base64," + base64.b64encode(data).decode()
            content.append({"type": "image_url", "image_url": {"url": url}})
        options: dict[str, Any] = {"temperature": params.temperature, "seed": seed}
        options[self._length_name] = params.max_tokens
        if params.json_mode:
            options["response_format"] = {"type": "json_object"}
        try:
            answer: Any = self._client.chat.completions.create(
                model=self.id,
                messages=[{"role": "user", "content": content}],
                **{name: value for name, value in options.items() if value is not None},
            )
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except (openai.APIError, ValueError) as error:
            # A request that timed out or broke off may have been worked on, and be on the bill.
            raise AskFailed("transport", self._clean(error), retry=True, may_be_billed=True) from None
        return self._reply(answer)

    def _reply(self, answer: Any) -> Reply:
        # An answer that is not JSON at all, a proxy's error page for one, comes back as a string.
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise AskFailed("transport", "the answer holds no message", retry=True)
        message = choices[0].message
        refusal = getattr(message, "refusal", None)
        if refusal or choices[0].finish_reason == "content_filter":
            raise AskFailed("refusal", str(refusal or "content filter"), retry=False)
        usage = answer.usage
        return Reply(
            text=message.content or "",
            tokens_in=None if usage is None else usage.prompt_tokens,
            tokens_out=None if usage is None else usage.completion_tokens,
            served_by=" ".join(str(part) for part in (answer.model, answer.system_fingerprint) if part),
        )

    def _status(self, error: Any) -> AskFailed:
        """What an HTTP error means; a wrong key or model name is the user's mistake and ends the run."""
        detail = f"HTTP {error.status_code}: {self._clean(error)}"
        if error.status_code in (401, 403, 404):
            raise UserError(f"--judge openai: {detail}") from None
        if error.status_code == 429:
            spent = error.code == "insufficient_quota"
            after = _seconds_to_wait(error.response.headers)
            return AskFailed("rate limit", detail, retry=not spent, after_seconds=after)
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

    def __init__(self, place: str, device: str = "cpu", dtype: str = "float32") -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor: Any = AutoProcessor.from_pretrained(place)
            model: Any = AutoModelForImageTextToText.from_pretrained(place, dtype=getattr(torch, dtype))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"--judge hf:{place} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
        self._model = model.to(device).eval()
        self._lock = threading.Lock()
        digests = sorted(provenance.weights_sha256(Path(place)).values()) if Path(place).exists() else []
        content = hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
        self.id = f"{Path(place).resolve().name}-{content}" if digests else place

    def ask(self, prompt: str, images: Sequence[bytes], params: JudgeParams, seed: int | None) -> Reply:
        """Greedy, so temperature and seed change nothing."""
        import torch
        from PIL import Image

        del seed
        content = [{"type": "text", "text": prompt}, *({"type": "image"} for _ in images)]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
        with self._lock, torch.inference_mode():
            inputs = self._processor(text=[text], images=pictures or None, return_tensors="pt").to(self._model.device)
            length = int(inputs["input_ids"].shape[1])
            written = self._model.generate(**inputs, do_sample=False, max_new_tokens=params.max_tokens)[0, length:]
        reply = self._processor.batch_decode(written[None], skip_special_tokens=True)[0]
        return Reply(text=reply, tokens_in=length, tokens_out=len(written), served_by=self.id)
