"""Options that many commands share, and what they come to: settings, a client, an output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flopmarket.cli.output import Output

if TYPE_CHECKING:
    from flopmarket.client.client import Client
    from flopmarket.client.config import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

_CONNECTION = (
    click.option("--address", metavar="HOST:PORT", help="The coordinator."),
    click.option("--key", metavar="NAME|FILE", help="Our key, by name or file."),
    click.option("--ca", metavar="FILE", help="Authority of the coordinator's certificate (PEM)."),
    click.option("--coordinator-key", metavar="ID", help="Refuse a coordinator with another key."),
    click.option("--account", metavar="ID", help="Account a CI key acts for."),
    click.option("--profile", metavar="NAME", help="Profile of the configuration file."),
)

trusted_key_option = click.option(
    "--key",
    metavar="FILE|HEX|ID",
    help="The coordinator's public key (PEM file or 64 hex digits) or its key id.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def connection_options(function: Function) -> Function:
    """Add the options that say which coordinator, and as whom.

    The command receives them as keyword arguments, for :func:`connect`.
    """
    for option in reversed(_CONNECTION):
        function = option(function)
    return function


def settings_of(connection: dict[str, str | None]) -> Settings:
    """Flags over environment over file over defaults."""
    from flopmarket.client.config import load_settings

    profile = connection.get("profile")
    return load_settings(connection, os.environ, profile=profile)


@contextmanager
def connect(connection: dict[str, str | None], *, with_key: bool = True) -> Iterator[Client]:
    """A client for the options of :func:`connection_options`; closed on the way out."""
    from flopmarket.client.client import Client

    with Client.from_settings(settings_of(connection), with_key=with_key) as client:
        yield client


def output(as_json: bool = False) -> Output:
    """Where this command prints."""
    return Output(as_json=as_json)


def write_file(path: Path, content: bytes, *, force: bool = False) -> None:
    """Create a result file; an existing one is kept unless ``force``."""
    from flopmarket.errors import Conflict, FlopmarketError

    try:
        with path.open("wb" if force else "xb") as file:
            file.write(content)
    except FileExistsError:
        raise Conflict(
            f"{path} exists and is not overwritten", code="FILE_EXISTS", hint="use --force"
        ) from None
    except OSError as error:
        raise FlopmarketError(f"{path}: {error.strerror}", code="FILE_UNWRITABLE") from None
