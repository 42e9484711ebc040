"""``flop coordinator``: make, serve, migrate and check a market of one's own.

These commands open the store; nothing else of the command line does. Imports are inside the
commands, so that a help text needs none of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flopmarket.market.money import CURRENCIES, DOLLAR
from flopmarket_coordinator.backup_cli import backup, restore
from flopmarket_coordinator.places import data_folder, now_us
from flopmarket_coordinator.plan_cli import plan
from flopmarket_coordinator.wait_options import audit_waits, dispute_waits, wait_options
from flopmarket_coordinator.web.command import board

if TYPE_CHECKING:
    from flopmarket_coordinator.config import CoordinatorConfig
    from flopmarket_coordinator.logs import LogFormat

DEFAULT_LISTEN = "127.0.0.1:7443"
SECOND_US = 1_000_000

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FLOPMARKET_DATA_DIR",
    default=None,
    help="Folder of database, artifacts and keys. Default: the user's data folder.",
)


@click.group()
def coordinator() -> None:
    """Run a market of your own."""


@coordinator.command()
@_data_dir
@click.option(
    "--currency",
    type=click.Choice(CURRENCIES),
    default=None,
    help="What all amounts are in, for ever. Default: USD.",
)
@click.option(
    "--overdraft",
    default=None,
    metavar="COINS",
    help="How far below zero a new account of a flopcoin market may go. Default: 10.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def init(data_dir: Path | None, currency: str | None, overdraft: str | None, as_json: bool) -> None:
    """Make the data directory: keys, TLS authority, database, currency. What exists stays."""
    from flopmarket.market.money import format_amount, parse_nano
    from flopmarket_coordinator.application.currency import adopt, choose
    from flopmarket_coordinator.data_dir import DataDirectory, DirectoryLock
    from flopmarket_coordinator.parameters import Parameters
    from flopmarket_coordinator.store.engine import open_store, write
    from flopmarket_coordinator.store.migrate import check_current, upgrade

    overdraft_nano = None if overdraft is None else parse_nano(overdraft)
    directory = DataDirectory.create(data_folder(data_dir), now_us=now_us())
    with DirectoryLock(directory.root):
        is_new = not directory.database.exists()
        engine = open_store(directory.database_url)
        try:
            (upgrade if is_new else check_current)(engine)
            with write(engine, now_us()) as tx:
                if currency is None and overdraft_nano is None:
                    chosen = adopt(tx, Parameters())
                else:
                    chosen = choose(tx, currency or DOLLAR, overdraft_nano)
        finally:
            engine.dispose()
    facts = {
        "data_dir": str(directory.root),
        "currency": chosen.currency,
        "overdraft": format_amount(chosen.overdraft_nano, chosen.currency),
        "key_id": directory.key.key_id,
        "operator_key": str(directory.root / "keys" / "operator.pem"),
        "ca_certificate": str(directory.authority_file),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name:<14}  {value}")


@coordinator.command()
@_data_dir
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    help="HOST:PORT; port 0 takes any free one. Outside loopback TLS is required (--tls-host).",
)
@click.option("--port", type=click.IntRange(0, 65_535), help="Port instead of --listen's.")
@click.option(
    "--tls-host",
    "tls_hosts",
    multiple=True,
    help="Name or address clients reach this server by; turns TLS on. May be repeated.",
)
@click.option(
    "--worker-listen",
    metavar="HOST:PORT",
    help="Where workers come with client certificates (needs TLS); they are served nowhere else.",
)
@click.option(
    "--recovery-wait",
    type=click.FloatRange(min=0, min_open=True),
    default=72.0,
    show_default=True,
    help="Hours that the recovery of an owner key waits for an objection.",
)
@click.option(
    "--invitation-only",
    is_flag=True,
    help="Open accounts only for those with a token of `flop admin invite`.",
)
@click.option("--address-file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--audit-device", default=None, help="OpenCL device that recomputes segments.")
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Compiled kernels. Default: the user's cache folder.",
)
@click.option("--audit/--no-audit", default=True, show_default=True)
@click.option(
    "--audit-rules",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file with constants of the audit policy that differ from docs/audits.md.",
)
@click.option(
    "--max-house-flops",
    type=click.FloatRange(1, 1e30),
    default=1e18,
    show_default=True,
    help="Operations of a segment that this process recomputes whole; of larger ones drawn steps.",
)
@wait_options
@click.option(
    "--house-disputes/--no-house-disputes",
    default=True,
    show_default=True,
    help="Whether a worker may answer, tile by tile, for what this process finds wrong.",
)
@click.option(
    "--benchmark/--no-benchmark",
    "benchmark",
    default=True,
    show_default=True,
    help="Challenge devices, and lease to those that proved their rates.",
)
@click.option(
    "--benchmark-seconds",
    type=click.IntRange(2, 120),
    default=24,
    show_default=True,
    help="About how long a fast device computes in a challenge; a slow one takes a quarter of it.",
)
@click.option("--lease-ttl", type=float, default=300.0, show_default=True, help="Seconds.")
@click.option("--heartbeat", type=float, default=10.0, show_default=True, help="Seconds.")
@click.option(
    "--decline-pause",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds before a worker is offered a job again that it gave back or let run out.",
)
@click.option("--bond-target", default="1", show_default=True, help="Amount, such as 0.5.")
@click.option("--fee-ppm", type=int, default=30_000, show_default=True)
@click.option(
    "--snapshots",
    "snapshot_seconds",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    help="Seconds between two signed price snapshots.",
)
@click.option(
    "--strangers",
    "stranger_calls",
    type=click.FloatRange(1),
    default=50.0,
    show_default=True,
    help="Calls a second of one host without a session; four times as many at once.",
)
@click.option(
    "--private-webhooks",
    is_flag=True,
    help="Let buyers' webhooks go to http and to private addresses, this machine included.",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus there.")
@click.option(
    "--payments", metavar="HOST:PORT", help="Take a payment provider's signed messages there."
)
@click.option(
    "--payments-secret",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the secret that the provider signs with; 0600.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option("--verbose", is_flag=True, help="Log every call, audit and refusal to stderr.")
def serve(
    data_dir: Path | None,
    listen: str,
    port: int | None,
    tls_hosts: tuple[str, ...],
    worker_listen: str | None,
    recovery_wait: float,
    invitation_only: bool,
    address_file: Path | None,
    audit_device: str | None,
    cache_dir: Path | None,
    audit: bool,
    audit_rules: Path | None,
    max_house_flops: float,
    house_disputes: bool,
    benchmark: bool,
    benchmark_seconds: int,
    lease_ttl: float,
    heartbeat: float,
    decline_pause: float,
    bond_target: str,
    fee_ppm: int,
    snapshot_seconds: float,
    stranger_calls: float,
    private_webhooks: bool,
    metrics: str | None,
    payments: str | None,
    payments_secret: Path | None,
    log_format: LogFormat,
    verbose: bool,
    **waits: float,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Prints one line, with address and key id, when ready."""
    import asyncio

    from flopmarket.market.money import parse_nano
    from flopmarket.trust.audit_policy import RULES
    from flopmarket_coordinator.audit_options import read_rules
    from flopmarket_coordinator.config import CoordinatorConfig, ListenAddress
    from flopmarket_coordinator.logs import set_up
    from flopmarket_coordinator.parameters import Parameters
    from flopmarket_coordinator.rpc.rates import Rate

    set_up(log_format, verbose=verbose)
    address = ListenAddress.parse(listen)
    config = CoordinatorConfig(
        data_dir=data_folder(data_dir),
        listen=address if port is None else address.with_port(port),
        tls_hosts=tls_hosts,
        worker_listen=None if worker_listen is None else ListenAddress.parse(worker_listen),
        audit=audit,
        audit_device=audit_device,
        cache_dir=cache_dir,
        snapshot_interval_seconds=snapshot_seconds,
        strangers=Rate(stranger_calls, 4 * stranger_calls),
        metrics=None if metrics is None else ListenAddress.parse(metrics),
        payments=None if payments is None else ListenAddress.parse(payments),
        payments_secret=_secret(payments, payments_secret),
        parameters=Parameters(
            audit_rules=RULES if audit_rules is None else read_rules(audit_rules),
            audit_waits=audit_waits(waits),
            dispute_waits=dispute_waits(waits),
            max_house_flops=int(max_house_flops),
            house_disputes=house_disputes,
            benchmark_required=benchmark,
            benchmark_seconds=benchmark_seconds,
            fee_ppm=fee_ppm,
            webhook_private_hosts=private_webhooks,
            bond_target_nano=parse_nano(bond_target),
            heartbeat_ms=int(heartbeat * 1000),
            lease_ttl_us=int(lease_ttl * SECOND_US),
            invitation_only=invitation_only,
            recovery_wait_us=max(1, int(recovery_wait * 3_600 * SECOND_US)),
            decline_pause_us=int(decline_pause * SECOND_US),
        ),
    )
    asyncio.run(_serve(config, address_file))


