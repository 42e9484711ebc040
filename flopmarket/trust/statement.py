"""A statement with proofs: what an owner downloads, keeps, and checks without asking anybody.

A :class:`Statement` is a signed head of the ledger, an account's transfers with their paths to it,
and the proof that joins it to an older head that the owner kept. :func:`verify_statement` believes
the coordinator's signature and nothing else: it recomputes every hash and derives the balances. A
coordinator whose books no longer contain what an older head covered cannot produce the proof.

Used by ``flop account verify``; pure, like all of this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.limits import MAX_STATEMENT_FILE_BYTES, MAX_STATEMENT_TRANSFERS
from flopmarket.trust.documents import LedgerHead
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.envelope import Envelope, open_envelope
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.json_fields import text_of
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.ledger_log import (
    LedgerBatch,
    LedgerTransfer,
    check_batch,
    check_consistency,
    check_transfer,
)
from flopmarket.trust.merkle import MerkleProof

FORMAT = "flopmarket.statement.v1"


class LedgerRewritten(Conflict):
    """The coordinator's books contradict what it signed before. Both heads are evidence of it."""

    default_code = "LEDGER_REWRITTEN"


class StatementError(InvalidInput):
    """A statement is malformed, or does not belong to what it is shown for."""

    default_code = "STATEMENT_INVALID"


@dataclass(frozen=True, slots=True)
class StatementTransfer:
    """A transfer and its path to the root of its batch."""

    transfer: LedgerTransfer
    batch_number: int
    proof: MerkleProof


@dataclass(frozen=True, slots=True)
class StatementBatch:
    """A batch and its path to the root of the head."""

    batch: LedgerBatch
    proof: MerkleProof


@dataclass(frozen=True, slots=True)
class Statement:
    """``since_batches`` is the older head that ``consistency`` starts from; 0 for none."""

    account_id: str
    coordinator_key: PublicKey
    head: Envelope
    since_batches: int
    consistency: tuple[bytes, ...]
    transfers: tuple[StatementTransfer, ...]
    batches: Mapping[int, StatementBatch]


@dataclass(frozen=True, slots=True)
class BalanceSum:
    """What the transfers of a statement add up to in one of an account's balances."""

    balance_nano: int = 0
    reserved_nano: int = 0


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """A statement that is right. ``sums`` are by balance: available, held, bond."""

    head: LedgerHead
    transfers: tuple[LedgerTransfer, ...]
    sums: Mapping[str, BalanceSum]


def open_head(envelope: Envelope, key: PublicKey) -> LedgerHead:
    """The head that a coordinator signed; :class:`~flopmarket.trust.errors.EnvelopeError`."""
    return open_envelope(
        envelope,
        LedgerHead,
        keys={key.key_id: key},
        audience=key.key_id,
        now_us=None,  # a head is evidence for ever
        replay=None,
    ).body


def check_continues(older: LedgerHead, newer: LedgerHead, consistency: tuple[bytes, ...]) -> None:
    """:class:`LedgerRewritten` unless the newer head's ledger begins with the older one's."""
    if older.currency != newer.currency:
        raise LedgerRewritten(f"the books were in {older.currency}, now in {newer.currency}")
    if newer.batch_count < older.batch_count or newer.transfer_count < older.transfer_count:
        raise LedgerRewritten(
            f"the ledger had {older.batch_count} batches at {older.as_of_us} and has "
            f"{newer.batch_count} now"
        )
    try:
        check_consistency(older.batch_count, older.root, newer.batch_count, newer.root, consistency)
    except MerkleError as error:
        raise LedgerRewritten(error.message) from error


def verify_statement(
    statement: Statement, key: PublicKey, older: LedgerHead | None = None
) -> VerifiedStatement:
    """Check everything; what it then says.

    ``key`` is the coordinator's, known from elsewhere; ``older`` a head that was verified before
    and kept. Raises EnvelopeError, :class:`StatementError`, MerkleError (a transfer that is not in
    the ledger) or :class:`LedgerRewritten`.
    """
    head = open_head(statement.head, key)
    if older is not None:
        if statement.since_batches != older.batch_count and older.batch_count <= head.batch_count:
            raise StatementError(
                f"the statement starts from {statement.since_batches} batches, the head that was "
                f"kept has {older.batch_count}",
                hint="download the statement again",
            )
        check_continues(older, head, statement.consistency)
    for item in statement.batches.values():
        check_batch(item.batch, item.proof, head.batch_count, head.root)
    last = 0
    for entry in statement.transfers:
        transfer = entry.transfer
        if transfer.number <= last:
            raise StatementError(f"transfer {transfer.number} follows {last}")
        last = transfer.number
        holder = statement.batches.get(entry.batch_number)
        if holder is None or holder.batch.number != entry.batch_number:
            raise StatementError(f"batch {entry.batch_number} of transfer {last} is missing")
        check_transfer(transfer, holder.batch, entry.proof)
    transfers = tuple(entry.transfer for entry in statement.transfers)
    return VerifiedStatement(head, transfers, derive_sums(statement.account_id, transfers))


