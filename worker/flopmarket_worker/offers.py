"""What a worker offers: one device's measured rates, its ask, its power, as signed terms.

Pure: card, calibration and the owner's wishes in, :class:`OfferTerms` out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import FlopmarketError, Kind
from flopmarket.jobs.device_names import card_texts
from flopmarket.market.money import Nano, check_price
from flopmarket.market.region import check_region
from flopmarket.trust.documents import OfferTerms, Rate
from flopmarket.trust.modes import NO_CLASS, Mode
from flopmarket_worker.asking import Ask
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.telemetry.ports import PowerReader
from flopmarket_worker.week import ALWAYS, Hour, Schedule


class NotAdmitted(FlopmarketError):
    """The device does not compute the exact profile, and nothing else that it could be offered for
    was asked for."""

    kind = Kind.INVALID
    default_code = "DEVICE_NOT_ADMITTED"


class ScheduleClosed(FlopmarketError):
    """The owner offers nothing in this hour."""

    kind = Kind.UNAVAILABLE
    default_code = "SCHEDULE_CLOSED"


@dataclass(frozen=True, slots=True)
class DeviceCard:
    """What an offer says of a device. ``device_id`` is already salted; ``board`` is what tells this
    very card from all others, and stays here (:func:`card_fingerprint`)."""

    device_id: str
    name: str
    driver: str
    memory_bytes: int
    max_allocation_bytes: int
    board: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Admission, classification and benchmark of one device, in integers.

    ``admission_digest`` is None for a device that does not compute exactly, ``classified`` (kernels
    and results, 32 bytes each) for one that has no class, or was not asked for one.
    ``flops_per_second`` maps classes of ``engine.cost.WORK_CLASSES`` to sustained rates.
    """

    admission_digest: bytes | None
    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    step_nanoseconds: int
    build_milliseconds: int
    classified: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class OwnerTerms:
    """What the owner asks and states. Amounts in nano-units; a card price of 0 is unknown, and so
    is an empty region. A ``formula`` gives the ask of an hour; without one the ask stands. The
    ``schedule`` says in which hours anything is offered at all; ``modes`` what jobs are taken of,
    empty for whatever suits the device (:func:`modes_of`)."""

    ask_nano_per_hour: Nano
    card_price_nano: Nano
    power: PowerReader
    region: str = ""
    formula: Ask | None = None
    schedule: Schedule = ALWAYS
    modes: tuple[Mode, ...] = ()

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


def card_of(info: Mapping[str, Any], salt: str, machine: str = "") -> DeviceCard:
    """The card of an engine's ``device_info``; ``salt`` makes several ids out of one device.

    ``machine`` names this machine and no other, or is empty when that is not known.
    """
    name, driver = card_texts(info)
    return DeviceCard(
        device_id=salted(str(info["device_id"]), salt),
        name=name,
        driver=driver,
        memory_bytes=int(info.get("global_memory_bytes", 0)),
        max_allocation_bytes=int(info.get("max_allocation_bytes", 0)),
        board=board_of(info, machine),
    )


def board_of(info: Mapping[str, Any], machine: str) -> str:
    """What tells this very card from all others: the UUID that its driver reports, else its place
    on the bus of this machine. Empty where neither is known, as for every processor."""
    if info.get("uuid"):
        return f"uuid {info['uuid']}"
    if info.get("pci_address") and machine:
        return f"pci {info['pci_address']} of {machine}"
    return ""


def card_fingerprint(board: str, coordinator_key_id: str) -> bytes:
    """32 bytes that name a board at this coordinator and nowhere else; none for no board.

    Two accounts that offer one card show the same. It is the worker's own word: it decides with
    whom a card is challenged, and proves nothing.
    """
    if not board:
        return b""
    text = f"flopmarket card fingerprint\0{coordinator_key_id}\0{board}"
    return hashlib.sha256(text.encode()).digest()


def salted(device_id: str, salt: str) -> str:
    """``device_id`` itself without a salt, else 64 hex digits that follow from both."""
    if not salt:
        return device_id
    return hashlib.sha256(f"flopmarket device salt\0{device_id}\0{salt}".encode()).hexdigest()


def modes_of(asked: Collection[Mode], calibration: Calibration) -> tuple[Mode, ...]:
    """What a device takes jobs of, ascending by name: what its owner asked for and it can do.

    When nothing was asked for, an admitted device takes exact jobs alone; any other takes those of
    its class, if it has one, and those in tolerance mode. :class:`NotAdmitted` when nothing is left
    of what was asked for.
    """
    admitted, classified = calibration.admission_digest is not None, calibration.classified
    able = {Mode.EXACT: admitted, Mode.CLASS: classified is not None, Mode.TOLERANCE: True}
    wanted = asked or ({Mode.EXACT} if admitted else {Mode.CLASS, Mode.TOLERANCE})
    found = tuple(sorted(mode for mode in set(wanted) if able[mode]))
    if not found:
        raise NotAdmitted(
            f"the device offers none of the modes asked for ({', '.join(sorted(wanted))})",
            hint="leave --modes out, or name what it can do: tolerance always",
        )
    return found


def offer_terms(
    card: DeviceCard,
    calibration: Calibration,
    owner: OwnerTerms,
    speed: LinkSpeed,
    *,
    account_id: str,
    device_key_id: str,
) -> OfferTerms:
    """The terms to sign. Rates of zero are left out: such work is not offered.

    In every mode the rates are those of exact kernels: they are what a challenge proves.
    """
    power = owner.power.read()
    modes = modes_of(owner.modes, calibration)
    kernels, results = (Mode.CLASS in modes and calibration.classified) or (NO_CLASS, NO_CLASS)
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
        admission_digest=(Mode.EXACT in modes and calibration.admission_digest) or NO_CLASS,
        modes=modes,
        class_kernels=kernels,
        class_results=results,
    )
