"""Modes and classes of devices as they stand in signed offers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.trust.device_class import class_of
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.modes import NO_CLASS, Mode, in_order
from tests.unit.trust.test_documents import OFFER

K, R = b"k" * 32, b"r" * 32
FAST = replace(
    OFFER,
    admission_digest=NO_CLASS,
    modes=(Mode.CLASS, Mode.TOLERANCE),
    class_kernels=K,
    class_results=R,
)


def test_modes_have_one_order() -> None:
    assert in_order((Mode.CLASS, Mode.EXACT, Mode.TOLERANCE))
    for wrong in ((), (Mode.EXACT, Mode.CLASS), (Mode.EXACT, Mode.EXACT)):
        assert not in_order(wrong)


@pytest.mark.parametrize("offer", [OFFER, FAST, replace(FAST, card_fingerprint=b"f" * 32)])
def test_an_offer_of_any_mode_is_read_as_it_was_written(offer: OfferTerms) -> None:
    assert decode(OfferTerms, encode(offer)) == offer


@pytest.mark.parametrize(
    "changes",
    [
        {"modes": ()},
        {"modes": (Mode.TOLERANCE, Mode.CLASS)},
        {"modes": (Mode.CLASS, Mode.CLASS)},
        {"modes": (Mode.TOLERANCE,)},
        {"class_kernels": NO_CLASS},
        {"class_results": NO_CLASS},
        {"admission_digest": b"a" * 32},
        {"card_fingerprint": b"short"},
    ],
)
def test_an_offer_says_of_its_modes_what_goes_together(changes: dict[str, object]) -> None:
    with pytest.raises(DocumentError) as refused:
        replace(FAST, **changes)  # type: ignore[arg-type]
    assert refused.value.code == "DOCUMENT_INVALID"


def test_a_class_is_name_driver_kernels_and_results_and_nothing_else() -> None:
    own = class_of(FAST)
    assert own is not None and len(own) == 32
    same = replace(FAST, account_id="b", device_id="e", region="us", ask_nano_per_hour=7)
    assert class_of(same) == own
    exact_too = replace(FAST, modes=(Mode.CLASS, Mode.EXACT), admission_digest=b"a" * 32)
    assert class_of(exact_too) == own, "an admitted device may be of the same class"
    others = [
        replace(FAST, device_name="another card"),
        replace(FAST, driver="another driver"),
        replace(FAST, class_kernels=R),
        replace(FAST, class_results=K),
    ]
    assert len({own, *(class_of(other) for other in others)}) == 5
    assert class_of(OFFER) is None