def derive_sums(account_id: str, transfers: tuple[LedgerTransfer, ...]) -> dict[str, BalanceSum]:
    """Balances of an account out of all its transfers; :class:`StatementError` for a foreign one.

    A direct transfer moves its amount, a pending one reserves it, a post moves its own amount and
    frees what was reserved, a void frees it.
    """
    sums: dict[str, BalanceSum] = {}
    pending = {item.transfer_id: item for item in transfers if item.kind == "pending"}

    def add(account: str, balance_nano: int, reserved_nano: int) -> bool:
        owner, _, name = account.rpartition("/")
        if owner != account_id:
            return False
        known = sums.get(name, BalanceSum())
        sums[name] = BalanceSum(
            known.balance_nano + balance_nano, known.reserved_nano + reserved_nano
        )
        return True

    for item in transfers:
        moved = item.amount_nano if item.kind in ("direct", "post") else 0
        reserved = item.amount_nano if item.kind == "pending" else 0
        if item.kind in ("post", "void"):
            held = pending.get(item.pending_id)
            if held is None:
                raise StatementError(f"transfer {item.number} resolves one that is not here")
            reserved = -held.amount_nano
        elif item.kind not in ("direct", "pending"):
            raise StatementError(f"transfer {item.number} is {item.kind[:40]!r}")
        mine = add(item.debit, -moved, reserved)
        if not add(item.credit, moved, 0) and not mine:
            raise StatementError(f"transfer {item.number} does not touch account {account_id}")
    return sums


# --- files ----------------------------------------------------------------------------------------


def statement_to_json(statement: Statement) -> bytes:
    """The file form: hashed bytes as hex, the head as a DSSE envelope."""
    return json.dumps(
        {
            "format": FORMAT,
            "account_id": statement.account_id,
            "coordinator_key": statement.coordinator_key.raw.hex(),
            "head": json.loads(statement.head.to_json()),
            "since_batches": statement.since_batches,
            "consistency": [item.hex() for item in statement.consistency],
            "transfers": [
                {
                    "transfer": encode(entry.transfer).hex(),
                    "batch": entry.batch_number,
                    "proof": encode(entry.proof).hex(),
                }
                for entry in statement.transfers
            ],
            "batches": [
                {"batch": encode(item.batch).hex(), "proof": encode(item.proof).hex()}
                for item in statement.batches.values()
            ],
        },
        indent=1,
    ).encode()


def statement_from_json(data: bytes) -> Statement:
    """Read the file form; :class:`StatementError` for anything else. Nothing is verified yet."""
    if len(data) > MAX_STATEMENT_FILE_BYTES:
        raise StatementError(f"a file of {len(data)} bytes, at most {MAX_STATEMENT_FILE_BYTES}")
    try:
        value = json.loads(data)
        if value["format"] != FORMAT or len(value["transfers"]) > MAX_STATEMENT_TRANSFERS:
            raise StatementError(f"the file is not a {FORMAT}, or has too many transfers")
        batches = [
            StatementBatch(_document(LedgerBatch, item["batch"]), _proof(item["proof"]))
            for item in value["batches"]
        ]
        return Statement(
            account_id=text_of(value["account_id"]),
            coordinator_key=PublicKey(bytes.fromhex(value["coordinator_key"])),
            head=Envelope.from_json(json.dumps(value["head"]).encode()),
            since_batches=_count(value["since_batches"]),
            consistency=tuple(bytes.fromhex(item) for item in value["consistency"]),
            transfers=tuple(
                StatementTransfer(
                    _document(LedgerTransfer, item["transfer"]),
                    _count(item["batch"]),
                    _proof(item["proof"]),
                )
                for item in value["transfers"]
            ),
            batches={item.batch.number: item for item in batches},
        )
    except StatementError:
        raise
    except (FlopmarketError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StatementError(
            f"not a statement file: {type(error).__name__} {error}"[:200]
        ) from error


def _document(cls: type[Any], text: str) -> Any:
    return decode(cls, bytes.fromhex(text))


def _proof(text: str) -> MerkleProof:
    return decode(MerkleProof, bytes.fromhex(text))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a count")
    return value
