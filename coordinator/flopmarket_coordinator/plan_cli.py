"""``flop coordinator plan``: what audits will ask of an operator, before the market exists."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from flopmarket.market.money import format_nano

if TYPE_CHECKING:
    from flopmarket_coordinator.core.planning import Market, Plan

MEGABIT = 1_000_000
GIGABYTE = 1_000_000_000


@click.command()
@click.option("--workers", type=click.IntRange(1, 1_000_000), required=True, help="Cards.")
@click.option(
    "--state-bytes",
    type=click.IntRange(0, 1 << 40),
    default=1_490_000_000,
    show_default=True,
    help="What a segment starts from; the default is GPT-2 with Adam.",
)
@click.option("--segment-seconds", type=click.IntRange(1, 86_400), default=90, show_default=True)
@click.option(
    "--hours",
    type=click.IntRange(1, 24),
    default=12,
    show_default=True,
    help="A card works so long a day.",
)
@click.option(
    "--uplink",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    help="Of each worker, Mbit/s.",
)
@click.option(
    "--link",
    type=click.IntRange(1, 1_000_000),
    default=1_000,
    show_default=True,
    help="Of the coordinator, Mbit/s.",
)
@click.option("--ask", default="0.10", show_default=True, help="Of a card, for an hour.")
@click.option(
    "--newcomers", type=click.IntRange(0, 1_000_000), default=1, show_default=True, help="A day."
)
@click.option(
    "--card-over-cpu",
    type=click.IntRange(1, 1_000_000),
    default=250,
    show_default=True,
    help="How many times faster a card is than a CPU machine of the house.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def plan(
    workers: int,
    state_bytes: int,
    segment_seconds: int,
    hours: int,
    uplink: int,
    link: int,
    ask: str,
    newcomers: int,
    card_over_cpu: int,
    as_json: bool,
) -> None:
    """Audits a day, the machines, traffic, disk and money they take, in a market of --workers."""
    from flopmarket.market.money import parse_nano
    from flopmarket_coordinator.core import planning

    market = planning.Market(
        workers=workers,
        state_bytes=state_bytes,
        segment_seconds=segment_seconds,
        hours_per_day=hours,
        uplink_bits=uplink * MEGABIT,
        link_bits=link * MEGABIT,
        ask_nano_per_hour=parse_nano(ask),
        newcomers_per_day=newcomers,
        card_over_cpu=card_over_cpu,
    )
    outcome = planning.plan(market)
    if as_json:
        facts = {"market": dataclasses.asdict(market), "plan": dataclasses.asdict(outcome)}
        click.echo(json.dumps(facts))
        return
    for name, value in _table(market, outcome):
        click.echo(f"{name:<34}  {value}")
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)


def _table(market: Market, outcome: Plan) -> list[tuple[str, str]]:
    return [
        ("segments a day", f"{outcome.segments:,}"),
        ("audited, once trusted", _share(outcome.rate_ppm)),
        ("audits a day", f"{outcome.audits:,}"),
        ("  of them newcomers'", f"{outcome.newcomer_audits:,}"),
        ("canaries, cross-audits a day", f"{outcome.canaries:,}, {outcome.cross_audits:,}"),
        ("audits by the house a day", f"{outcome.house_audits:,}"),
        (
            "  on cards like the workers'",
            _machines(outcome.house_card_minutes, outcome.house_cards),
        ),
        ("  or on CPU machines", _machines(outcome.house_cpu_minutes, outcome.house_cpu_machines)),
        ("seconds between checkpoints", f"{outcome.checkpoint_seconds:,}"),
        ("checkpoints a day", _bytes(outcome.checkpoint_bytes)),
        ("states for audits a day", _bytes(outcome.audit_bytes)),
        ("of a worker's uplink", _share(outcome.worker_uplink_ppm)),
        ("of the coordinator's link", _share(outcome.coordinator_link_ppm)),
        ("disk", _bytes(outcome.disk_bytes)),
        ("work sold a day", _money(outcome.sold_nano)),
        ("audits cost a day", _money(outcome.audit_cost_nano)),
        ("  of it newcomers pay", _money(outcome.newcomers_pay_nano)),
        ("fees a day", _money(outcome.fee_nano)),
        ("bond of a worker", _money(outcome.bond_nano)),
        ("bond and held pay of a worker", _money(outcome.stake_nano)),
        ("hashing, benchmarks", f"{_share(outcome.hashing_ppm)}, {_share(outcome.benchmark_ppm)}"),
        ("trust, all of it, of the work", _share(outcome.trust_ppm)),
    ]


def _share(ppm: int) -> str:
    return f"{ppm / 10_000:.2f} %"


def _bytes(count: int) -> str:
    return f"{count / GIGABYTE:,.1f} GB"


def _money(nano: int) -> str:
    return format_nano(nano, symbol="")


def _machines(minutes: int, count: int) -> str:
    return f"{minutes / 60:,.1f} h a day, {count:,} machine{'' if count == 1 else 's'}"
