"""``flop prices accuracy``: how far predicted times were off. Needs no key."""

from __future__ import annotations

from typing import Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant

COLUMNS = (
    "class",
    "device",
    ">segments",
    ">median error",
    ">p90 error",
    ">took/predicted",
    ">uncalibrated median",
    ">uncalibrated p90",
)


@click.command()
@click.option("--work-class", default="", help="Only this class of work.")
@click.option("--offer", "offer_id", default="", metavar="OFFER", help="Only this offer.")
@json_option
@connection_options
def accuracy(work_class: str, offer_id: str, as_json: bool, **connection: Any) -> None:
    """How far predicted times were off lately, before and after calibration."""
    with connect(connection, with_key=False) as client:
        found = client.accuracy(work_class, offer_id)
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    out.say(f"as of {instant(found.as_of_us)} UTC; errors are |predicted - measured| / measured")
    rows = [
        (
            row.work_class or "all",
            f"{row.device_name} {row.offer_id}" if row.offer_id else "all",
            str(row.segments),
            _percent(row.error_p50_ppm),
            _percent(row.error_p90_ppm),
            f"x{row.measured_over_predicted_ppm / 1e6:.2f}",
            _percent(row.uncalibrated_error_p50_ppm),
            _percent(row.uncalibrated_error_p90_ppm),
        )
        for row in (found.overall, *found.rows)
        if row.segments
    ]
    out.table(COLUMNS, rows, "no segment was settled yet, so there is nothing to compare")


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.1f} %"
