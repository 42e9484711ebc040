"""Use cases of the open tape: spot prices and the list of live offers. No key is needed."""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import InvalidInput
from flopmarket.market.offer import Offer, offer_from_terms
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types import (
    OfferPage,
    OfferQuery,
    OfferView,
    SpotPrice,
    SpotReport,
)
from flopmarket_coordinator.core.matching import Candidate
from flopmarket_coordinator.store import identity, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import OfferRow

DEFAULT_WORK_CLASS = "dot-f32"

_ORDERS: dict[str, Callable[[Offer, str], float]] = {
    "price": lambda offer, work_class: _price(offer, work_class),
    "flops_per_dollar": lambda offer, work_class: offer.flop_per_dollar(work_class),
    "flops_per_watt": lambda offer, work_class: offer.flops_per_watt(work_class),
    "memory": lambda offer, work_class: offer.memory_bytes,
}


class OfferUseCases(UseCases):
    """Prices and offers."""

    def spot(self, tx: Transaction) -> SpotReport:
        """The cheapest live offer of each class of work; an empty market has no prices."""
        offers = [candidate.offer for candidate in self._candidates(tx) if _is_live(candidate)]
        prices: list[SpotPrice] = []
        for work_class in WORK_CLASSES:
            priced = [
                (price, offer.offer_id, offer)
                for offer in offers
                if (price := offer.pflop_price(work_class)) is not None
            ]
            if not priced:
                continue
            per_pflop, _, best = min(priced, key=lambda item: item[:2])
            prices.append(
                SpotPrice(
                    work_class=work_class,
                    best_offer_id=best.offer_id,
                    device_name=best.device_name,
                    per_pflop_nano=per_pflop,
                    flops_per_dollar_hour=best.flops_per_dollar_hour(work_class),
                    flop_per_dollar=best.flop_per_dollar(work_class),
                    flops_per_watt=best.flops_per_watt(work_class),
                    watts_source=best.watts_source,
                    offers=len(priced),
                )
            )
        return SpotReport(tx.now_us, self._parameters.currency, tuple(prices))

    def list_offers(self, tx: Transaction, query: OfferQuery) -> OfferPage:
        """Live offers, filtered and sorted; ties by offer id."""
        work_class = query.work_class or DEFAULT_WORK_CLASS
        order_by = query.order_by or "price"
        descending, name = order_by.startswith("-"), order_by.removeprefix("-")
        if name not in _ORDERS:
            raise InvalidInput(
                f"offers are ordered by {', '.join(sorted(_ORDERS))}, not {name[:40]!r}",
                code="ORDER_UNKNOWN",
            )
        if work_class not in WORK_CLASSES:
            raise InvalidInput(
                f"classes of work are {', '.join(WORK_CLASSES)}, not {work_class[:40]!r}",
                code="WORK_CLASS_UNKNOWN",
            )
        size = page_size(query.page_size)
        bound = f"offers/{order_by}/{work_class}/{query.min_memory_bytes}"
        after = self._page_position(bound, query.page_token)
        sign = -1 if descending else 1
        candidates = self._live_candidates(tx)
        keyed = sorted(
            ([sign * _ORDERS[name](candidate.offer, work_class), candidate.offer.offer_id], at)
            for at, candidate in enumerate(candidates)
            if candidate.offer.memory_bytes >= query.min_memory_bytes
            and (not query.work_class or _has_rate(candidate.offer, work_class))
        )
        rest = [item for item in keyed if after is None or item[0] > after]
        page = rest[:size]
        views = tuple(self._offer_view(tx, candidates[at], work_class) for _, at in page)
        more = len(rest) > size
        return OfferPage(tx.now_us, views, self._page_token(bound, page[-1][0]) if more else "")

    def _live_candidates(self, tx: Transaction) -> list[Candidate]:
        return [candidate for candidate in self._candidates(tx) if _is_live(candidate)]

    def _candidates(self, tx: Transaction) -> list[Candidate]:
        """Every listed offer with its device's standing now, by offer id."""
        present = work.present_workers(tx, tx.now_us - self._parameters.presence_ttl_us)
        busy = {lease.offer_id for lease in work.live_leases(tx)}
        banned: dict[str, bool] = {}
        candidates: list[Candidate] = []
        for row in work.listed_offers(tx):
            if row.device_key_id not in banned:
                key = identity.key(tx, row.device_key_id)
                banned[row.device_key_id] = key is None or key.revoked
            candidates.append(
                Candidate(
                    offer=to_offer(row),
                    online=row.device_key_id in present,
                    busy=row.offer_id in busy,
                    banned=banned[row.device_key_id],
                )
            )
        return candidates

    def _offer_view(self, tx: Transaction, candidate: Candidate, work_class: str) -> OfferView:
        offer = candidate.offer
        row = work.offer(tx, offer.offer_id)
        assert row is not None, f"offer {offer.offer_id} was listed a moment ago"
        return OfferView(
            offer_id=offer.offer_id,
            account_id=offer.account_id,
            device_id=offer.device_id,
            device_name=offer.device_name,
            driver=offer.driver,
            profile=offer.profile,
            memory_bytes=offer.memory_bytes,
            rates=offer.rates.flops_per_second,
            bandwidth_bytes_per_second=offer.rates.bandwidth_bytes_per_second,
            launch_nanoseconds=offer.rates.launch_nanoseconds,
            ask_nano_per_hour=offer.ask_nano_per_hour,
            milliwatts=offer.milliwatts,
            watts_source=offer.watts_source,
            card_price_nano=offer.card_price_nano,
            state="busy" if candidate.busy else "idle",
            flops_per_dollar=offer.flop_per_dollar(work_class),
            flops_per_watt=offer.flops_per_watt(work_class),
            verified_segments=row.verified_segments,
            rejected_segments=row.rejected_segments,
        )


def to_offer(row: OfferRow) -> Offer:
    """The market's view of a stored offer."""
    return offer_from_terms(decode(OfferTerms, row.terms))


def _is_live(candidate: Candidate) -> bool:
    return candidate.online and not candidate.banned


def _has_rate(offer: Offer, work_class: str) -> bool:
    return offer.rates.flops_per_second.get(work_class, 0) > 0


def _price(offer: Offer, work_class: str) -> float:
    """Sorts offers without a rate behind all others."""
    rate = offer.rates.flops_per_second.get(work_class, 0)
    return offer.ask_nano_per_hour / rate if rate else 1e300
