"""Kinds of cards: devices whose fast kernels come to the same bits, and how a market names them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from flopmarket.trust.device_class import DeviceClass, class_digest
from flopmarket.trust.modes import NO_CLASS, Mode
from flopmarket_worker.offers import Calibration, DeviceCard
from tests.sim.arithmetic import named

DRIVER = "simulated"
FAST_CARD = "fast card"
OTHER_CARD = "another card"
EXACT_ONLY = (Mode.EXACT,)
FAST_ONLY = (Mode.CLASS,)
BOTH = (Mode.CLASS, Mode.EXACT)


@dataclass(frozen=True, slots=True)
class Kind:
    """What all cards of a name have in common."""

    name: str
    kernels: bytes
    results: bytes


@cache
def kind_of(name: str) -> Kind:
    """The kind of this name; no name, no class."""
    if not name:
        return Kind("", NO_CLASS, NO_CLASS)
    return Kind(name, named(f"kernels of {name}"), named(f"results of {name}"))


@cache
def kind_of_class(device_class: str) -> str:
    """The kind whose cards a class is of, by its hex digits; none for no class."""
    known = {class_of_kind(name).hex(): name for name in (FAST_CARD, OTHER_CARD)}
    return known[device_class] if device_class else ""


@cache
def class_of_kind(name: str) -> bytes:
    """The class of cards of a kind, as jobs are bound to it."""
    kind = kind_of(name)
    return class_digest(DeviceClass(kind.name, DRIVER, kind.kernels, kind.results))


def measured(
    device_id: str, name: str, kind: str, modes: tuple[Mode, ...]
) -> tuple[DeviceCard, Calibration]:
    """What a worker has found out about its card, as far as leases are held to it."""
    known = kind_of(kind)
    card = DeviceCard(device_id, name, DRIVER, 1 << 30, 1 << 30)
    calibration = Calibration(
        admission_digest=named("admission") if Mode.EXACT in modes else None,
        flops_per_second={},
        bandwidth_bytes_per_second=0,
        launch_nanoseconds=0,
        step_nanoseconds=0,
        build_milliseconds=0,
        classified=(known.kernels, known.results) if Mode.CLASS in modes else None,
    )
    return card, calibration
