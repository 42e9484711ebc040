"""Hash-consing: equal nodes are one object, whoever builds them and when."""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program
from tests.engine.programs import F32, linear_step


def test_equal_nodes_are_one_object() -> None:
    a, b = (graph.input_("input", "a", F32, (3,)) for _ in range(2))
    assert a is b
    assert graph.add(a, b) is graph.add(b, a)
    assert graph.const(1, F32) is not graph.const(1, dtypes.int32)


def test_threads_that_build_the_same_program_agree() -> None:
    """Decoding compares nodes by identity; a race in interning would refuse a legal program."""
    threads, rounds = 8, 60
    barrier = threading.Barrier(threads)

    def decode(number: int) -> bytes:
        barrier.wait()
        program = linear_step(rows=number + 2)
        return Program.from_bytes(program.to_bytes()).digest

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for number in range(rounds):
                gc.collect(0)
                assert len(set(pool.map(decode, [number] * threads))) == 1
    finally:
        sys.setswitchinterval(interval)
