"""Money across the market's border on the command line: the in and out of ``flop account``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import (
    Function,
    connect,
    connection_options,
    json_option,
    output,
)
from flopmarket.cli.output import instant

if TYPE_CHECKING:
    from flopmarket.client.results import Deposited
    from flopmarket.client.results_money import Withdrawal


def _operator_options(function: Function) -> Function:
    """Options of whatever the operator signs for an account."""
    for option in (
        click.option("--request-id", help="Repeat with the same id: nothing happens twice."),
        click.option("--reference", default="", help="Names the payment outside, or the reason."),
        click.option(
            "--target", type=click.Choice(["available", "bond", "audits"]), default="available"
        ),
        click.option(
            "--to", "account_id", default="", metavar="ID", help="Account; ours if not given."
        ),
        click.option(
            "--operator-key", required=True, metavar="NAME|FILE", help="The operator's key."
        ),
    ):
        function = option(function)
    return function


_currency_option = click.option(
    "--currency", default="", metavar="NAME", help="What AMOUNT is in; refused if it is another."
)


@click.command()
@click.argument("amount")
@_operator_options
@_currency_option
@json_option
@connection_options
def deposit(
    amount: str,
    operator_key: str,
    account_id: str,
    target: str,
    reference: str,
    request_id: str | None,
    currency: str,
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
            currency=currency,
        )
    _show_credit(done, as_json)


@click.command()
@click.argument("amount")
@_operator_options
@json_option
@connection_options
def grant(
    amount: str,
    operator_key: str,
    account_id: str,
    target: str,
    reference: str,
    request_id: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Give an account AMOUNT coins of the house. For the operator of a flopcoin market."""
    from flopmarket.trust.documents import DepositTarget

    with connect(connection) as client:
        done = client.grant_coins(
            operator_key,
            amount,
            account_id=account_id,
            reference=reference,
            target=DepositTarget(target),
            request_id=request_id,
        )
    _show_credit(done, as_json)


@click.command()
@click.argument("amount")
@click.option("--to", "destination", required=True, metavar="TEXT", help="Where the money goes.")
@click.option("--bond", is_flag=True, help="Out of the bond, once nothing is at stake any more.")
@click.option("--request-id", help="Repeat with the same id: nothing happens twice.")
@_currency_option
@json_option
@connection_options
def withdraw(
    amount: str,
    destination: str,
    bond: bool,
    request_id: str | None,
    currency: str,
    as_json: bool,
    **connection: Any,
) -> None:
    """Ask for AMOUNT of ours to be paid out; it is reserved until the operator decides."""
    with connect(connection) as client:
        asked = client.withdraw(
            amount, destination, request_id=request_id, currency=currency, bond=bond
        )
    out = output(as_json)
    if as_json:
        out.record(asked)
        return
    out.line(asked.withdrawal_id)
    out.say(f"{asked.amount} to {asked.destination}: {asked.state}")


@click.command()
@click.option("--pending", is_flag=True, help="Undecided ones only.")
@click.option("--operator-key", metavar="NAME|FILE", help="See everybody's, as the operator.")
@json_option
@connection_options
def withdrawals(pending: bool, operator_key: str | None, as_json: bool, **connection: Any) -> None:
    """Our withdrawals, oldest first."""
    out = output(as_json)
    with connect(connection) as client:
        found = list(client.withdrawals(pending_only=pending, operator_key=operator_key))
    columns = ("withdrawal", "asked (UTC)", "state", ">amount", "to", "reference", "account")
    out.listing(found, columns, _cells, "no withdrawals")


def _cells(item: Withdrawal) -> tuple[str, ...]:
    return (
        item.withdrawal_id,
        instant(item.created_at_us),
        item.state,
        str(item.amount),
        item.destination,
        item.reference,
        item.account_id[:12],
    )


def _decision(name: str, text: str, help_text: str, *, paid: bool) -> click.Command:
    @click.command(name, help=help_text)
    @click.argument("withdrawal_id")
    @click.option("--operator-key", required=True, metavar="NAME|FILE", help="The operator's key.")
    @click.option("--reference", required=True, help=text)
    @json_option
    @connection_options
    def decide(
        withdrawal_id: str, operator_key: str, reference: str, as_json: bool, **connection: Any
    ) -> None:
        with connect(connection) as client:
            done = client.decide_withdrawal(
                operator_key, withdrawal_id, paid=paid, reference=reference
            )
        _show_decision(done, as_json)

    return decide


settle = _decision(
    "settle",
    "Names the payment outside.",
    "Record that a withdrawal was paid out. For the operator.",
    paid=True,
)
reject = _decision(
    "reject",
    "Why it is not paid out.",
    "Free the amount of a withdrawal that will not be paid. For the operator.",
    paid=False,
)


def _show_decision(done: Withdrawal, as_json: bool) -> None:
    out = output(as_json)
    if as_json:
        out.record(done)
    else:
        out.line(done.withdrawal_id)
        out.say(f"{done.amount} to {done.destination}: {done.state} ({done.reference})")


def _show_credit(done: Deposited, as_json: bool) -> None:
    out = output(as_json)
    if as_json:
        out.record(done)
    else:
        out.line(done.transfer_id)
        out.say(f"the balance is now {done.available}")


COMMANDS = (deposit, grant, withdraw, withdrawals, settle, reject)
