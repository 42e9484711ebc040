"""Named tensors as one file (safetensors) and as one root.

Frozen tensors, states, data and outputs travel in this form. The file's own hash names the
artifact; what a job binds is the Merkle root over canonical tensor bytes, so how a file orders or
pads its contents decides nothing. Files come from strangers: the safetensors library checks offsets
and overlaps, this module checks size, dtypes and shapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from flopmarket.engine import dtypes
from flopmarket.engine.program import TensorSpec
from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_BUNDLE_BYTES, MAX_HASHING_THREADS, MERKLE_LEAF_BYTES
from flopmarket.trust import merkle

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]

_TYPES = {
    "BF16" if dtype is dtypes.bfloat16 else f"{dtype.kind.upper()}{dtype.bits}": dtype
    for dtype in dtypes.DTYPES
    if dtype is not dtypes.bool_
} | {"BOOL": dtypes.bool_}
"""The file format's names of the engine's dtypes."""

LEAST_PARALLEL_BYTES = 4 << 20
"""Below it threads cost more than they bring."""

EMPTY_ROOT = merkle.state_root({})
"""Root of a bundle without tensors; such a bundle needs no file."""


def root(tensors: Mapping[str, Array]) -> bytes:
    """Merkle root of canonical tensors, 32 bytes."""
    return merkle.state_root(dict(zip(tensors, _tensor_roots(tensors.values()), strict=True)))


def tensor_root(array: Array) -> bytes:
    """What a bundle's root is made of, beside the names; 32 bytes."""
    (found,) = _tensor_roots([array])
    return found


def _tensor_roots(arrays: Iterable[Array]) -> Iterator[bytes]:
    """Roots of tensors, whose leaves are hashed side by side where there is enough to hash: on one
    core the hash of a large state takes longer than a large card takes for a step."""
    tensors = [dtypes.canonical(array) for array in arrays]
    views = [merkle.byte_view(_words(tensor)) for tensor in tensors]
    leaves = [
        view[start : start + MERKLE_LEAF_BYTES]
        for view in views
        for start in range(0, len(view), MERKLE_LEAF_BYTES)
    ]
    pool = _hashers() if sum(map(len, views)) >= LEAST_PARALLEL_BYTES else None
    hashes = (pool.map if pool else map)(merkle.leaf_hash, leaves)
    for tensor, view in zip(tensors, views, strict=True):
        own = islice(hashes, -(-len(view) // MERKLE_LEAF_BYTES))
        name = dtypes.from_numpy(tensor.dtype).name
        yield merkle.tensor_root_of_leaves(name, tensor.shape, len(view), own)


def _words(tensor: Array) -> Array:
    """The tensor as integers: bfloat16 is no buffer to Python."""
    return tensor.view(dtypes.unsigned_of(dtypes.from_numpy(tensor.dtype)).numpy)


@cache
def _hashers() -> ThreadPoolExecutor | None:
    """Threads that hash: hashlib works outside the interpreter's lock. Half of the cores are left
    to the owner of the machine; None where that is one."""
    threads = min(MAX_HASHING_THREADS, (os.cpu_count() or 1) // 2)
    return ThreadPoolExecutor(threads, thread_name_prefix="hash") if threads > 1 else None


def save(tensors: Mapping[str, Array]) -> bytes:
    """The bundle's file; tensors are canonicalised."""
    return safetensors.numpy.save({n: dtypes.canonical(a) for n, a in sorted(tensors.items())})


def load(data: bytes) -> Tensors:
    """Tensors of a file from anyone, canonical.

    Raises InvalidInput (BUNDLE_MALFORMED, BUNDLE_DTYPE) or LimitExceeded.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise LimitExceeded(f"a bundle of {len(data)} bytes, at most {MAX_BUNDLE_BYTES}")
    try:
        entries = sorted(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        return {name: dtypes.canonical(_checked_bool(_array(entry))) for name, entry in entries}
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"not a tensor bundle: {error}", code="BUNDLE_MALFORMED") from None


def _array(entry: Mapping[str, Any]) -> Array:
    """The array of one entry of a file."""
    dtype = _TYPES.get(entry["dtype"])
    if dtype is None:
        raise InvalidInput(f"tensor bundle: dtype {entry['dtype']!r}", code="BUNDLE_DTYPE")
    return np.frombuffer(entry["data"], dtype=dtype.numpy).reshape(entry["shape"])


def _checked_bool(array: Array) -> Array:
    """A bool byte other than 0 and 1 has no meaning; it counts as true."""
    return array.view(np.uint8) != 0 if array.dtype == np.bool_ else array


def read(path: Path) -> Tensors:
    """:func:`load` of a file; a missing path is an empty bundle."""
    return load(path.read_bytes()) if path.exists() else {}


def check_specs(tensors: Mapping[str, Array], specs: tuple[TensorSpec, ...], what: str) -> None:
    """Raise InvalidInput (BUNDLE_MISMATCH) unless names, dtypes and shapes match ``specs``."""
    wanted = {spec.name: (spec.dtype.name, spec.shape) for spec in specs}
    given = {name: (str(a.dtype), a.shape) for name, a in tensors.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise InvalidInput(
                f"{what} tensor {name!r}: the program wants {wanted.get(name, 'none')}, "
                f"the bundle has {given.get(name, 'none')}",
                code="BUNDLE_MISMATCH",
            )
