"""``flop canaries``: how the canaries of a day were drawn, and whether that follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.job_ids import SHORT_ID
from flopmarket.cli.options import connect, connection_options, json_option, output, write_file
from flopmarket.cli.output import Output

if TYPE_CHECKING:
    from flopmarket.trust.canaries import CanaryDay
    from flopmarket.trust.challenge import Finding

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("day", required=False, metavar="[DAY]")
@click.option("--verify", is_flag=True, help="Derive every draw again; exit code 1 if one lies.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Keep it as a FILE.")
@click.option("--force", is_flag=True, help="Overwrite the file of --save.")
@click.option("--file", "kept", type=_FILE, help="Look at a saved FILE; nobody is asked.")
@click.option("--since", type=_FILE, help="A FILE saved before: its terms must be the same.")
@click.option("--coordinator-pem", type=_FILE, help="With --file: the coordinator's public key.")
@json_option
@connection_options
def canaries(
    day: str | None,
    verify: bool,
    save: Path | None,
    force: bool,
    kept: Path | None,
    since: Path | None,
    coordinator_pem: Path | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Canaries of a DAY (UTC, such as 2026-11-22; default: the last one that is over).

    A canary is an old segment whose right answer is known, sent to an auditor as if it were any
    other. What decides on them is signed before the day and published after it. Save the terms of
    a day while it runs (--save), and hold the draws against them later (--since).
    """
    from flopmarket.trust.canaries import check_day, from_json, to_json
    from flopmarket.trust.keys import PublicKey

    out = output(as_json)
    if kept is not None:
        if day or save or coordinator_pem is None:
            raise click.UsageError("--file is looked at as it is, with --coordinator-pem")
        found = from_json(kept.read_bytes())
        key = PublicKey.from_pem(coordinator_pem.read_bytes())
    else:
        with connect(connection, with_key=False) as client:
            found = client.canary_day(_number(day))
            key = client.coordinator().public_key
        if save is not None:
            write_file(save, to_json(found), force=force)
    earlier = b"" if since is None else from_json(since.read_bytes()).terms
    if verify or since is not None:
        _tell(out, found, check_day(found, key, earlier), as_json)
    else:
        _print(out, found, as_json)


def _number(day: str | None) -> int:
    """Days since the epoch; yesterday's number for none."""
    import time
    from datetime import date

    if day is None:
        return int(time.time()) // 86_400 - 1
    try:
        return (date.fromisoformat(day) - date(1970, 1, 1)).days
    except ValueError:
        raise click.BadParameter(f"{day[:40]!r} is no day; write it like 2026-11-22") from None


def _date(day: int) -> str:
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def _tell(out: Output, day: CanaryDay, findings: tuple[Finding, ...], as_json: bool) -> None:
    for finding in findings:
        if as_json:
            out.record(
                {"index": finding.index, "code": str(finding.code), "message": finding.message}
            )
        else:
            place = f"draw {finding.index}" if finding.index else "terms"
            out.line(f"{place}: {finding.code}: {finding.message}")
    drawn = f"{_date(day.day)}: {len(day.draws)} draws"
    if findings:
        out.say(f"{drawn}, {len(findings)} contradictions")
        raise click.exceptions.Exit(1)
    waits = "" if day.over else "; they are published when the day is over and its canaries are in"
    out.say(f"{drawn}, every one follows from the terms{waits}")


def _print(out: Output, day: CanaryDay, as_json: bool) -> None:
    from flopmarket.trust.canaries import CanaryRecord, CanaryTerms
    from flopmarket.trust.encoding import decode
    from flopmarket.trust.envelope import unverified_body

    records = [(decode(CanaryRecord, item.record), item) for item in day.draws]
    anchor = b""
    if day.terms:
        anchor = unverified_body(day.terms, CanaryTerms).anchor
    if as_json:
        sent = [item.outcome for _, item in records if item.outcome]
        out.record(
            {"day": _date(day.day), "anchor": anchor, "over": day.over, "draws": len(records),
             "canaries": len(sent), "outcomes": sent}
        )  # fmt: skip
        return
    rows = [
        (
            str(record.index),
            record.commitment.hex()[:SHORT_ID],
            record.chosen.hex()[:SHORT_ID],
            record.auditors[0][:SHORT_ID] if record.auditors else "-",
            item.outcome or "-",
        )
        for record, item in records
        if record.drawn
    ]
    columns = (">draw", "beside audit of", "canary", "first asked", "outcome")
    empty = "none was drawn" if day.over else "published when the day is over"
    out.table(columns, rows, empty)
    out.say(f"{_date(day.day)}: {len(records)} draws; anchor {anchor.hex() or 'none'}")
