"""``flop key list|rotate|revoke|recovery|recover``: who acts for the account, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output, settings_of
from flopmarket.cli.output import instant

if TYPE_CHECKING:
    from flopmarket.client.client import Client
    from flopmarket.trust.keys import KeyPair


@click.command("list")
@click.option("--all", "with_ended", is_flag=True, help="Also keys that act no more.")
@json_option
@connection_options
def list_keys(with_ended: bool, as_json: bool, **connection: Any) -> None:
    """Keys of the account: owner, devices, CI keys; its recovery key; a recovery that waits."""
    with connect(connection) as client:
        found = client.keys()
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    rows = [
        (
            key.key_id[:16],
            key.role,
            key.label,
            key.state,
            instant(key.created_at_us),
            str(key.live_leases) if key.role == "device" else "",
            key.successor[:16] or key.banned_reason,
        )
        for key in found.keys
        if with_ended or key.state == "active" or key.live_leases
    ]
    columns = ("key", "role", "label", "state", "since (UTC)", ">leases", "successor")
    out.table(columns, rows, "no keys")
    out.say(f"recovery key: {found.recovery_key_id[:16] or 'none; make one: flop key recovery'}")
    if found.recovery is not None:
        out.say(
            f"a recovery to key {found.recovery.new_key_id[:16]} takes effect at "
            f"{instant(found.recovery.due_at_us)} UTC; if it is not yours: "
            "flop key recover --object"
        )
    if found.frozen_until_us:
        out.say(f"no withdrawals before {instant(found.frozen_until_us)} UTC")


@click.command()
@click.argument("name", required=False, metavar="[NAME|FILE]")
@click.option("--device", is_flag=True, help="The device key of this machine's worker.")
@json_option
@connection_options
def rotate(name: str | None, device: bool, as_json: bool, **connection: Any) -> None:
    """Put a new key in the place of key NAME (default: the configured one).

    The old key signs the new one and is worth nothing afterwards; a worker finishes the leases it
    runs under the old key, and continues under the new one with all its history. The old file is
    kept beside the new one.
    """
    from flopmarket.client.config import key_file
    from flopmarket.client.rotating import rotate_key_file

    if device and name is not None:
        raise click.UsageError("--device is a key of its own; name no other")
    if device:
        connection, path = _of_worker(connection)
    else:
        path = key_file(name if name is not None else settings_of(connection).key)
    with connect(connection, with_key=False) as client:
        done = rotate_key_file(client, path, settings_of(connection).account)
    out = output(as_json)
    if as_json:
        out.record(
            {
                "old_key_id": done.old_key_id,
                "key_id": done.key_id,
                "role": done.role.value,
                "file": str(path),
                "old_file": str(done.kept),
            }
        )
        return
    out.line(done.key_id)
    out.say(f"{path} holds the new {done.role} key; the old one is in {done.kept}")


@click.command()
@click.argument("key_id", metavar="KEY_ID")
@click.option("--reason", default="", help="For yourself; kept with the revocation.")
@json_option
@connection_options
def revoke(key_id: str, reason: str, as_json: bool, **connection: Any) -> None:
    """End a device or CI key at once: sessions closed, leases revoked, offers gone.

    KEY_ID is its id, or the first characters of it. A revoked key never comes back.
    """
    with connect(connection) as client:
        ended = client.revoke_key(_whole(client, key_id), reason)
    out = output(as_json)
    if as_json:
        out.record({"key_ids": ended})
        return
    for each in ended:
        out.line(each)


@click.command("recovery")
@click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the words to a new file (0600) instead of showing them.",
)
@click.option(
    "--words-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="Words of the present recovery key, to replace it.",
)
@json_option
@connection_options
def recovery(file: Path | None, words_file: Path | None, as_json: bool, **connection: Any) -> None:
    """Make a recovery key: 24 words, shown once, that can replace a lost or stolen owner key.

    Write them down and keep them away from this machine. Whoever has them can ask for the account.
    """
    with connect(connection) as client:
        present = None if words_file is None else _read_words(words_file)
        key_id = make_recovery_key(client, file, present, shown=not as_json)
    out = output(as_json)
    if as_json:
        if file is None:
            raise click.UsageError("with --json the words go to a file: --file FILE")
        out.record({"key_id": key_id, "file": str(file)})
        return
    out.line(key_id)


@click.command()
@click.argument("account_id", required=False, metavar="[ACCOUNT]")
@click.option(
    "--words-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="File with the 24 words; asked for otherwise.",
)
@click.option("--name", default="recovered", show_default=True, help="Name of the new owner key.")
@click.option(
    "--object",
    "objecting",
    is_flag=True,
    help="As the owner: the recovery that waits is not mine. Ends the recovery key too.",
)
@json_option
@connection_options
def recover(
    account_id: str | None,
    words_file: Path | None,
    name: str,
    objecting: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Get ACCOUNT back with its recovery key, when the owner key is lost or stolen.

    It takes effect after a wait, in which the owner key may object; nothing can be withdrawn
    meanwhile. Run it again to see how it stands.
    """
    out = output(as_json)
    if objecting:
        with connect(connection) as client:
            client.object_to_recovery()
        out.say("the recovery ended, and so did its recovery key; make another: flop key recovery")
        return
    from flopmarket.client.config import key_file
    from flopmarket.trust.key_identity import KeyIdentity, write_identity
    from flopmarket.trust.keys import KeyPair, KeyRole

    if account_id is None:
        raise click.UsageError("name the account: its id is on every statement and receipt")
    words = _asked_words() if words_file is None else _read_words(words_file)
    path = key_file(name)
    if not path.exists():
        KeyPair.generate().save(path)
    new = KeyPair.load(path)
    with connect(connection, with_key=False) as client:
        pending = client.recover(account_id, words, new)
    write_identity(path, KeyIdentity(account_id, KeyRole.OWNER))
    if as_json:
        due_at_us = 0 if pending is None else pending.due_at_us
        out.record({"key_id": new.key_id, "file": str(path), "due_at_us": due_at_us})
        return
    out.line(new.key_id)
    if pending is None:
        out.say(f"{path} owns account {account_id}: use it with --key {name}")
    else:
        out.say(f"{path} will own the account at {instant(pending.due_at_us)} UTC, unless the")
        out.say("present owner key objects; nothing can be withdrawn until then")


