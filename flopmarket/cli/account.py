"""``flop account``: open an account, see its money and its proofs, pay in and out."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import (
    connect,
    connection_options,
    json_option,
    output,
    write_file,
)
from flopmarket.cli.output import instant
from flopmarket.cli.payments import COMMANDS

if TYPE_CHECKING:
    from flopmarket.client.results_keys import SessionInfo
    from flopmarket.trust.statement import VerifiedStatement

_STATEMENT_COLUMNS = (
    "time_us", "transfer_id", "purpose", "kind", "balance", "change", "amount", "currency",
    "job_id", "reference",
)  # fmt: skip


@click.group()
def account() -> None:
    """Account: register, balances, statement and its proofs, deposits and withdrawals."""


for _command in COMMANDS:
    account.add_command(_command)


@account.command()
@click.argument("display_name", default="anonymous")
@click.option(
    "--recovery-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the recovery words to a new file instead of showing them.",
)
@click.option("--no-recovery", is_flag=True, help="Without a recovery key: a lost key is lost.")
@json_option
@connection_options
def register(
    display_name: str,
    recovery_file: Path | None,
    no_recovery: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Open the account of our key under DISPLAY_NAME (default: anonymous).

    Shows, once, the 24 words of a recovery key, which can replace the owner key should it be lost.
    With --json they are written to --recovery-file, or there is none.
    """
    from flopmarket.cli.key_changes import make_recovery_key

    with connect(connection) as client:
        account_id = client.register(display_name)
        wanted = not no_recovery and not (as_json and recovery_file is None)
        if wanted and client.ownership(account_id).recovery is None:
            make_recovery_key(client, recovery_file)
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
    rows = [
        ("account", found.account_id),
        ("name", found.display_name),
        ("available", str(found.available)),
        ("reserved", str(found.reserved)),
        ("held", str(found.held)),
        ("bond", str(found.bond)),
    ]
    if found.overdraft.nano:
        rows.append(("may go below 0 by", str(found.overdraft)))
    out.fields(rows)


# --- sessions -------------------------------------------------------------------------------------


@account.command()
@click.option("--end", metavar="ID", help="End this one.")
@click.option("--end-all", is_flag=True, help="End them all; workers come back by themselves.")
@json_option
@connection_options
def sessions(end: str | None, end_all: bool, as_json: bool, **connection: Any) -> None:
    """Open sessions of the account: which key, since when, what for."""
    out = output(as_json)
    with connect(connection) as client:
        if end is not None or end_all:
            if end is not None and end_all:
                raise click.UsageError("--end names one session, --end-all means all")
            ended = client.end_sessions(end or "")
            out.say(f"sessions of {len(ended)} keys ended")
            return
        found = client.sessions()
    columns = ("session", "role", "key", "purpose", "since (UTC)", "until")
    out.listing(found, columns, _session_cells, "no sessions")


def _session_cells(item: SessionInfo) -> tuple[str, ...]:
    return (
        item.session_id,
        item.role,
        item.key_id[:16],
        item.purpose,
        instant(item.created_at_us),
        instant(item.expires_at_us),
    )


# --- statements -----------------------------------------------------------------------------------


@account.command()
@click.option("--since", default="", metavar="TIME", help="From this day or instant on (UTC, ISO).")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, amounts exact.")
@json_option
@connection_options
def statement(since: str, as_csv: bool, as_json: bool, **connection: Any) -> None:
    """Every transfer of the account, oldest first."""
    from flopmarket.market.money import format_nano

    if as_csv and as_json:
        raise click.UsageError("--csv and --json are two forms of the same; choose one")
    out = output(as_json)
    since_us = _microseconds(since)
    with connect(connection) as client:
        found = client.transfers(since_us)
        if as_json:
            for transfer in found:
                out.record(transfer)
            return
        if as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(_STATEMENT_COLUMNS)
            for t in found:
                amounts = [
                    format_nano(item.nano, symbol="", min_decimals=0)
                    for item in (t.change, t.amount)
                ]
                writer.writerow(
                    [t.time_us, t.transfer_id, t.purpose, t.kind, t.balance, *amounts,
                     t.amount.currency, t.job_id, _cell(t.reference)]
                )  # fmt: skip
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
            for t in found
        ]
    columns = ("time (UTC)", "purpose", "kind", "balance", ">change", ">amount", "job", "reference")
    out.table(columns, rows, "no transfers yet")


