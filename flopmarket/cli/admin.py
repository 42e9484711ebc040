"""``flop admin``: what operators order and look up. Every order is signed and needs a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flopmarket.cli.invitations import full_id, invitation_options, show_invitations
from flopmarket.cli.options import connection_options, json_option, output, settings_of
from flopmarket.cli.output import instant

if TYPE_CHECKING:
    from flopmarket.client.admin import AdminClient, Decision

Function = TypeVar("Function", bound=Callable[..., Any])

BAN_REASONS = ("FRAUD", "ABUSE", "UNPAID", "LEGAL", "KEY_COMPROMISED", "OWN_REQUEST")


@click.group()
def admin() -> None:
    """Operate a coordinator: drain, ban, refund, parameters, keys, the trail."""


def _operator_options(function: Function) -> Function:
    option = click.option(
        "--operator-key",
        required=True,
        metavar="NAME|FILE",
        envvar="FLOPMARKET_OPERATOR_KEY",
        help="The operator's key.",
    )
    return json_option(option(connection_options(function)))


def _order_options(function: Function) -> Function:
    reason = click.option("--reason", required=True, help="Why; the trail shows it.")
    return _operator_options(reason(_request_option(function)))


def _request_option(function: Function) -> Function:
    return click.option("--request-id", help="Repeat with the same id: nothing happens twice.")(
        function
    )


@contextmanager
def _connect(operator_key: str, connection: dict[str, str | None]) -> Iterator[AdminClient]:
    from flopmarket.client.admin import AdminClient

    with AdminClient.from_settings(settings_of(connection), operator_key) as client:
        yield client


@admin.command()
@_operator_options
def status(operator_key: str, as_json: bool, **connection: Any) -> None:
    """What is connected, queued and waiting, and the parameters in force."""
    with _connect(operator_key, connection) as client:
        found = client.status()
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(found.jobs_by_state.items()))
    out.fields(
        [
            ("version", found.version),
            ("draining", "yes" if found.draining else "no"),
            ("workers connected", str(found.workers_connected)),
            ("offers listed", str(found.offers_listed)),
            ("jobs", jobs or "none"),
            ("live leases", str(found.leases_live)),
            ("audits waiting", str(found.audits_waiting)),
            (
                "audits by others",
                ", ".join(f"{n} {phase}" for phase, n in sorted(found.audits_open.items()))
                or "none open",
            ),
            ("artifacts", f"{found.artifacts} ({found.artifact_bytes} bytes)"),
            *(
                (name, f"{balance} nano-units")
                for name, balance in sorted(found.platform_balances_nano.items())
            ),
            *(
                (item.name, item.value + (" (by order)" if item.overridden else ""))
                for item in found.parameters
            ),
        ]
    )


@admin.command()
@click.option("--kind", default="", help="Only decisions of this kind.")
@click.option("--subject", default="", help="Only about this key, account, job or parameter.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_operator_options
def trail(
    kind: str, subject: str, limit: int, operator_key: str, as_json: bool, **connection: Any
) -> None:
    """Decisions with their cause, newest first."""
    from itertools import islice

    out = output(as_json)
    with _connect(operator_key, connection) as client:
        found = list(islice(client.decisions(kind=kind, subject=subject), limit))
    columns = (">#", "time (UTC)", "kind", "subject", "reason", "detail", "cause", "by key")
    out.listing(found, columns, _decision_cells, "nothing was decided yet")


def _decision_cells(item: Decision) -> tuple[str, ...]:
    return (
        str(item.number),
        instant(item.time_us),
        item.kind,
        item.subject[:24],
        item.reason,
        item.detail[:80],
        item.cause[:16],
        item.actor_key_id[:12],
    )


@admin.command()
@_order_options
def drain(**options: Any) -> None:
    """No new leases and no new jobs; what runs is finished. For maintenance."""
    _act("drain", **options)


@admin.command()
@_order_options
def resume(**options: Any) -> None:
    """End a drain."""
    _act("resume", **options)


@admin.command()
@click.argument("subject", metavar="ACCOUNT|KEY")
@click.option("--reason", type=click.Choice(BAN_REASONS), required=True)
@_request_option
@_operator_options
def ban(subject: str, **options: Any) -> None:
    """Let an account, with all its keys, or one key act no more; its leases end."""
    _act("ban", subject=subject, **options)


@admin.command()
@click.argument("subject", metavar="ACCOUNT|KEY")
@_order_options
def unban(subject: str, **options: Any) -> None:
    """Let a banned account or key act again. A slashed bond stays gone."""
    _act("unban", subject=subject, **options)


@admin.command()
@click.argument("job_id", metavar="JOB")
@click.argument("amount")
@_order_options
def refund(job_id: str, amount: str, **options: Any) -> None:
    """Give AMOUNT (such as 0.50) back to the buyer of JOB, out of the reserve."""
    from flopmarket.market.money import parse_nano

    _act("refund", subject=job_id, value=str(parse_nano(amount)), **options)


@admin.command("set")
@click.argument("name")
@click.argument("value")
@_order_options
def set_(name: str, value: str, **options: Any) -> None:
    """Change parameter NAME while the coordinator runs; `flop admin status` lists them."""
    _act("set", subject=name, value=value, **options)


@admin.command()
@click.argument("name")
@_order_options
def unset(name: str, **options: Any) -> None:
    """Give parameter NAME the value back that the process was started with."""
    _act("unset", subject=name, **options)


@admin.command("add-operator")
@click.argument("key", metavar="NAME|FILE")
@_order_options
def add_operator(key: str, **options: Any) -> None:
    """Let another KEY give orders too; only its public half is sent."""
    from flopmarket.client.config import key_file
    from flopmarket.trust.keys import KeyPair

    _act("add-operator", value=KeyPair.load(key_file(key)).public.raw.hex(), **options)


@admin.command("remove-operator")
@click.argument("key_id")
@_order_options
def remove_operator(key_id: str, **options: Any) -> None:
    """Take the right to give orders away from a key that was added."""
    _act("remove-operator", subject=key_id, **options)


@admin.command()
@click.option("--reason", help="For whom and why; the trail shows it.")
@invitation_options(expires="7d", invited="the invited")
@_operator_options
def invite(
    reason: str | None,
    expires: str,
    reached_at: str | None,
    listing: bool,
    revoked: str | None,
    operator_key: str,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print a token with which somebody opens one account: `flop join TOKEN`.

    Whoever reads the line can use it, once, until it ends.
    """
    from flopmarket.cli.spans import span_seconds
    from flopmarket.trust.administration import AdminOrder

    out = output(as_json)
    if not listing and not reason:
        raise click.UsageError("an invitation gives its --reason")
    with _connect(operator_key, connection) as client:
        if listing:
            names = ("reason", "account")
            found = client.invitations()
            show_invitations(out, found, names, lambda item: (item.reason, item.account_id))
            return
        if revoked is not None:
            order = AdminOrder.REVOKE_INVITE
            name = full_id(client.invitations(), revoked)
            _show(client.act(order, reason=reason or "", subject=name), as_json)
            return
        seconds = span_seconds(expires, "--expires")
        made = client.invite(
            reason=reason or "", lifetime_seconds=seconds, address=reached_at or ""
        )
    if as_json:
        out.record(made)
        return
    out.line(made.token)
    out.say(f"for one account, until {instant(made.expires_at_us)} UTC: flop join TOKEN")


