"""Attention gives the same bits whole, in pieces, in a cache and beside rubbish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flopmarket.engine.dtypes import bfloat16, float16
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional import (
    KeyValueCache,
    attend,
    scaled_dot_product_attention,
    write_slots,
)
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.engine.tensor import Tensor
from flopmarket.engine.trace import trace
from tests.engine.frontend.near import tensor

Array = np.ndarray[Any, Any]


def heads(seed: int, batch: int, count: int, length: int, width: int = 8) -> Array:
    random = np.random.default_rng(seed)
    return random.normal(size=(batch, count, length, width)).astype(np.float32)


def whole(q: Array, k: Array, v: Array, **options: Any) -> Array:
    return scaled_dot_product_attention(
        tensor(q), tensor(k), tensor(v), is_causal=True, enable_gqa=True, **options
    ).numpy()


@pytest.mark.parametrize("rubbish", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 1, 2], [5, 2]])
def test_prefill_is_decode(pieces: list[int], rubbish: float) -> None:
    q, k, v = heads(1, 2, 4, 7), heads(2, 2, 2, 7), heads(3, 2, 2, 7)
    wanted = whole(q, k, v)
    empty = KeyValueCache.empty(2, 2, 20, 8)
    full = np.full((2, 2, 20, 8), rubbish, np.float32)
    cache = KeyValueCache(tensor(full), tensor(full), empty.position)
    at = 0
    for size in pieces:
        now = slice(at, at + size)
        cache = cache.append(tensor(k[:, :, now]), tensor(v[:, :, now]))
        found = cache.attend(tensor(q[:, :, now])).numpy()
        assert found.tobytes() == wanted[:, :, now].tobytes()
        at += size
    assert cache.position.numpy().tolist() == [7, 7]


def test_decoding_is_a_program_whose_state_is_the_cache() -> None:
    q, k, v = heads(1, 1, 2, 4), heads(2, 1, 2, 4), heads(3, 1, 2, 4)
    wanted = whole(q, k, v)
    names = ("keys", "values", "position")

    def step(
        state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        cache = KeyValueCache(*(state[name] for name in names))
        cache = cache.append(inputs["k"], inputs["v"])
        after = dict(zip(names, (cache.keys, cache.values, cache.position), strict=True))
        return after, {"y": cache.attend(inputs["q"])}

    empty = KeyValueCache.empty(1, 2, 6, 8)
    state = dict(zip(names, (empty.keys, empty.values, empty.position), strict=True))
    program = trace(step, state, dict.fromkeys("qkv", q[:, :, :1]))
    beginning = {name: Tensor(x, device="reference").numpy() for name, x in state.items()}
    sessions = [ReferenceSession(program), open_session(program)]
    for session in sessions:
        session.load({}, beginning)
        for at in range(4):
            now = {name: x[:, :, at : at + 1] for name, x in zip("qkv", (q, k, v), strict=True)}
            y = session.step(now, seed=0, step=at)["y"]
            assert y.tobytes() == np.ascontiguousarray(wanted[:, :, at : at + 1]).tobytes()
        session.close()


def test_long_rows_and_neighbours_change_nothing() -> None:
    q, k, v = heads(1, 3, 2, 130, 4), heads(2, 3, 2, 130, 4), heads(3, 3, 2, 130, 4)
    wanted = whole(q, k, v)
    assert whole(q[1:2], k[1:2], v[1:2]).tobytes() == wanted[1:2].tobytes()
    short = whole(q[:, :, :40], k[:, :, :40], v[:, :, :40])
    assert short.tobytes() == np.ascontiguousarray(wanted[:, :, :40]).tobytes()
    k[:, :, 40:] = np.nan
    v[:, :, 40:] = np.inf
    assert np.ascontiguousarray(whole(q, k, v)[:, :, :40]).tobytes() == short.tobytes()


def test_sequences_of_different_lengths_share_a_cache() -> None:
    q, k, v = heads(1, 2, 2, 6), heads(2, 2, 2, 6), heads(3, 2, 2, 6)
    wanted = whole(q, k, v)
    counts = tensor(np.array([4, 2]))
    cache = KeyValueCache.empty(2, 2, 8, 8)
    cache = cache.append(tensor(k[:, :, :4]), tensor(v[:, :, :4]), counts)
    first = cache.attend(tensor(q[:, :, :4]), count=counts).numpy()
    assert first[0].tobytes() == np.ascontiguousarray(wanted[0, :, :4]).tobytes()
    assert first[1, :, :2].tobytes() == np.ascontiguousarray(wanted[1, :, :2]).tobytes()
    second = [np.stack([x[0, :, 4:5], x[1, :, 2:3]]) for x in (q, k, v)]
    cache = cache.append(tensor(second[1]), tensor(second[2]))
    found = cache.attend(tensor(second[0])).numpy()
    assert found[0].tobytes() == np.ascontiguousarray(wanted[0, :, 4:5]).tobytes()
    assert found[1].tobytes() == np.ascontiguousarray(wanted[1, :, 2:3]).tobytes()


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    q, k, v = (tensor(heads(at, 1, 1, 3)) for at in range(3))
    mask = tensor(np.array([[True, False, False], [False] * 3, [True] * 3]))
    assert not scaled_dot_product_attention(q, k, v, mask).numpy()[0, 0, 1].any()
    lengths = tensor(np.array([0, 1, 3], np.int32))
    found = scaled_dot_product_attention(q, k, v, key_length=lengths).numpy()
    assert not found[0, 0, 0].any()
    np.testing.assert_array_equal(found[0, 0, 1], v.numpy()[0, 0, 0])


@pytest.mark.parametrize("dtype", [float16, bfloat16])
def test_narrow_floats_round_once(dtype: Any) -> None:
    narrow = [Tensor(heads(at, 1, 2, 5), dtype, device="reference") for at in range(3)]
    wide = scaled_dot_product_attention(*(x.float() for x in narrow))
    found = scaled_dot_product_attention(*narrow)
    assert found.dtype is dtype
    np.testing.assert_array_equal(found.numpy(), wide.to(dtype).numpy())


def test_softcap_bounds_scores() -> None:
    q, k, v = (tensor(heads(at, 1, 1, 4) * 10) for at in range(3))
    result = attend(q, k, v, softcap=2.0)
    assert np.abs(result.masked.numpy()).max() <= 2.0
    np.testing.assert_allclose(
        result.masked.numpy(), 2 * np.tanh(result.scores.numpy() / 2), rtol=1e-6
    )


def test_slots_past_the_end_are_dropped_or_continue_in_front() -> None:
    slots, rows = tensor(np.zeros((2, 4, 1), np.float32)), tensor(np.ones((2, 3, 1), np.float32))
    position = tensor(np.array([0, 3]))
    dropped = write_slots(slots, rows, position).numpy()[..., 0]
    assert dropped.tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
    around = write_slots(slots, rows, position, circular=True).numpy()[..., 0]
    assert around.tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_shapes_and_dtypes_are_checked() -> None:
    q, k = tensor(heads(1, 1, 3, 4)), tensor(heads(2, 1, 2, 4))
    with pytest.raises(EngineError, match="SHAPE_MISMATCH"):
        scaled_dot_product_attention(q, k, k, enable_gqa=True)
    with pytest.raises(EngineError, match="DTYPE_UNSUPPORTED"):
        scaled_dot_product_attention(q.double(), q, q)
