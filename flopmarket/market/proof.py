"""What a device proved, and what is left of its owner's figures: rates are cut, never raised.

A benchmark challenge measures products of float32 matrices and walks over memory. The headline rate
of an offer is the lower of the stated and the proved one. The other classes of work, which no
challenge measures, fall with it as far as :data:`OWN_WORK_BOUND` does not explain, and stay within
:data:`CLASS_BOUNDS` of what was proved.
Work that was delivered corrects *predictions* through :mod:`flopmarket.market.calibrate`; the share
:attr:`Proof.delivered_ppm` corrects the rates that lists and price levels show, and nothing else,
so that no correction is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from flopmarket.market.work import DeviceRates

PROVED_CLASS = "dot-f32"
"""The class that challenges measure."""
ONE_PPM = 1_000_000
BANDWIDTH_BOUND = 8
"""Plain passes over memory are at most so many times as fast as the walks of a challenge: walks
gather, which CPU runtimes do element by element."""
OWN_WORK_BOUND = 2
"""Plain products are at most so many times as fast as a challenge's, which also draws its operands
and folds its results: on an NVIDIA H200 an honest device's are up to 1.9 times as fast
(docs/benchmark.md), on processors about as fast."""
OTHER_CLASS_BOUND = 8
CLASS_BOUNDS: Mapping[str, int] = MappingProxyType({PROVED_CLASS: 1, "dot-int": 64})
"""How many times the proved rate a class may have, :data:`OTHER_CLASS_BOUND` by default.
Only units for 8-bit products are more than a few times as fast as float32."""

LEAST_MILLIWATTS = 5_000
MOST_MILLIWATTS = 2_000_000
MOST_FLOPS_PER_WATT = 500 * 10**9
"""Bounds of what can be believed of stated watts: no board that sells work draws less or more, and
no device of today computes more exact float32 a watt. Inside them watts are what owners say."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What accepted challenges came to. Rates a second; a bandwidth of 0 was not measured.

    ``delivered_ppm`` is the share of these rates that verified work showed, at most one million.
    """

    flops_per_second: int
    bandwidth_bytes_per_second: int
    memory_bytes: int
    proved_at_us: int
    delivered_ppm: int = ONE_PPM


def cut_rates(stated: DeviceRates, proof: Proof) -> DeviceRates:
    """The rates that a proved offer is ranked, quoted and leased by."""
    headline, proved = stated.flops_per_second.get(PROVED_CLASS, 0), proof.flops_per_second
    explained = OWN_WORK_BOUND * proved
    found: dict[str, int] = {}
    for name, rate in stated.flops_per_second.items():
        if headline > explained:
            rate = rate * explained // headline
        found[name] = min(rate, proved * CLASS_BOUNDS.get(name, OTHER_CLASS_BOUND))
    bandwidth = stated.bandwidth_bytes_per_second
    if proof.bandwidth_bytes_per_second:
        bandwidth = min(bandwidth, BANDWIDTH_BOUND * proof.bandwidth_bytes_per_second)
    return replace(
        stated,
        flops_per_second=MappingProxyType({name: rate for name, rate in found.items() if rate}),
        bandwidth_bytes_per_second=bandwidth,
    )


def shown_rate(rate: int, delivered_ppm: int) -> int:
    """What lists say of a rate: the part of it that verified work showed."""
    return rate * delivered_ppm // ONE_PPM


def plausible_watts(milliwatts: int, rates: Mapping[str, int]) -> bool:
    """Whether stated watts are possible at all; 0 states nothing."""
    if milliwatts == 0:
        return True
    if not LEAST_MILLIWATTS <= milliwatts <= MOST_MILLIWATTS:
        return False
    return rates.get(PROVED_CLASS, 0) * 1_000 <= MOST_FLOPS_PER_WATT * milliwatts
