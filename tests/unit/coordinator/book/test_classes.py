"""Sizes of classes of devices, held against counting them one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket_coordinator.core.book.table import Listing
from tests.unit.coordinator.book.samples import OWNERS, book_of, books


@settings(max_examples=200, deadline=None)
@given(books(), st.sampled_from(("", *OWNERS)), st.integers(1, 3))
def test_sizes_are_counts_and_the_largest_come_first(
    found: list[Listing], buyer: str, most: int
) -> None:
    counted: dict[str, tuple[set[str], int]] = {}
    for item in found:
        offer = item.offer
        if offer.device_class and not item.banned and offer.account_id != buyer:
            accounts, devices = counted.get(offer.device_class, (set(), 0))
            counted[offer.device_class] = accounts | {offer.account_id}, devices + 1
    order = sorted(counted, key=lambda name: (-len(counted[name][0]), -counted[name][1], name))
    got = book_of(found).classes(buyer, most)
    assert list(got) == order[:most]
    for name, size in got.items():
        assert (size.accounts, size.devices) == (len(counted[name][0]), counted[name][1])
    for name in counted:
        everybody = book_of(found).class_accounts(name)
        assert everybody - {buyer} == counted[name][0]