@account.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Keep what was checked."
)
@click.option("--force", is_flag=True, help="Overwrite the file of --save.")
@json_option
@connection_options
def verify(
    file: Path | None, save: Path | None, force: bool, as_json: bool, **connection: Any
) -> None:
    """Check that every transfer of ours is in the ledger, and that its past was not rewritten.

    Downloads the statement with proofs, checks it against the coordinator's signed head and the
    head we kept last time, and keeps the new one. With FILE, an earlier --save, it checks that
    file and asks nobody.
    """
    from flopmarket.trust.statement import statement_to_json

    out = output(as_json)
    if file is not None:
        if save is not None:
            raise click.UsageError("FILE is checked as it is; --save is for a download")
        verified, joined = _verify_file(file, connection)
        where = ""
    else:
        with connect(connection) as client:
            checked = client.verify_ledger()
        verified, where = checked.verified, str(checked.heads_file)
        joined = checked.older.batch_count if checked.older else 0
        if save is not None:
            write_file(save, statement_to_json(checked.statement), force=force)
    _show_verified(out, as_json, verified, joined, where)


def _verify_file(file: Path, connection: dict[str, Any]) -> tuple[VerifiedStatement, int]:
    """A saved statement against the coordinator's key that we know and the heads that we kept."""
    from flopmarket.cli.options import settings_of
    from flopmarket.client.heads import StoredHeads
    from flopmarket.errors import InvalidInput
    from flopmarket.trust.statement import (
        check_continues,
        open_head,
        statement_from_json,
        verify_statement,
    )

    try:
        statement = statement_from_json(file.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}", code="FILE_UNREADABLE") from None
    key = statement.coordinator_key
    heads = StoredHeads(key)
    kept = heads.last()
    expected = settings_of(connection).coordinator_key
    if expected != key.key_id and (expected or kept is None):
        raise InvalidInput(
            f"the file is signed by coordinator {key.key_id}, which is not one we know",
            code="COORDINATOR_UNKNOWN",
            hint=f"if it is yours: --coordinator-key {key.key_id}",
        )
    older = next(
        (head for head in heads.all() if head.batch_count == statement.since_batches), None
    )
    verified = verify_statement(statement, key, older)
    if kept is not None and kept.batch_count == verified.head.batch_count:
        check_continues(kept, open_head(statement.head, key), ())
    return verified, older.batch_count if older else 0


def _show_verified(
    out: Any, as_json: bool, verified: VerifiedStatement, joined: int, where: str
) -> None:
    from flopmarket.client.money import Money

    head = verified.head
    sums = {name: Money(total.balance_nano, head.currency) for name, total in verified.sums.items()}
    if as_json:
        out.record(
            {
                "transfers": len(verified.transfers),
                "batches": head.batch_count,
                "root": head.root,
                "as_of_us": head.as_of_us,
                "continues_batches": joined,
                "currency": head.currency,
                **{f"{name}_nano": total.nano for name, total in sorted(sums.items())},
            }
        )
        return
    rows = [
        ("transfers", f"{len(verified.transfers)}, each proved to be in the ledger"),
        ("ledger", f"{head.batch_count} batches, root {head.root.hex()}"),
        ("as of (UTC)", instant(head.as_of_us)),
        (
            "continues",
            f"the head of {joined} batches that we kept" if joined else "nothing we kept",
        ),
    ]
    rows += [(f"{name} adds up to", str(total)) for name, total in sorted(sums.items())]
    out.fields(rows)
    if where:
        out.say(f"the head is kept in {where}")


def _microseconds(text: str) -> int:
    """An ISO date or instant, UTC unless it says otherwise, in microseconds; 0 for none."""
    from datetime import UTC, datetime

    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text[:40]!r} is not a time; write it like 2026-11-01 or 2026-11-01T08:30",
            param_hint="--since",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(int(moment.timestamp() * 1_000_000), 0)


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    from flopmarket.cli.output import printable

    shown = printable(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown
