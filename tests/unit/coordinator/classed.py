"""Workers that offer other modes than the exact one, for tests of modes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust.device_class import DeviceClass, class_digest
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.modes import NO_CLASS, Mode
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of

FAST_ONLY = (Mode.CLASS, Mode.TOLERANCE)


def fast_terms(worker: Worker, kind: str, modes: tuple[Mode, ...] = FAST_ONLY) -> OfferTerms:
    """The terms of a worker whose card is of one class with all others of this kind."""
    in_class = Mode.CLASS in modes
    return replace(
        worker.terms(),
        device_name=kind,
        modes=modes,
        admission_digest=digest_of("admission") if Mode.EXACT in modes else NO_CLASS,
        class_kernels=digest_of(f"kernels of {kind}") if in_class else NO_CLASS,
        class_results=digest_of(f"results of {kind}") if in_class else NO_CLASS,
    )


def fast_worker(
    world: World,
    name: str,
    kind: str = "fast card",
    modes: tuple[Mode, ...] = FAST_ONLY,
    **asked: Any,
) -> Worker:
    """A connected worker with such an offer."""
    worker = world.worker(name, **asked)
    offer = world.sign(fast_terms(worker, kind, modes), worker.key)
    assert world.do(world.application.offer_changed, worker.session, offer) is None
    return worker


def class_of_kind(kind: str = "fast card") -> bytes:
    """The class of cards of a kind."""
    kernels, results = digest_of(f"kernels of {kind}"), digest_of(f"results of {kind}")
    return class_digest(DeviceClass(kind, "test", kernels, results))
