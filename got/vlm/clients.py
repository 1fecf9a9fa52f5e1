"""Vision-language models that answer questions: any OpenAI-compatible endpoint, or one on this machine.

Annotation asks them for chains, `evals` for judgements. A key is never written anywhere; of an address only a hash.
Needs neither torch nor the client library until a model is named.
"""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import functools
import hashlib
import math
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from got.util import weight_files
from got.util.images import open_image
from got.vlm.messages import ImageFile, images_first, images_of

if TYPE_CHECKING:
    from got.vlm.messages import Messages


REFUSED = "refusal"
"""Why a reply ends in which the model, or a filter before it, would not answer; it is paid like any other."""


TOP_TOKENS = 20
"""So many alternatives of a first token an endpoint gives at most."""

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
    spellings: tuple[str, ...] = ()
    """Words of which each one's probability to begin the reply is wanted, see `Reply.first_token`."""


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
    first_token: dict[str, float] | None = None
    """Probabilities of what the reply could have begun with, by the token's text; of an endpoint the `TOP_TOKENS`
    likeliest ones, of a local model those as well. None where none were asked for, or the endpoint gives none."""
    spelled: dict[str, float] | None = None
    """Of a local model: the probability of each of the wanted spellings' first token, from the whole vocabulary."""


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

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """The reply to a conversation that ends with the user's turn; raises `AskFailed`."""

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

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """One request; raises `AskFailed`, or `SetupError` where the key or the model's name is wrong."""
        import openai

        if self._client is None:
            self._client = self._connect()
        try:
            answer = await self._client.chat.completions.create(**self._request(messages, params, seed))
        except (openai.APIError, ValueError) as error:
            raise self._failure(error) from None
        return _read_answer(answer)

    async def close(self) -> None:
        """Closes connections; the next question opens new ones, in any event loop."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _request(self, messages: Messages, params: AskParams, seed: int | None) -> dict[str, Any]:
        turns = images_first(messages) if self._images_first else messages
        options: dict[str, Any] = {"temperature": params.temperature, "seed": seed}
        options[self._length_name] = params.max_tokens
        if params.json_mode:
            options["response_format"] = {"type": "json_object"}
        if params.spellings:
            options |= {"logprobs": True, "top_logprobs": TOP_TOKENS}
        given = {name: value for name, value in options.items() if value is not None}
        return {"model": self.id, "messages": [_as_chat(turn.role, turn.parts) for turn in turns], **given}

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


def _as_chat(role: str, parts: tuple[str | ImageFile, ...]) -> dict[str, Any]:
    """A turn in the form of chat endpoints; texts of the model itself and of the system are plain strings there."""
    if role != "user":
        return {"role": role, "content": "\n".join(part for part in parts if isinstance(part, str))}
    return {"role": role, "content": [_as_part(part) for part in parts]}


def _as_part(part: str | ImageFile) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.url, **detail}}


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
        first_token=_first_token(choices[0]),
    )


def _first_token(choice: Any) -> dict[str, float] | None:
    """What the reply could have begun with, and how likely; of equal texts of two tokens the sum."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not content:
        return None
    found: dict[str, float] = {}
    for one in content[0].top_logprobs:
        found[one.token] = found.get(one.token, 0.0) + math.exp(one.logprob)
    return found


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

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """In a thread of its own, one question at a time; greedy, so temperature and seed change nothing."""
        del seed
        return await asyncio.to_thread(self._ask, messages, params)

    def _ask(self, messages: Messages, params: AskParams) -> Reply:
        import torch

        turns = images_first(messages) if self._images_first else messages
        marks: list[dict[str, Any]] = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in turn.parts
                ],
            }
            for turn in turns
        ]
        text = self._processor.apply_chat_template(marks, add_generation_prompt=True, tokenize=False)
        images = [open_image(image.data) for image in images_of(turns)]
        with self._lock, torch.inference_mode():
            inputs = self._processor(text=[text], images=images or None, return_tensors="pt").to(self._model.device)
            length = int(inputs["input_ids"].shape[1])
            made = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=params.max_tokens,
                return_dict_in_generate=True,
                output_logits=bool(params.spellings),
            )
        written = made.sequences[0, length:]
        reply = self._processor.batch_decode(written[None], skip_special_tokens=True)[0]
        ends = self._model.generation_config.eos_token_id
        whole = len(written) < params.max_tokens or int(written[-1]) in (ends if isinstance(ends, list) else [ends])
        return Reply(
            text=reply,
            tokens_in=length,
            tokens_out=len(written),
            served_by=self.id,
            finish="stop" if whole else "length",
            **(self._likely(made.logits[0][0], params.spellings) if params.spellings else {}),
        )

    def _likely(self, logits: Any, spellings: tuple[str, ...]) -> dict[str, Any]:
        """Probabilities of the first token, from logits ``(vocabulary,)``."""
        tokenizer = self._processor.tokenizer
        likely = logits.double().softmax(-1)
        best = likely.topk(min(TOP_TOKENS, len(likely)))
        first: dict[str, float] = {}
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            text = tokenizer.decode([token])
            first[text] = first.get(text, 0.0) + value
        ids = {word: tokenizer.encode(word, add_special_tokens=False)[0] for word in spellings}
        return {"first_token": first, "spelled": {word: float(likely[one]) for word, one in ids.items()}}

    async def close(self) -> None:
        """Nothing to close."""


def model_name(place: str) -> str:
    """The last part of a folder's name with eight digits of its weights' content; a hub id as it is."""
    found = weight_files.below(Path(place))
    return f"{Path(place).resolve().name}-{weight_files.digest_of(found)}" if found else place
