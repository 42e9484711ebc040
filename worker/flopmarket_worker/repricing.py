"""What the devices offer in this hour, and what of it the coordinator has not heard yet.

Pure but for the power readers behind the offers: the hour comes in, signed-to-be terms come out.
Leases keep the terms they were given; a new ask is for work that is handed out from now on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flopmarket.errors import FlopmarketError
from flopmarket.market.reasons import Reason
from flopmarket.trust.documents import OfferTerms
from flopmarket_worker.asking import AskInvalid
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.offers import (
    Calibration,
    DeviceCard,
    OwnerTerms,
    ScheduleClosed,
    offer_terms,
)
from flopmarket_worker.week import Hour


class Offered(Protocol):
    """What is needed of an offered device."""

    @property
    def card(self) -> DeviceCard:
        """What it is."""

    @property
    def calibration(self) -> Calibration:
        """What it sustains."""

    @property
    def owner(self) -> OwnerTerms:
        """What its owner asks."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Offers to list, and device ids that are not offered with the reason."""

    terms: tuple[OfferTerms, ...] = ()
    withdrawn: Mapping[str, FlopmarketError] = field(default_factory=dict)


class Repricer:
    """Remembers the hour that the coordinator was told the offers of, and the asks it was told."""

    def __init__(
        self,
        devices: Mapping[str, Offered],
        speed: LinkSpeed,
        *,
        account_id: str,
        device_key_id: str,
    ) -> None:
        self._devices = devices
        self._speed = speed
        self._account_id = account_id
        self._device_key_id = device_key_id
        self._hour: Hour | None = None
        self._told: dict[str, OfferTerms] = {}
        self.listing = Listing()
        """How things stand since the last call of :meth:`all` or :meth:`changes`."""

    def all(self, at: Hour) -> Listing:
        """Everything, for a new connection."""
        self._hour = at
        self.listing = self._listing(at)
        self._told = {terms.device_id: terms for terms in self.listing.terms}
        return self.listing

    def changes(self, at: Hour) -> Listing:
        """What is to be told since; nothing while the hour is the same, whatever way it moved."""
        if at == self._hour:
            return Listing()
        told = self._told
        now = self.all(at)
        return Listing(
            tuple(terms for terms in now.terms if told.get(terms.device_id) != terms),
            {key: why for key, why in now.withdrawn.items() if key in told},
        )

    def _listing(self, at: Hour) -> Listing:
        terms: list[OfferTerms] = []
        withdrawn: dict[str, FlopmarketError] = {}
        for device_id, device in self._devices.items():
            try:
                owner = device.owner.at(at)
            except (AskInvalid, ScheduleClosed) as error:
                withdrawn[device_id] = error
                continue
            terms.append(
                offer_terms(
                    device.card,
                    device.calibration,
                    owner,
                    self._speed,
                    account_id=self._account_id,
                    device_key_id=self._device_key_id,
                )
            )
        return Listing(tuple(terms), withdrawn)


def reason_of(error: FlopmarketError) -> Reason:
    """Which reason of the table keeps a device off the list."""
    return Reason.SCHEDULE_CLOSED if isinstance(error, ScheduleClosed) else Reason.TARIFF
