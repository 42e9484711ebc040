"""The offers of the sample market: real makes of cards at invented prices."""

from __future__ import annotations

import dataclasses
import random

from flopmarket.market.money import NANO_PER_UNIT, round_up_nano
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import (
    PFLOP,
    Offer,
    OfferQuery,
)

# make, GiB, GB/s, watts, card price, dot-f32 TFLOP/s sustained
CARDS = (
    ("AMD Radeon RX 7900 XTX", 24, 960, 355, 999, 26.1),
    ("AMD Radeon RX 7900 XT", 20, 800, 315, 749, 21.4),
    ("AMD Radeon RX 7800 XT", 16, 624, 263, 499, 14.8),
    ("AMD Radeon RX 7700 XT", 12, 432, 245, 419, 12.2),
    ("AMD Radeon RX 7600", 8, 288, 165, 269, 8.1),
    ("AMD Radeon RX 6800 XT", 16, 512, 300, 0, 10.9),
    ("AMD Radeon RX 9070 XT", 16, 640, 304, 599, 19.7),
    ("NVIDIA GeForce RTX 3060", 12, 360, 170, 289, 6.4),
    ("NVIDIA GeForce RTX 4070", 12, 504, 200, 549, 17.6),
    ("Intel Arc A770", 16, 560, 225, 289, 9.3),
    ("AMD Ryzen 9 7950X (PoCL)", 64, 83, 170, 549, 1.1),
)
FAST_ONLY = "Vintage Compute Card 9"  # not FX1's: class and tolerance mode alone
REGIONS = ("eu-north", "eu-central", "us-west", "us-east", "in-south", "br-south", "")
HOSTILE_NAMES = (
    '<img src=x onerror="document.title=1">',
    "</td></table><script>document.title='owned'</script>",
    "\u202egpj.XTX 0097\u202c مرحبا بالعالم",
    "A very long name " + "without end " * 40,
    "Wide" + "W" * 300,
)


def make_offers(chance: random.Random, hostile: bool) -> list[Offer]:
    """Offers of 40 owners; ``hostile``: some with names that try to break the page."""
    offers: list[Offer] = []
    for owner in range(40):
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
            card = chance.choice(CARDS)
            offers.append(_offer(chance, owner, len(offers), card))
    fast_only = dataclasses.replace(
        offers[-1],
        device_name=FAST_ONLY,
        ask_nano_per_hour=offers[-1].ask_nano_per_hour // 8,
        modes=(Mode.CLASS, Mode.TOLERANCE),
        device_class="5f0c" * 16,
    )
    offers[-1] = _priced(fast_only)
    if hostile:
        for index, name in enumerate(HOSTILE_NAMES):
            offers[index] = dataclasses.replace(
                offers[index], device_name=name, region=name[:60], ask_nano_per_hour=1_000_000
            )
            offers[index] = _priced(offers[index])
    return offers


def _offer(
    chance: random.Random, owner: int, index: int, card: tuple[str, int, int, int, int, float]
) -> Offer:
    name, gib, gbs, watts, price, tflops = card
    speed = chance.uniform(0.9, 1.05)
    rates = {
        "dot-f32": int(tflops * speed * 1e12),
        "dot-int": int(tflops * speed * 1.7e12),
        "elementwise-f32": int(gbs * speed * 0.11e9),
        "reduce-f32": int(gbs * speed * 0.24e9),
        "integer": int(tflops * speed * 0.31e12),
    }
    source = chance.choice(("measured", "measured", "declared", "unknown"))
    region = chance.choice(REGIONS)
    verified = int(chance.paretovariate(0.7) * 20) % 9000 if chance.random() > 0.06 else 0
    rejected = chance.choice((0, 0, 0, 0, 1, 2)) if verified > 30 else 0
    ask = int((watts * 0.00026 + tflops * 0.0035) * chance.uniform(0.85, 1.6) * NANO_PER_UNIT)
    suited = (["training"] if gib >= 12 and tflops > 8 else []) + (["inference"] if gib > 8 else [])
    return _priced(
        Offer(
            offer_id=f"{index:04x}{chance.getrandbits(48):012x}-{chance.getrandbits(32):08x}",
            account_id=f"owner-{owner:02d}",
            device_id=f"{chance.getrandbits(64):016x}",
            device_name=name,
            driver="rusticl 26.2",
            profile="FX1-d256-l64-b4096",
            region=region,
            state=chance.choice(("idle", "idle", "busy")),
            memory_bytes=gib << 30,
            rates=rates,
            prices={},
            bandwidth_bytes_per_second=int(gbs * speed * 0.82e9),
            ask_nano_per_hour=ask,
            milliwatts=0 if source == "unknown" else int(watts * 1000 * chance.uniform(0.7, 0.95)),
            watts_source=source,
            card_price_nano=price * NANO_PER_UNIT,
            suited_for=tuple(suited),
            verified_segments=verified,
            rejected_segments=rejected,
        )
    )


def _priced(offer: Offer) -> Offer:
    prices = {
        work_class: round_up_nano(offer.ask_nano_per_hour * PFLOP, rate * 3600)
        for work_class, rate in offer.rates.items()
    }
    return dataclasses.replace(offer, prices=prices)


def fits(offer: Offer, query: OfferQuery) -> bool:
    """Whether an offer is among those that are asked for."""
    work_class = query.work_class or "dot-f32"
    per_watt = offer.flops_per_watt(work_class)
    return (
        (not query.work_class or work_class in offer.rates)
        and offer.memory_bytes >= (query.min_memory_bytes or 0)
        and (query.max_price_nano is None or offer.prices[work_class] <= query.max_price_nano)
        and (query.min_flops_per_watt is None or (per_watt or 0) >= query.min_flops_per_watt)
        and (query.min_reliability is None or (offer.reliability or 0) >= query.min_reliability)
        and (not query.region or offer.region == query.region)
        and (not query.suited_for or query.suited_for in offer.suited_for)
        and query.device_name.lower() in offer.device_name.lower()
        and (not query.account_id or offer.account_id == query.account_id)
        and (not query.idle_only or offer.state == "idle")
        and (not query.mode or query.mode in offer.modes)
    )


def metric(offer: Offer, order: str, work_class: str) -> float:
    """The figure that offers are put in order by."""
    figures = {
        "price": offer.prices.get(work_class),
        "ask_per_hour": offer.ask_nano_per_hour,
        "flops": offer.rates.get(work_class),
        "flops_per_dollar": offer.flop_per_unit(work_class),
        "flops_per_watt": offer.flops_per_watt(work_class),
        "flops_per_card_dollar": offer.flops_per_card_unit(work_class),
        "memory": offer.memory_bytes,
        "bandwidth": offer.bandwidth_bytes_per_second,
        "reliability": offer.reliability,
    }
    return float(figures[order] or 0)
