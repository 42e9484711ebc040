"""What queries of the open market take and answer: offers, depth, prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.limits import DEFAULT_BOOK_LEVELS
from flopmarket.market.proof import Proof
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.depth import AskLevel, BidLevel
from flopmarket_coordinator.core.book.listing import OfferFilter as OfferFilter


@dataclass(frozen=True, slots=True)
class OfferView:
    """A live offer, as anybody sees it. Figures that its owner does not state are 0 or empty."""

    offer_id: str
    account_id: str
    device_id: str
    device_name: str
    driver: str
    profile: str
    memory_bytes: int
    rates: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    ask_nano_per_hour: int
    milliwatts: int
    watts_source: str
    card_price_nano: int
    state: str
    """``idle`` or ``busy``."""
    flops_per_dollar: float
    """Operations of the chosen work class that one currency unit buys."""
    flops_per_watt: float
    """Sustained operations per second and watt; 0 when the power is unknown."""
    verified_segments: int
    rejected_segments: int
    region: str = ""
    reliability: float = 0.0
    """Verified segments of all that were decided; 0 before the first."""
    suited_for: tuple[str, ...] = ()
    flops_per_card_dollar: float = 0.0
    """Sustained operations per second for each currency unit that the card costs."""
    updated_at_us: int = 0
    proof: Proof | None = None
    """What its device proved; None for an unproved one."""
    modes: tuple[Mode, ...] = (Mode.EXACT,)
    device_class: str = ""
    """Hex of its class of devices; empty when it does not offer class mode."""


@dataclass(frozen=True, slots=True)
class OfferQuery:
    """Filter, order and page of a list of offers.

    ``order_by`` is a name of :data:`core.book.listing.NUMBERS`, ``price`` when empty; ``-``
    reverses. ``work_class`` is what rates are compared in; naming one leaves out devices without a
    rate for it. All ``filters`` must hold.
    """

    page_size: int = 0
    page_token: str = ""
    order_by: str = ""
    min_memory_bytes: int = 0
    work_class: str = ""
    filters: tuple[OfferFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class OfferPage:
    """Offers as of one instant. ``matching`` counts those of all pages."""

    as_of_us: int
    offers: tuple[OfferView, ...]
    next_page_token: str
    matching: int = 0


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """Where a class of work stands in a mode: its cheapest live offer and its highest bid.

    Without an offer ``per_pflop_nano`` is None and what describes the offer is empty; without a
    bid ``bid_nano`` is None.
    """

    work_class: str
    best_offer_id: str
    device_name: str
    per_pflop_nano: int | None
    flops_per_dollar_hour: float
    flop_per_dollar: float
    flops_per_watt: float
    watts_source: str
    offers: int
    bid_nano: int | None = None
    orders: int = 0


@dataclass(frozen=True, slots=True)
class SpotReport:
    """Spot prices as of one instant, of classes with an offer or an order; none is an answer."""

    as_of_us: int
    currency: str
    prices: tuple[SpotPrice, ...]
    mode: Mode


@dataclass(frozen=True, slots=True)
class DepthQuery:
    """Depth of one class in one mode; ``levels`` prices of each side."""

    work_class: str
    levels: int = DEFAULT_BOOK_LEVELS
    mode: Mode = Mode.EXACT


@dataclass(frozen=True, slots=True)
class DepthReport:
    """Both sides of a class as of one instant, best first. The counts are of all levels."""

    as_of_us: int
    currency: str
    work_class: str
    asks: tuple[AskLevel, ...]
    bids: tuple[BidLevel, ...]
    offers: int
    orders: int
    mode: Mode = Mode.EXACT
