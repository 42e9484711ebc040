"""Seeds and past findings of the fuzzer: each is read or refused, in bounded time and memory."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from flopmarket.errors import InvalidInput
from tests.fuzz.documents import document_types
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import (
    CORPUS,
    MAX_SECONDS,
    MAX_SEED_BYTES,
    MAX_SEEDS,
    Finding,
    Target,
    attempt,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_is_read_or_refused(name: str) -> None:
    folder = CORPUS / name
    outcomes = {path.name: attempt(TARGETS[name], path.read_bytes()) for path in folder.iterdir()}
    assert outcomes, "a target without seeds starts from nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_cut_and_flipped_seeds_are_read_or_refused(name: str) -> None:
    """What every fuzzer tries first, without one: cuts, single bits, doubled and empty inputs."""
    for path in sorted((CORPUS / name).iterdir())[:3]:
        data = path.read_bytes()
        attempt(TARGETS[name], data + data)
        for at in range(0, len(data), max(1, len(data) // 16)):
            attempt(TARGETS[name], data[:at])
            flipped = bytes([data[at] ^ (1 << at % 8)])
            attempt(TARGETS[name], data[:at] + flipped + data[at + 1 :])


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_reads_what_is_well_formed(name: str) -> None:
    """Otherwise the fuzzer would only ever see the first refusal."""
    outcomes = {attempt(TARGETS[name], data) for data in TARGETS[name].seeds().values()}
    # A proof that was made for nothing proves nothing; all of its shapes are walked to the end.
    assert "read" in outcomes or name == "merkle-proof", outcomes


def test_the_corpus_stays_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) < MAX_SEEDS
    assert all(path.stat().st_size < MAX_SEED_BYTES for path in files)
    assert {path.parent.name for path in files} == set(TARGETS)


def test_every_declared_document_is_a_target() -> None:
    declared = set()
    for package in ("flopmarket", "worker", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            declared |= set(re.findall(r'^@document\(\s*"([^"]+)"', path.read_text(), re.MULTILINE))
    assert declared == set(document_types())


def test_a_finding_is_a_finding() -> None:
    """The harness catches what it is for: foreign errors, long messages, slow parsers."""

    def target(read: object) -> Target:
        return Target("test", read, dict)  # type: ignore[arg-type]

    def slow(data: bytes) -> None:
        started = time.process_time()
        while time.process_time() - started <= MAX_SECONDS:
            pass

    def refuse(message: str) -> Target:
        def read(data: bytes) -> None:
            raise InvalidInput(message)

        return target(read)

    with pytest.raises(ZeroDivisionError):
        attempt(target(lambda data: 1 // len(data)), b"")
    with pytest.raises(Finding, match="s for 0 bytes"):
        attempt(target(slow), b"")
    with pytest.raises(Finding, match="characters"):
        attempt(refuse("x" * 5_000), b"")
    with pytest.raises(Finding, match="no UTF-8"):
        attempt(refuse("\ud800"), b"")
    assert attempt(refuse("wrong"), b"") == "INVALID_INPUT"
    assert attempt(target(bytes), b"") == "read"
