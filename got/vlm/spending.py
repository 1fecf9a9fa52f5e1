"""What asking costs: the tally of some questions, and one ledger for all of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from got.vlm.clients import AskFailed

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What some questions have cost. Replies from the log cost nothing."""

    replies: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    """Requests, with or without a reply."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class Ledger:
    """Money spent, and money that requests under way may yet spend."""

    def __init__(
        self, usd_per_million: tuple[float, float] | None, max_usd: float | None, max_tokens: int | None
    ) -> None:
        """Nothing is spent above a limit.

        Args:
            usd_per_million: Price of a million tokens in and out; None if it is not known, and then there is no limit.
            max_usd: The limit.
            max_tokens: Longest answer, for a first guess of what a request costs.
        """
        self._price, self._limit = usd_per_million, max_usd
        self._guess = self.cost(3000, max_tokens or 4096) or 0.0
        self.spent_usd, self._reserved = 0.0, 0.0

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Price of a request; None where no price is known, or nobody counted."""
        if self._price is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self._price[0] + tokens_out * self._price[1]) / 1e6

    def recall(self, record: Mapping[str, Any]) -> None:
        """Counts a logged reply; one whose tokens nobody counted has cost what is set aside for it."""
        usd = record.get("usd") or self.cost(record.get("tokens_in"), record.get("tokens_out"))
        self.spent_usd += self._guess if usd is None else usd

    def reserve(self) -> float:
        """Sets the price of one more request aside; raises `AskFailed` if there is not enough left."""
        if self._limit is not None and self.spent_usd + self._reserved + self._guess > self._limit:
            raise AskFailed("budget", f"{self.spent_usd:.4f} USD are spent", retry=False)
        self._reserved += self._guess
        return self._guess

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self._price is not None

    def settle(self, reserved: float, usd: float | None) -> float:
        """A request is over. Returns what it cost: as much as was set aside, if that is not known."""
        paid = reserved if usd is None else usd
        self._reserved -= reserved
        self.spent_usd += paid
        self._guess = max(self._guess, usd or 0.0)
        return paid
