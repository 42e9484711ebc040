"""A bound on what one test may take."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 30
"""Processor time of one attack; nearly all take a hundredth of it."""

SPARE_BYTES = 2**30
"""Address space that it may take beyond what the process has."""


class OutOfTime(BaseException):
    """No Exception: nothing under test may catch it."""


@pytest.fixture
def bounded() -> Iterator[None]:
    """Every attack has so much memory and time."""

    def out_of_time(number: int, frame: Any) -> None:
        raise OutOfTime

    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * os.sysconf("SC_PAGE_SIZE") + SPARE_BYTES
    handler = signal.signal(signal.SIGPROF, out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)
