"""Owners and cards of the simulated part of a market day, drawn from a seed. Pure.

Cards are consumer cards by their data sheets (float32 TFLOPS without dual issue, board power,
memory, price at launch). All of them compute on one shared engine, so every rate is that of the
engine times the card's share of the fastest card: a card of half the TFLOPS is half as fast here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.market.money import NANO_PER_UNIT
from flopmarket_worker.asking import parse_ask
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms
from flopmarket_worker.tariff import Tariff, parse_tariff
from flopmarket_worker.telemetry.ports import DeclaredPower
from flopmarket_worker.week import ALL_HOURS, parse_schedule

GIBIBYTE = 1 << 30
FASTEST_SHARE_PERCENT = 80
"""The fastest card, in percent of the engine: what is left is for taking turns."""


@dataclass(frozen=True, slots=True)
class CardKind:
    """A kind of card. ``gflops`` is float32, ``dollars`` the price at launch."""

    name: str
    gflops: int
    watts: int
    memory_gibibytes: int
    dollars: int


KINDS = (
    CardKind("Radeon RX 7900 XTX", 30_700, 355, 24, 999),
    CardKind("Radeon RX 7900 XT", 25_800, 315, 20, 899),
    CardKind("Radeon RX 7900 GRE", 23_000, 260, 16, 549),
    CardKind("Radeon RX 9070 XT", 24_300, 304, 16, 599),
    CardKind("Radeon RX 9070", 18_100, 220, 16, 549),
    CardKind("Radeon RX 7800 XT", 18_700, 263, 16, 499),
    CardKind("Radeon RX 7700 XT", 17_600, 245, 12, 449),
    CardKind("Radeon RX 6800 XT", 20_700, 300, 16, 649),
    CardKind("Radeon RX 7600 XT", 11_300, 190, 16, 329),
    CardKind("Radeon RX 7600", 10_900, 165, 8, 269),
    CardKind("Radeon RX 6700 XT", 13_200, 230, 12, 479),
)

TARIFFS: Mapping[str, str] = {
    "eu-de": "default = 0.38\n[[window]]\nfrom = 22\nto = 6\nprice = 0.24\n",
    "eu-fr": "default = 0.27\n[[window]]\nfrom = 1\nto = 7\nprice = 0.20\n",
    "eu-nl": "default = 0.31\n[[window]]\nfrom = 11\nto = 16\nprice = 0.09\n",
    "us-tx": "default = 0.14\n[[window]]\nfrom = 16\nto = 21\nprice = 0.29\n",
    "us-ca": "default = 0.30\n[[window]]\nfrom = 16\nto = 21\nprice = 0.52\n",
    "ca-qc": "default = 0.08\n",
}
"""Price of a kWh by region and hour, as a tariff file says it."""

SCHEDULES: tuple[tuple[str, ...], ...] = (
    (), (), (), ("22-8",), ("18-7",), ("0-9",), ("8-18",), ("9-23",), ("6-12", "14-22"),
)  # fmt: skip
MARGINS = ("1.15", "1.3", "1.5", "1.8")
FLOORS = ("0.005", "0.01", "0.02")


@dataclass(frozen=True, slots=True)
class SimulatedOwner:
    """One owner with one card. ``share_percent`` is its speed in percent of the shared engine."""

    name: str
    kind: CardKind
    share_percent: int
    terms: OwnerTerms

    def card(self, memory_bytes: int, driver: str) -> DeviceCard:
        """The card; it says that it is simulated, and by what. ``memory_bytes`` bound one tensor
        on the engine that really computes."""
        memory = self.kind.memory_gibibytes * GIBIBYTE
        return DeviceCard(
            device_id=hashlib.sha256(f"flopmarket simulated {self.name}".encode()).hexdigest(),
            name=f"{self.kind.name} (simulated)",
            driver=f"simulated on {driver}"[:120],
            memory_bytes=memory,
            max_allocation_bytes=min(memory, memory_bytes),
        )

    def calibration(self, engine: Calibration) -> Calibration:
        """What the card sustains, from what the engine does."""
        part = self.share_percent
        return Calibration(
            admission_digest=engine.admission_digest,
            flops_per_second={
                name: rate * part // 100 for name, rate in engine.flops_per_second.items()
            },
            bandwidth_bytes_per_second=engine.bandwidth_bytes_per_second * part // 100,
            launch_nanoseconds=engine.launch_nanoseconds * 100 // part,
            step_nanoseconds=engine.step_nanoseconds * 100 // part,
            build_milliseconds=engine.build_milliseconds,
        )


def draw(count: int, seed: int) -> tuple[SimulatedOwner, ...]:
    """``count`` owners; the same ones for the same seed."""
    chance = random.Random(seed)
    return tuple(_owner(f"owner-{number:02d}", chance) for number in range(1, count + 1))


def _owner(name: str, chance: random.Random) -> SimulatedOwner:
    kind = chance.choice(KINDS)
    region = chance.choice(sorted(TARIFFS))
    watts = kind.watts * chance.randint(80, 105) // 100
    tariff: Tariff = parse_tariff(TARIFFS[region].encode())
    formula = parse_ask(f"electricity * {chance.choice(MARGINS)} + {chance.choice(FLOORS)}", tariff)
    formula.check(watts * 1_000)
    terms = OwnerTerms(
        ask_nano_per_hour=formula.nano_per_hour(ALL_HOURS[0], watts * 1_000),
        card_price_nano=kind.dollars * NANO_PER_UNIT,
        power=DeclaredPower(watts * 1_000),
        region=region,
        formula=formula,
        schedule=parse_schedule(chance.choice(SCHEDULES)),
    )
    fastest = max(each.gflops for each in KINDS)
    return SimulatedOwner(name, kind, FASTEST_SHARE_PERCENT * kind.gflops // fastest, terms)
