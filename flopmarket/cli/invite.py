"""``flop invite`` and ``flop join``: one line brings a machine into an account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant


@click.command()
@click.argument("label", default="")
@click.option("--expires", default="1d", show_default=True, metavar="SPAN", help="At most 30d.")
@click.option(
    "--at",
    "reached_at",
    metavar="HOST:PORT",
    help="Where the new machine finds the coordinator, if not where we do.",
)
@click.option("--list", "listing", is_flag=True, help="Show invitations instead.")
@click.option("--revoke", "revoked", metavar="ID", help="End an invitation instead.")
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
            found = client.invitations()
            if as_json:
                for item in found:
                    out.record(item)
                return
            rows = [
                (
                    item.invitation_id[:16],
                    item.label,
                    item.state,
                    instant(item.expires_at_us),
                    item.device_key_id[:16],
                )
                for item in found
            ]
            columns = ("invitation", "label", "state", "until (UTC)", "device key")
            out.table(columns, rows, "no invitations")
            return
        if revoked is not None:
            name = next(
                (
                    i.invitation_id
                    for i in client.invitations()
                    if i.invitation_id.startswith(revoked) and len(revoked) >= 8
                ),
                revoked,
            )
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
@click.option("--label", default="", help="Name of this machine; the invitation's if not given.")
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="State of the worker, as for `flop worker up`.",
)
@json_option
def join(token: str, label: str, work_dir: Path | None, as_json: bool) -> None:
    """Let this machine work for the account that printed TOKEN; then `flop worker up`."""
    import platformdirs

    from flopmarket.client.joining import join as enrol
    from flopmarket.trust.joining import read_token

    folder = work_dir or platformdirs.user_state_path("flopmarket") / "worker"
    joined = enrol(read_token(token), folder, label)
    out = output(as_json)
    if as_json:
        out.record(joined)
        return
    out.line(joined.account_id)
    out.say(f"this machine works for that account at {joined.address}; next: flop worker up")
