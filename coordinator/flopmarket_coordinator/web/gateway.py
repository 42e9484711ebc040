"""The port to the coordinator: all that the board may ask.

:mod:`.remote` asks over gRPC; the tests keep a whole market in memory. Every method may raise
:class:`~flopmarket.errors.FlopmarketError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import (
    Accuracy,
    Book,
    Earnings,
    History,
    Job,
    JobEvent,
    OfferQuery,
    Offers,
    Spot,
    TapeMessage,
    Why,
)


class Gateway(Protocol):
    """Questions to one coordinator. The last group needs a key and is not called without one."""

    @property
    def account_id(self) -> str:
        """The account that the key acts for; empty without a key."""

    @property
    def notice(self) -> str:
        """A line to show above every page, such as "sample data"; empty for a real market."""

    async def spot(self, mode: Mode) -> Spot:
        """Every class of work now, in a mode."""

    async def offers(self, query: OfferQuery) -> Offers:
        """One page of live offers."""

    async def book(self, work_class: str, mode: Mode) -> Book:
        """Depth of one class in a mode."""

    async def history(
        self, work_class: str, mode: Mode, resolution_seconds: int, from_us: int, to_us: int
    ) -> History:
        """Candles that start in ``[from_us, to_us)``, the newest ``MAX_BOARD_CANDLES`` of them."""

    def trades(self) -> AsyncIterator[TapeMessage]:
        """The tape of all modes, from its newest trades on, until it is closed or raises."""

    async def accuracy(self) -> Accuracy:
        """How far predictions were off."""

    async def snapshot(self) -> bytes:
        """The newest signed price snapshot, a DSSE envelope in its JSON form."""

    async def jobs(self) -> tuple[Job, ...]:
        """Our newest jobs, newest first, without segments."""

    async def job(self, job_id: str) -> Job:
        """One job of ours with its first segments."""

    async def why(self, job_id: str) -> Why:
        """What a job waits for."""

    def job_events(self, job_id: str) -> AsyncIterator[JobEvent]:
        """The story of a job from its beginning, then live; ends when the job has ended."""

    async def why_idle(self, offer_id: str) -> Why:
        """Why a device of ours has no work."""

    async def earnings(self, offer_id: str) -> Earnings:
        """What a device of ours earned by day."""

    async def close(self) -> None:
        """End all connections."""
