"""Which operands a device is challenged with: integers where it does not offer exact mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.trust.benchmark_shape import Operands
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.modes import NO_CLASS, Mode
from tests.unit.coordinator.challenged import Rented, Yard
from tests.unit.coordinator.world_work import digest_of


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.world.close()


def operands_of(yard: Yard) -> Operands:
    """What the one device that is due is asked to multiply."""
    (asked,) = yard.world.do(
        lambda tx: yard.world.application.begin_challenges(tx, {}, 64, all_twins=True)
    )
    return asked.plan.shapes.product.operands


def offering(device: Rented, modes: tuple[Mode, ...]) -> None:
    """The device is offered again, in other modes."""
    plain = device.terms()
    of_class = Mode.CLASS in modes
    changed = replace(
        plain,
        modes=modes,
        admission_digest=plain.admission_digest if Mode.EXACT in modes else NO_CLASS,
        class_kernels=digest_of("kernels") if of_class else NO_CLASS,
        class_results=digest_of("results") if of_class else NO_CLASS,
    )

    def terms() -> OfferTerms:
        return changed

    device.terms = terms  # type: ignore[method-assign]
    device.hello()


def test_who_offers_exact_mode_proves_it_with_fractions(yard: Yard) -> None:
    device = yard.rent("card")
    offering(device, (Mode.CLASS, Mode.EXACT))
    assert operands_of(yard) is Operands.FRACTIONS


@pytest.mark.parametrize("modes", [(Mode.CLASS,), (Mode.TOLERANCE,), (Mode.CLASS, Mode.TOLERANCE)])
def test_a_fast_only_device_is_asked_for_integers(yard: Yard, modes: tuple[Mode, ...]) -> None:
    device = yard.rent("card")
    offering(device, modes)
    assert operands_of(yard) is Operands.INTEGERS
