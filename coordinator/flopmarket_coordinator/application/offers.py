"""Use cases of the open tape: spot prices and the list of live offers. No key is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_BOOK_LEVELS
from flopmarket.market.offer import Offer, offer_from_terms
from flopmarket.market.order import NO_CAP
from flopmarket.market.suitability import suited_for
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types_market import (
    DepthQuery,
    DepthReport,
    OfferPage,
    OfferQuery,
    OfferView,
    SpotPrice,
    SpotReport,
)
from flopmarket_coordinator.core.book.book import Ranked
from flopmarket_coordinator.core.book.depth import Best
from flopmarket_coordinator.core.book.listing import DEFAULT_ORDER, OfferFilter
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.matching import Candidate, Demand
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import OfferRow

DEFAULT_WORK_CLASS = "dot-f32"


class OfferUseCases(UseCases):
    """Prices and offers, answered from the book."""

    def spot(self, tx: Transaction, mode: Mode = Mode.EXACT) -> SpotReport:
        """The cheapest live offer and the highest bid of each class in a mode; an empty market has
        none."""
        prices = tuple(
            _spot_price(work_class, best, offer)
            for work_class, (best, offer) in self._book.best(now_us=tx.now_us, mode=mode).items()
        )
        return SpotReport(tx.now_us, self._parameters.currency, prices, mode)

    def depth(self, tx: Transaction, query: DepthQuery) -> DepthReport:
        """What is asked and what is bid for a class in a mode, best first."""
        _check_class(query.work_class)
        if not 0 < query.levels <= MAX_BOOK_LEVELS:
            raise InvalidInput(
                f"a side has 1 to {MAX_BOOK_LEVELS} levels, not {query.levels}", code="LEVELS"
            )
        found = self._book.depth(
            query.work_class, levels=query.levels, now_us=tx.now_us, mode=query.mode
        )
        return DepthReport(
            as_of_us=tx.now_us,
            currency=self._parameters.currency,
            work_class=query.work_class,
            asks=found.asks,
            bids=found.bids,
            offers=found.offers,
            orders=found.orders,
            mode=query.mode,
        )

    def list_offers(self, tx: Transaction, query: OfferQuery) -> OfferPage:
        """Live offers, filtered and sorted; ties by offer id."""
        work_class = _check_class(query.work_class or DEFAULT_WORK_CLASS)
        order_by = query.order_by or DEFAULT_ORDER
        filters = query.filters
        if query.min_memory_bytes:
            filters = (*filters, OfferFilter("memory", ">=", str(query.min_memory_bytes)))
        bound = repr(("offers", order_by, query.work_class, filters))
        after = self._page_position(bound, query.page_token)
        found, last, matching = self._book.page(
            now_us=tx.now_us,
            work_class=work_class,
            needs_rate=bool(query.work_class),
            filters=filters,
            order_by=order_by,
            after=None if after is None else (after[0], after[1]),
            size=page_size(query.page_size),
        )
        return OfferPage(
            as_of_us=tx.now_us,
            offers=tuple(_offer_view(listing, work_class) for listing in found),
            next_page_token="" if last is None else self._page_token(bound, last),
            matching=matching,
        )

    # --- for the other rooms ------------------------------------------------------------------

    def _best_offers(
        self,
        tx: Transaction,
        demand: Demand,
        steps: int,
        count: int,
        most_picoseconds: int = NO_CAP,
        *,
        alone_too: bool = False,
    ) -> tuple[Ranked, ...]:
        """The cheapest live offers that fit, busy ones too, cheapest first.

        ``steps`` steps have a price on them, and none takes longer than ``most_picoseconds``.
        ``alone_too`` as in :meth:`Book.best_offers`.
        """
        return self._book.best_offers(
            demand,
            steps=steps,
            count=count,
            now_us=tx.now_us,
            most_picoseconds=most_picoseconds,
            alone_too=alone_too,
        )

    def _reason_counts(
        self, tx: Transaction, demand: Demand, steps: int, most_picoseconds: int = NO_CAP
    ) -> Mapping[str, int]:
        """Why the other offers are not among those, by :class:`Reason`; looks at all of them."""
        counts = self._book.count_reasons(
            demand, now_us=tx.now_us, steps=steps, most_picoseconds=most_picoseconds
        )
        return {reason.value: count for reason, count in counts.items()}

    def _candidate(self, tx: Transaction, offer_id: str) -> Candidate | None:
        """A listed offer with its device's standing now."""
        listing = self._book.listing(offer_id)
        if listing is None:
            return None
        since_us = tx.now_us - self._parameters.presence_ttl_us
        return Candidate(
            offer=listing.offer,
            online=listing.connected and listing.seen_us >= since_us,
            busy=listing.busy,
            banned=listing.banned,
            proved=listing.proof is not None or not self._parameters.benchmark_required,
            class_accounts=self._book.class_accounts(listing.offer.device_class),
        )

    def _cheaper_idle(self, tx: Transaction, offer: Offer) -> Mapping[str, int]:
        """Idle offers of other owners that take the same jobs and ask less, for each class that the
        offer has a rate in."""
        return self._book.count_cheaper(offer, now_us=tx.now_us)


