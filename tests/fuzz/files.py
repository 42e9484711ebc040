"""Targets: files that people download, keep and show: receipts, statements, snapshots, backups."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from flopmarket.client.checks import check_receipt
from flopmarket.jobs.spec import job_id
from flopmarket.market.snapshot import (
    NO_SNAPSHOT,
    PriceSnapshot,
    SnapshotPrice,
    check_chain,
    snapshot_bytes,
    verify_snapshot,
)
from flopmarket.market.snapshot import PAYLOAD_TYPE as SNAPSHOT_TYPE
from flopmarket.trust.documents import LedgerHead
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import seal, sign_payload
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.ledger_log import (
    LedgerBatch,
    LedgerTransfer,
    batch_leaf,
    transfer_leaf,
    transfers_root,
)
from flopmarket.trust.merkle import EMPTY_TREE, HashTree
from flopmarket.trust.receipt import (
    HOUSE,
    AuditOutcome,
    Outcome,
    Receipt,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
    sign_receipt,
    statement_bytes,
    verify_receipt,
)
from flopmarket.trust.receipt import PAYLOAD_TYPE as RECEIPT_TYPE
from flopmarket.trust.statement import (
    Statement,
    StatementBatch,
    StatementTransfer,
    statement_from_json,
    statement_to_json,
    verify_statement,
)
from flopmarket.trust.tls import CertificateAuthority, ClientRequest, client_key_id, fingerprint
from flopmarket_coordinator.artifacts import artifact_file
from flopmarket_coordinator.backup import FORMAT, MANIFEST, Manifest, read_manifest
from tests.fuzz.target import Target, check_same
from tests.integration.worker.fake_job import spec_for

COORDINATOR = KeyPair.from_seed(b"c" * 32)
NOW_US = 1_800_000_000_000_000
SPEC = spec_for(2, 1)


# --- receipts -------------------------------------------------------------------------------------


def receipt(segments: int = 2) -> Receipt:
    """A small consistent receipt."""
    return build_receipt(
        job_id=job_id(SPEC), job_spec=encode(SPEC), buyer_account_id=SPEC.buyer,
        program_digest=SPEC.program_digest, profile=SPEC.profile, mode=SPEC.mode, device_class="",
        verification=SPEC.verification, data_root=SPEC.data_root,
        seed=SPEC.seed, steps=SPEC.steps,
        outcome=Outcome.COMPLETED if segments == SPEC.steps else Outcome.CANCELLED,
        initial_state_root=SPEC.state_root,
        devices=[ReceiptDevice("k" * 64, "dev", "card", "driver", (("dot-f32", 5),))][:segments],
        segments=[
            ReceiptSegment(
                index=at, first_step=at, steps=1, device_key_id="k" * 64, device_id="dev",
                state_root_before=bytes([at]) * 32 if at else SPEC.state_root,
                state_root_after=bytes([at + 1]) * 32,
                outputs_root=bytes(32), commitment_digest=bytes(32), audit=AuditOutcome.CONFIRMED,
                auditor=HOUSE, verdict_digest=bytes([1]) * 32, challenge_digest=bytes([at]) * 32,
                price_nano=10, surcharge_nano=at,
            )
            for at in range(segments)
        ],
        currency="USD", ceiling_nano=100, fee_nano=1, coordinator_key=COORDINATOR.public,
        submitted_at_us=1, ended_at_us=2,
    )  # fmt: skip


def read_receipt(data: bytes) -> object:
    """A receipt of an unknown coordinator, as ``flop receipt verify`` meets it."""
    return check_receipt(data, None)


def read_receipt_statement(data: bytes) -> object:
    """A statement that a coordinator has signed."""
    file = sign_payload(RECEIPT_TYPE, data, COORDINATOR).to_json()
    found = verify_receipt(file, COORDINATOR.public).receipt
    check_same(statement_bytes(found), data)
    assert sign_receipt(found, COORDINATOR) == file
    return found


def receipt_seeds() -> dict[str, bytes]:
    return {"one-segment": sign_receipt(receipt(1), COORDINATOR),
            "no-segment": sign_receipt(_cancelled(), COORDINATOR)}  # fmt: skip


def receipt_statement_seeds() -> dict[str, bytes]:
    return {"two-segments": statement_bytes(receipt()), "no-segment": statement_bytes(_cancelled())}


def _cancelled() -> Receipt:
    return replace(
        receipt(), outcome=Outcome.CANCELLED, segments=(), devices=(), invoice_nano=0, fee_nano=0,
        surcharge_nano=0, final_state_root=SPEC.state_root,
    )  # fmt: skip


# --- statements -----------------------------------------------------------------------------------


@cache
def statement() -> bytes:
    """Two transfers of an account in the first batch of a ledger, with proofs."""
    transfers = [
        LedgerTransfer(
            number, f"t{number}", kind, "acc/available", "platform/escrow", 5, "hold", "job", "",
            "t1" if kind == "post" else "", 0, NOW_US,
        )
        for number, kind in ((1, "pending"), (2, "post"))
    ]  # fmt: skip
    leaves = [transfer_leaf(item) for item in transfers]
    tree = HashTree(leaves)
    batch = LedgerBatch(1, 2, transfers_root(leaves), EMPTY_TREE, NOW_US)
    log = HashTree([batch_leaf(batch)])
    head = LedgerHead(1, 2, transfers_root([batch_leaf(batch)]), "USD", NOW_US)
    signed = seal(
        head, COORDINATOR, audience=COORDINATOR.key_id, nonce=bytes(16), issued_at_us=1,
        expires_at_us=2,
    )  # fmt: skip
    return statement_to_json(
        Statement(
            "acc",
            COORDINATOR.public,
            signed,
            0,
            (),
            tuple(StatementTransfer(t, 1, tree.proof(at)) for at, t in enumerate(transfers)),
            {1: StatementBatch(batch, log.proof(0))},
        )
    )


def read_statement(data: bytes) -> object:
    """A file of statement, checked with the coordinator's key that it names."""
    found = statement_from_json(data)
    assert statement_from_json(statement_to_json(found)) == found
    return verify_statement(found, found.coordinator_key)


