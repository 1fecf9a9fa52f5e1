"""How annotation asks a model: prompts from files, replies on record, each of them paid once, failures with a cause.

Every reply is logged before it is read, good or bad, with a key that holds everything it depends on. What is in the log
is never asked again; so a run that was killed goes on where it was, and a sample that failed fails again for nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from got.util.files import append_lines, recorded
from got.vlm.clients import REFUSED, AskFailed, AskParams, Ledger, Reply, SetupError
from got.vlm.json_replies import BadReply, read_json, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import jinja2

    from got.vlm.clients import Backend

PROMPTS = Path(__file__).parents[1] / "prompts"
STAGES = ("describe", "extract", "ground", "reground", "parse", "crop", "compose", "instruction")
"""What is asked, each with a prompt file of its name."""
_HOPELESS = 8
"""So many questions without an answer, and not one with, are a broken set-up ..."""
_LOST = 64
"""... and so many one after the other an endpoint that has gone."""
_Read = TypeVar("_Read")


class StageFailed(Exception):
    """A sample cannot be annotated; says at which stage and why."""

    def __init__(self, stage: str, cause: str, detail: str) -> None:
        super().__init__(f"{stage}: {cause}: {detail}")
        self.stage, self.cause, self.detail = stage, cause, detail


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROMPTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = functools.partial(json.dumps, ensure_ascii=False)
    return environment


def prompt(stage: str, **variables: Any) -> str:
    r"""The question of a stage.

    Texts go in as JSON strings (``{{ name | json }}`` in the file), which they cannot break out of.

    >>> print(prompt("crop", name='a "hot" dog').splitlines()[1])
    "a \"hot\" dog"
    """
    return _environment().get_template(f"{stage}.txt").render(**variables).strip()


def prompts_hash() -> str:
    """Twelve digits that change with any prompt file."""
    digest = hashlib.sha256()
    for stage in STAGES:
        digest.update((PROMPTS / f"{stage}.txt").read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """How a model is asked."""

    params: AskParams = dataclasses.field(default_factory=AskParams)
    attempts: int = 3
    """Replies to one question at most."""
    retry_temperature: float = 0.7
    """Of all attempts but the first: a greedy model would only repeat itself."""
    usd_per_million: tuple[float, float] | None = None
    """Price of a million tokens in and out."""
    max_usd: float | None = None
    """No request is sent that could lead above this."""


class Asker:
    """Puts questions to a back-end, and keeps what comes back."""

    def __init__(self, backend: Backend, settings: AskSettings, log: Path, finished: Collection[str]) -> None:
        """Reads the log of an earlier run.

        Args:
            backend: Who answers.
            settings: How often and for how much money.
            log: File of all replies, one a line.
            finished: Samples of which nothing will be asked, whose replies need no memory.
        """
        self.backend, self._settings = backend, settings
        self.calls = self.tokens_in = self.tokens_out = 0
        self._known: dict[str, dict[str, Reply]] = {}
        spent = sum(self._recall(record, finished) for record in recorded(log))
        self._log = log
        log.touch()
        self.ledger = Ledger(settings.usd_per_million, settings.max_usd, settings.params.max_tokens, spent)
        self._unanswered, self._answered = 0, self.calls > 0

    def _recall(self, record: dict[str, Any], finished: Collection[str]) -> float:
        self._count(record["tokens_in"], record["tokens_out"])
        if record["sample"] not in finished:
            fields = {field.name for field in dataclasses.fields(Reply)}
            self._known.setdefault(record["sample"], {})[record["key"]] = Reply(
                **{name: record[name] for name in fields}
            )
        return record.get("usd") or 0.0

    def _count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        self.calls += 1
        self.tokens_in += tokens_in or 0
        self.tokens_out += tokens_out or 0

    def forget(self, sample: str) -> None:
        """A sample is done: its replies stay in the log and leave the memory."""
        self._known.pop(sample, None)

    async def ask(
        self, sample: str, stage: str, words: str, images: Sequence[bytes], read: Callable[[Any], _Read]
    ) -> _Read:
        """What a model's reply says, once it can be read.

        Args:
            sample: Id of what the question is about.
            stage: One of `STAGES`.
            words: The prompt.
            images: Pictures as PNG files.
            read: Makes the result of the reply's JSON, or raises `BadReply`.

        Raises:
            StageFailed: If all attempts failed.
            SetupError: If the model cannot be asked at all.
        """
        last: Exception | None = None
        for attempt in range(self._settings.attempts):
            try:
                reply = await self._reply(sample, stage, words, images, attempt)
                if reply.finish == REFUSED:
                    raise BadReply("refusal", shortened(reply.text))
                if reply.finish == "length":
                    raise BadReply("truncated", f"cut off after {reply.tokens_out} tokens")
                return read(read_json(reply.text))
            except AskFailed as error:
                last = error
                self._note(error)
                if not error.retry:
                    break
            except BadReply as error:
                last = error
        assert isinstance(last, AskFailed | BadReply)
        raise StageFailed(stage, last.cause, shortened(str(last))) from last

    def _note(self, error: AskFailed) -> None:
        """An endpoint that answers nobody: the user hears of it now, not after hours of failures.

        A request that is not accepted may be its sample's own fault, and one that is sent again in other words is none.
        So these count only until the first answer, be it of an earlier run, and it takes many of them.
        """
        rejected = error.cause == "rejected"
        if error.cause not in ("transport", "rate limit", "rejected") or (rejected and (error.retry or self._answered)):
            return
        self._unanswered += 1
        if self._unanswered >= (_LOST if self._answered or rejected else _HOPELESS):
            raise SetupError(f"the model does not answer: {error}") from error

    async def _reply(self, sample: str, stage: str, words: str, images: Sequence[bytes], attempt: int) -> Reply:
        params = self._settings.params
        if attempt:
            params = dataclasses.replace(params, temperature=self._settings.retry_temperature)
        seed = None if params.seed is None else params.seed + attempt
        key = self._key(words, images, params, seed)
        known = self._known.setdefault(sample, {})
        if key in known:
            return known[key]
        reserved = self.ledger.reserve()
        if reserved is None:
            raise AskFailed("budget", f"{self.ledger.spent_usd:.4f} USD are spent", retry=False)
        usd: float | None = 0.0
        try:
            reply = await self.backend.ask_async(words, images, params, seed)
            usd = self.ledger.cost(reply.tokens_in, reply.tokens_out)
        except AskFailed as error:
            usd = None if error.may_be_billed else 0.0
            raise
        finally:
            self.ledger.settle(reserved, usd)
        self._answered, self._unanswered = True, 0
        self._count(reply.tokens_in, reply.tokens_out)
        about = {"key": key, "sample": sample, "stage": stage, "attempt": attempt, "prompt": words}
        spent = reserved if usd is None else usd
        append_lines(self._log, [{**about, "usd": spent, **dataclasses.asdict(reply)}], durable=False)
        known[key] = reply
        return reply

    def _key(self, words: str, images: Sequence[bytes], params: AskParams, seed: int | None) -> str:
        """Everything that can change a reply; not the address, for a server of one's own moves."""
        parts = [self.backend.id, words, dataclasses.asdict(params), seed]
        digests = [hashlib.sha256(data).hexdigest() for data in images]
        return hashlib.sha256(json.dumps([*parts, digests], sort_keys=True).encode()).hexdigest()
