"""What draws are made of: hash chains of one secret, places in the panel, documents of leases."""

from __future__ import annotations

import hmac
from collections import OrderedDict

from flopmarket.limits import MAX_CACHED_CHAINS, MAX_CACHED_DOCUMENTS
from flopmarket.trust.challenge import Chain, ChainName, Purpose
from flopmarket.trust.encoding import AnyDocument, decode
from flopmarket_coordinator.store import challenges
from flopmarket_coordinator.store.engine import Transaction


class Chains:
    """The coordinator's hash chains: derived when asked for, the last few kept.

    Only commands ask, and they run one at a time.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._kept: OrderedDict[ChainName, Chain] = OrderedDict()

    def get(self, subject: str, purpose: Purpose, values: int) -> Chain:
        """The chain of a lease, or of an epoch."""
        name = ChainName(subject, purpose)
        chain = self._kept.get(name)
        if chain is None or chain.values != values:
            chain = self._kept[name] = Chain(self._secret, name, values)
        self._kept.move_to_end(name)
        while len(self._kept) > MAX_CACHED_CHAINS:
            self._kept.popitem(last=False)
        return chain

    def lot(self, key_id: str) -> int:
        """Where a key stands in the circle that panels are cut from; 0 to 2^63 - 1.

        Nobody outside can compute it, so nobody can make keys that stand together.
        """
        return self._number(f"lot {key_id}")

    def panel_lot(self, epoch: int) -> int:
        """Where the panel of an epoch begins."""
        return self._number(f"panel {epoch}")

    def _number(self, text: str) -> int:
        mac = hmac.digest(self._secret, b"flopmarket lots " + text.encode(), "sha256")
        return int.from_bytes(mac[:8], "big") >> 1


class FrozenDocuments:
    """Rules and lists that leases name, decoded; the last few are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, object] = OrderedDict()

    def get(self, tx: Transaction, kind: type[AnyDocument], name: bytes) -> AnyDocument:
        """The document with this digest, which is of this kind."""
        known = self._kept.get(name)
        if not isinstance(known, kind):
            known = self._kept[name] = decode(kind, challenges.document(tx, name))
        self._kept.move_to_end(name)
        while len(self._kept) > MAX_CACHED_DOCUMENTS:
            self._kept.popitem(last=False)
        return known