COMMANDS = (list_keys, rotate, revoke, recovery, recover)


def make_recovery_key(
    client: Client, file: Path | None, present: KeyPair | None = None, *, shown: bool = True
) -> str:
    """A new recovery key of the client's account; its words in ``file`` or, once, on stderr."""
    import secrets

    from flopmarket.trust.keys import KeyPair, write_private_file
    from flopmarket.trust.recovery_words import to_words

    seed = secrets.token_bytes(32)
    words, pair = to_words(seed), KeyPair.from_seed(seed)
    if file is None and not shown:
        raise click.UsageError("with --json the words go to a file: --file FILE")
    if file is not None:  # before the key counts: a full disk must not cost the way back
        write_private_file(file, (words + "\n").encode())
    client.set_recovery_key(pair, present)
    if file is None:
        click.echo("write these words down, now; they are not shown again:", err=True)
        listed = words.split()
        for first in range(0, len(listed), 6):
            click.echo("  " + " ".join(listed[first : first + 6]), err=True)
    return pair.key_id


def _read_words(file: Path) -> KeyPair:
    from flopmarket.trust.keys import read_private_file
    from flopmarket.trust.recovery_words import from_words

    return from_words(read_private_file(file).decode("utf-8", "replace"))


def _asked_words() -> KeyPair:
    from flopmarket.trust.recovery_words import from_words

    return from_words(click.prompt("the 24 words", hide_input=True, err=True))


def _of_worker(connection: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The connection and the key file of this machine's worker."""
    import platformdirs

    from flopmarket.client.joining import DEVICE_KEY_FILE, read_joined

    folder = platformdirs.user_state_path("flopmarket") / "worker"
    joined = read_joined(folder)
    if joined is not None:
        said = {
            "address": joined.address,
            "ca": joined.ca_file or None,
            "coordinator_key": joined.coordinator_key,
        }
        connection = {**said, **{k: v for k, v in connection.items() if v is not None}}
    return connection, folder / DEVICE_KEY_FILE


def _whole(client: Client, key_id: str) -> str:
    """The one key of the account that begins so."""
    from flopmarket.errors import InvalidInput

    if len(key_id) == 64:
        return key_id
    found = [key.key_id for key in client.keys().keys if key.key_id.startswith(key_id)]
    if len(found) != 1 or len(key_id) < 8:
        raise InvalidInput(
            f"{len(found)} keys of the account begin with {key_id[:64]!r}",
            code="KEY_UNKNOWN",
            hint="flop key list --all --json shows whole ids",
        )
    return found[0]
