"""``flop benchmark``: what a device proved in a challenge, read and recomputed without a market."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import json_option, output, trusted_key_option
from flopmarket.cli.output import instant, scaled, size

if TYPE_CHECKING:
    from flopmarket.trust.benchmark_file import BenchmarkFile

_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def benchmark() -> None:
    """Signed reports of benchmark challenges, as workers keep them (WORK_DIR/benchmarks)."""


@benchmark.command()
@_file
@trusted_key_option
@json_option
def show(file: Path, key: str | None, as_json: bool) -> None:
    """What FILE says, once its signature is right."""
    found = _read(file, key)
    out = output(as_json)
    if as_json:
        out.record(_as_json(found))
    else:
        out.fields(_lines(found))


@benchmark.command()
@_file
@trusted_key_option
@click.option(
    "--device",
    default="reference",
    show_default=True,
    help="What recomputes the opened places: the reference interpreter, or an OpenCL device.",
)
@json_option
def verify(file: Path, key: str | None, device: str, as_json: bool) -> None:
    """Recompute every opened place of FILE; exit code 1 when one differs."""
    from flopmarket.bench.challenge import Recomputer
    from flopmarket.engine.runtime.open import open_session
    from flopmarket.errors import FlopmarketError
    from flopmarket.trust.benchmark_verifier import Verdict, compare, tasks_of

    found = _read(file, key)
    tasks = tasks_of(found.report, found.opening)
    if isinstance(tasks, Verdict):
        raise FlopmarketError(f"{tasks.reason}: {tasks.detail}", code="BENCHMARK_REPORT")
    out = output(as_json)
    out.say(f"recomputing {len(tasks)} places on {device}")
    recomputer = Recomputer(found.report.plan.shapes, lambda it: open_session(it, device))
    try:
        wrong = compare(tasks, recomputer.values(tasks))
    finally:
        recomputer.close()
    if wrong is not None:
        raise FlopmarketError(f"{wrong.reason}: {wrong.detail}", code="BENCHMARK_REPORT")
    if as_json:
        out.record({"valid": True, "recomputed": len(tasks), **_as_json(found)})
    else:
        out.fields([*_lines(found), ("recomputed", f"{len(tasks)} places, all equal")])


def _read(file: Path, key: str | None) -> BenchmarkFile:
    from flopmarket.cli.receipt import trusted_key
    from flopmarket.errors import FlopmarketError
    from flopmarket.limits import MAX_BENCHMARK_REPORT_BYTES
    from flopmarket.trust.benchmark_file import read_benchmark_file

    with file.open("rb") as opened:
        data = opened.read(MAX_BENCHMARK_REPORT_BYTES + 1)
    trusted, named = trusted_key(key)
    found = read_benchmark_file(data, trusted)
    if not named:
        return found
    if named not in (found.key.key_id, found.key.raw.hex()):
        raise FlopmarketError(
            f"signed by {found.key.key_id}, not by {named}", code="BENCHMARK_WRONG_KEY"
        )
    return replace(found, trusted=True)


def _lines(found: BenchmarkFile) -> list[tuple[str, str]]:
    report, plan = found.report, found.report.plan
    trust = "a key you gave" if found.trusted else "the key inside: compare it with the market's"
    return [
        ("device", f"{plan.device_id} of account {plan.account_id}"),
        ("verdict", f"{report.reason} {report.detail}".strip()),
        ("at", f"{instant(report.sent_at_us)} UTC"),
        ("rate", scaled(report.dot_flops_per_second, "FLOPS")),
        ("bandwidth", scaled(report.bandwidth_bytes_per_second, "B/s")),
        ("proven memory", size(report.proven_memory_bytes)),
        ("signed by", f"{found.key.key_id} ({trust})"),
    ]


def _as_json(found: BenchmarkFile) -> dict[str, Any]:
    report, plan = found.report, found.report.plan
    return {
        "trusted": found.trusted,
        "coordinator_key_id": found.key.key_id,
        "device_id": plan.device_id,
        "device_key_id": plan.device_key_id,
        "account_id": plan.account_id,
        "reason": str(report.reason),
        "detail": report.detail,
        "sent_at_us": report.sent_at_us,
        "dot_flops_per_second": report.dot_flops_per_second,
        "bandwidth_bytes_per_second": report.bandwidth_bytes_per_second,
        "proven_memory_bytes": report.proven_memory_bytes,
    }
