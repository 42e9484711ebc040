"""Roots of tensors and of states: 32 bytes that stand for gigabytes, opened one leaf at a time.

A tensor root is a hash tree over 1 MiB leaves of the tensor's canonical bytes (C order,
little-endian), bound to its dtype name, shape and byte length. A state root is a tree over the
tensor roots of a state in order of their names. Leaves and inner nodes are tagged, and an odd node
is carried up as it is, as in RFC 6962 section 2.1, so no leaf can be passed off as a node or
appended unnoticed. Proofs follow RFC 9162 section 2.1.3.

Called by the job runner (roots of every segment), artifact transfer and disputes (proofs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from flopmarket.limits import (
    MAX_STATE_TENSORS,
    MAX_TENSOR_NAME_BYTES,
    MAX_TENSOR_RANK,
    MERKLE_LEAF_BYTES,
)
from flopmarket.trust.encoding import DIGEST_BYTES, Digest, MaxLength, document, tagged_hash
from flopmarket.trust.errors import MerkleError

LEAF_TAG = b"\x00"
NODE_TAG = b"\x01"
EMPTY_TREE = hashlib.sha256(b"").digest()

_TENSOR_DOMAIN = "flopmarket.tensor-root.v1"
_STATE_DOMAIN = "flopmarket.state-root.v1"
_SEQUENCE_DOMAIN = "flopmarket.sequence-root.v1"


@document("flopmarket.merkle-proof.v1")
class MerkleProof:
    """The sibling hashes from one leaf up to the root of a tree of ``leaf_count`` leaves."""

    leaf_index: int
    leaf_count: int
    siblings: Annotated[tuple[Digest, ...], MaxLength(64)]


class TreeBuilder:
    """A tree root from leaves that come one after another, in memory for log2(leaves) hashes."""

    __slots__ = ("_peaks", "leaf_count")

    def __init__(self) -> None:
        self._peaks: list[bytes] = []  # roots of the full subtrees so far, largest first
        self.leaf_count = 0

    def append(self, leaf_hash: bytes) -> None:
        """Add the hash of the next leaf."""
        node = leaf_hash
        self.leaf_count += 1
        count = self.leaf_count
        while count & 1 == 0:
            node = node_hash(self._peaks.pop(), node)
            count >>= 1
        self._peaks.append(node)

    def root(self) -> bytes:
        """Root of the leaves so far; more may follow."""
        if not self._peaks:
            return EMPTY_TREE
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


class HashTree:
    """A tree over leaf hashes that are kept; a proof takes log2(leaves) steps."""

    __slots__ = ("_levels",)

    def __init__(self, hashes: Iterable[bytes]) -> None:
        level = list(hashes)
        self._levels = [level]
        while len(level) > 1:
            carried = level[-1:] if len(level) & 1 else []
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [node_hash(a, b) for a, b in pairs] + carried
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """Root of the tree, as :class:`TreeBuilder` has it."""
        return self._levels[-1][0] if self._levels[0] else EMPTY_TREE

    def proof(self, index: int) -> MerkleProof:
        """The siblings of one leaf; MerkleError ``MERKLE_NO_SUCH_LEAF`` when there is none."""
        leaf_count = len(self._levels[0])
        if not 0 <= index < leaf_count:
            raise MerkleError(
                f"leaf {index} of a tree of {leaf_count} leaves", code="MERKLE_NO_SUCH_LEAF"
            )
        beside = [(level, (index >> height) ^ 1) for height, level in enumerate(self._levels)]
        siblings = tuple(level[at] for level, at in beside if at < len(level))
        return MerkleProof(index, leaf_count, siblings)


class TensorHasher:
    """A tensor root from bytes that arrive in pieces of any size."""

    __slots__ = ("_dtype", "_leaf", "_leaf_bytes", "_shape", "_tree", "size_bytes")

    def __init__(self, dtype: str, shape: Sequence[int]) -> None:
        self._dtype = dtype
        self._shape = tuple(shape)
        self._tree = TreeBuilder()
        self._leaf = hashlib.sha256(LEAF_TAG)
        self._leaf_bytes = 0
        self.size_bytes = 0

    def update(self, data: Any) -> None:
        """Add bytes: anything with a C-contiguous buffer. Nothing is copied."""
        view = byte_view(data)
        self.size_bytes += len(view)
        while len(view):
            taken = view[: MERKLE_LEAF_BYTES - self._leaf_bytes]
            self._leaf.update(taken)
            self._leaf_bytes += len(taken)
            view = view[len(taken) :]
            if self._leaf_bytes == MERKLE_LEAF_BYTES:
                self._end_leaf()

    def finish(self) -> bytes:
        """The tensor root, 32 bytes. The hasher is used up."""
        if self._leaf_bytes:
            self._end_leaf()
        return _bind_tensor(self._dtype, self._shape, self.size_bytes, self._tree.root())

    def _end_leaf(self) -> None:
        self._tree.append(self._leaf.digest())
        self._leaf = hashlib.sha256(LEAF_TAG)
        self._leaf_bytes = 0


def tensor_root(dtype: str, shape: Sequence[int], data: Any) -> bytes:
    """Root of a whole tensor, 32 bytes.

    ``dtype`` is the engine's name (``float32``), ``data`` its bytes in C order and little-endian:
    bytes, a memoryview, or a NumPy array on a little-endian machine. Not copied. The byte length
    is bound as it is; a length that does not fit dtype and shape is the caller's error.
    """
    hasher = TensorHasher(dtype, shape)
    hasher.update(data)
    return hasher.finish()


def tensor_root_of_leaves(
    dtype: str, shape: Sequence[int], size_bytes: int, hashes: Iterable[bytes]
) -> bytes:
    """:func:`tensor_root` from the hashes of the leaves, in their order."""
    tree = TreeBuilder()
    for item in hashes:
        tree.append(item)
    return _bind_tensor(dtype, tuple(shape), size_bytes, tree.root())


def proofs_of_leaves(hashes: Sequence[bytes], indices: Iterable[int]) -> list[MerkleProof]:
    """Proofs for many leaves of one tree, given by the hashes of all its leaves."""
    tree = HashTree(hashes)
    return [tree.proof(index) for index in indices]


def tensor_proof(data: Any, leaf_index: int) -> MerkleProof:
    """Proof for the leaf ``data[leaf_index * 1 MiB : (leaf_index + 1) * 1 MiB]``."""
    view = byte_view(data)
    hashes = [
        leaf_hash(view[start : start + MERKLE_LEAF_BYTES])
        for start in range(0, len(view), MERKLE_LEAF_BYTES)
    ]
    return HashTree(hashes).proof(leaf_index)


def verify_tensor_leaf(
    root: bytes,
    dtype: str,
    shape: Sequence[int],
    size_bytes: int,
    leaf: Any,
    proof: MerkleProof,
) -> None:
    """:class:`MerkleError` unless ``leaf`` is that leaf of the tensor with this root.

    ``size_bytes`` is the length of the whole tensor; with it the count of leaves and the length of
    each are fixed, so a proof cannot choose its own tree.
    """
    view = byte_view(leaf)
    leaf_count = -(-size_bytes // MERKLE_LEAF_BYTES)
    start = proof.leaf_index * MERKLE_LEAF_BYTES
    if proof.leaf_count != leaf_count or len(view) != min(MERKLE_LEAF_BYTES, size_bytes - start):
        raise _forged("the proof is for a tree or a leaf of another size")
    tree_root = root_from_proof(leaf_hash(view), proof)
    if _bind_tensor(dtype, tuple(shape), size_bytes, tree_root) != root:
        raise _forged("the leaf is not part of the tensor with this root")


def state_root(tensor_roots: Mapping[str, bytes]) -> bytes:
    """Root of a state: tensor roots by name, ordered by the UTF-8 bytes of the names."""
    return _bind_count(_STATE_DOMAIN, _state_leaves(tensor_roots))


def state_proof(tensor_roots: Mapping[str, bytes], name: str) -> MerkleProof:
    """Proof that the tensor called ``name`` belongs to the state."""
    names = _sorted_names(tensor_roots)
    if name not in tensor_roots:
        raise MerkleError(f"the state has no tensor {name[:128]!r}", code="MERKLE_NO_SUCH_TENSOR")
    return HashTree(_state_leaves(tensor_roots)).proof(names.index(name))


def verify_state_tensor(root: bytes, name: str, tensor_root: bytes, proof: MerkleProof) -> None:
    """:class:`MerkleError` unless the state with this root has this tensor root under ``name``."""
    tree_root = root_from_proof(_state_leaf(name, tensor_root), proof)
    if tagged_hash(_STATE_DOMAIN, _u64(proof.leaf_count), tree_root) != root:
        raise _forged(f"tensor {name[:128]!r} is not part of the state with this root")


def sequence_root(roots: Iterable[bytes]) -> bytes:
    """Root of an ordered list of 32-byte roots, such as the outputs roots of a job's segments."""
    leaves = [leaf_hash(_checked_root(root)) for root in roots]
    return _bind_count(_SEQUENCE_DOMAIN, leaves)


