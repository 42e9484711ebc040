"""Random offers, demands and orders with many ties, and the readable answers to compare with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from hypothesis import strategies as st

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.calibrate import NO_FACTORS, Factors
from flopmarket.market.offer import Offer
from flopmarket.market.order import Constraints
from flopmarket.market.predict import DeviceRates, JobWork, StepWork
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.core.book.orders import OpenOrder, Piece
from flopmarket_coordinator.core.book.table import Listing
from flopmarket_coordinator.core.leasing import StartPoint
from flopmarket_coordinator.core.matching import Candidate, Demand

NOW_US = 1_000_000_000
TTL_US = 1_000
CLASSES = WORK_CLASSES[:3]
OWNERS = ("ann", "bob", "cas")
REGIONS = ("", "eu", "eu-de", "us")

few = st.sampled_from
ASKS = few((1, 2, 1_000, 360_000_000, 360_000_001, 2**62))
RATES = few((0, 1, 7, 1_000, 10**12, 10**12 + 1, 2**62))
MODES = (
    (Mode.EXACT,),
    (Mode.EXACT,),
    (Mode.CLASS, Mode.TOLERANCE),
    (Mode.CLASS, Mode.EXACT),
    (Mode.TOLERANCE,),
)
DEVICE_CLASSES = ("c1", "c1", "c2")
COUNTS = few((0, 1, 3, 10**9, 10**15))


@st.composite
def factors(draw: st.DrawFn) -> Factors:
    if draw(st.booleans()):
        return NO_FACTORS
    # As calibration makes them: what is known of a closer family is known of the device too.
    found = {"device": draw(few((100_000, 900_000, 10_000_000)))}
    if draw(st.booleans()):
        found["program/p1"] = draw(few((500_000, 2_000_000)))
    if draw(st.booleans()):
        found["setup"] = draw(few((100_000, 3_000_000)))
    return Factors(MappingProxyType(found))


@st.composite
def offers(draw: st.DrawFn, offer_id: str) -> Offer:
    rates = {name: draw(RATES) for name in CLASSES}
    modes = draw(few(MODES))
    return Offer(
        offer_id=offer_id,
        account_id=draw(few(OWNERS)),
        device_key_id=f"key of {draw(few(('x', 'y', offer_id)))}",
        device_id=f"device {offer_id}",
        device_name=draw(few(("card", "Card 2"))),
        driver="driver",
        profile=draw(few(("FX1", "FX1", "FX0"))),
        memory_bytes=draw(few((1, 1 << 30, 2**63 - 1))),
        rates=DeviceRates(
            MappingProxyType({name: rate for name, rate in rates.items() if rate}),
            draw(few((1, 10**12))),
            draw(few((0, 1_000))),
            draw(few((0, 5))),
            draw(few((0, 40))),
            draw(few((0, 10**6))),
        ),
        ask_nano_per_hour=draw(ASKS),
        milliwatts=draw(few((0, 200_000, 2**62))),
        watts_source="declared",
        card_price_nano=draw(few((0, 10**12))),
        region=draw(few(REGIONS)),
        factors=draw(factors()),
        modes=modes,
        device_class=draw(few(DEVICE_CLASSES)) if Mode.CLASS in modes else "",
    )


@st.composite
def listings(draw: st.DrawFn, offer_id: str) -> Listing:
    likely = st.sampled_from((False, False, False, True))
    return Listing(
        offer=draw(offers(offer_id)),
        connected=not draw(likely),
        seen_us=NOW_US - (5 * TTL_US if draw(likely) else 0),
        busy=draw(likely),
        banned=draw(likely),
        verified_segments=draw(st.integers(0, 3)),
        rejected_segments=draw(st.integers(0, 1)),
        updated_at_us=draw(st.integers(0, 3)),
    )


@st.composite
def books(draw: st.DrawFn, most: int = 14) -> list[Listing]:
    """Listings with distinct ids in no order, some of them equal in everything else."""
    ids = draw(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=most))
    found = [draw(listings(name)) for name in ids]
    for at in range(1, len(found)):
        if draw(st.integers(0, 2)) == 0:
            found[at] = twin(found[at], found[at - 1])
    return found


def twin(listing: Listing, of: Listing) -> Listing:
    """The same offer under another id."""
    return replace(of, offer=replace(of.offer, offer_id=listing.offer.offer_id))


@st.composite
def constraints(draw: st.DrawFn) -> Constraints:
    limit, efficiency = draw(few((0, 0, 1, 10**6, 2**62))), draw(few((0, 0, 5, 5 * 10**9)))
    allowed = draw(few(((), (), ("eu",), ("eu-de", "us"))))
    owners = draw(few(((), (), ("ann",), ("ann", "zoe"))))
    return Constraints(
        work_class=draw(few(CLASSES)) if limit or efficiency else "",
        max_unit_price_nano=limit,
        min_memory_bytes=draw(few((0, 0, 1 << 20))),
        min_flops_per_watt=efficiency,
        allowed_regions=allowed,
        denied_regions=() if allowed else draw(few(((), ("eu-de",)))),
        allowed_owners=owners,
        denied_owners=() if owners else draw(few(((), ("bob",)))),
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    mode = draw(few((Mode.EXACT, Mode.EXACT, Mode.CLASS, Mode.CLASS, Mode.TOLERANCE)))
    return Demand(
        buyer=draw(few(("", *OWNERS))),
        profile="FX1",
        peak_memory_bytes=draw(few((0, 1, 1 << 30))),
        work=JobWork(
            StepWork(
                {name: draw(COUNTS) for name in CLASSES},
                draw(COUNTS),
                draw(few((0, 1, 500))),
            ),
            steps=draw(few((1, 3, 1_000))),
            download_bytes=draw(few((0, 10**6))),
            kernels=draw(few((0, 7))),
            program=draw(few(("", "p1"))),
        ),
        constraints=draw(constraints()),
        mode=mode,
        device_class=draw(few(DEVICE_CLASSES)) if mode is Mode.CLASS else "",
    )


@st.composite
def orders(draw: st.DrawFn, number: int) -> OpenOrder:
    counts = draw(st.lists(few((1, 2, 3, 10**6)), min_size=1, max_size=3))
    pieces, at = [], 0
    for index, count in enumerate(counts):
        pieces.append(Piece(StartPoint(at, index, "", b""), count))
        at += count
    return OpenOrder(
        job_id=f"job {number}",
        number=number,
        demand=draw(demands()),
        pieces=tuple(pieces),
        money_nano=draw(few((0, 5, 10**9, 2**62))),
        money_steps=at,
        deadline_us=NOW_US + draw(few((-1, 0, 1, 10**6, 10**15))),
        held=draw(few((0, 0, 2))),
        avoid=draw(few((frozenset(), frozenset({"a"}), frozenset({"b", "ab"})))),
        rests=draw(st.booleans()),
    )


def book_of(found: list[Listing]) -> Book:
    """A book with these offers."""
    book = Book(TTL_US)
    for listing in found:
        book.put_offer(listing)
    return book


def candidate(listing: Listing, among: Iterable[Listing], now_us: int = NOW_US) -> Candidate:
    """The same listing for the readable rules, with who else of ``among`` is of its class."""
    online = listing.connected and listing.seen_us >= now_us - TTL_US
    named = listing.offer.device_class
    fellows = frozenset(
        item.offer.account_id
        for item in among
        if named and item.offer.device_class == named and not item.banned
    )
    return Candidate(listing.offer, online, listing.busy, listing.banned, class_accounts=fellows)
