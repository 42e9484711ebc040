"""What a worker asks, as the coordinator is told it: sealed, and again as hours change it.

:mod:`flopmarket_worker.repricing` decides what is offered in an hour; here it is signed, sent, and
noted for ``flop worker why``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from flopmarket.market.money import format_nano
from flopmarket.market.reasons import Reason
from flopmarket.trust.documents import OfferTerms
from flopmarket.v1 import common_pb2, worker_pb2
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.connection import Connection
from flopmarket_worker.link import CoordinatorLink
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.local_state import Notes
from flopmarket_worker.offers import card_fingerprint
from flopmarket_worker.repricing import Listing, Repricer, reason_of
from flopmarket_worker.signing import Sealer
from flopmarket_worker.week import Hour

logger = logging.getLogger("flopmarket.worker")


class PriceList:
    """What all devices of one agent ask. ``hour_now`` is the owner's hour of the week."""

    def __init__(
        self,
        devices: Mapping[str, AgentDevice],
        link: CoordinatorLink,
        connection: Connection,
        speed: LinkSpeed,
        notes: Notes,
        hour_now: Callable[[], Hour],
    ) -> None:
        self._devices = devices
        self._key = link.device_key
        self._connection = connection
        self._notes = notes
        self._hour_now = hour_now
        self._repricer = Repricer(
            devices, speed, account_id=link.account_id, device_key_id=link.device_key.key_id
        )

    def all(self, sealer: Sealer) -> list[common_pb2.Envelope]:
        """Every offer of this hour, for a greeting."""
        listing = self._repricer.all(self._hour_now())
        self._note(listing)
        return [self._sealed(terms, sealer) for terms in listing.terms]

    def tell_changes(self) -> None:
        """Tell the coordinator what a new hour makes of the asks; running leases keep theirs."""
        changes = self._repricer.changes(self._hour_now())
        self._note(changes)
        for terms in changes.terms:
            logger.info(
                "device %s asks %s an hour now",
                terms.device_id[:16],
                format_nano(terms.ask_nano_per_hour, symbol=""),
            )
            offer = self._sealed(terms, self._connection.sealer)
            self._connection.send(offer_changed=worker_pb2.OfferChanged(offer=offer))
        for device_id, error in changes.withdrawn.items():
            logger.warning("device %s is not offered in this hour: %s", device_id[:16], error)
            withdrawn = worker_pb2.OfferChanged(withdrawn=True, device_id=device_id)
            self._connection.send(offer_changed=withdrawn)

    def refused(self, refused: worker_pb2.OfferRefused) -> None:
        """The coordinator does not list a device."""
        why = f"{refused.message} [{refused.code}]"
        self._notes.kept_back(refused.device_id, Reason.OFFER_REFUSED, why)
        logger.error("offer of device %s refused: %s", refused.device_id[:16], why)

    def _sealed(self, terms: OfferTerms, sealer: Sealer) -> common_pb2.Envelope:
        """An offer with the fingerprint that its card has at this coordinator."""
        board = self._devices[terms.device_id].card.board
        named = replace(terms, card_fingerprint=card_fingerprint(board, sealer.audience))
        return sealer.seal(named, self._key)

    def _note(self, listing: Listing) -> None:
        for terms in listing.terms:
            self._notes.offered(terms.device_id, terms.ask_nano_per_hour)
        for device_id, error in listing.withdrawn.items():
            self._notes.kept_back(device_id, reason_of(error), error.message)
