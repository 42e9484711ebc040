"""Receipts as in-toto statements: canonical JSON, and the one reading of it.

Members are sorted, there is no white space, text is ASCII, every integer is a decimal string (so
that no reader rounds it), every digest lower-case hex. Reading rebuilds the canonical bytes and
compares them, so nothing can hide in a receipt that :class:`Receipt` does not show.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.errors import ReceiptError
from flopmarket.trust.json_fields import digest_of, integer_of, text_of
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.modes import Mode
from flopmarket.trust.receipt_facts import (
    AuditOutcome,
    Outcome,
    Receipt,
    ReceiptDevice,
    ReceiptSegment,
)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://flopmarket.dev/receipt/v3"
STATE_ROOT_ALGORITHM = "flopmarketStateRootV1"
SEQUENCE_ROOT_ALGORITHM = "flopmarketSequenceRootV1"

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")


def statement_bytes(receipt: Receipt) -> bytes:
    """The canonical JSON of the in-toto statement: what is signed."""
    return _canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": "final-state",
                    "digest": {STATE_ROOT_ALGORITHM: receipt.final_state_root.hex()},
                },
                {
                    "name": "outputs",
                    "digest": {SEQUENCE_ROOT_ALGORITHM: receipt.outputs_root.hex()},
                },
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "job": {
                    "id": receipt.job_id.hex(),
                    "spec": base64.b64encode(receipt.job_spec).decode("ascii"),
                    "buyer_account_id": receipt.buyer_account_id,
                    "program_digest": receipt.program_digest.hex(),
                    "profile": receipt.profile,
                    "mode": receipt.mode.value,
                    "device_class": receipt.device_class,
                    "verification": receipt.verification.value,
                    "data_root": receipt.data_root.hex(),
                    "seed": _decimal(receipt.seed),
                    "steps": _decimal(receipt.steps),
                    "initial_state_root": receipt.initial_state_root.hex(),
                },
                "outcome": receipt.outcome.value,
                "replaces": receipt.replaces.hex(),
                "devices": [_device_members(device) for device in receipt.devices],
                "segments": [_segment_members(segment) for segment in receipt.segments],
                "totals": {
                    "currency": receipt.currency,
                    "ceiling_nano": _decimal(receipt.ceiling_nano),
                    "invoice_nano": _decimal(receipt.invoice_nano),
                    "fee_nano": _decimal(receipt.fee_nano),
                    "surcharge_nano": _decimal(receipt.surcharge_nano),
                },
                "coordinator": {
                    "key_id": receipt.coordinator_key.key_id,
                    "public_key": receipt.coordinator_key.raw.hex(),
                },
                "submitted_at_us": _decimal(receipt.submitted_at_us),
                "ended_at_us": _decimal(receipt.ended_at_us),
            },
        }
    )


def _segment_members(segment: ReceiptSegment) -> dict[str, str]:
    return {
        "index": _decimal(segment.index),
        "first_step": _decimal(segment.first_step),
        "steps": _decimal(segment.steps),
        "device_key_id": segment.device_key_id,
        "device_id": segment.device_id,
        "state_root_before": segment.state_root_before.hex(),
        "state_root_after": segment.state_root_after.hex(),
        "outputs_root": segment.outputs_root.hex(),
        "commitment_digest": segment.commitment_digest.hex(),
        "audit": segment.audit.value,
        "auditor": segment.auditor,
        "verdict_digest": segment.verdict_digest.hex(),
        "challenge_digest": segment.challenge_digest.hex(),
        "price_nano": _decimal(segment.price_nano),
        "surcharge_nano": _decimal(segment.surcharge_nano),
    }


def _device_members(device: ReceiptDevice) -> dict[str, object]:
    return {
        "key_id": device.key_id,
        "device_id": device.device_id,
        "name": device.name,
        "driver": device.driver,
        "proved_flops_per_second": {name: _decimal(rate) for name, rate in device.proved_rates},
    }


def parse(payload: bytes) -> Receipt:
    """The receipt whose canonical statement is ``payload``, and no other spelling of it."""
    try:
        receipt = _read_statement(json.loads(payload))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise malformed(f"{type(error).__name__}: {error}"[:200]) from None
    except FlopmarketError as error:
        raise malformed(error.message) from error
    if statement_bytes(receipt) != payload:
        raise malformed("the statement is not in canonical form, or says more than a receipt does")
    return receipt


def _read_statement(statement: Mapping[str, Any]) -> Receipt:
    predicate = statement["predicate"]
    job, totals = predicate["job"], predicate["totals"]
    return Receipt(
        job_id=digest_of(job["id"]),
        job_spec=_read_base64(job["spec"]),
        buyer_account_id=text_of(job["buyer_account_id"]),
        program_digest=digest_of(job["program_digest"]),
        profile=text_of(job["profile"]),
        mode=Mode(job["mode"]),
        device_class=_digest_or_nothing(job["device_class"]).hex(),
        verification=Level(job["verification"]),
        data_root=digest_of(job["data_root"]),
        seed=integer_of(job["seed"]),
        steps=integer_of(job["steps"]),
        outcome=Outcome(predicate["outcome"]),
        initial_state_root=digest_of(job["initial_state_root"]),
        final_state_root=digest_of(statement["subject"][0]["digest"][STATE_ROOT_ALGORITHM]),
        devices=tuple(_read_device(members) for members in predicate["devices"]),
        segments=tuple(_read_segment(members) for members in predicate["segments"]),
        currency=text_of(totals["currency"]),
        ceiling_nano=integer_of(totals["ceiling_nano"]),
        invoice_nano=integer_of(totals["invoice_nano"]),
        fee_nano=integer_of(totals["fee_nano"]),
        surcharge_nano=integer_of(totals["surcharge_nano"]),
        coordinator_key=PublicKey(digest_of(predicate["coordinator"]["public_key"])),
        submitted_at_us=integer_of(predicate["submitted_at_us"]),
        ended_at_us=integer_of(predicate["ended_at_us"]),
        replaces=_digest_or_nothing(predicate["replaces"]),
    )


def _read_segment(members: Mapping[str, Any]) -> ReceiptSegment:
    return ReceiptSegment(
        index=integer_of(members["index"]),
        first_step=integer_of(members["first_step"]),
        steps=integer_of(members["steps"]),
        device_key_id=text_of(members["device_key_id"]),
        device_id=text_of(members["device_id"]),
        state_root_before=digest_of(members["state_root_before"]),
        state_root_after=digest_of(members["state_root_after"]),
        outputs_root=digest_of(members["outputs_root"]),
        commitment_digest=digest_of(members["commitment_digest"]),
        audit=AuditOutcome(members["audit"]),
        auditor=text_of(members["auditor"]),
        verdict_digest=_digest_or_nothing(members["verdict_digest"]),
        challenge_digest=_digest_or_nothing(members["challenge_digest"]),
        price_nano=integer_of(members["price_nano"]),
        surcharge_nano=integer_of(members["surcharge_nano"]),
    )


def _read_device(members: Mapping[str, Any]) -> ReceiptDevice:
    rates = members["proved_flops_per_second"]
    return ReceiptDevice(
        key_id=text_of(members["key_id"]),
        device_id=text_of(members["device_id"]),
        name=text_of(members["name"]),
        driver=text_of(members["driver"]),
        proved_rates=tuple((name, integer_of(rates[name])) for name in sorted(rates)),
    )


def _digest_or_nothing(value: object) -> bytes:
    return digest_of(value) if value != "" else b""


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _decimal(value: int) -> str:
    if type(value) is not int or not _DECIMAL.fullmatch(str(value)):
        raise malformed(f"{value!r} is not a whole number from zero up of at most 39 digits")
    return str(value)


def _read_base64(text: object) -> bytes:
    try:
        return base64.b64decode(text_of(text), validate=True)
    except binascii.Error:
        raise ValueError("spec is not base64") from None


def malformed(message: str) -> ReceiptError:
    """The error for a payload that is no canonical statement."""
    return ReceiptError(f"not a receipt statement: {message}", code="RECEIPT_MALFORMED")
