"""The tables. What must never happen to money or leases is a constraint here.

One module for each side of the market; :mod:`base` holds what all of them are made of.
"""

from __future__ import annotations

from flopmarket_coordinator.store.schema.accounts import (
    account,
    account_invitation,
    account_key,
    invitation,
    meta,
    ownership_link,
    recovery,
    request,
    session,
    used_nonce,
)
from flopmarket_coordinator.store.schema.artifacts import artifact, artifact_grant
from flopmarket_coordinator.store.schema.audits import (
    ARBITRATED,
    OPEN_AUDIT,
    UNTOLD_AUDIT,
    audit,
    audit_commitment,
)
from flopmarket_coordinator.store.schema.base import (
    UNFINISHED_JOB,
    UNTOLD_LEASE,
    WAITING_PAY,
    metadata,
)
from flopmarket_coordinator.store.schema.benchmarks import benchmark, benchmark_challenge
from flopmarket_coordinator.store.schema.buyers import (
    budget,
    job_grant,
    key_grant,
    webhook,
    webhook_delivery,
)
from flopmarket_coordinator.store.schema.challenges import (
    challenge,
    challenge_document,
    challenge_record,
)
from flopmarket_coordinator.store.schema.disputes import dispute, dispute_event
from flopmarket_coordinator.store.schema.draws import canary_day, canary_draw, cross_draw
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
from flopmarket_coordinator.store.schema.penalties import audit_pay, quarantine, strike
from flopmarket_coordinator.store.schema.prediction import calibration, delivery, promise
from flopmarket_coordinator.store.schema.step_audits import (
    OPEN_STEP_AUDIT,
    STEPS_AGAINST,
    UNTOLD_STEP_AUDIT,
    step_audit,
)
from flopmarket_coordinator.store.schema.tape import candle, price_snapshot, trade

__all__ = [
    "ARBITRATED",
    "OPEN_AUDIT",
    "OPEN_STEP_AUDIT",
    "STEPS_AGAINST",
    "UNFINISHED_JOB",
    "UNTOLD_AUDIT",
    "UNTOLD_LEASE",
    "UNTOLD_STEP_AUDIT",
    "WAITING_PAY",
    "account",
    "account_invitation",
    "account_key",
    "artifact",
    "artifact_grant",
    "audit",
    "audit_commitment",
    "audit_pay",
    "benchmark",
    "benchmark_challenge",
    "budget",
    "calibration",
    "canary_day",
    "canary_draw",
    "candle",
    "challenge",
    "challenge_document",
    "challenge_record",
    "cross_draw",
    "decision",
    "delivery",
    "dispute",
    "dispute_event",
    "event",
    "invitation",
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
    "ownership_link",
    "price_snapshot",
    "promise",
    "quarantine",
    "recovery",
    "request",
    "segment",
    "session",
    "setting",
    "step_audit",
    "strike",
    "trade",
    "transfer",
    "used_nonce",
    "webhook",
    "webhook_delivery",
    "withdrawal",
    "worker",
]
