"""Tensor bundles: roots bind bits, dtypes, shapes and names; hostile files are refused."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

from flopmarket.engine import dtypes
from flopmarket.engine.program import TensorSpec
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.trust import merkle

TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "labels": np.array([1, 2], dtype=np.int32),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.float32(3).reshape(()),
}


def test_file_keeps_tensors_and_root() -> None:
    again = bundle.load(bundle.save(TENSORS))
    assert bundle.root(again) == bundle.root(TENSORS)
    assert {n: (a.dtype, a.shape) for n, a in again.items()} == {
        n: (a.dtype, a.shape) for n, a in TENSORS.items()
    }


def test_root_does_not_depend_on_layout_or_nan_payload() -> None:
    payload = np.array([0xFFC00001], dtype=np.uint32).view(np.float32)
    plain = np.array([np.nan], dtype=np.float32)
    assert bundle.root({"x": payload}) == bundle.root({"x": plain})
    square = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert bundle.root({"x": square.T}) == bundle.root({"x": np.ascontiguousarray(square.T)})


@pytest.mark.parametrize(
    "other",
    [
        {"v": TENSORS["w"]},
        {"w": TENSORS["w"].reshape(3, 2)},
        {"w": TENSORS["w"].view(np.int32)},
        {"w": TENSORS["w"] + 1},
        {"w": -TENSORS["w"]},
        {},
    ],
)
def test_root_binds_name_shape_dtype_and_bits(other: dict[str, np.ndarray]) -> None:
    assert bundle.root(other) != bundle.root({"w": TENSORS["w"]})


@pytest.mark.parametrize("cores", [1, 8])
def test_a_large_root_is_the_same_however_many_threads_hash(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    bundle._hashers.cache_clear()
    words = np.arange((bundle.LEAST_PARALLEL_BYTES >> 2) + 5, dtype=np.uint32)
    tensors = TENSORS | {"large": words, "half": (words % 2048).astype(np.float16).reshape(1, -1)}
    roots = {
        name: merkle.tensor_root(str(array.dtype), array.shape, array.view(np.uint8))
        for name, array in tensors.items()
        if array.ndim and array.size
    } | {name: bundle.tensor_root(tensors[name]) for name in ("empty", "scalar")}
    try:
        assert (bundle._hashers() is None) == (cores == 1)
        assert bundle.root(tensors) == merkle.state_root(roots)
    finally:
        if pool := bundle._hashers():
            pool.shutdown()
        bundle._hashers.cache_clear()


def hostile(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        hostile({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}, bytes(8)),
        hostile({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
        hostile({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        hostile({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
        hostile({"w": {"dtype": "XXX", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        hostile(
            {
                "v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            bytes(4),
        ),
    ],
)
def test_hostile_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        bundle.load(data)
    assert refusal.value.code in ("BUNDLE_MALFORMED", "BUNDLE_DTYPE")


def test_every_dtype_travels() -> None:
    tensors = {d.name: np.ones((2, 3), dtype=d.numpy) for d in dtypes.DTYPES}
    back = bundle.load(bundle.save(tensors))
    assert {name: array.dtype for name, array in back.items()} == {
        d.name: d.numpy for d in dtypes.DTYPES
    }
    assert bundle.root(back) == bundle.root(tensors)


def test_bool_bytes_are_zero_or_one() -> None:
    header = {"m": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}
    tensors = bundle.load(hostile(header, b"\x02\x00"))
    assert tensors["m"].view(np.uint8).tolist() == [1, 0]


def test_mismatch_names_the_tensor() -> None:
    specs = (TensorSpec("w", dtypes.float32, (2, 2)),)
    with pytest.raises(InvalidInput, match=r"'w'.*\(2, 2\).*\(2, 3\)"):
        bundle.check_specs({"w": TENSORS["w"]}, specs, "state")