@admin.group()
def house() -> None:
    """Accounts of the operator whose workers audit for the house."""


@house.command("add")
@click.argument("subject", metavar="ACCOUNT")
@_order_options
def house_add(subject: str, **options: Any) -> None:
    """Let workers of ACCOUNT audit for the house from the next lease on."""
    _act("add-house", subject=subject, **options)


@house.command("remove")
@click.argument("subject", metavar="ACCOUNT")
@_order_options
def house_remove(subject: str, **options: Any) -> None:
    """Make ACCOUNT one like any other again."""
    _act("remove-house", subject=subject, **options)


@house.command("list")
@_operator_options
def house_list(operator_key: str, as_json: bool, **connection: Any) -> None:
    """Accounts whose workers audit for the house, one a line."""
    with _connect(operator_key, connection) as client:
        accounts = client.status().house_accounts
    out = output(as_json)
    if as_json:
        out.record({"accounts": list(accounts)})
        return
    for account in accounts:
        out.line(account)


def _act(
    order: str,
    *,
    reason: str,
    request_id: str | None,
    operator_key: str,
    as_json: bool,
    subject: str = "",
    value: str = "",
    **connection: Any,
) -> None:
    from flopmarket.trust.administration import AdminOrder

    with _connect(operator_key, connection) as client:
        done = client.act(
            AdminOrder(order), reason=reason, subject=subject, value=value, request_id=request_id
        )
    _show(done, as_json)


def _show(done: Decision, as_json: bool) -> None:
    out = output(as_json)
    if as_json:
        out.record(done)
    else:
        out.line(f"{done.number}  {done.kind} {done.subject}  {done.detail}".rstrip())
