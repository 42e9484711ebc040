"""When devices are challenged, which ones at the same moment, and what rate their price goes by.

A benchmark that a device sees coming says what it can do when it is watched; so it is repeated once
or twice a day at moments that nobody outside can know. One card that is offered twice is found by
challenging both offers at once: together they are not faster than one. And whatever a benchmark
says, a price goes by the lower of it and of the work that was delivered and verified.

Pure functions of records; rates are operations a second.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_BENCHMARK_DEVICES, MAX_SIMULTANEOUS_CHALLENGES

DAY_US = 86_400 * 1_000_000
_PPM = 1_000_000
_BENCHMARK_WEIGHT_PPM = 500_000  # of the newest benchmark: two of them outweigh an old one
_DELIVERED_WEIGHT_PPM = 166_667  # of the newest verified segment
_MORE_THAN_ONE_PERCENT = 110  # of the best single rate: noise of two measurements
_SEPARATE_PERCENT = 80  # of the sum of single rates: hosts share links and power
_TELLING_PERCENT = 150  # sum of single rates over the best one, below which nothing can be told


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known of an offered device when groups are made.

    ``fingerprint`` hashes what its driver says of this one card (serial number, PCI address) and is
    empty where it only names a model; ``address`` is where its worker connects from, or empty.
    """

    device_id: str
    account_id: str
    address: str
    fingerprint: str


class Sharing(StrEnum):
    """What simultaneous challenges say of a group."""

    SEPARATE = "separate"
    ONE_CARD = "one_card"
    UNCLEAR = "unclear"


def challenge_times_us(secret: bytes, device_id: str, day: int) -> tuple[int, ...]:
    """Moments of a day (days since the epoch, UTC) when a device is challenged, in microseconds.

    One or two, evenly likely and evenly spread: a function of the coordinator's secret, so that it
    needs no memory and nobody without it can tell.
    """
    message = b"flopmarket.benchmark-times.v1\x00" + day.to_bytes(8, "big") + device_id.encode()
    word = hmac.new(secret, message, hashlib.sha256).digest()
    count = 1 + (word[0] & 1)
    offsets = [
        int.from_bytes(word[1 + 8 * at : 9 + 8 * at], "big") * DAY_US >> 64 for at in range(count)
    ]
    return tuple(sorted(day * DAY_US + offset for offset in offsets))


def due(secret: bytes, device_id: str, after_us: int, now_us: int) -> bool:
    """Whether a moment of the device lies in (after_us, now_us].

    Of a longer absence only the last two days count: missed challenges do not pile up.
    """
    first = max(after_us, now_us - 2 * DAY_US)
    days = range(first // DAY_US, now_us // DAY_US + 1)
    moments = (at for day in days for at in challenge_times_us(secret, device_id, day))
    return any(first < at <= now_us for at in moments)


def possible_twins(sightings: Sequence[Sighting]) -> tuple[tuple[str, ...], ...]:
    """Groups of devices that might be one card: linked by account, address block or fingerprint.

    Links join transitively; devices without a link are left out. A group larger than one moment can
    hold is cut into runs of neighbours that overlap by half, so every device meets its neighbours
    in the order (fingerprint, address block, account). LimitExceeded past the named maximum.
    """
    if len(sightings) > MAX_BENCHMARK_DEVICES:
        raise LimitExceeded(f"{len(sightings)} devices, at most {MAX_BENCHMARK_DEVICES}")
    parent = list(range(len(sightings)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[tuple[str, str], int] = {}
    for index, sighting in enumerate(sightings):
        for link in _links(sighting):
            other = first_with.setdefault(link, index)
            parent[root(index)] = root(other)
    groups: dict[int, list[Sighting]] = {}
    for index, sighting in enumerate(sightings):
        groups.setdefault(root(index), []).append(sighting)
    found: list[tuple[str, ...]] = []
    for members in groups.values():
        if len(members) > 1:
            found.extend(_runs(sorted(members, key=_neighbourhood)))
    return tuple(sorted(found))


def address_block(address: str) -> str:
    """The block an address belongs to: /24 of IPv4, /48 of IPv6; empty for no address.

    Loopback and link-local addresses say nothing about where a machine is.
    """
    if not address:
        return ""
    try:
        parsed = ip_address(address)
    except ValueError:
        raise InvalidInput(f"{address[:64]!r} is no IP address", code="BENCHMARK_ADDRESS") from None
    if parsed.is_loopback or parsed.is_link_local:
        return ""
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))


def sharing(alone: Mapping[str, int], together: Mapping[str, int]) -> Sharing:
    """Whether devices that were challenged alone and then at once are one card.

    ``together`` has 0 for a device that failed. One card when the rates at once sum to no more than
    the best single one (and 10 % for noise); separate when at least 80 % of the single rates are
    left. Devices so unequal that both could hold are unclear, and so is everything between: such a
    group is challenged again in pairs. Either way a device is worth the lower of its two rates.
    """
    if not alone or set(alone) != set(together):
        raise InvalidInput("the same devices alone and together", code="BENCHMARK_GROUP")
    best, total, at_once = max(alone.values()), sum(alone.values()), sum(together.values())
    if total * 100 < best * _TELLING_PERCENT:
        return Sharing.UNCLEAR
    if at_once * 100 <= best * _MORE_THAN_ONE_PERCENT:
        return Sharing.ONE_CARD
    if at_once * 100 >= total * _SEPARATE_PERCENT:
        return Sharing.SEPARATE
    return Sharing.UNCLEAR


def benchmark_average(previous: int | None, rate: int) -> int:
    """The running average of accepted benchmarks after one more; ``previous`` None at first."""
    return _averaged(previous, rate, _BENCHMARK_WEIGHT_PPM)


def delivered_average(previous: int | None, rate: int) -> int:
    """The running average of verified work after one more segment's rate."""
    return _averaged(previous, rate, _DELIVERED_WEIGHT_PPM)


def rate_for_price(benchmark: int | None, delivered: int | None) -> int:
    """The rate a price goes by: the lower of what was proved and what was delivered.

    0 without a benchmark: a device that was never challenged has no rate. Work of other shapes than
    the benchmark's is slower for good reasons, so the caller compares delivered work as predicted
    for this device, not raw operations.
    """
    if benchmark is None:
        return 0
    return benchmark if delivered is None else min(benchmark, delivered)


def _averaged(previous: int | None, rate: int, weight_ppm: int) -> int:
    if rate < 0 or (previous is not None and previous < 0):
        raise InvalidInput("a rate is not negative", code="BENCHMARK_RATE")
    if previous is None:
        return rate
    return (previous * (_PPM - weight_ppm) + rate * weight_ppm) // _PPM


def _links(sighting: Sighting) -> Iterable[tuple[str, str]]:
    yield "account", sighting.account_id
    block = address_block(sighting.address)
    if block:
        yield "block", block
    if sighting.fingerprint:
        yield "fingerprint", sighting.fingerprint


def _neighbourhood(sighting: Sighting) -> tuple[str, str, str, str]:
    return (
        sighting.fingerprint,
        address_block(sighting.address),
        sighting.account_id,
        sighting.device_id,
    )


def _runs(members: Sequence[Sighting]) -> Iterable[tuple[str, ...]]:
    ids = [member.device_id for member in members]
    most = MAX_SIMULTANEOUS_CHALLENGES
    if len(ids) <= most:
        yield tuple(ids)
        return
    for start in range(0, len(ids) - most // 2, most // 2):
        yield tuple(ids[start : start + most])