def statement_seeds() -> dict[str, bytes]:
    value = json.loads(statement())
    value["transfers"], value["batches"] = [], []
    return {"two-transfers": json.dumps(json.loads(statement())).encode(),
            "nothing": json.dumps(value).encode()}  # fmt: skip


# --- price snapshots ------------------------------------------------------------------------------


def snapshot() -> PriceSnapshot:
    """A snapshot with a class that has every price and one that has none."""
    return PriceSnapshot(
        1, NOW_US, "USD", COORDINATOR.public, NO_SNAPSHOT, 3, b"t" * 32,
        (SnapshotPrice("dot-f32", 5, 4, 4, 5, NOW_US, 2, 1),
         SnapshotPrice("f64", None, None, None, None, 0, 0, 0)),
    )  # fmt: skip


def read_snapshot(data: bytes) -> object:
    return verify_snapshot(data, None)


def read_snapshot_content(data: bytes) -> object:
    """Content that a coordinator has signed."""
    file = sign_payload(SNAPSHOT_TYPE, data, COORDINATOR).to_json()
    found = verify_snapshot(file, COORDINATOR.public).snapshot
    check_same(snapshot_bytes(found), data)
    check_chain([snapshot(), found])
    return found


def snapshot_seeds() -> dict[str, bytes]:
    file = sign_payload(SNAPSHOT_TYPE, snapshot_bytes(snapshot()), COORDINATOR).to_json()
    return {"two-classes": file}


def snapshot_content_seeds() -> dict[str, bytes]:
    follower = replace(snapshot(), number=2, previous=snapshot().digest, prices=())
    return {"two-classes": snapshot_bytes(snapshot()), "follower": snapshot_bytes(follower)}


# --- backups, keys, certificates ------------------------------------------------------------------


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="flopmarket-fuzz-")


def read_backup_manifest(data: bytes) -> object:
    """A manifest, up to the paths that a restoration would make of it."""
    folder = Path(_folder().name)
    (folder / MANIFEST).write_bytes(data)
    found = read_manifest(folder)
    for digest in found.artifacts:
        path = artifact_file(folder, digest)
        assert path.parent.parent == folder and path.name == digest
    return found


def manifest_seeds() -> dict[str, bytes]:
    manifest = Manifest(
        FORMAT, NOW_US, "k" * 64, "0008", "a" * 64, 4096, ("ab" * 32, "cd" * 32), 10
    )
    return {"two-artifacts": json.dumps(asdict(manifest), indent=1).encode()}


def read_public_key(data: bytes) -> object:
    """PEM that is shown as a public key."""
    key = PublicKey.from_pem(data)
    assert PublicKey.from_pem(key.to_pem()) == key
    return key


@cache
def _authority() -> CertificateAuthority:
    return CertificateAuthority.create("fuzz", now_us=NOW_US)


@cache
def _request() -> ClientRequest:
    return ClientRequest.create()


def read_certificate(data: bytes) -> object:
    """PEM of a worker that wants a certificate, and as a certificate itself."""
    if b"REQUEST" not in data:
        found = fingerprint(data), client_key_id(data)
        _request().with_certificate(data)
        return found
    return _authority().issue_client(data, key_id="a" * 64, now_us=NOW_US, lifetime_seconds=60)


def certificate_seeds() -> dict[str, bytes]:
    request = _request()
    issued = _authority().issue_client(
        request.request_pem, key_id="a" * 64, now_us=NOW_US, lifetime_seconds=60
    )
    return {"request": request.request_pem, "certificate": issued}


TARGETS = (
    Target("receipt", read_receipt, receipt_seeds, 16_384),
    Target("receipt-statement", read_receipt_statement, receipt_statement_seeds, 16_384),
    Target("statement", read_statement, statement_seeds, 16_384),
    Target("snapshot", read_snapshot, snapshot_seeds),
    Target("snapshot-content", read_snapshot_content, snapshot_content_seeds),
    Target("backup-manifest", read_backup_manifest, manifest_seeds),
    Target("public-key", read_public_key, lambda: {"pem": COORDINATOR.public.to_pem()}),
    Target("certificate", read_certificate, certificate_seeds),
)
