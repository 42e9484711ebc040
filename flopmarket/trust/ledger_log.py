"""The ledger as an append-only log: what is hashed, and the proofs that a root covers it.

Two levels of RFC 9162 trees (section 2.1, the hashing of :mod:`flopmarket.trust.merkle`). The
transfers of one committed batch are the leaves of a tree of their own; the batches are the leaves
of the log, and each names the log's root before it. So a batch costs the coordinator one small tree
and about one more hash, whatever the length of the log; a transfer is proved by two short paths,
and two signed heads (:class:`~flopmarket.trust.documents.LedgerHead`) by log2(batches) hashes.

Called by the coordinator's store (append, prove) and by clients and the checker (verify). Nodes of
the log are named ``(level, index)``: the subtree over batches ``index * 2**level`` and following,
``2**level`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from flopmarket.trust.encoding import Digest, MaxLength, document, encode
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.merkle import (
    EMPTY_TREE,
    MerkleProof,
    TreeBuilder,
    leaf_hash,
    node_hash,
    root_from_proof,
)

Name = Annotated[str, MaxLength(160)]
Text = Annotated[str, MaxLength(1024)]
Node = tuple[int, int]
Range = tuple[int, int]


@document("flopmarket.ledger-transfer.v1")
class LedgerTransfer:
    """One transfer, as it is hashed. ``number`` is its position in the ledger, from 1.

    ``pending_id`` is what a post or void resolves, empty otherwise; ``expires_at_us`` is when a
    pending transfer may no longer be posted, 0 for never.
    """

    number: int
    transfer_id: Name
    kind: Name
    debit: Name
    credit: Name
    amount_nano: int
    purpose: Name
    job_id: Name
    reference: Text
    pending_id: Name
    expires_at_us: int
    created_at_us: int


@document("flopmarket.ledger-batch.v1")
class LedgerBatch:
    """One committed batch, as it is hashed: a leaf of the log. ``number`` counts from 1.

    ``last_transfer`` is the number of its last transfer; the first one follows the batch before.
    ``transfers_root`` is the root over its transfers, ``root_before`` that of the log without it.
    """

    number: int
    last_transfer: int
    transfers_root: Digest
    root_before: Digest
    created_at_us: int


def transfer_leaf(transfer: LedgerTransfer) -> bytes:
    """Hash of a transfer in the tree of its batch."""
    return leaf_hash(encode(transfer))


def batch_leaf(batch: LedgerBatch) -> bytes:
    """Hash of a batch in the log."""
    return leaf_hash(encode(batch))


def transfers_root(leaves: Sequence[bytes]) -> bytes:
    """Root over the transfers of one batch."""
    tree = TreeBuilder()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


# --- appending ------------------------------------------------------------------------------------


def peaks(count: int) -> list[Node]:
    """The full subtrees that ``count`` batches consist of, largest first."""
    return list(_full_subtrees(0, count))


def fold(hashes: Sequence[bytes]) -> bytes:
    """Root of the tree whose full subtrees have these roots, largest first."""
    if not hashes:
        return EMPTY_TREE
    node = hashes[-1]
    for peak in reversed(hashes[:-1]):
        node = node_hash(peak, node)
    return node


def completed_nodes(number: int, leaf: bytes, before: Sequence[bytes]) -> tuple[bytes, ...]:
    """Roots of the subtrees that batch ``number`` completes, from its own leaf (level 0) upward.

    ``before`` are the peaks of the log without it. Every node of the log is completed by exactly
    one batch, so storing these with each batch stores the whole tree.
    """
    nodes = [leaf]
    left = list(before)
    while number & 1 == 0:
        nodes.append(node_hash(left.pop(), nodes[-1]))
        number >>= 1
    return tuple(nodes)


def completing_batch(node: Node) -> int:
    """The batch that completes a node: where it is stored."""
    level, index = node
    return (index + 1) << level


# --- proving --------------------------------------------------------------------------------------


def inclusion_ranges(index: int, count: int) -> list[Range]:
    """Ranges of batches whose roots are the siblings of batch ``index`` (from 0), leaf upward."""
    if not 0 <= index < count:
        raise MerkleError(f"leaf {index} of a tree of {count}", code="MERKLE_NO_SUCH_LEAF")
    ranges: list[Range] = []
    start, end = 0, count
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """Ranges whose roots prove that the log of ``first`` batches begins that of ``second``."""
    if not 0 < first <= second:
        raise MerkleError(f"{first} batches of {second}", code="MERKLE_NO_SUCH_TREE")
    ranges: list[Range] = []
    start, end, known = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, known = middle, False
    if not known:
        ranges.append((start, end))
    return ranges[::-1]


def range_nodes(span: Range) -> list[Node]:
    """The full subtrees of a range out of the two functions above, largest first."""
    return list(_full_subtrees(*span))


def range_root(span: Range, node: Callable[[Node], bytes]) -> bytes:
    """Root of a range, out of stored nodes."""
    return fold([node(item) for item in range_nodes(span)])


# --- verifying ------------------------------------------------------------------------------------


def check_transfer(transfer: LedgerTransfer, batch: LedgerBatch, proof: MerkleProof) -> None:
    """:class:`MerkleError` unless the transfer stands at its place in the batch."""
    first = batch.last_transfer - proof.leaf_count + 1
    if transfer.number - first != proof.leaf_index:
        raise _forged(f"transfer {transfer.number} is proved at another place than its number's")
    if root_from_proof(transfer_leaf(transfer), proof) != batch.transfers_root:
        raise _forged(f"transfer {transfer.number} is not part of batch {batch.number}")


def check_batch(batch: LedgerBatch, proof: MerkleProof, batch_count: int, root: bytes) -> None:
    """:class:`MerkleError` unless the batch stands at its place in the log with this root."""
    if proof.leaf_count != batch_count or proof.leaf_index != batch.number - 1:
        raise _forged(f"batch {batch.number} is proved at another place than its number's")
    if root_from_proof(batch_leaf(batch), proof) != root:
        raise _forged(f"batch {batch.number} is not part of the ledger with this root")


def check_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, hashes: Sequence[bytes]
) -> None:
    """:class:`MerkleError` unless the log of ``second`` batches continues that of ``first``.

    RFC 9162 section 2.1.4.2. ``first`` may be zero: every log continues the empty one.
    """
    if first == 0 or (first == second and not hashes):
        if first and first_root != second_root:
            raise _forged("two different roots for the same number of batches")
        return
    if first > second:
        raise _forged(f"{second} batches cannot continue {first}")
    path = list(hashes)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise _forged("the consistency proof is empty")
    index, last = first - 1, second - 1
    while index & 1:
        index >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _forged("the consistency proof is longer than the log is high")
        if index & 1 or index == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while index & 1 == 0 and index:
                index >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        index >>= 1
        last >>= 1
    if last or old != first_root or new != second_root:
        raise _forged(f"the ledger of {second} batches does not continue that of {first}")


def _full_subtrees(start: int, end: int) -> Iterator[Node]:
    """Full subtrees of ``[start, end)``; ``start`` is a multiple of the largest one's size."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _forged(message: str) -> MerkleError:
    return MerkleError(message, code="LEDGER_PROOF_INVALID")
