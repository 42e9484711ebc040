"""The ledger's log: proofs hold for what is in it, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.trust import ledger_log as log
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.merkle import EMPTY_TREE, HashTree, MerkleProof, TreeBuilder


def batch(number: int, twist: int = 0) -> log.LedgerBatch:
    return log.LedgerBatch(number, 3 * number, bytes([number % 256]) * 32, b"r" * 32, 7 + twist)


def transfer(number: int) -> log.LedgerTransfer:
    return log.LedgerTransfer(number, "id", "direct", "a", "b", 5, "pay", "", "", "", 0, 9)


class Log:
    """A log kept as the store keeps it: the completed nodes of each batch."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.rows: dict[int, tuple[bytes, ...]] = {}
        for number, leaf in enumerate(leaves, 1):
            before = [self.node(item) for item in log.peaks(number - 1)]
            self.rows[number] = log.completed_nodes(number, leaf, before)

    def node(self, item: log.Node) -> bytes:
        return self.rows[log.completing_batch(item)][item[0]]

    def root(self, count: int) -> bytes:
        return log.fold([self.node(item) for item in log.peaks(count)])

    def hashes(self, ranges: list[log.Range]) -> list[bytes]:
        return [log.range_root(item, self.node) for item in ranges]

    def proof(self, index: int, count: int) -> MerkleProof:
        return MerkleProof(index, count, tuple(self.hashes(log.inclusion_ranges(index, count))))


def leaves(count: int) -> list[bytes]:
    return [log.batch_leaf(batch(number)) for number in range(1, count + 1)]


@given(st.integers(0, 70))
def test_the_root_is_that_of_the_plain_tree(count: int) -> None:
    tree = TreeBuilder()
    for leaf in leaves(count):
        tree.append(leaf)
    assert Log(leaves(count)).root(count) == tree.root()
    assert (tree.root() == EMPTY_TREE) == (count == 0)


@given(st.integers(1, 70), st.data())
def test_a_batch_is_proved_at_its_place_only(count: int, data: st.DataObject) -> None:
    book = Log(leaves(count))
    number = data.draw(st.integers(1, count))
    proof = book.proof(number - 1, count)
    log.check_batch(batch(number), proof, count, book.root(count))
    for wrong in (
        (batch(number, 1), proof, count, book.root(count)),
        (batch(number), replace(proof, leaf_index=number), count, book.root(count)),
        (batch(number), proof, count + 1, book.root(count)),
        (batch(number), proof, count, b"x" * 32),
    ):
        with pytest.raises(MerkleError):
            log.check_batch(*wrong)


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_log_continues_its_own_past(first: int, more: int) -> None:
    second = first + more
    book = Log(leaves(second))
    hashes = book.hashes(log.consistency_ranges(first, second)) if first else []
    log.check_consistency(first, book.root(first), second, book.root(second), hashes)


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_a_rewritten_past_is_seen(first: int, more: int, data: st.DataObject) -> None:
    """Whatever proof the rewritten log offers, it does not join the old root to the new one."""
    second = first + more
    honest = Log(leaves(second))
    changed = leaves(second)
    at = data.draw(st.integers(0, first - 1))
    changed[at] = log.batch_leaf(batch(at + 1, 1))
    forged = Log(changed)
    ranges = log.consistency_ranges(first, second)
    for book in (forged, honest):
        with pytest.raises(MerkleError):
            log.check_consistency(
                first, honest.root(first), second, forged.root(second), book.hashes(ranges)
            )


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_damaged_consistency_proof_proves_nothing(
    first: int, more: int, data: st.DataObject
) -> None:
    book = Log(leaves(first + more))
    hashes = book.hashes(log.consistency_ranges(first, first + more))
    at = data.draw(st.integers(0, len(hashes) - 1))
    roots = (first, book.root(first), first + more, book.root(first + more))
    for damaged in (
        hashes[:at] + hashes[at + 1 :],
        [*hashes, b"x" * 32],
        [*hashes[:at], b"x" * 32, *hashes[at + 1 :]],
        [],
    ):
        with pytest.raises(MerkleError):
            log.check_consistency(*roots, damaged)
    with pytest.raises(MerkleError):
        log.check_consistency(roots[2], roots[3], roots[0], roots[1], hashes)


@given(st.integers(1, 40), st.integers(0, 100), st.data())
def test_a_transfer_is_proved_at_its_number_only(
    count: int, before: int, data: st.DataObject
) -> None:
    rows = [transfer(before + at + 1) for at in range(count)]
    hashes = [log.transfer_leaf(row) for row in rows]
    holder = replace(
        batch(4), last_transfer=before + count, transfers_root=log.transfers_root(hashes)
    )
    at = data.draw(st.integers(0, count - 1))
    proof = HashTree(hashes).proof(at)
    log.check_transfer(rows[at], holder, proof)
    for wrong in (
        replace(rows[at], amount_nano=6),
        replace(rows[at], number=rows[at].number + 1),
        replace(rows[at], credit="c"),
    ):
        with pytest.raises(MerkleError):
            log.check_transfer(wrong, holder, proof)


def test_no_proof_for_what_is_not_there() -> None:
    for call in (
        lambda: log.inclusion_ranges(3, 3),
        lambda: log.consistency_ranges(0, 3),
        lambda: log.consistency_ranges(4, 3),
        lambda: HashTree([b"a" * 32]).proof(1),
    ):
        with pytest.raises(MerkleError):
            call()