@coordinator.command()
@_data_dir
def migrate(data_dir: Path | None) -> None:
    """Bring the database to the schema of this release. The coordinator must not be running."""
    from flopmarket_coordinator.data_dir import DataDirectory, DirectoryLock
    from flopmarket_coordinator.store.engine import open_store
    from flopmarket_coordinator.store.migrate import check_current, upgrade

    directory = DataDirectory.open(data_folder(data_dir))
    with DirectoryLock(directory.root):
        engine = open_store(directory.database_url)
        try:
            upgrade(engine)
            check_current(engine)
        finally:
            engine.dispose()
    click.echo(f"{directory.database} has the schema of this release", err=True)


@coordinator.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding on stdout.")
def check(data_dir: Path | None, as_json: bool) -> None:
    """Derive every balance and state again and compare. Exit code 1 when something differs.

    Works beside a running coordinator: it only reads.
    """
    import dataclasses

    from flopmarket_coordinator.application import Application
    from flopmarket_coordinator.artifacts import FileArtifactStore
    from flopmarket_coordinator.data_dir import DataDirectory
    from flopmarket_coordinator.parameters import Parameters
    from flopmarket_coordinator.server import Ports
    from flopmarket_coordinator.store.engine import open_store, read
    from flopmarket_coordinator.store.migrate import check_current

    directory, ports = DataDirectory.open(data_folder(data_dir)), Ports.real()
    application = Application(
        key=directory.key,
        parameters=Parameters(),
        artifacts=FileArtifactStore(directory.artifacts, ports.new_id),
        entropy=ports.entropy,
        operator_keys=[directory.operator_key.public],
        chain_secret=directory.chain_secret,
    )
    engine = open_store(directory.database_url)
    try:
        check_current(engine)
        with read(engine, ports.clock_us()) as transaction:
            findings = application.check(transaction)
    finally:
        engine.dispose()
    for finding in findings:
        click.echo(json.dumps(dataclasses.asdict(finding)) if as_json else str(finding))
    click.echo(f"{len(findings)} findings", err=True)
    if findings:
        raise click.exceptions.Exit(1)


