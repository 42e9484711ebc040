"""Orders as people type them: deadlines, sizes, rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click
import pytest
from click.testing import CliRunner

from flopmarket.cli.order_options import order_options, parse_flops_per_watt, parse_size
from flopmarket.cli.order_times import microseconds, parse_deadline
from flopmarket.client.orders import Order
from flopmarket.errors import InvalidInput

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=BERLIN)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fri 18:00", datetime(2026, 11, 27, 18, tzinfo=BERLIN)),
        ("friday 18:00", datetime(2026, 11, 27, 18, tzinfo=BERLIN)),
        ("wed 12:00", datetime(2026, 12, 2, 12, tzinfo=BERLIN)),
        ("WED 12:01", datetime(2026, 11, 25, 12, 1, tzinfo=BERLIN)),
        ("18:00", datetime(2026, 11, 25, 18, tzinfo=BERLIN)),
        ("9:30", datetime(2026, 11, 26, 9, 30, tzinfo=BERLIN)),
        ("24h", NOW + timedelta(hours=24)),
        ("90m", NOW + timedelta(minutes=90)),
        ("3 d", NOW + timedelta(days=3)),
        ("2026-11-27T18:00", datetime(2026, 11, 27, 18, tzinfo=BERLIN)),
        ("2026-11-27 18:00+00:00", datetime(2026, 11, 27, 18, tzinfo=UTC)),
        ("2026-11-27", datetime(2026, 11, 27, tzinfo=BERLIN)),
    ],
)
def test_deadlines(text: str, expected: datetime) -> None:
    assert parse_deadline(text, NOW, BERLIN) == expected


def test_a_deadline_beyond_the_change_of_the_clocks_is_what_the_wall_shows() -> None:
    before = datetime(2026, 10, 23, 12, tzinfo=BERLIN)  # clocks go back on the 25th
    found = parse_deadline("mon 12:00", before, BERLIN)
    assert found.utcoffset() == timedelta(hours=1)
    assert microseconds(found) - microseconds(before) == (3 * 24 + 1) * 3600 * 10**6


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "DEADLINE_MALFORMED"),
        ("soon", "DEADLINE_MALFORMED"),
        ("fr 18:00", "DEADLINE_MALFORMED"),
        ("fri 24:00", "DEADLINE_MALFORMED"),
        ("fri 18:60", "DEADLINE_MALFORMED"),
        ("-3h", "DEADLINE_MALFORMED"),
        ("9999999h", "DEADLINE_MALFORMED"),
        ("2026-13-01", "DEADLINE_MALFORMED"),
        ("2026-11-25T12:00", "DEADLINE_PASSED"),
        ("1999-01-01", "DEADLINE_PASSED"),
        ("0h", "DEADLINE_PASSED"),
    ],
)
def test_what_is_no_deadline(text: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_deadline(text, NOW, BERLIN)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8GiB", 8 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("4096", 4096),
        ("4096B", 4096),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8 giraffes", "8iB", "0.1", "1e9", "8Gi"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20G", 20 * 10**9),
        ("20 GFLOPS/W", 20 * 10**9),
        ("2.5T", 25 * 10**11),
        ("1000", 1000),
        ("1kFLOP/J", 1000),
    ],
)
def test_flops_per_watt(text: str, value: int) -> None:
    assert parse_flops_per_watt(text) == value


@pytest.mark.parametrize("text", ["", "-20G", "20X", "G", "0.5", "nan"])
def test_what_is_no_flops_per_watt(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_flops_per_watt(text)


def test_options_come_as_one_order() -> None:
    seen: list[Order] = []

    @click.command()
    @order_options
    def command(order: Order) -> None:
        seen.append(order)

    runner = CliRunner()
    assert runner.invoke(command, []).exit_code == 0
    arguments = (
        "--wait --limit 0.02 --min-flops-per-watt 20G --min-memory 8GiB --region eu --region us-ca "
        "--not-region eu-fr --owner abc --not-owner def --deadline 2099-01-01T00:00+00:00"
    )
    result = runner.invoke(command, arguments.split())
    assert result.exit_code == 0, result.output
    assert seen == [
        Order(),
        Order(
            wait=True,
            limit="0.02",
            deadline_us=microseconds(datetime(2099, 1, 1, tzinfo=UTC)),
            min_flops_per_watt=20 * 10**9,
            min_memory_bytes=8 << 30,
            regions=("eu", "us-ca"),
            not_regions=("eu-fr",),
            owners=("abc",),
            not_owners=("def",),
        ),
    ]
    assert runner.invoke(command, ["--min-memory", "lots"]).exit_code == 2
