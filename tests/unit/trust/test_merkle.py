"""Roots and proofs of tensors and states."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.limits import MERKLE_LEAF_BYTES
from flopmarket.trust import merkle
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.merkle import (
    MerkleProof,
    TensorHasher,
    TreeBuilder,
    leaf_hash,
    node_hash,
    root_from_proof,
    sequence_root,
    state_proof,
    state_root,
    tensor_proof,
    tensor_root,
    verify_state_tensor,
    verify_tensor_leaf,
)

ROOTS = {"weight": b"w" * 32, "bias": b"b" * 32, "Ärger": b"a" * 32, "step": b"s" * 32}


def specified_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(
        b"\x01" + specified_root(leaves[:half]) + specified_root(leaves[half:])
    ).digest()


def test_rfc_6962_reference_roots() -> None:
    """The eight inputs of the Certificate Transparency reference tests."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657",
              "606162636465666768696a6b6c6d6e6f"]  # fmt: skip
    tree = TreeBuilder()
    for text in inputs:
        tree.append(leaf_hash(bytes.fromhex(text)))
    assert tree.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_the_builder_makes_the_specified_tree(leaves: list[bytes]) -> None:
    tree = TreeBuilder()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    assert tree.root() == specified_root(leaves)
    assert tree.leaf_count == len(leaves)


@given(st.integers(1, 70), st.data())
def test_every_leaf_has_a_proof_that_fits_no_other_place(count: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(bytes([n])) for n in range(count)]
    tree = TreeBuilder()
    for item in hashes:
        tree.append(item)
    index = data.draw(st.integers(0, count - 1))
    proof = merkle.HashTree(hashes).proof(index)
    assert root_from_proof(hashes[index], proof) == tree.root()
    elsewhere = data.draw(st.integers(0, count - 1))
    if elsewhere != index:
        assert not holds(tree.root(), hashes[elsewhere], proof)
        assert not holds(tree.root(), hashes[index], replace(proof, leaf_index=elsewhere))


def holds(root: bytes, leaf: bytes, proof: MerkleProof) -> bool:
    try:
        return root_from_proof(leaf, proof) == root
    except MerkleError:
        return False


def test_tensor_root_is_bound_to_dtype_shape_and_length() -> None:
    data = bytes(range(24))
    roots = {
        tensor_root("float32", (2, 3), data),
        tensor_root("int32", (2, 3), data),
        tensor_root("float32", (3, 2), data),
        tensor_root("float32", (6,), data),
        tensor_root("float32", (1, 6), data),
        tensor_root("float32", (2, 3), data + b"\x00"),
        tensor_root("float32", (2, 3), data[:-1]),
        tensor_root("float32", (2, 3), bytes(24)),
    }
    assert len(roots) == 8


def test_tensor_root_by_hand() -> None:
    u64 = lambda n: n.to_bytes(8, "big")  # noqa: E731
    tree = hashlib.sha256(b"\x00" + b"abcd").digest()
    assert tensor_root("uint8", (2, 2), b"abcd") == hashlib.sha256(
        b"flopmarket.tensor-root.v1\x00"
        + u64(5) + b"uint8" + u64(2) + u64(2) + u64(2) + u64(4) + tree
    ).digest()  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool", "float64"])
def test_arrays_are_hashed_as_their_bytes(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    expected = tensor_root(dtype, array.shape, array.tobytes())
    assert tensor_root(dtype, array.shape, array) == expected
    assert tensor_root(dtype, array.shape, memoryview(array)) == expected
    array.flags.writeable = False
    assert tensor_root(dtype, array.shape, array) == expected


def test_scalars_and_empty_arrays_have_roots() -> None:
    assert tensor_root("float32", (), np.float32(1.0).reshape(())) == tensor_root(
        "float32", (), np.float32(1.0).tobytes()
    )
    empty = tensor_root("float32", (0, 3), np.zeros((0, 3), np.float32))
    assert empty == tensor_root("float32", (0, 3), b"")
    assert empty != tensor_root("float32", (3, 0), b"")


def test_buffers_out_of_order_are_refused() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for wrong in (array.T, array[:, ::2], array.astype(">f4"), "text", None):
        with pytest.raises(MerkleError) as caught:
            tensor_root("float32", (3, 4), wrong)
        assert caught.value.code == "MERKLE_BUFFER"


def test_a_shape_the_encoding_cannot_hold_is_refused() -> None:
    for shape in ((-1,), (2**64,), (1,) * 65):
        with pytest.raises(MerkleError) as caught:
            tensor_root("float32", shape, b"")
        assert caught.value.code == "MERKLE_SHAPE"
    with pytest.raises(MerkleError) as caught:
        tensor_root("", (), b"")
    assert caught.value.code == "MERKLE_DTYPE"


@settings(max_examples=20)
@given(st.integers(0, 3 * MERKLE_LEAF_BYTES), st.lists(st.integers(0, 2_000_000), max_size=4))
def test_pieces_do_not_matter(size: int, cuts: list[int]) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    hasher = TensorHasher("uint8", (size,))
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    for start, end in pairwise(edges):
        hasher.update(memoryview(data)[start:end])
    assert hasher.size_bytes == size
    assert hasher.finish() == tensor_root("uint8", (size,), data)


BIG = np.arange(5 * MERKLE_LEAF_BYTES // 8 // 2, dtype=np.int64)  # two and a half leaves
BIG_ROOT = tensor_root("int64", BIG.shape, BIG)


def check_big(leaf: object, proof: MerkleProof, **changes: object) -> None:
    known = {"root": BIG_ROOT, "dtype": "int64", "shape": BIG.shape, "size_bytes": BIG.nbytes}
    verify_tensor_leaf(**(known | changes), leaf=leaf, proof=proof)  # type: ignore[arg-type]


def big_leaf(index: int) -> bytes:
    return BIG.tobytes()[index * MERKLE_LEAF_BYTES : (index + 1) * MERKLE_LEAF_BYTES]


def test_each_leaf_of_a_tensor_is_proved() -> None:
    for index in range(3):
        check_big(big_leaf(index), tensor_proof(BIG, index))
    with pytest.raises(MerkleError) as caught:
        tensor_proof(BIG, 3)
    assert caught.value.code == "MERKLE_NO_SUCH_LEAF"


def test_forged_tensor_proofs_are_refused() -> None:
    proof, leaf = tensor_proof(BIG, 1), big_leaf(1)
    last = tensor_proof(BIG, 2)
    altered = bytes([leaf[0] ^ 1]) + leaf[1:]
    inner = node_hash(leaf_hash(big_leaf(0)), leaf_hash(leaf))
    rows: list[tuple[object, MerkleProof, dict[str, object]]] = [
        (altered, proof, {}),
        (leaf[:-1], proof, {}),
        (leaf + b"\x00", proof, {}),
        (b"", proof, {}),
        (big_leaf(0), proof, {}),
        (leaf, replace(proof, leaf_index=0), {}),
        (leaf, replace(proof, leaf_index=3), {}),
        (leaf, replace(proof, leaf_index=2**63), {}),
        (leaf, replace(proof, leaf_count=4), {}),
        (leaf, replace(proof, siblings=proof.siblings[:-1]), {}),
        (leaf, replace(proof, siblings=(*proof.siblings, bytes(32))), {}),
        (leaf, replace(proof, siblings=proof.siblings[::-1]), {}),
        (leaf, proof, {"dtype": "uint64"}),
        (leaf, proof, {"shape": (*BIG.shape, 1)}),
        (leaf, proof, {"size_bytes": BIG.nbytes + 1}),
        (leaf, proof, {"root": bytes(32)}),
        # The two hashes under an inner node, offered as the bytes of a leaf.
        (leaf_hash(big_leaf(0)) + leaf_hash(leaf), replace(last, leaf_index=0, leaf_count=2),
         {"size_bytes": 2 * MERKLE_LEAF_BYTES}),
        (inner, MerkleProof(0, 1, ()), {"size_bytes": 32}),
    ]  # fmt: skip
    for row, (data, forged, changes) in enumerate(rows):
        with pytest.raises(MerkleError) as caught:
            check_big(data, forged, **changes)
        assert caught.value.code == "MERKLE_PROOF_INVALID", row


def test_state_root_does_not_depend_on_the_order_of_the_mapping() -> None:
    assert state_root(ROOTS) == state_root(dict(reversed(ROOTS.items())))


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.binary(min_size=32, max_size=32),
                       max_size=6),
       st.dictionaries(st.text(min_size=1, max_size=4), st.binary(min_size=32, max_size=32),
                       max_size=6))  # fmt: skip
def test_states_have_equal_roots_exactly_when_they_are_equal(
    a: dict[str, bytes], b: dict[str, bytes]
) -> None:
    assert (a == b) == (state_root(a) == state_root(b))


def test_names_and_roots_are_bound_together() -> None:
    swapped = ROOTS | {"weight": ROOTS["bias"], "bias": ROOTS["weight"]}
    renamed = {("w" if name == "weight" else name): root for name, root in ROOTS.items()}
    fewer = {name: root for name, root in ROOTS.items() if name != "step"}
    assert len({state_root(state) for state in (ROOTS, swapped, renamed, fewer, {})}) == 5


def test_state_proofs() -> None:
    root = state_root(ROOTS)
    for name, tensor in ROOTS.items():
        proof = state_proof(ROOTS, name)
        verify_state_tensor(root, name, tensor, proof)
        for wrong in (
            (root, name, b"x" * 32, proof),
            (root, "other", tensor, proof),
            (b"x" * 32, name, tensor, proof),
            (root, name, tensor, replace(proof, leaf_count=3)),
            (root, name, tensor, replace(proof, leaf_count=0, leaf_index=0)),
            (root, name, tensor, replace(proof, siblings=())),
        ):
            with pytest.raises(MerkleError):
                verify_state_tensor(*wrong)
    with pytest.raises(MerkleError) as caught:
        state_proof(ROOTS, "missing")
    assert caught.value.code == "MERKLE_NO_SUCH_TENSOR"


@pytest.mark.parametrize(
    "state", [{"": bytes(32)}, {"\ud800": bytes(32)}, {"x" * 1025: bytes(32)}, {"x": bytes(31)}]
)
def test_states_with_unusable_names_or_roots_are_refused(state: dict[str, bytes]) -> None:
    with pytest.raises(MerkleError):
        state_root(state)


def test_sequence_root_binds_order_and_count() -> None:
    a, b = b"a" * 32, b"b" * 32
    roots = {sequence_root(items) for items in ([], [a], [a, a], [a, b], [b, a], [a, b, a])}
    assert len(roots) == 6
    with pytest.raises(MerkleError):
        sequence_root([b"short"])


def test_proofs_of_the_wrong_height_are_refused_whatever_they_hash_to() -> None:
    leaf = leaf_hash(b"leaf")
    with pytest.raises(MerkleError, match="longer than the tree is high"):
        root_from_proof(leaf, MerkleProof(0, 1, (bytes(32),)))
    with pytest.raises(MerkleError, match="shorter than the tree is high"):
        root_from_proof(leaf, MerkleProof(0, 2, ()))
    with pytest.raises(MerkleError, match="leaf 0 of a tree of 0"):
        root_from_proof(leaf, MerkleProof(0, 0, ()))