def _spot_price(work_class: str, best: Best, offer: Offer | None) -> SpotPrice:
    return SpotPrice(
        work_class=work_class,
        best_offer_id=offer.offer_id if offer else "",
        device_name=offer.device_name if offer else "",
        per_pflop_nano=best.ask_nano,
        flops_per_dollar_hour=offer.flops_per_dollar_hour(work_class) if offer else 0.0,
        flop_per_dollar=offer.flop_per_dollar(work_class) if offer else 0.0,
        flops_per_watt=offer.flops_per_watt(work_class) if offer else 0.0,
        watts_source=offer.watts_source if offer else "",
        offers=best.offers,
        bid_nano=best.bid_nano,
        orders=best.orders,
    )


def _offer_view(listing: Listing, work_class: str) -> OfferView:
    offer = listing.offer
    rates = {name: offer.shown_rate(name) for name in offer.rates.flops_per_second}
    decided = listing.verified_segments + listing.rejected_segments
    return OfferView(
        offer_id=offer.offer_id,
        account_id=offer.account_id,
        device_id=offer.device_id,
        device_name=offer.device_name,
        driver=offer.driver,
        profile=offer.profile,
        memory_bytes=offer.memory_bytes,
        rates=rates,
        bandwidth_bytes_per_second=offer.rates.bandwidth_bytes_per_second,
        launch_nanoseconds=offer.rates.launch_nanoseconds,
        ask_nano_per_hour=offer.ask_nano_per_hour,
        milliwatts=offer.milliwatts,
        watts_source=offer.watts_source,
        card_price_nano=offer.card_price_nano,
        state="busy" if listing.busy else "idle",
        flops_per_dollar=offer.flop_per_dollar(work_class),
        flops_per_watt=offer.flops_per_watt(work_class),
        verified_segments=listing.verified_segments,
        rejected_segments=listing.rejected_segments,
        region=offer.region,
        reliability=listing.verified_segments / decided if decided else 0.0,
        suited_for=suited_for(rates, offer.memory_bytes, offer.rates.bandwidth_bytes_per_second),
        flops_per_card_dollar=offer.flops_per_card_dollar(work_class),
        updated_at_us=listing.updated_at_us,
        proof=listing.proof,
        modes=offer.modes,
        device_class=offer.device_class,
    )


def to_offer(row: OfferRow) -> Offer:
    """The market's view of a stored offer, before calibration."""
    return replace(offer_from_terms(decode(OfferTerms, row.terms)), offer_id=row.offer_id)


def _check_class(work_class: str) -> str:
    if work_class not in WORK_CLASSES:
        raise InvalidInput(
            f"classes of work are {', '.join(WORK_CLASSES)}, not {work_class[:40]!r}",
            code="WORK_CLASS_UNKNOWN",
        )
    return work_class
