"""``flop key``: make a key, and show the public half of one. The private half is never printed."""

from __future__ import annotations

from pathlib import Path

import click

from flopmarket.cli.options import json_option, output, settings_of


@click.group()
def key() -> None:
    """Keys of this user. An account belongs to the key that opened it."""


@key.command()
@click.argument("name", default="default")
@json_option
def new(name: str, as_json: bool) -> None:
    """Make a key called NAME (default: `default`) in the user's configuration folder."""
    from flopmarket.trust.keys import KeyPair

    path = _file(name)
    pair = KeyPair.generate()
    pair.save(path)
    out = output(as_json)
    if as_json:
        out.record({"key_id": pair.key_id, "file": str(path)})
        return
    out.line(pair.key_id)
    out.say(f"written to {path}: keep a copy, whoever has this file owns the account")


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