coordinator.add_command(backup)
coordinator.add_command(restore)
coordinator.add_command(board)
coordinator.add_command(plan)


async def _serve(config: CoordinatorConfig, address_file: Path | None) -> None:
    """Run until the first signal; a second one ends the process at once."""
    import asyncio
    import os
    import signal

    from flopmarket_coordinator.server import Coordinator

    server, stopping = Coordinator(config), asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.start()
    try:
        if address_file is not None:
            _write_whole(address_file, f"{server.address}\n")
        click.echo(f"listening on {server.address} key {server.key_id}")
        for what, address in (
            ("workers", server.worker_address),
            ("metrics", server.metrics_address),
            ("payments", server.payments_address),
        ):
            if address:
                click.echo(f"{what} on {address}", err=True)
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await server.stop()


def _write_whole(path: Path, text: str) -> None:
    """Whoever waits for the file reads all of it or finds none."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _secret(payments: str | None, file: Path | None) -> bytes:
    """The secret of a payment provider; needed with --payments, and only then."""
    if (payments is None) != (file is None):
        raise click.UsageError("--payments and --payments-secret belong together")
    if file is None:
        return b""
    try:
        if file.stat().st_mode & 0o077:
            raise click.UsageError(f"others can read {file}: chmod 600 it")
        return file.read_bytes().strip()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
