"""A device of this machine under the benchmark challenge that a coordinator would give it.

What ``flop worker bench --challenge`` runs and prints: the device computes, the reference verifies.
A coordinator uses the same code on both ends of a connection, with its own clock between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flopmarket.cli.output import scaled, size
from flopmarket_worker.calibration import Measured, is_admitted

if TYPE_CHECKING:
    from flopmarket.bench.challenge import LocalRun

_HEADLINE_CLASS = "dot-f32"


def challenge_device(
    measured: Measured, cache_dir: Path | None, *, seconds: int, tiles: int
) -> LocalRun:
    """Challenge a device as ``measured`` would offer it. EngineError when it cannot run at all."""
    from flopmarket.bench.challenge import challenge
    from flopmarket.trust.benchmark_shape import Advertised, Operands

    info, result = measured.info, measured.benchmark
    return challenge(
        str(info["index_name"]),
        Advertised(
            result.flops_per_second[_HEADLINE_CLASS],
            result.bandwidth_bytes_per_second,
            int(info["global_memory_bytes"]),
        ),
        max_allocation_bytes=int(info["max_allocation_bytes"]),
        cache_dir=cache_dir,
        seconds=seconds,
        tiles=tiles,
        operands=Operands.FRACTIONS if is_admitted(measured.admission) else Operands.INTEGERS,
    )


def describe_challenge(measured: Measured, run: LocalRun) -> list[tuple[str, str]]:
    """Names and values for a person."""
    shapes, verdict = run.report.plan.shapes, run.verdict
    products, memory = shapes.product, shapes.memory
    split = products.stages
    lines = [
        (
            "products",
            f"{products.stages} stages of {products.products} x [{products.side}, "
            f"{products.terms}] x [{products.terms}, {products.side}]",
        ),
        ("stages", _seconds(run.stage_seconds[:split])),
    ]
    if memory.stages:
        array = size(memory.array_bytes)
        lines.append(("memory", f"{memory.stages} stages, {memory.passes} passes over {array}"))
        lines.append(("stages", _seconds(run.stage_seconds[split:])))
    opened = run.report.plan.opened_tiles
    lines.append(("opened", f"{opened} tiles, {size(run.opening_bytes)}"))
    lines.append(("verifying", f"{run.verifying_seconds:.2f} s on the reference"))
    lines.append(("verdict", str(verdict.reason)))
    if not verdict.accepted:
        return [*lines, ("seen", verdict.detail), ("remedy", verdict.remedy)]
    rates, plain = verdict.rates, measured.benchmark
    lines.append(
        (
            "rate",
            _beside(rates.dot_flops_per_second, plain.flops_per_second[_HEADLINE_CLASS], "FLOPS"),
        )
    )
    if memory.stages:
        bandwidth = _beside(
            rates.bandwidth_bytes_per_second, plain.bandwidth_bytes_per_second, "B/s"
        )
        lines.append(("bandwidth", bandwidth))
        lines.append(("proven memory", size(rates.proven_memory_bytes)))
    return lines


def _beside(rate: int, plain: int, unit: str) -> str:
    shown = scaled(rate, unit)
    return f"{shown} ({rate / plain:.2f} of the plain benchmark)" if plain else shown


def _seconds(spans: tuple[float, ...]) -> str:
    return " ".join(f"{span:.2f}" for span in spans) + " s"
