"""Graphs held ready on a device: the weights stay there, and go when nobody needs them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.realise import Held, Realiser

Array = np.ndarray[Any, Any]
WEIGHTS = graph.input_("frozen", "w", dtypes.float32, (64, 64))
X = graph.input_("input", "x", dtypes.float32, (64, 64))
BYTES = 64 * 64 * 4


def product() -> list[Node]:
    """x @ w and w itself."""
    x, w = (graph.reshape(node, (1, 64, 64)) for node in (X, WEIGHTS))
    return [graph.dot(x, w), WEIGHTS]


def random(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)


@pytest.fixture
def realiser() -> Iterator[Realiser]:
    made = Realiser(max_held_bytes=10 * BYTES)
    yield made
    made.close()


def on_device(realiser: Realiser) -> int:
    """Bytes that the realiser's device has allocated."""
    realiser.realise([graph.filled(0.0, X.dtype, (1,))], {})
    (device,) = set(realiser._devices.values())
    assert device is not None
    return device.allocated_bytes


def same(held: Held, x: Array, w: Array) -> bool:
    reference = Realiser().held(product(), {WEIGHTS: w}, "reference")
    pairs = zip(held.run({X: x}), reference.run({X: x}), strict=True)
    return all(have.tobytes() == want.tobytes() for have, want in pairs)


def test_runs_equal_the_reference_whatever_came_before(realiser: Realiser) -> None:
    first, second = random(1), random(2)
    a, b = (realiser.held(product(), {WEIGHTS: w}) for w in (first, second))
    for seed in range(3):
        assert same(a, random(10 + seed), first)
        assert same(b, random(20 + seed), second)


def test_weights_are_uploaded_once(realiser: Realiser, monkeypatch: pytest.MonkeyPatch) -> None:
    held = realiser.held(product(), {WEIGHTS: random(1)})
    held.run({X: random(2)})
    (device,) = set(realiser._devices.values())
    assert device is not None
    sizes: list[int] = []
    upload = device.upload
    monkeypatch.setattr(
        device, "upload", lambda buffer, array: (sizes.append(array.nbytes), upload(buffer, array))
    )
    held.run({X: random(3)})
    assert sizes == [BYTES]


def test_memory_is_given_back_with_the_handle(realiser: Realiser) -> None:
    before = on_device(realiser)
    held = realiser.held(product(), {WEIGHTS: random(1)})
    held.run({X: random(2)})
    assert on_device(realiser) > before
    del held
    gc.collect()
    assert on_device(realiser) == before


def test_the_least_recently_used_make_room_and_come_back(realiser: Realiser) -> None:
    weights = [random(at) for at in range(6)]
    handles = [realiser.held(product(), {WEIGHTS: w}) for w in weights]
    for handle in handles:
        handle.run({X: random(9)})
    assert on_device(realiser) <= 12 * BYTES
    for handle, w in zip(handles, weights, strict=True):
        assert same(handle, random(9), w)


def test_threads_take_turns(realiser: Realiser) -> None:
    weights = [random(at) for at in range(3)]
    handles = [realiser.held(product(), {WEIGHTS: w}) for w in weights]
    wrong: list[int] = []

    def work(at: int) -> None:
        fits = all(same(handles[at % 3], random(seed), weights[at % 3]) for seed in range(10))
        if not fits:
            wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("device", [None, "reference"])
def test_what_is_not_given_is_missing(realiser: Realiser, device: str | None) -> None:
    held = realiser.held(product(), {WEIGHTS: random(1)}, device)
    with pytest.raises(EngineError) as refusal:
        held.run({})
    assert refusal.value.code == "INPUT_MISSING"
