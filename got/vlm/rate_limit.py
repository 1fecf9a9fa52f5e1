"""How many requests are on their way: one rate limit for all that ask the same endpoint."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_GROWTH = 0.1
"""What a reply adds to the number of requests at a time, after a rate limit has halved it."""


class RateLimiter:
    """Lets requests through, each inside ``async with``; belongs to one event loop at a time.

    A server that says "too many" is not asked by anybody until its pause is over, and then by half as many at a time;
    every reply gives back a little. So many workers find the rate that a server allows, instead of failing in turn.
    """

    def __init__(self, most: int, per_minute: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Open.

        Args:
            most: Requests at a time.
            per_minute: Requests in a minute; None: as many as the server takes.
            sleep: Waits some seconds.
        """
        self._most, self._sleep = most, sleep
        self._interval = 60 / per_minute if per_minute else 0.0
        self._width, self._next = float(most), 0.0
        self.renew()

    def renew(self) -> None:
        """Goes over to another event loop, with the pace that was found."""
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
        """Closes the gate for some seconds, and lets half as many through afterwards."""
        if not self._pauses:  # those that ran beside one another were refused together, not one after the other
            self._width = max(1.0, self._width / 2)
        self._pauses += 1
        try:
            await self._sleep(seconds)
        finally:
            async with self._changed:
                self._pauses -= 1
                self._changed.notify_all()
