"""What a fuzz target is, and what counts as a finding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flopmarket.engine.errors import EngineError
from flopmarket.errors import FlopmarketError

CORPUS = Path(__file__).parent / "corpus"
"""Seeds and past findings, one folder a target; replayed by the test-suite."""

MAX_SEED_BYTES = 4096
MAX_SEEDS = 300
MAX_SECONDS = 1.0
"""Processor time that one input may take."""

MAX_MESSAGE_CHARACTERS = 4096


class Finding(AssertionError):
    """An input did something other than be read or be refused."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. ``read`` raises an error of ours for what it refuses, and nothing else.

    ``seeds`` gives well-formed inputs by name. ``max_bytes`` bounds what the fuzzer tries.
    """

    name: str
    read: Callable[[bytes], object]
    seeds: Callable[[], Mapping[str, bytes]]
    max_bytes: int = MAX_SEED_BYTES


def attempt(target: Target, data: bytes) -> str:
    """``read``, or the code of the refusal; anything else raises.

    The message of a refusal must be text that a gRPC status can carry, of bounded length.
    """
    started = time.process_time()
    outcome = "read"
    try:
        target.read(data)
    except (FlopmarketError, EngineError) as error:
        outcome = error.code
        message = str(error)
        if len(message) > MAX_MESSAGE_CHARACTERS:
            raise Finding(f"a message of {len(message)} characters: {message[:200]}") from error
        try:
            message.encode("utf-8")
        except UnicodeEncodeError:
            raise Finding(f"a message that is no UTF-8: {message!a:.200}") from error
    seconds = time.process_time() - started
    if seconds > MAX_SECONDS:
        raise Finding(f"{seconds:.1f} s for {len(data)} bytes ({outcome})")
    return outcome


def check_same(again: bytes, data: bytes) -> None:
    """A canonical form has one spelling: what was read is written as the same bytes."""
    if again != data:
        raise Finding("what was read is written as other bytes")
