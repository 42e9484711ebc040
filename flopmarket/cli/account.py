"""``flop account``: open an account, see its money, and (as the operator) record a deposit."""

from __future__ import annotations

from typing import Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant


@click.group()
def account() -> None:
    """Account: register, balances, statement."""


@account.command()
@click.argument("display_name", default="anonymous")
@json_option
@connection_options
def register(display_name: str, as_json: bool, **connection: Any) -> None:
    """Open the account of our key under DISPLAY_NAME (default: anonymous)."""
    with connect(connection) as client:
        account_id = client.register(display_name)
    out = output(as_json)
    if as_json:
        out.record({"account_id": account_id, "display_name": display_name})
    else:
        out.line(account_id)


@account.command()
@json_option
@connection_options
def show(as_json: bool, **connection: Any) -> None:
    """Balances: free, reserved for running jobs, earned but held back, and bond."""
    with connect(connection) as client:
        found = client.account()
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    out.fields(
        [
            ("account", found.account_id),
            ("name", found.display_name),
            ("available", str(found.available)),
            ("reserved", str(found.reserved)),
            ("held", str(found.held)),
            ("bond", str(found.bond)),
        ]
    )


@account.command()
@json_option
@connection_options
def statement(as_json: bool, **connection: Any) -> None:
    """Every transfer of the account, oldest first."""
    out = output(as_json)
    with connect(connection) as client:
        if as_json:
            for transfer in client.transfers():
                out.record(transfer)
            return
        rows = [
            (
                instant(t.time_us),
                t.purpose,
                t.kind,
                t.balance,
                str(t.change),
                str(t.amount),
                t.job_id[:12],
                t.reference,
            )
            for t in client.transfers()
        ]
    columns = ("time (UTC)", "purpose", "kind", "balance", ">change", ">amount", "job", "reference")
    out.table(columns, rows, "no transfers yet")


@account.command()
@click.argument("amount")
@click.option("--operator-key", required=True, metavar="NAME|FILE", help="The operator's key.")
@click.option("--to", "account_id", default="", metavar="ID", help="Account; ours if not given.")
@click.option("--target", type=click.Choice(["available", "bond"]), default="available")
@click.option("--reference", default="", help="Names the payment outside.")
@click.option("--request-id", help="Repeat with the same id: nothing happens twice.")
@json_option
@connection_options
def deposit(
    amount: str,
    operator_key: str,
    account_id: str,
    target: str,
    reference: str,
    request_id: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Record AMOUNT (such as 25 or $0.50) that arrived for an account. For the operator."""
    from flopmarket.trust.documents import DepositTarget

    with connect(connection) as client:
        done = client.deposit(
            operator_key,
            amount,
            account_id=account_id,
            reference=reference,
            target=DepositTarget(target),
            request_id=request_id,
        )
    out = output(as_json)
    if as_json:
        out.record(done)
    else:
        out.line(done.transfer_id)
        out.say(f"the balance is now {done.available}")