def leaf_hash(leaf: bytes | memoryview) -> bytes:
    """sha256(0x00 || leaf)."""
    hasher = hashlib.sha256(LEAF_TAG)
    hasher.update(leaf)
    return hasher.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """sha256(0x01 || left || right)."""
    return hashlib.sha256(NODE_TAG + left + right).digest()


def root_from_proof(leaf: bytes, proof: MerkleProof) -> bytes:
    """The tree root that a leaf hash and its siblings lead to (RFC 9162 section 2.1.3.2)."""
    if proof.leaf_index >= proof.leaf_count:
        raise _forged(f"leaf {proof.leaf_index} of a tree of {proof.leaf_count}")
    index, last = proof.leaf_index, proof.leaf_count - 1
    node = leaf
    for sibling in proof.siblings:
        if last == 0:
            raise _forged("the proof is longer than the tree is high")
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while index & 1 == 0 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    if last:
        raise _forged("the proof is shorter than the tree is high")
    return node


def byte_view(data: Any) -> memoryview:
    """The bytes behind a buffer, not copied; :class:`MerkleError` if they are not in C order."""
    try:
        view = memoryview(data)
        if view.nbytes == 0:
            return memoryview(b"")
        if view.format[:1] in (">", "!") and view.itemsize > 1:
            raise ValueError(f"elements are big-endian ({view.format})")
        return view.cast("B")
    except (TypeError, ValueError) as error:
        raise MerkleError(
            f"not a C-contiguous little-endian buffer: {error}",
            code="MERKLE_BUFFER",
            hint="pass numpy.ascontiguousarray(array), viewed as bytes for exotic dtypes",
        ) from None


