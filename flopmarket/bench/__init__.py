"""Measuring devices: FLOPS by class of work, bandwidth, launch cost.

:func:`benchmark` is what an engine process runs for ``flop worker bench`` and for every offer.
"""

from flopmarket.bench.device import BENCHMARK_FORMAT, BenchmarkResult, benchmark

__all__ = ["BENCHMARK_FORMAT", "BenchmarkResult", "benchmark"]
