"""What all that ask the same endpoint share: one rate limit, and one ledger of what asking costs."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from got.vlm.clients import AskFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_GROWTH = 0.1
"""What a reply adds to the number of requests at a time, after a rate limit has halved it."""


class RateLimiter:
    """Limits the requests to an endpoint, each of which runs inside ``async with``; serves one event loop at a time.

    After "too many requests", none is sent until the pause is over, and then half as many at the same time; each reply
    raises the number a little. Many workers thus find the rate that a server allows instead of failing in turn.
    """

    def __init__(self, most: int, per_minute: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        """A limiter that lets requests through at once.

        Args:
            most: Most requests at the same time.
            per_minute: Most requests per minute; None: no limit.
            sleep: Waits for a number of seconds.
        """
        self._most, self._sleep = most, sleep
        self._interval = 60 / per_minute if per_minute else 0.0
        self._width, self._next = float(most), 0.0
        self.renew()

    def renew(self) -> None:
        """Moves to another event loop and keeps the rate that was found."""
        self._pauses, self._inside = 0, 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._pauses and self._inside < max(1, int(self._width)))
            self._inside += 1
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            try:
                await self._sleep(start - now)
            except BaseException:
                await self.__aexit__(BaseException)
                raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        async with self._changed:
            self._inside -= 1
            if kind is None:
                self._width = min(self._most, self._width + _GROWTH)
            self._changed.notify_all()

    async def pause(self, seconds: float) -> None:
        """Holds all requests back for some seconds, and then allows half as many at the same time."""
        if not self._pauses:  # those that ran beside one another were refused together, not one after the other
            self._width = max(1.0, self._width / 2)
        self._pauses += 1
        try:
            await self._sleep(seconds)
        finally:
            async with self._changed:
                self._pauses -= 1
                self._changed.notify_all()


# ---------------------------------------------------------------------------------------------------------------- money
@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """Cost of some questions. Replies from the log cost nothing."""

    replies: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    """Requests, with or without a reply."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class Ledger:
    """The money that is spent, and the money that is reserved for requests under way."""

    def __init__(
        self, usd_per_million: tuple[float, float] | None, max_usd: float | None, max_tokens: int | None
    ) -> None:
        """A ledger with nothing spent.

        Args:
            usd_per_million: Price of a million input and output tokens; None: unknown, and there is no limit.
            max_usd: The limit.
            max_tokens: Longest answer, for the first estimate of what a request costs.
        """
        self._price, self._limit = usd_per_million, max_usd
        self._guess = self.cost(3000, max_tokens or 4096) or 0.0
        self.spent_usd, self._reserved = 0.0, 0.0

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Cost of a request in USD; None where the price or the number of tokens is unknown."""
        if self._price is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self._price[0] + tokens_out * self._price[1]) / 1e6

    def recall(self, record: Mapping[str, Any]) -> None:
        """Adds the cost of a logged reply: the estimate if its tokens were not counted."""
        usd = record.get("usd") or self.cost(record.get("tokens_in"), record.get("tokens_out"))
        self.spent_usd += self._guess if usd is None else usd

    def reserve(self) -> float:
        """Reserves the estimated cost of a request; raises `AskFailed` if it would exceed the limit."""
        if self._limit is not None and self.spent_usd + self._reserved + self._guess > self._limit:
            raise AskFailed("budget", f"{self.spent_usd:.4f} USD are spent, {self._why()}", retry=False)
        self._reserved += self._guess
        return self._guess

    def too_small(self) -> str | None:
        """Why the limit allows not even a first request; None if it does, or if something is spent already."""
        if self._limit is None or self.spent_usd or self._guess <= self._limit:
            return None
        return self._why()

    def _why(self) -> str:
        return f"one request may cost {self._guess:.4f} USD, and --max-spend is {self._limit:g}"

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self._price is not None

    def settle(self, reserved: float, usd: float | None) -> float:
        """Replaces a reservation by the cost of the request, which is returned; unknown costs count as reserved."""
        paid = reserved if usd is None else usd
        self._reserved -= reserved
        self.spent_usd += paid
        self._guess = max(self._guess, usd or 0.0)
        return paid
