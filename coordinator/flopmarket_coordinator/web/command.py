"""``flop coordinator board``: the price board as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

DEFAULT_LISTEN = "127.0.0.1:8080"


@click.command()
@click.option("--coordinator", "address", metavar="HOST:PORT", help="Whose market to show.")
@click.option("--ca", metavar="FILE", help="Authority of the coordinator's certificate (PEM).")
@click.option("--coordinator-key", metavar="ID", help="Refuse a coordinator with another key.")
@click.option("--profile", metavar="NAME", help="Profile of the configuration file.")
@click.option(
    "--listen", default=DEFAULT_LISTEN, show_default=True, help="HOST:PORT; port 0 takes any."
)
@click.option("--public", is_flag=True, help="Allow an address that other machines can reach.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name browsers reach this board by, beside localhost. May be repeated.",
)
@click.option(
    "--key", metavar="NAME|FILE", help="Show jobs and devices of this key's account. Loopback only."
)
@click.option("--account", metavar="ID", help="Account a CI key acts for.")
@click.option(
    "--tariff", metavar="AMOUNT", help="What a kWh costs you, for the pages of your devices."
)
@click.option("--address-file", type=click.Path(dir_okay=False, path_type=Path))
def board(
    listen: str,
    public: bool,
    hosts: tuple[str, ...],
    key: str | None,
    tariff: str | None,
    address_file: Path | None,
    **connection: Any,
) -> None:
    """Prices, offers and depth as web pages, JSON and Prometheus metrics.

    A client of the coordinator like any other; it only reads. With --key it also shows that
    account's jobs and devices, to whoever can open its port: this machine only, therefore.
    """
    import asyncio
    import logging
    import os
    import sys

    try:
        from flopmarket_coordinator.web.remote import RemoteGateway
        from flopmarket_coordinator.web.serve import serve
    except ModuleNotFoundError as error:
        from flopmarket.errors import FlopmarketError

        raise FlopmarketError(
            f"the board needs the package {error.name}, which is not installed",
            code="BOARD_NOT_INSTALLED",
            hint="pip install 'flopmarket[board]'",
        ) from None
    from flopmarket.client.config import load_settings
    from flopmarket_coordinator.config import ListenAddress
    from flopmarket_coordinator.web.board import Board

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    where = ListenAddress.parse(listen)
    check_exposure(where.is_loopback, str(where), is_public=public, has_key=key is not None)
    profile = connection.pop("profile")
    settings = load_settings({**connection, "key": key}, os.environ, profile=profile)
    made = Board(
        RemoteGateway(settings, with_key=key is not None), tariff_nano_per_kwh=_tariff(tariff)
    )
    asyncio.run(serve(made, where.host, where.port, hosts, address_file))


def check_exposure(is_loopback: bool, address: str, *, is_public: bool, has_key: bool) -> None:
    """Refuse what would show an owner's own figures, or the board itself, by accident.

    Raises InvalidInput BOARD_NOT_LOOPBACK or BOARD_KEY_PUBLIC.
    """
    from flopmarket.errors import InvalidInput

    if is_loopback:
        return
    if has_key:
        raise InvalidInput(
            f"with --key, {address} would show your jobs and devices to other machines",
            code="BOARD_KEY_PUBLIC",
            hint="listen on 127.0.0.1, or leave out --key",
        )
    if not is_public:
        raise InvalidInput(
            f"{address} can be reached from other machines",
            code="BOARD_NOT_LOOPBACK",
            hint="listen on 127.0.0.1, or say --public and name the board with --host",
        )


def _tariff(text: str | None) -> int | None:
    from flopmarket.market.money import check_price, parse_nano

    return None if text is None else check_price(parse_nano(text), "tariff")
