"""``flop budget``: what an account and its CI keys may spend, and what they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant

if TYPE_CHECKING:
    from flopmarket.client.results_owner import Budget

NO_LIMIT = "none"


@click.group()
def budget() -> None:
    """Spending limits: of the account by month, of CI keys by month and in all.

    A job counts in the month (UTC) in which it was submitted, with what it has billed and still
    holds. Limits are hard: a job that passes one is refused.
    """


@budget.command()
@json_option
@connection_options
def show(as_json: bool, **connection: Any) -> None:
    """Limits, what is used of them, and what is left."""
    with connect(connection) as client:
        report = client.budget()
    out = output(as_json)
    if as_json:
        out.record(report)
        return
    out.fields(
        [
            ("month since", f"{instant(report.month_start_us)} UTC"),
            ("limit", _limit(report.month)),
            ("used", str(report.month.used)),
            ("left", str(report.month.left) if report.month.left is not None else "no limit"),
        ]
    )
    if not report.keys:
        return
    rows = [
        (
            key.key_id[:12],
            key.label,
            f"{key.total.used} of {_limit(key.total)}",
            f"{key.month.used} of {_limit(key.month)}",
            "revoked" if key.revoked else instant(key.expires_at_us),
        )
        for key in report.keys
    ]
    out.line("")
    out.table(("CI key", "label", ">in all", ">this month", "expires (UTC)"), rows, "")


@budget.command("set")
@click.argument("amount")
@json_option
@connection_options
def set_limit(amount: str, as_json: bool, **connection: Any) -> None:
    """Limit what jobs of a month may cost and hold to AMOUNT, such as 50; `none` for no limit."""
    with connect(connection) as client:
        month = client.set_budget(None if amount == NO_LIMIT else amount)
    out = output(as_json)
    if as_json:
        out.record(month)
    else:
        out.line(_limit(month))
        out.say(f"{month.used} of this month are used or held")


def _limit(budget: Budget) -> str:
    return "no limit" if budget.limit is None else str(budget.limit)
