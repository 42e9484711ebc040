"""``flop key``: make keys, grant rights to them, show public halves. No private half is printed.

What changes who acts for an account is in :mod:`flopmarket.cli.key_changes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.key_changes import COMMANDS
from flopmarket.cli.options import connect, connection_options, json_option, output, settings_of

if TYPE_CHECKING:
    from flopmarket.trust.keys import PublicKey

_MAX_PEM_BYTES = 16 << 10


@click.group()
def key() -> None:
    """Keys of this user. An account belongs to the key that opened it, or that took its place."""


for _command in COMMANDS:
    key.add_command(_command)


@key.command()
@click.argument("name", required=False)
@click.option(
    "--role",
    type=click.Choice(["owner", "ci"]),
    default="owner",
    show_default=True,
    help="ci: a key for scripts, which submits jobs within what an owner grants it.",
)
@json_option
def new(name: str | None, role: str, as_json: bool) -> None:
    """Make a key called NAME (default: `default`, or `ci`) in the user's configuration folder."""
    from flopmarket.trust.keys import KeyPair

    path = _file(name or ("default" if role == "owner" else "ci"))
    pair = KeyPair.generate()
    pair.save(path)
    out = output(as_json)
    if as_json:
        out.record({"key_id": pair.key_id, "file": str(path)})
        return
    out.line(pair.key_id)
    if role == "owner":
        out.say(f"written to {path}: keep a copy, whoever has this file owns the account")
    else:
        out.say(f"written to {path}: it can do nothing until the owner grants it something,")
        out.say(f"`flop key grant {name or 'ci'} --cap 20 --monthly 5 --expires 30d`")


@key.command()
@click.argument("ci_key", metavar="KEY")
@click.option("--cap", required=True, metavar="AMOUNT", help="All its jobs together; 0 stops it.")
@click.option("--monthly", metavar="AMOUNT", help="Its jobs of a calendar month (UTC).")
@click.option("--expires", default="30d", show_default=True, metavar="SPAN", help="From now.")
@click.option("--label", help="A name for people; the key's name if not given.")
@json_option
@connection_options
def grant(
    ci_key: str,
    cap: str,
    monthly: str | None,
    expires: str,
    label: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Let KEY submit jobs for our account, within limits. Again: the limits are replaced.

    KEY is the name or file of a key of this machine, or a file with its public half (PEM). Workers
    see the grant beside every job that the key signs, and check it themselves.
    """
    from flopmarket.cli.spans import span_seconds

    seconds = span_seconds(expires, "--expires")
    public = _public(ci_key)
    with connect(connection) as client:
        key_id = client.grant_key(
            public,
            cap=cap,
            monthly=monthly,
            expires_seconds=seconds,
            label=label if label is not None else Path(ci_key).stem[:64],
        )
        account_id = client.account_id
    out = output(as_json)
    if as_json:
        out.record({"key_id": key_id, "account_id": account_id})
        return
    out.line(key_id)
    out.say(f"it buys with FLOPMARKET_KEY={ci_key} FLOPMARKET_ACCOUNT={account_id}")


@key.command()
@click.argument("name", required=False)
@click.option("--pem", is_flag=True, help="Print the public key as PEM.")
@json_option
def show(name: str | None, pem: bool, as_json: bool) -> None:
    """Show the id and the public half of key NAME (or of the configured key)."""
    from flopmarket.trust.keys import KeyPair

    path = _file(name or settings_of({}).key)
    public = KeyPair.load(path).public
    out = output(as_json)
    if as_json:
        out.record({"key_id": public.key_id, "public_key": public.raw, "file": str(path)})
    elif pem:
        click.echo(public.to_pem().decode("ascii"), nl=False)
    else:
        out.fields([("key id", public.key_id), ("file", str(path))])


def _file(name: str) -> Path:
    from flopmarket.client.config import key_file

    return key_file(name)


def _public(name: str) -> PublicKey:
    """The public half of a key of this user, or of a file that holds only that."""
    from flopmarket.trust.errors import UnusableKey
    from flopmarket.trust.keys import KeyPair, PublicKey

    path = _file(name)
    try:
        content = path.read_bytes()[:_MAX_PEM_BYTES]
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}", code="KEY_FILE_UNREADABLE") from None
    if b"PUBLIC KEY" in content:
        return PublicKey.from_pem(content)
    return KeyPair.load(path).public