def _bind_tensor(dtype: str, shape: tuple[int, ...], size_bytes: int, tree_root: bytes) -> bytes:
    name = dtype.encode("utf-8")
    if not 0 < len(name) <= MAX_TENSOR_NAME_BYTES:
        raise MerkleError(f"dtype name of {len(name)} bytes", code="MERKLE_DTYPE")
    if len(shape) > MAX_TENSOR_RANK:
        raise MerkleError(f"rank {len(shape)}, at most {MAX_TENSOR_RANK}", code="MERKLE_SHAPE")
    return tagged_hash(
        _TENSOR_DOMAIN,
        _u64(len(name)),
        name,
        _u64(len(shape)),
        b"".join(_u64(extent) for extent in shape),
        _u64(size_bytes),
        tree_root,
    )


def _bind_count(domain: str, leaves: Iterable[bytes]) -> bytes:
    tree = TreeBuilder()
    for leaf in leaves:
        tree.append(leaf)
    return tagged_hash(domain, _u64(tree.leaf_count), tree.root())


def _state_leaves(tensor_roots: Mapping[str, bytes]) -> list[bytes]:
    return [_state_leaf(name, tensor_roots[name]) for name in _sorted_names(tensor_roots)]


def _sorted_names(tensor_roots: Mapping[str, bytes]) -> list[str]:
    if len(tensor_roots) > MAX_STATE_TENSORS:
        raise MerkleError(
            f"a state of {len(tensor_roots)} tensors, at most {MAX_STATE_TENSORS}",
            code="MERKLE_TOO_MANY_TENSORS",
        )
    return sorted(tensor_roots, key=_name_bytes)


def _state_leaf(name: str, tensor_root: bytes) -> bytes:
    # The root has a fixed length, so the end of the name is unambiguous.
    return leaf_hash(_checked_root(tensor_root) + _name_bytes(name))


def _name_bytes(name: str) -> bytes:
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise MerkleError("a tensor name is not valid UTF-8", code="MERKLE_NAME") from None
    if not 0 < len(raw) <= MAX_TENSOR_NAME_BYTES:
        raise MerkleError(
            f"a tensor name of {len(raw)} bytes, 1 to {MAX_TENSOR_NAME_BYTES} are allowed",
            code="MERKLE_NAME",
        )
    return raw


def _checked_root(root: bytes) -> bytes:
    if len(root) != DIGEST_BYTES:
        raise MerkleError(f"a root has {DIGEST_BYTES} bytes, not {len(root)}", code="MERKLE_ROOT")
    return root


def _u64(value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise MerkleError(f"{value} does not fit unsigned 64 bits", code="MERKLE_SHAPE")
    return int(value).to_bytes(8, "big")


def _forged(message: str) -> MerkleError:
    return MerkleError(message, code="MERKLE_PROOF_INVALID")
