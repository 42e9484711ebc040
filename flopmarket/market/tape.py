"""The tape: trades, and the digest that chains each of them to all before it.

A trade is a settled segment, verified and paid; nothing else prints. The coordinator makes one from
the segment it paid for, anybody makes the same bytes from what ``ListTrades`` answers, and a signed
price snapshot names the digest of the tape: a history that was changed later no longer fits it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated

from flopmarket.market.headline import PFLOP
from flopmarket.trust.documents import Identifier, Label, WattsSource
from flopmarket.trust.encoding import I64, Digest, MaxLength, Natural, digest, document, tagged_hash
from flopmarket.trust.modes import Mode

EMPTY_TAPE = bytes(32)
"""Digest of the tape before the first trade."""
_TAPE_DOMAIN = "flopmarket.tape.v1"
MICROJOULES_PER_JOULE = 1_000_000


@document("flopmarket.trade.v1")
class ExactTrade:
    """One trade in exact mode as everybody may see it.

    ``flops`` are the counted operations of ``work_class``, the segment's headline class;
    ``per_pflop_nano`` is ``price_nano`` for 10^15 of them, rounded up. ``microjoules`` are
    predicted seconds times the power that the device stated, zero when ``watts_source`` is unknown.
    ``number`` counts trades from 1 without gaps and gives their order, also where ``time_us`` (of
    settlement) steps back with a clock.
    """

    number: int
    time_us: I64
    work_class: Annotated[str, MaxLength(64)]
    flops: Natural
    price_nano: int
    per_pflop_nano: int
    microjoules: int
    watts_source: WattsSource
    offer_id: Identifier
    device_name: Label
    commitment_digest: Digest


@document("flopmarket.trade.v2")
class Trade(ExactTrade):
    """One trade, and the mode that its job was signed in."""

    mode: Mode = Mode.EXACT

    @property
    def pflop(self) -> float:
        """Volume in 10^15 operations, for people and charts."""
        return self.flops / PFLOP

    @property
    def joules(self) -> float:
        """Energy; 0.0 when the power is unknown."""
        return self.microjoules / MICROJOULES_PER_JOULE


def tape_digest(before: bytes, trade: Trade) -> bytes:
    """Digest of the tape that ends with ``trade``, from the digest of the tape before it.

    A trade in exact mode counts as an :class:`ExactTrade`: so it was when there was no other mode.
    """
    if trade.mode is not Mode.EXACT:
        return tagged_hash(_TAPE_DOMAIN, before, digest(trade))
    fields = {field.name: getattr(trade, field.name) for field in dataclasses.fields(ExactTrade)}
    return tagged_hash(_TAPE_DOMAIN, before, digest(ExactTrade(**fields)))


def digest_of_tape(trades: Iterable[Trade], before: bytes = EMPTY_TAPE) -> bytes:
    """Digest of the tape after ``trades`` in order of number."""
    for trade in trades:
        before = tape_digest(before, trade)
    return before
