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
from flopmarket_coordinator.store.schema.base import UNFINISHED_JOB, UNTOLD_LEASE, metadata
from flopmarket_coordinator.store.schema.buyers import (
    budget,
    job_grant,
    key_grant,
    webhook,
    webhook_delivery,
)
from flopmarket_coordinator.store.schema.jobs import event, job, lease, segment
from flopmarket_coordinator.store.schema.money import (
    ledger_account,
    ledger_batch,
    ledger_expiry,
    ledger_head,
    setting,
    transfer,
    withdrawal,
)
from flopmarket_coordinator.store.schema.offers import offer, worker
from flopmarket_coordinator.store.schema.operators import decision, operator_key
from flopmarket_coordinator.store.schema.prediction import calibration, delivery, promise
from flopmarket_coordinator.store.schema.tape import candle, price_snapshot, trade

__all__ = [
    "UNFINISHED_JOB",
    "UNTOLD_LEASE",
    "account",
    "account_key",
    "artifact",
    "artifact_grant",
    "budget",
    "calibration",
    "candle",
    "decision",
    "delivery",
    "event",
    "job",
    "job_grant",
    "key_grant",
    "lease",
    "ledger_account",
    "ledger_batch",
    "ledger_expiry",
    "ledger_head",
    "meta",
    "metadata",
    "offer",
    "operator_key",
    "price_snapshot",
    "promise",
    "request",
    "segment",
    "session",
    "setting",
    "trade",
    "transfer",
    "used_nonce",
    "webhook",
    "webhook_delivery",
    "withdrawal",
    "worker",
]
