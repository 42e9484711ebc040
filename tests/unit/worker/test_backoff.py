"""The worker's one loop of attempts: pauses, errors that no retry mends, and the last error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice, repeat

import pytest

from flopmarket.errors import FlopmarketError, InvalidInput, Unavailable
from flopmarket_worker.backoff import Backoff, persistently


class Attempts:
    """Fails with each of ``errors`` in turn, then answers how often it was tried."""

    def __init__(self, *errors: FlopmarketError) -> None:
        self._errors = list(errors)
        self.tried = 0

    async def __call__(self) -> int:
        self.tried += 1
        if self._errors:
            raise self._errors.pop(0)
        return self.tried


def _away(count: int) -> list[FlopmarketError]:
    return [Unavailable(f"away {index}") for index in range(count)]


def test_an_attempt_is_repeated_until_it_works() -> None:
    attempts, heard = Attempts(*_away(3)), list[str]()
    pauses: Iterator[float] = repeat(0.0)
    found = asyncio.run(persistently(attempts, pauses, lambda error: heard.append(error.message)))
    assert (found, heard) == (4, ["away 0", "away 1", "away 2"])


def test_what_no_retry_mends_is_raised_at_once() -> None:
    attempts = Attempts(Unavailable("away"), InvalidInput("never"))
    with pytest.raises(InvalidInput, match="never"):
        asyncio.run(persistently(attempts, repeat(0.0)))
    assert attempts.tried == 2


def test_the_last_error_is_raised_when_the_pauses_are_used_up() -> None:
    attempts, heard = Attempts(*_away(9)), list[FlopmarketError]()
    with pytest.raises(Unavailable, match="away 2"):
        asyncio.run(persistently(attempts, repeat(0.0, 2), heard.append))
    assert (attempts.tried, len(heard)) == (3, 2)  # nothing follows the last one


def test_pauses_of_a_backoff_grow_for_ever() -> None:
    pauses = Backoff(lambda: 0.0, 1.0, 4.0).pauses()
    assert list(islice(pauses, 4)) == [0.5, 1.0, 2.0, 2.0]
