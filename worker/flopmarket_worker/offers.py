"""What a worker offers: one device's measured rates, its ask, its power, as signed terms.

Pure: card, calibration and the owner's wishes in, :class:`OfferTerms` out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import FlopmarketError, Kind
from flopmarket.market.money import Nano, check_price
from flopmarket.market.region import check_region
from flopmarket.trust.documents import OfferTerms, Rate
from flopmarket_worker.asking import Ask
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.telemetry.ports import PowerReader
from flopmarket_worker.week import ALWAYS, Hour, Schedule

_LABEL_LENGTH = 120  # of a driver's own texts; a label holds 256 bytes of UTF-8


class NotAdmitted(FlopmarketError):
    """The device does not compute the exact profile, so nothing it computes can be verified."""

    kind = Kind.INVALID
    default_code = "DEVICE_NOT_ADMITTED"


class ScheduleClosed(FlopmarketError):
    """The owner offers nothing in this hour."""

    kind = Kind.UNAVAILABLE
    default_code = "SCHEDULE_CLOSED"


@dataclass(frozen=True, slots=True)
class DeviceCard:
    """What an offer says of a device. ``device_id`` is already salted."""

    device_id: str
    name: str
    driver: str
    memory_bytes: int
    max_allocation_bytes: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Admission and benchmark of one device, in integers.

    ``flops_per_second`` maps classes of ``engine.cost.WORK_CLASSES`` to sustained rates.
    """

    admission_digest: bytes
    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    step_nanoseconds: int
    build_milliseconds: int


@dataclass(frozen=True, slots=True)
class OwnerTerms:
    """What the owner asks and states. Amounts in nano-units; a card price of 0 is unknown, and so
    is an empty region. A ``formula`` gives the ask of an hour; without one the ask stands. The
    ``schedule`` says in which hours anything is offered at all."""

    ask_nano_per_hour: Nano
    card_price_nano: Nano
    power: PowerReader
    region: str = ""
    formula: Ask | None = None
    schedule: Schedule = ALWAYS

    def __post_init__(self) -> None:
        check_price(self.ask_nano_per_hour, "ask")
        check_price(self.card_price_nano, "card price")
        check_region(self.region, empty=True)

    @property
    def asks(self) -> bool:
        """Whether the owner named an ask at all."""
        return self.formula is not None or self.ask_nano_per_hour > 0

    def at(self, hour: Hour) -> OwnerTerms:
        """The same with the ask of that hour.

        ScheduleClosed when nothing is offered then, AskInvalid when the formula has no value.
        """
        if not self.schedule.is_open(hour):
            raise ScheduleClosed(f"the schedule is closed at {hour}")
        if self.formula is None:
            return self
        ask = self.formula.nano_per_hour(hour, self.power.read().milliwatts)
        return replace(self, ask_nano_per_hour=ask)


def card_of(info: Mapping[str, Any], salt: str) -> DeviceCard:
    """The card of an engine's ``device_info``; ``salt`` makes several ids out of one device."""
    driver = f"{info.get('platform', '')} {info.get('driver_version', '')}".strip()
    return DeviceCard(
        device_id=salted(str(info["device_id"]), salt),
        name=str(info.get("name", "device"))[:_LABEL_LENGTH],
        driver=driver[:_LABEL_LENGTH],
        memory_bytes=int(info.get("global_memory_bytes", 0)),
        max_allocation_bytes=int(info.get("max_allocation_bytes", 0)),
    )


def salted(device_id: str, salt: str) -> str:
    """``device_id`` itself without a salt, else 64 hex digits that follow from both."""
    if not salt:
        return device_id
    return hashlib.sha256(f"flopmarket device salt\0{device_id}\0{salt}".encode()).hexdigest()


def offer_terms(
    card: DeviceCard,
    calibration: Calibration,
    owner: OwnerTerms,
    speed: LinkSpeed,
    *,
    account_id: str,
    device_key_id: str,
) -> OfferTerms:
    """The terms to sign. Rates of zero are left out: such work is not offered."""
    power = owner.power.read()
    rates = tuple(
        Rate(work_class, rate)
        for work_class, rate in sorted(calibration.flops_per_second.items())
        if rate > 0
    )
    return OfferTerms(
        account_id=account_id,
        device_key_id=device_key_id,
        device_id=card.device_id,
        device_name=card.name,
        driver=card.driver,
        profile=PROFILE,
        memory_bytes=card.memory_bytes,
        max_allocation_bytes=card.max_allocation_bytes,
        region=owner.region,
        ask_nano_per_hour=owner.ask_nano_per_hour,
        rates=rates,
        bandwidth_bytes_per_second=calibration.bandwidth_bytes_per_second,
        launch_nanoseconds=calibration.launch_nanoseconds,
        step_nanoseconds=calibration.step_nanoseconds,
        build_milliseconds=calibration.build_milliseconds,
        download_bytes_per_second=speed.download_bytes_per_second,
        upload_bytes_per_second=speed.upload_bytes_per_second,
        watts_milli=power.milliwatts,
        watts_source=power.source,
        card_price_nano=owner.card_price_nano,
        admission_digest=calibration.admission_digest,
    )
