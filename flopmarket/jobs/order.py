"""Which rows of the data a step sees: a pure function of the seed, so the worker chooses nothing.

Shuffled order visits every row once an epoch: epoch e maps position p to row F(p), where F is a
Feistel permutation with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002), its round function Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011) keyed by the job's seed. Steps run through epochs without a gap: a batch may span two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from flopmarket.errors import InvalidInput
from flopmarket.jobs.spec import DataOrder, OrderKind

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Words = np.ndarray[Any, np.dtype[np.uint32]]

_ROUNDS = 6
_BLOCK_ROWS = 16_384
_TAG = 0x6F726472  # "ordr": keeps this stream apart from any other use of the seed


def rows_of_step(order: DataOrder, seed: int, step: int) -> Rows:
    """Row numbers of ``step``, int64 [batch], each in 0..rows-1."""
    position = step * order.batch + np.arange(order.batch, dtype=np.int64)
    epoch, offset = position // order.rows, position % order.rows
    if order.kind is OrderKind.SEQUENTIAL:
        return offset
    rows = np.empty(order.batch, dtype=np.int64)
    for number in range(int(epoch[0]), int(epoch[-1]) + 1):
        chosen = epoch == number
        rows[chosen] = permute(offset[chosen], order.rows, seed, number)
    return rows


class RowSchedule:
    """:func:`rows_of_step` for a run of steps: permutes blocks of positions, not single batches.

    A batch of 64 costs as much as a block of thousands, and the last two blocks are remembered.
    """

    def __init__(self, order: DataOrder, seed: int) -> None:
        self._order = order
        self._seed = seed
        self._block = lru_cache(maxsize=2)(self._permuted)

    def rows(self, step: int) -> Rows:
        """Row numbers of ``step``, int64 [batch]."""
        order = self._order
        if order.kind is OrderKind.SEQUENTIAL:
            return rows_of_step(order, self._seed, step)
        rows = np.empty(order.batch, dtype=np.int64)
        done, position = 0, step * order.batch
        while done < order.batch:
            epoch, offset = divmod(position + done, order.rows)
            start = offset - offset % _BLOCK_ROWS
            block = self._block(epoch, start)
            taken = block[offset - start : offset - start + order.batch - done]
            rows[done : done + len(taken)] = taken
            done += len(taken)
        return rows

    def _permuted(self, epoch: int, start: int) -> Rows:
        positions = np.arange(start, min(start + _BLOCK_ROWS, self._order.rows), dtype=np.int64)
        return permute(positions, self._order.rows, self._seed, epoch)


def rows_of_output(order: DataOrder, name: str, stacked: Array) -> Array:
    """An output of sequential steps, [steps, batch, ...], with one row per input row: [rows, ...].

    The last step's surplus rows are dropped. Raises InvalidInput (RESULT_NOT_ROWS) when the output
    has no batch axis.
    """
    if stacked.ndim < 2 or stacked.shape[1] != order.batch:
        raise InvalidInput(
            f"output {name!r} is {list(stacked.shape)}, not one row per input row",
            code="RESULT_NOT_ROWS",
        )
    return stacked.reshape(-1, *stacked.shape[2:])[: order.rows]


def permute(positions: Rows, count: int, seed: int, epoch: int) -> Rows:
    """The epoch's permutation of 0..count-1 at ``positions``."""
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    values = positions.copy()
    walking = np.ones(values.shape, dtype=np.bool_)
    while walking.any():
        values[walking] = _feistel(values[walking], half_bits, seed, epoch)
        walking = values >= count
    return values


def _feistel(values: Rows, half_bits: int, seed: int, epoch: int) -> Rows:
    mask = np.int64((1 << half_bits) - 1)
    left, right = values >> half_bits, values & mask
    for number in range(_ROUNDS):
        mixed = philox(
            right.astype(np.uint32),
            (_TAG ^ number, epoch & 0xFFFFFFFF, (epoch >> 32) & 0xFFFFFFFF),
            seed,
        )
        left, right = right, left ^ (mixed.astype(np.int64) & mask)
    return (left << half_bits) | right


def philox(counter: Words, rest: tuple[int, int, int], seed: int) -> Words:
    """First word of Philox4x32-10 at counters (counter[i], *rest), key ``seed`` (64 bits)."""
    low32, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    words = [counter.astype(np.uint64)]
    words += [np.full(counter.shape, value, dtype=np.uint64) for value in rest]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        first = words[0] * np.uint64(0xD2511F53)
        second = words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> shift) ^ words[1] ^ np.uint64(key[0]),
            second & low32,
            (first >> shift) ^ words[3] ^ np.uint64(key[1]),
            first & low32,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return words[0].astype(np.uint32)
