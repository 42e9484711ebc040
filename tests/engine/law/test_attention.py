"""Prefill and decode have the same bits, whatever the later positions of a cache hold."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.golden.sums import causal_attention
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.realise import Realiser
from tests.engine.law.checking import DEEP, Array, assert_bits, expected_of

LENGTHS = ((33, 33, 16), (65, 70, 33), (20, 257, 8), (257, 513, 40), (513, 600, 64))
GARBAGE = (0.0, np.nan, np.inf, -np.inf, 3e38)


class Attention:
    """[2, rows, depth] queries over a cache [2, capacity, depth]."""

    def __init__(self, rows: int, capacity: int, depth: int) -> None:
        self.q = graph.input_("buffer", "q", dtypes.float32, (2, rows, depth))
        self.k = graph.input_("buffer", "k", dtypes.float32, (2, capacity, depth))
        self.v = graph.input_("buffer", "v", dtypes.float32, (2, capacity, depth))
        self.position = graph.input_("buffer", "position", dtypes.int32, (2, rows))
        self.node = causal_attention(self.q, self.k, self.v, self.position)

    def leaves(self, q: Array, k: Array, v: Array, first: int) -> dict[Node, Array]:
        position = np.broadcast_to(first + np.arange(q.shape[1], dtype=np.int32), q.shape[:2])
        return {self.q: q, self.k: k, self.v: v, self.position: position.copy()}


@pytest.mark.parametrize(("length", "capacity", "depth"), LENGTHS if DEEP else LENGTHS[:4])
def test_prefill_equals_decode(length: int, capacity: int, depth: int, device: Realiser) -> None:
    rng = np.random.default_rng(length)
    q, k, v = (rng.standard_normal((2, capacity, depth)).astype(np.float32) for _ in range(3))
    q = np.ascontiguousarray(q[:, :length])
    prefill, decode = Attention(length, capacity, depth), Attention(1, capacity, depth)
    k[:, length:], v[:, length:] = np.nan, np.inf
    (together,) = device.realise([prefill.node], prefill.leaves(q, k, v, 0))
    assert np.isfinite(together).all()
    if length <= 65:
        (expected,) = expected_of([prefill.node], prefill.leaves(q, k, v, 0))
        assert_bits(expected, together, "reference and device")
    few = {0, 1, 31, 32, length // 2, length - 2, length - 1}
    rows = range(length) if DEEP else sorted(row for row in few if row < length)
    for number, row in enumerate(rows):
        later_k, later_v = k.copy(), v.copy()
        # What decoding has not written yet may be anything.
        later_k[:, row + 1 :] = GARBAGE[number % len(GARBAGE)]
        later_v[:, row + 1 :] = GARBAGE[(number + 1) % len(GARBAGE)]
        leaves = decode.leaves(q[:, row : row + 1].copy(), later_k, later_v, row)
        (alone,) = device.realise([decode.node], leaves)
        assert_bits(together[:, row : row + 1], alone, f"position {row}")


def test_a_prompt_in_two_pieces_is_the_prompt(device: Realiser) -> None:
    """Prefill of positions 0..39 and then 40..64 gives the bits of prefilling all at once."""
    rng = np.random.default_rng(9)
    q, k, v = (rng.standard_normal((2, 65, 16)).astype(np.float32) for _ in range(3))
    whole = Attention(65, 65, 16)
    (expected,) = device.realise([whole.node], whole.leaves(q, k, v, 0))
    for start, stop in ((0, 40), (40, 65)):
        piece = Attention(stop - start, 65, 16)
        leaves = piece.leaves(q[:, start:stop].copy(), k, v, start)
        (found,) = device.realise([piece.node], leaves)
        assert_bits(expected[:, start:stop], found, f"positions {start} to {stop}")
