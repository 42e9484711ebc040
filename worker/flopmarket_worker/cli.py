"""``flop worker``: rent out the devices of this machine, and measure them.

Options in, :mod:`flopmarket_worker.up` behind; heavy imports happen inside the commands.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import json_option, output
from flopmarket.client.config import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from flopmarket.trust.modes import Mode
    from flopmarket_worker.calibration import Measured
    from flopmarket_worker.offers import OwnerTerms
    from flopmarket_worker.up import UpOptions

_DEVICE = click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="SPEC",
    help="A device, as `PoCL:0` or part of its name; repeatable. Default: all.",
)
_ASK = click.option(
    "--ask",
    metavar="AMOUNT|FORMULA",
    help="Price of one hour: 0.02, or 'electricity * 1.3 + 0.02' (tariff, watts, hour, min, max).",
)
_TARIFF = click.option(
    "--tariff", metavar="PRICE|FILE", help="Price of a kWh: 0.30, or TOML with hours."
)
_WATTS = click.option("--watts", metavar="W", help="Power under load, declared, in watts.")
_CARD_PRICE = click.option("--card-price", metavar="AMOUNT", help="What the card costs to buy.")
_WORK_DIR = click.option(
    "--work-dir", type=click.Path(path_type=Path), metavar="DIR", help="State of this worker."
)
_CACHE_DIR = click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Kernels and artifacts."
)


@click.group()
def worker() -> None:
    """Rent out the devices of this machine."""


@worker.command()
@click.option(
    "--coordinator",
    "--address",
    "address",
    default=None,
    envvar="FLOPMARKET_ADDRESS",
    metavar="HOST:PORT",
    help=f"The coordinator. Default: the one that was joined, else {DEFAULT_ADDRESS}.",
)
@click.option(
    "--ca",
    "ca_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Authority of the coordinator's certificate (PEM).",
)
@_DEVICE
@_ASK
@_TARIFF
@_WATTS
@_CARD_PRICE
@click.option("--region", default="", metavar="R", help="Where the devices are, such as eu-de.")
@click.option(
    "--hours",
    multiple=True,
    metavar="SPAN",
    help="Offer only then: '22-6', 'sat,sun 0-24'; repeatable.",
)
@click.option(
    "--modes",
    default="",
    metavar="MODE,...",
    help="Of exact, class, tolerance. Default: exact if the device is admitted, else the others.",
)
@_WORK_DIR
@_CACHE_DIR
@click.option(
    "--account-key",
    "account_key",
    metavar="NAME|FILE",
    help="Owner key; needed once, to grant this machine's device key.",
)
@click.option("--account", "account_id", default="", metavar="ID", help="Account to earn for.")
@click.option(
    "--key", "key_file", type=click.Path(path_type=Path), metavar="FILE", help="Device key file."
)
@click.option("--label", default="worker", show_default=True, help="Name shown to the owner.")
@click.option("--device-salt", default="", metavar="TEXT", help="Distinct device ids in a test.")
@click.option("--nice", default=0, show_default=True, type=click.IntRange(0, 19))
@click.option("--fault", default="", hidden=True)
@click.option("--clock", metavar="START_US/HOUR_MS", hidden=True)
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
def up(
    ask: str | None,
    tariff: str | None,
    watts: str | None,
    card_price: str | None,
    region: str,
    hours: tuple[str, ...],
    modes: str,
    work_dir: Path | None,
    cache_dir: Path | None,
    account_key: str | None,
    clock: str | None,
    verbose: bool,
    **rest: Any,
) -> None:
    """Offer devices and work until interrupted. A second of patience ends a step, not the work."""
    from flopmarket.client.config import key_file
    from flopmarket.client.joining import read_joined
    from flopmarket_worker.compressed_clock import parse_clock
    from flopmarket_worker.up import run_worker

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("grpc").setLevel(logging.WARNING)
    rest["account_key_file"] = key_file(account_key) if account_key else None
    joined = read_joined(_work_folder(work_dir))
    if joined is not None and rest["address"] in (None, joined.address):
        rest["address"], rest["coordinator_key"] = joined.address, joined.coordinator_key
        if rest["ca_file"] is None and joined.ca_file:
            rest["ca_file"] = Path(joined.ca_file)
    rest["address"] = rest["address"] or DEFAULT_ADDRESS
    owner = _owner(ask, tariff, watts, card_price, region, hours, modes)
    if clock is not None:
        rest["hour_of"] = parse_clock(clock).hour
    options = _options(owner, work_dir, cache_dir, **rest)
    asyncio.run(run_worker(options))


@worker.command()
@_DEVICE
@_ASK
@_TARIFF
@_WATTS
@_CARD_PRICE
@_WORK_DIR
@_CACHE_DIR
@click.option("--challenge", is_flag=True, help="Also prove the rate, as to a coordinator.")
@click.option(
    "--seconds",
    default=24,
    show_default=True,
    type=click.IntRange(1, 120),
    help="Planned length of the challenge's products.",
)
@click.option(
    "--tiles",
    default=32,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Tiles that are opened and recomputed.",
)
@json_option
def bench(
    devices: tuple[str, ...],
    ask: str | None,
    tariff: str | None,
    watts: str | None,
    card_price: str | None,
    work_dir: Path | None,
    cache_dir: Path | None,
    challenge: bool,
    seconds: int,
    tiles: int,
    as_json: bool,
) -> int:
    """Admit and measure devices: FLOPS by class, GB/s, launch cost, and what a dollar buys.

    With --challenge each device also runs the benchmark that cannot be faked; exit code 1 when it
    fails.
    """
    from flopmarket.errors import FlopmarketError
    from flopmarket_worker.challenging import challenge_device, describe_challenge
    from flopmarket_worker.report import describe, record
    from flopmarket_worker.up import measure_devices

    owner = _owner(ask, tariff, watts, card_price)
    options = _options(owner, work_dir, cache_dir, devices=devices)
    out = output(as_json)
    failure: FlopmarketError | None = None
    refused = False
    out.say("measuring, which takes up to a minute a device")
    results: list[tuple[str, Measured | FlopmarketError]] = asyncio.run(
        measure_devices(devices, options)
    )
    for spec, result in results:
        if isinstance(result, FlopmarketError):
            out.say(f"{spec}: {result}")
            failure = result
            continue
        run = None
        if challenge:
            out.say("challenging, which takes a minute")
            kernels = options.cache_folder / "kernels"
            run = challenge_device(result, kernels, seconds=seconds, tiles=tiles)
            refused = refused or not run.verdict.accepted
        if as_json:
            proved = {"challenge": run.to_json()} if run is not None else {}
            out.record(record(result, owner) | proved)
            continue
        out.fields(describe(result, owner))
        if run is not None:
            out.fields(describe_challenge(result, run))
        out.line("")
    if failure is not None:
        raise failure
    return 1 if refused else 0


@worker.command("why")
@click.argument("device", default="", metavar="[DEVICE]")
@_WORK_DIR
@json_option
def why_command(device: str, work_dir: Path | None, as_json: bool) -> None:
    """Why a device has no work: schedule, admission, price rank, orders that it does not fit.

    DEVICE is its name or id, or a part of it; without one all devices of this worker are told.
    """
    from flopmarket.cli.reasons import print_reasons
    from flopmarket.market.money import format_nano
    from flopmarket_worker.why import why

    out = output(as_json)
    for found in why(_work_folder(work_dir), device):
        if as_json:
            out.record(found)
            continue
        ask = format_nano(found.ask_nano_per_hour, symbol="") if found.ask_nano_per_hour else "-"
        out.fields(
            [
                ("device", f"{found.name} ({found.device})"),
                ("offer", found.offer_id or "-"),
                ("state", found.state),
                ("why", found.summary),
                ("ask", f"{ask} an hour" + (f" = {found.formula}" if found.formula else "")),
                ("modes", ", ".join(found.modes) or "-"),
                *([("not exact", found.not_exact)] if found.not_exact else []),
                *([("proof", found.proof)] if found.proof else []),
            ]
        )
        print_reasons(out, found.reasons)
        for text in found.contradictions:
            out.line(f"the coordinator contradicted itself: {text}")
        out.line("")


def _work_folder(work_dir: Path | None) -> Path:
    import platformdirs

    return work_dir or platformdirs.user_state_path("flopmarket") / "worker"


def _owner(
    ask: str | None,
    tariff: str | None,
    watts: str | None,
    card_price: str | None,
    region: str = "",
    hours: tuple[str, ...] = (),
    modes: str = "",
) -> OwnerTerms:
    """What the owner typed. Without an ask it is zero, which stands for "not said"."""
    from flopmarket.market.money import NANO_PER_UNIT, parse_nano
    from flopmarket_worker.asking import parse_ask
    from flopmarket_worker.offers import OwnerTerms
    from flopmarket_worker.signing import local_hour, wall_clock_us
    from flopmarket_worker.tariff import read_tariff
    from flopmarket_worker.telemetry.ports import DeclaredPower, UnknownPower
    from flopmarket_worker.week import parse_schedule

    # Watts are decimals like money; a milliwatt is as fine as an offer can say.
    milliwatts = None if watts is None else parse_nano(watts) // (NANO_PER_UNIT // 1000)
    power = UnknownPower() if milliwatts is None else DeclaredPower(milliwatts)
    formula, ask_nano = None, 0
    if ask is not None:
        formula = parse_ask(ask, read_tariff(tariff) if tariff is not None else None)
        formula.check(power.read().milliwatts)
        now = local_hour(wall_clock_us())
        ask_nano = formula.nano_per_hour(now, power.read().milliwatts)
    return OwnerTerms(
        ask_nano_per_hour=ask_nano,
        card_price_nano=parse_nano(card_price) if card_price else 0,
        power=power,
        region=region,
        formula=formula if formula is not None and formula.changes else None,
        schedule=parse_schedule(hours),
        modes=_modes(modes),
    )


def _modes(text: str) -> tuple[Mode, ...]:
    """What an owner named, ascending, each once."""
    from flopmarket.trust.modes import Mode

    named = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(named - set(Mode))
    if unknown:
        raise click.BadParameter(
            f"{unknown[0][:40]!r} is no mode; write {', '.join(Mode)}", param_hint="--modes"
        )
    return tuple(sorted(Mode(name) for name in named))


def _options(
    owner: OwnerTerms, work_dir: Path | None, cache_dir: Path | None, **rest: Any
) -> UpOptions:
    import platformdirs

    from flopmarket_worker.up import UpOptions

    said: dict[str, Any] = {
        "address": DEFAULT_ADDRESS,
        "ca_file": None,
        "devices": (),
        "account_key_file": None,
        "account_id": "",
        "key_file": None,
        "label": "worker",
        "device_salt": "",
        "fault": "",
        "nice": 0,
    }
    return UpOptions(
        owner=owner,
        work_folder=_work_folder(work_dir),
        cache_folder=cache_dir or platformdirs.user_cache_path("flopmarket") / "worker",
        **{**said, **rest},
    )
