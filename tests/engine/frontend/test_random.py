"""Philox against its published vectors, distributions, streams."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine import functional, graph, random
from flopmarket.engine.creation import rand, randn
from flopmarket.engine.dtypes import uint32
from flopmarket.engine.errors import EngineError
from tests.engine.frontend.near import tensor, value

# kat_vectors of the Random123 distribution, philox4x32 with 10 rounds.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_published_vectors(counter: str, key: str, result: str) -> None:
    c = [graph.const(int(word, 16), uint32) for word in counter.split()]
    k = [graph.const(int(word, 16), uint32) for word in key.split()]
    found = random.philox((c[0], c[1], c[2], c[3]), (k[0], k[1]))
    assert [f"{int(value(word)):08x}" for word in found] == result.split()


def test_uniform_and_normal_have_their_moments() -> None:
    u, n = value(rand(20_000, seed=4).node), value(randn(20_000, seed=4).node)
    assert u.min() >= 0.0 and u.max() < 1.0
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.003
    assert abs(n.mean()) < 0.03 and abs(n.std() - 1) < 0.02 and abs((n**4).mean() - 3) < 0.25


def test_a_draw_depends_on_seed_step_ordinal_and_place_only() -> None:
    def draw(seed: int, step: int, ordinal: int) -> list[int]:
        return value(random.words(random.key(seed), step, ordinal, (4,))[0]).tolist()

    draws = [draw(1, 0, 0), draw(2, 0, 0), draw(1, 1, 0), draw(1, 0, 1), draw(1 + 2**32, 0, 0)]
    assert len({tuple(d) for d in draws}) == 5
    longer = value(random.words(random.key(1), 0, 0, (2, 3))[0]).ravel().tolist()
    assert longer[:4] == draws[0]


def test_dropout_scales_what_it_keeps_and_two_calls_differ() -> None:
    x = tensor(np.ones((50, 40), dtype=np.float32))
    with random.scope(seed=9, step=3):
        first, second = functional.dropout(x, 0.25), functional.dropout(x, 0.25)
    a, b = first.numpy(), second.numpy()
    assert set(np.unique(a)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((a == 0).mean() - 0.25) < 0.04
    assert 0.25 < (a != b).mean() < 0.5
    with random.scope(seed=9, step=3):
        again = functional.dropout(x, 0.25)
    np.testing.assert_array_equal(again.numpy(), a)


def test_dropout_in_evaluation_is_the_identity_and_needs_no_scope() -> None:
    x = tensor([1.0, 2.0])
    assert functional.dropout(x, 0.5, training=False) is x
    with pytest.raises(EngineError, match="RANDOM_SCOPE"):
        functional.dropout(x, 0.5)
    with pytest.raises(EngineError, match="DROPOUT_RANGE"):
        functional.dropout(x, 1.5)
    with pytest.raises(EngineError, match="SEED_RANGE"):
        random.key(2**64)
