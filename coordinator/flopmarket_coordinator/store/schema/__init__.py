"""The tables. What must never happen to money or leases is a constraint here.

One module for each side of the market; :mod:`base` holds what all of them are made of.
"""

from __future__ import annotations

from flopmarket_coordinator.store.schema.accounts import (
    account,
    account_key,
    meta,
    request,
    session,
    used_nonce,
)
from flopmarket_coordinator.store.schema.artifacts import artifact, artifact_grant
from flopmarket_coordinator.store.schema.base import metadata
from flopmarket_coordinator.store.schema.jobs import event, job, lease, segment
from flopmarket_coordinator.store.schema.money import ledger_account, transfer
from flopmarket_coordinator.store.schema.offers import offer, worker

__all__ = [
    "account",
    "account_key",
    "artifact",
    "artifact_grant",
    "event",
    "job",
    "lease",
    "ledger_account",
    "meta",
    "metadata",
    "offer",
    "request",
    "segment",
    "session",
    "transfer",
    "used_nonce",
    "worker",
]
