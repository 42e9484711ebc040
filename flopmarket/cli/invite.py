"""``flop invite`` and ``flop join``: one line brings in a machine, or opens an account."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.invitations import full_id, invitation_options, show_invitations
from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant

if TYPE_CHECKING:
    from flopmarket.trust.joining import JoinToken


@click.command()
@click.argument("label", default="")
@invitation_options(expires="1d", invited="the new machine")
@json_option
@connection_options
def invite(
    label: str,
    expires: str,
    reached_at: str | None,
    listing: bool,
    revoked: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print a token with which one machine joins our account: `flop join TOKEN` there.

    It works once. The owner key stays here; whoever reads the line can enrol a machine that earns
    for us, and nothing else.
    """
    from flopmarket.cli.spans import span_seconds

    out = output(as_json)
    with connect(connection) as client:
        if listing:
            names = ("label", "device key")
            found = client.invitations()
            show_invitations(out, found, names, lambda item: (item.label, item.device_key_id))
            return
        if revoked is not None:
            name = full_id(client.invitations(), revoked)
            client.revoke_invitation(name)
            out.say(f"nobody joins with {name[:16]} any more")
            return
        made = client.invite(
            label,
            lifetime_seconds=span_seconds(expires, "--expires"),
            address=reached_at or "",
        )
    if as_json:
        out.record(made)
        return
    out.line(made.token)
    out.say(f"on the other machine, until {instant(made.expires_at_us)} UTC: flop join TOKEN")


@click.command()
@click.argument("token")
@click.option(
    "--label", default="", help="Name of this machine, or of the account; the invitation's if none."
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="For a machine: state of the worker, as for `flop worker up`.",
)
@click.option(
    "--key", metavar="NAME|FILE", help="For an account: its key, made if it is not there."
)
@click.option(
    "--profile", metavar="NAME", help="For an account: profile of the configuration file."
)
@click.option(
    "--recovery-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="For an account: write the recovery words to a new file instead of showing them.",
)
@click.option("--no-recovery", is_flag=True, help="For an account: no recovery key.")
@json_option
def join(
    token: str,
    label: str,
    work_dir: Path | None,
    key: str | None,
    profile: str | None,
    recovery_file: Path | None,
    no_recovery: bool,
    as_json: bool,
) -> None:
    """Use an invitation, once.

    A token of `flop invite` lets this machine work for the account that printed it; then
    `flop worker up`. A token of `flop admin invite` opens an account of our own: makes its key,
    keeps the coordinator's authority, writes both into the configuration file, and shows the 24
    words of a recovery key.
    """
    from flopmarket.trust.joining import read_token

    read = read_token(token)
    if not read.opens_account:
        if key or profile or recovery_file or no_recovery:
            raise click.UsageError("this token is for a machine: it takes --label and --work-dir")
        _join_machine(read, label, work_dir, as_json)
        return
    if work_dir is not None:
        raise click.UsageError("this token opens an account: --work-dir is for machines")
    _open_account(read, label, key, profile, recovery_file, no_recovery, as_json)


def _join_machine(token: JoinToken, label: str, work_dir: Path | None, as_json: bool) -> None:
    import platformdirs

    from flopmarket.client.joining import join as enrol

    folder = work_dir or platformdirs.user_state_path("flopmarket") / "worker"
    joined = enrol(token, folder, label)
    out = output(as_json)
    if as_json:
        out.record(joined)
        return
    out.line(joined.account_id)
    out.say(f"this machine works for that account at {joined.address}; next: flop worker up")


def _open_account(
    token: JoinToken,
    label: str,
    key: str | None,
    profile: str | None,
    recovery_file: Path | None,
    no_recovery: bool,
    as_json: bool,
) -> None:
    import os

    from flopmarket.cli.key_changes import make_recovery_key
    from flopmarket.client.admitting import open_account
    from flopmarket.client.client import Client
    from flopmarket.client.config import (
        DEFAULT_KEY,
        DEFAULT_PROFILE,
        configuration_file,
        key_file,
    )

    configuration = configuration_file(os.environ)
    opened = open_account(
        token,
        key_file(key or DEFAULT_KEY),
        label or "anonymous",
        configuration=configuration,
        profile=profile or DEFAULT_PROFILE,
    )
    if not no_recovery and not (as_json and recovery_file is None):
        ca = Path(opened.ca_file) if opened.ca_file else None
        with Client(
            opened.address, Path(opened.key_file), ca, coordinator_key=opened.coordinator_key
        ) as client:
            if client.ownership(opened.account_id).recovery is None:
                make_recovery_key(client, recovery_file)
    out = output(as_json)
    if as_json:
        out.record(opened)
        return
    out.line(opened.account_id)
    out.say(f"its key is {opened.key_file}: keep a copy, whoever has this file owns the account")
    if opened.configured:
        named = f" --profile {profile}" if profile else ""
        out.say(f"{configuration} names {opened.address}; next: flop account show{named}")
    else:
        out.say(f"{configuration} names another market; join again with --profile NAME, or say")
        out.say(f"  --address {opened.address} --coordinator-key {opened.coordinator_key}")
