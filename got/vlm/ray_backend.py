"""A vision-language model of transformers in several processes: each question goes to a free Ray worker."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from got.util import provenance
from got.util.errors import UserError
from got.util.workers.pool import Pool
from got.vlm.clients import AskFailed, Reply, SetupError
from got.vlm.local import TransformersBackend, model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from got.util.workers.options import PoolOptions
    from got.vlm.clients import AskParams
    from got.vlm.messages import Messages

    Question = tuple[Messages, AskParams]


_LAST_ANSWER_SECONDS = 30.0
"""How long the end of a command waits for answers under way."""


class _Closed(Exception):
    """Ends the queue of questions."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The model, for a pool of workers."""

    model: str
    device: str
    dtype: str

    def about(self) -> dict[str, Any]:
        """Code, packages, and the model by its weights."""
        return {**provenance.installed(), "model": model_name(self.model)}

    def place(self) -> dict[str, Any]:
        """Empty: nobody asks where a worker runs."""
        return {}

    def worker(self, before: Any = None) -> Callable[[list[Question]], list[Reply | str]]:
        """Loads the model, once."""
        if before is not None:
            return before
        try:
            backend = TransformersBackend(self.model, self.device, self.dtype)
        except SetupError as error:
            raise UserError(str(error)) from error
        return lambda questions: [backend.answer(*question) for question in questions]

    def files(self) -> list[Path]:
        """The model's folder, if it is one."""
        return [Path(self.model)] if Path(self.model).exists() else []

    def at(self, places: dict[str, Path]) -> _Job:
        """With the model's folder elsewhere."""
        return dataclasses.replace(self, model=str(next(iter(places.values()))))

    def lost(self, item: Any, why: str) -> str:
        """The failure of a question under which workers died."""
        return why


class RayBackend:
    """A `TransformersBackend` in each Ray worker."""

    secret_free_place = "local"

    def __init__(self, model: str, device: str, dtype: str, options: PoolOptions) -> None:
        """Waits until a first worker has loaded the model.

        Raises:
            SetupError: None can.
        """
        self._job, self._pool = _Job(model=model, device=device, dtype=dtype), Pool(options)
        self.id = model_name(model)
        self._asked: queue.SimpleQueue[tuple[Question, concurrent.futures.Future[Reply | str]] | None]
        self._asked = queue.SimpleQueue()
        self._waiting: collections.deque[concurrent.futures.Future[Reply | str]] = collections.deque()
        self._thread: threading.Thread | None = None
        try:
            self._pool.check(self._job)
        except UserError as error:
            self._pool.close()
            raise SetupError(str(error)) from error

    async def ask(self, messages: Messages, params: AskParams, seed: int | None) -> Reply:
        """Asks the next free worker. Decoding is greedy: temperature and seed have no effect."""
        del seed
        future: concurrent.futures.Future[Reply | str] = concurrent.futures.Future()
        self._asked.put(((messages, params), future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()
        reply = await asyncio.wrap_future(future)
        if isinstance(reply, str):
            raise AskFailed("transport", f"its worker died each time ({reply})", retry=False)
        return reply

    def _serve(self) -> None:
        """Feeds the pool until `close`; runs in a thread."""
        try:
            for (reply,) in self._pool.run(self._job, self._questions()):
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # nobody waits for it any more
                    self._waiting.popleft().set_result(reply)
        except _Closed:
            pass
        except Exception as error:  # of any kind: whoever asks must hear of it
            while True:
                for future in self._waiting:
                    with contextlib.suppress(concurrent.futures.InvalidStateError):
                        future.set_exception(SetupError(str(error)))
                self._waiting.clear()
                asked = self._asked.get()
                if asked is None:
                    return
                self._waiting.append(asked[1])

    def _questions(self) -> Iterator[list[Question] | None]:
        while True:
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                yield None
                continue
            if asked is None:
                raise _Closed
            self._waiting.append(asked[1])
            yield [asked[0]]

    async def close(self) -> None:
        """Ends the workers; the next question starts new ones."""
        if self._thread is not None:
            self._asked.put(None)
            await asyncio.to_thread(self._thread.join, _LAST_ANSWER_SECONDS)
            self._thread = None
        self._pool.close()
