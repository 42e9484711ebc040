"""Classes of devices in the book: how many devices of how many accounts, over all rows at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flopmarket.market.quote import ClassSize
from flopmarket_coordinator.core.book.table import OfferTable


def class_sizes(table: OfferTable, buyer: str, most: int) -> Mapping[str, ClassSize]:
    """The ``most`` largest classes under keys that may act, devices of ``buyer`` apart: those of
    the most accounts first, then those of the most devices.

    Anybody can make up classes; accounts are harder to come by than devices.
    """
    rows = table.rows()
    rows = rows[(table.device_class[rows] > 0) & ~table.banned[rows]]
    rows = rows[table.account[rows] != table.accounts.known(buyer)]
    classes, first, devices = np.unique(
        table.device_class[rows], return_index=True, return_counts=True
    )
    pairs = np.unique(np.stack((table.device_class[rows], table.account[rows])), axis=1)
    _, accounts = np.unique(pairs[0], return_counts=True)
    texts = table.device_classes.texts
    order = sorted(
        range(len(classes)), key=lambda at: (-accounts[at], -devices[at], texts[classes[at]])
    )
    found: dict[str, ClassSize] = {}
    for at in order[:most]:
        offer = table.offer(int(rows[first[at]]))
        found[texts[classes[at]]] = ClassSize(
            offer.device_name, offer.driver, int(devices[at]), int(accounts[at])
        )
    return found
