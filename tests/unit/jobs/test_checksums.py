"""Checksum lists: the same numbers on device and host, the same bytes back, nothing else read."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.errors import InvalidInput
from flopmarket.jobs import checksums
from flopmarket.jobs.checksums import ChecksumList, ListBuilder, checksum, entry_of, file_bytes
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.runner import JobRunner
from tests.unit.jobs.jobs import small_job
from tests.unit.jobs.test_runner import runner_of

LISTS = st.builds(
    lambda first, words, steps, byte: ChecksumList(
        first, words, bytes((byte + k) % 256 for k in range(4 * words * steps))
    ),
    st.integers(0, 2**40),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 255),
)


def identity(spec: TensorSpec) -> Program:
    """A program whose only output is its state."""
    from flopmarket.engine import graph

    node: Node = graph.input_("state", spec.name, spec.dtype, spec.shape)
    return Program.build(
        frozen=(), state=(spec,), inputs=(), next_state=(node,), outputs=[("same", node)]
    )


@pytest.mark.parametrize("dtype", dtypes.DTYPES, ids=lambda dtype: dtype.name)
def test_host_and_device_count_alike(dtype: dtypes.DType) -> None:
    rng = np.random.default_rng(dtype.code)
    raw = rng.integers(0, 256, 37 * dtype.size_bytes, dtype=np.uint8)
    array = (raw & 1).view(np.bool_) if dtype.kind == "b" else raw.view(dtype.numpy)
    array = dtypes.canonical(array)
    spec = TensorSpec("x", dtype, array.shape)
    session = ReferenceSession(instrument(identity(spec)))
    session.load({}, {"x": array})
    said = session.step({}, seed=0, step=0)[CHECKSUMS]
    assert said.tolist() == [checksum(array)] * 2
    assert said.tobytes() == entry_of((spec, spec), {"x": array})


@given(LISTS)
def test_a_file_gives_the_list_back(sums: ChecksumList) -> None:
    file = sums.to_bytes()
    assert len(file) == file_bytes(sums.steps, sums.words)
    assert ChecksumList.from_bytes(file) == sums
    by_hand = hashlib.sha256(b"flopmarket.inner.v1\x00")
    for step in range(sums.first_step, sums.end_step):
        by_hand.update(step.to_bytes(8, "little") + sums.entry(step))
    assert sums.inner() == by_hand.digest()


@given(LISTS, st.data())
def test_every_bit_of_a_list_is_hashed(sums: ChecksumList, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sums.data) - 1))
    changed = bytearray(sums.data)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    assert ChecksumList(sums.first_step, sums.words, bytes(changed)).inner() != sums.inner()
    assert ChecksumList(sums.first_step + 1, sums.words, sums.data).inner() != sums.inner()


@given(st.binary(max_size=64))
def test_other_bytes_are_no_list(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        ChecksumList.from_bytes(data)


def test_a_header_that_does_not_fit_is_refused() -> None:
    file = ChecksumList(3, 2, bytes(16)).to_bytes()
    for broken in (
        file[:-1],
        file + b"\0",
        b"G" + file[1:],
        file[:16] + struct.pack("<I", 3) + file[20:],
        file[:20] + struct.pack("<I", 0) + file[24:],
        file[:20] + struct.pack("<I", 4) + file[24:],
    ):
        with pytest.raises(InvalidInput):
            ChecksumList.from_bytes(broken)
    with pytest.raises(InvalidInput):
        ChecksumList(3, 2, bytes(16)).entry(5)


def test_a_list_that_grows_too_long_is_let_go_but_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "MAX_CHECKSUM_LIST_BYTES", 40)
    built, whole = ListBuilder(7), ChecksumList(7, 2, bytes(range(40)))
    for step in range(7, 12):
        built.add(whole.entry(step))
    assert built.list() is None
    assert built.inner() == whole.inner()


def test_the_runner_keeps_what_it_hashes() -> None:
    runner: JobRunner = runner_of(small_job())
    result = runner.run_segment(0, 4)
    assert result.checksums is not None
    assert (result.checksums.first_step, result.checksums.steps) == (0, 4)
    assert result.checksums.inner() == result.inner
    state = runner.read_state()
    last = result.checksums.entry(3)
    specs = small_job().program.state
    assert last[: 4 * len(specs)] == entry_of(specs, state)
