"""``flop bench``: what a device of this machine computes, and how fast. No market is involved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flopmarket.cli.options import json_option, output
from flopmarket.cli.output import Output, scaled

if TYPE_CHECKING:
    from flopmarket.bench.golden import GoldenReport

_device_option = click.option(
    "--device",
    metavar="NAME",
    help='OpenCL device, "PoCL:0" or part of a name; the best by default.',
)
_cache_option = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where compiled kernels are kept.",
)


@click.group()
def bench() -> None:
    """Measure a device of this machine, and check its bits."""


@bench.command()
@_device_option
@_cache_option
@json_option
def engine(device: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Operations a second by class of work, bandwidth and launch cost, as an offer states them."""
    from flopmarket.bench import benchmark

    out = output(as_json)
    out.say("measuring, which takes up to 20 seconds")
    result = benchmark(device, cache_dir=cache_dir)
    if as_json:
        out.record(result.to_json())
        return
    rows = [
        (name, scaled(rate, "FLOPS") if rate else f"none ({result.failures.get(name, '')})")
        for name, rate in result.flops_per_second.items()
    ]
    rows.append(("bandwidth", scaled(result.bandwidth_bytes_per_second, "B/s")))
    rows.append(("launch", f"{result.launch_nanoseconds / 1000:.1f} us"))
    rows.append(("step on the host", f"{result.step_nanoseconds / 1000:.1f} us"))
    rows.append(("building a kernel", f"{result.build_milliseconds} ms"))
    out.fields(rows)


@bench.command()
@_device_option
@_cache_option
@click.option("--row", "as_row", is_flag=True, help="One line for the table of docs/devices.md.")
@json_option
def golden(device: str | None, cache_dir: Path | None, as_row: bool, as_json: bool) -> int:
    """Admission with every digest shown; exit code 1 unless the device computes FX1."""
    from flopmarket.bench.golden import golden as run_golden
    from flopmarket.bench.golden import table_row

    out = output(as_json)
    out.say("probing and computing the golden programs; a first time builds kernels")
    report = run_golden(device, cache_dir=cache_dir)
    if as_json:
        out.record(report.to_json())
    elif as_row:
        out.line(table_row(report.to_json()))
    else:
        _print(out, report)
    return 0 if report.admitted else 1


def _print(out: Output, report: GoldenReport) -> None:
    out.fields(
        [
            ("device", report.device),
            ("driver", f"{report.platform} {report.driver}"),
            ("profile", f"{report.profile}, admission {report.admission}"),
            ("fma", "contracted helper" if report.contract_helper else "fma()"),
            ("probes", f"{report.probes - len(report.failed_probes)} of {report.probes} passed"),
            ("digest", report.digest),
            ("time", f"{report.seconds:.1f} s"),
        ]
    )
    out.line("")
    rows = [
        (row.name, row.digest[:16] or "-", "ok" if row.passed else "WRONG", row.detail)
        for row in report.rows
    ]
    out.table(("program", "digest", "result", "detail"), rows, "no golden programs")
    for name, detail in report.failed_probes:
        out.say(f"probe failed: {name}: {detail}")
    out.say("admitted to exact mode" if report.admitted else "fast-only: not admitted")
