"""Data order: every epoch is a permutation, decided by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.jobs.order import RowSchedule, permute, philox, rows_of_step
from flopmarket.jobs.spec import DataOrder, OrderKind


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(rows), rows, seed, epoch)
    assert sorted(order.tolist()) == list(range(rows))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**64 - 1))
def test_steps_run_through_epochs_without_a_gap(rows: int, batch: int, seed: int) -> None:
    order = DataOrder(OrderKind.SHUFFLED, rows, batch)
    steps = -(-2 * rows // batch)
    seen = np.concatenate([rows_of_step(order, seed, step) for step in range(steps)])[: 2 * rows]
    assert sorted(seen[:rows].tolist()) == list(range(rows))
    assert sorted(seen[rows:].tolist()) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(OrderKind),
    st.integers(1, 300) | st.integers(16_380, 40_000),
    st.integers(1, 900),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 500), min_size=1, max_size=6),
)
def test_a_schedule_gives_the_rows_of_each_step(
    kind: OrderKind, rows: int, batch: int, seed: int, steps: list[int]
) -> None:
    order = DataOrder(kind, rows, batch)
    schedule = RowSchedule(order, seed)
    for step in steps:
        assert schedule.rows(step).tolist() == rows_of_step(order, seed, step).tolist()


def test_sequential_order_wraps() -> None:
    order = DataOrder(OrderKind.SEQUENTIAL, 5, 3)
    assert [rows_of_step(order, 1, s).tolist() for s in range(2)] == [[0, 1, 2], [3, 4, 0]]


def test_seed_and_epoch_change_the_order() -> None:
    orders = {tuple(permute(np.arange(50), 50, s, e)) for s in (0, 1, 2**63) for e in (0, 1, 2**33)}
    assert len(orders) == 9


def test_philox_is_the_published_generator() -> None:
    """Known answers of Random123 (kat_vectors): counters and keys all zero, all ones."""
    zero = philox(np.array([0], dtype=np.uint32), (0, 0, 0), 0)
    ones = philox(np.array([2**32 - 1], dtype=np.uint32), (2**32 - 1,) * 3, 2**64 - 1)
    assert [hex(zero[0]), hex(ones[0])] == ["0x6627e8d5", "0x408f276d"]


@pytest.mark.parametrize(("rows", "batch"), [(0, 1), (1, 0), (2**40, 1), (1, 2**31)])
def test_absurd_orders_are_refused(rows: int, batch: int) -> None:
    with pytest.raises(InvalidInput) as refusal:
        DataOrder(OrderKind.SHUFFLED, rows, batch)
    assert refusal.value.code == "JOB_DATA_ORDER"
