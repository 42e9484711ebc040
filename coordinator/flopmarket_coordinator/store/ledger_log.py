"""The log over transfers in SQL: batches appended at each commit, heads, and proofs.

``nodes`` of a batch row are the roots of the log's subtrees that the batch completes, so every node
of the log is in exactly one row, found by its number: appending reads the last row and at most
log2(batches) others, and a proof reads a few rows per level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket.market.money import Nano
from flopmarket.trust import ledger_log as log
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.trust.merkle import HashTree, MerkleProof
from flopmarket_coordinator.core.ledger import ESCROW
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.prepared import Prepared

_account = schema.ledger_account
_batch = schema.ledger_batch
_head = schema.ledger_head
_transfer = schema.transfer

_LAST = sa.select(_batch.c.number, _batch.c.last_transfer).order_by(_batch.c.number.desc()).limit(1)
_OPEN = Prepared(
    sa.select(
        *(
            sa.select(sa.func.max(column)).scalar_subquery()
            for column in (_batch.c.number, _batch.c.last_transfer)
        ),
        sa.select(_account.c.balance_nano)
        .where(_account.c.ledger_account_id == sa.bindparam("escrow"))
        .scalar_subquery(),
    )
)
_NODES = sa.select(_batch.c.number, _batch.c.nodes).where(
    _batch.c.number.in_(sa.bindparam("numbers", expanding=True))
)
_LEAVES = Prepared(
    sa.select(_transfer.c.leaf)
    .where(_transfer.c.number > sa.bindparam("after"))
    .order_by(_transfer.c.number)
)
_RANGE = (
    sa.select(_transfer.c.leaf)
    .where(_transfer.c.number > sa.bindparam("after"), _transfer.c.number <= sa.bindparam("last"))
    .order_by(_transfer.c.number)
)
_HOLDERS = sa.select(
    sa.select(_batch.c.number)
    .where(_batch.c.last_transfer >= _transfer.c.number)
    .order_by(_batch.c.last_transfer)
    .limit(1)
    .scalar_subquery()
).where(_transfer.c.number.in_(sa.bindparam("numbers", expanding=True)))
_APPEND = Prepared(sa.insert(_batch))
_LAST_HEAD = (
    sa.select(_head.c.batch_count, _head.c.created_at_us)
    .order_by(_head.c.batch_count.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log goes."""

    batch_count: int
    transfer_count: int


@dataclass(frozen=True, slots=True)
class ProvedBatch:
    """A batch, its path to the root of a log, and the tree over its transfers."""

    batch: log.LedgerBatch
    first_transfer: int
    proof: MerkleProof
    tree: HashTree


def position(tx: Transaction) -> Position:
    """Batches and transfers in the log. Transfers of an open transaction are not in it yet."""
    row = tx.connection.execute(_LAST).first()
    return Position(0, 0) if row is None else Position(row.number, row.last_transfer)


def unsealed(tx: Transaction) -> tuple[Position, Nano]:
    """:func:`position`, and what an open transaction left in escrow: the fees of its batch."""
    number, last_transfer, fees = tuple(_OPEN.run(tx, {"escrow": ESCROW}).one())
    return Position(number or 0, last_transfer or 0), fees or 0


def append(tx: Transaction, before: Position) -> None:
    """Make one batch of the transfers that came after ``before``; nothing when none did."""
    leaves = _LEAVES.run(tx, {"after": before.transfer_count}).scalars().all()
    if leaves:
        append_leaves(tx, before, leaves)


def append_leaves(tx: Transaction, before: Position, leaves: Sequence[bytes]) -> None:
    """The batch of the transfers with these leaves."""
    node = _nodes(tx, log.peaks(before.batch_count))
    peaks = [node(item) for item in log.peaks(before.batch_count)]
    batch = log.LedgerBatch(
        number=before.batch_count + 1,
        last_transfer=before.transfer_count + len(leaves),
        transfers_root=log.transfers_root(leaves),
        root_before=log.fold(peaks),
        created_at_us=tx.now_us,
    )
    nodes = log.completed_nodes(batch.number, log.batch_leaf(batch), peaks)
    _APPEND.run(
        tx,
        {
            "number": batch.number,
            "last_transfer": batch.last_transfer,
            "transfers_root": batch.transfers_root,
            "root_before": batch.root_before,
            "nodes": b"".join(nodes),
            "created_at_us": batch.created_at_us,
        },
    )


def root(tx: Transaction, batch_count: int) -> bytes:
    """Root of the log of the first ``batch_count`` batches."""
    peaks = log.peaks(batch_count)
    node = _nodes(tx, peaks)
    return log.fold([node(item) for item in peaks])


def consistency(tx: Transaction, first: int, second: int) -> tuple[bytes, ...]:
    """The proof that the log of ``second`` batches continues that of ``first``."""
    if first == 0:
        return ()
    ranges = log.consistency_ranges(first, second)
    node = _nodes(tx, (item for span in ranges for item in log.range_nodes(span)))
    return tuple(log.range_root(span, node) for span in ranges)


def prove(tx: Transaction, transfer_numbers: Sequence[int], batch_count: int) -> list[ProvedBatch]:
    """The batches that hold these transfers, oldest first, proved in the log of ``batch_count``.

    Transfers of later batches are left out.
    """
    numbers = set(tx.connection.execute(_HOLDERS, {"numbers": list(transfer_numbers)}).scalars())
    numbers = {number for number in numbers if number is not None and number <= batch_count}
    wanted = numbers | {number - 1 for number in numbers}
    rows = {
        row.number: row
        for row in tx.connection.execute(sa.select(_batch).where(_batch.c.number.in_(wanted)))
    }
    ranges = {number: log.inclusion_ranges(number - 1, batch_count) for number in numbers}
    node = _nodes(
        tx, (item for spans in ranges.values() for span in spans for item in log.range_nodes(span))
    )
    proved: list[ProvedBatch] = []
    for number in sorted(numbers):
        row = rows[number]
        after = rows[number - 1].last_transfer if number > 1 else 0
        leaves = tx.connection.execute(_RANGE, {"after": after, "last": row.last_transfer})
        batch = log.LedgerBatch(
            number, row.last_transfer, row.transfers_root, row.root_before, row.created_at_us
        )
        siblings = tuple(log.range_root(span, node) for span in ranges[number])
        proof = MerkleProof(number - 1, batch_count, siblings)
        proved.append(ProvedBatch(batch, after + 1, proof, HashTree(leaves.scalars().all())))
    return proved


def add_head(tx: Transaction, batch_count: int, envelope: bytes) -> None:
    """Keep a signed head."""
    tx.connection.execute(
        sa.insert(_head).values(batch_count=batch_count, envelope=envelope, created_at_us=tx.now_us)
    )


def last_head(tx: Transaction) -> tuple[int, int] | None:
    """``(batch_count, created_at_us)`` of the newest signed head that was kept."""
    row = tx.connection.execute(_LAST_HEAD).first()
    return None if row is None else (row.batch_count, row.created_at_us)


def _nodes(tx: Transaction, wanted: Iterable[log.Node]) -> Callable[[log.Node], bytes]:
    """A look-up of these nodes."""
    found: dict[int, bytes] = {}
    if numbers := sorted({log.completing_batch(item) for item in wanted}):
        rows = tx.connection.execute(_NODES, {"numbers": numbers})
        found = {row.number: row.nodes for row in rows}

    def node(item: log.Node) -> bytes:
        start = item[0] * DIGEST_BYTES
        return found[log.completing_batch(item)][start : start + DIGEST_BYTES]

    return node
