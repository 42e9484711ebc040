"""``flop job audits``: how the audits of a job were drawn, and whether that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.job_ids import SHORT_ID, job_id_argument, resolve
from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import Output

if TYPE_CHECKING:
    from flopmarket.trust.audit_records import LeaseAudits, LeaseFinding


@click.command()
@job_id_argument
@click.option("--verify", is_flag=True, help="Derive every draw again; exit code 1 if one lies.")
@json_option
@connection_options
def audits(job_id: str, verify: bool, as_json: bool, **connection: Any) -> None:
    """How the audits of a job that has ended were drawn, commitment by commitment.

    With --json one line a lease, with everything that `flop job verify-audits FILE` needs.
    """
    from flopmarket.trust.audit_records import check, to_line

    out = output(as_json)
    with connect(connection) as client:
        found = client.audits(resolve(client, job_id))
        key = client.coordinator().public_key
    if verify:
        _tell(out, check(found, key), found, as_json)
    elif as_json:
        for lease in found:
            click.echo(to_line(lease), nl=False)
    else:
        _print(out, found)


@click.command("verify-audits")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The coordinator's public key (PEM).",
)
@json_option
def verify_audits(file: Path, key_file: Path, as_json: bool) -> None:
    """Check a FILE of `flop job audits JOB --json` on this machine alone."""
    from flopmarket.limits import MAX_AUDIT_FILE_LINE_BYTES
    from flopmarket.trust.audit_records import check, from_line
    from flopmarket.trust.keys import PublicKey

    key = PublicKey.from_pem(key_file.read_bytes())
    found = []
    with file.open("rb") as lines:
        while line := lines.readline(MAX_AUDIT_FILE_LINE_BYTES + 1):
            found.append(from_line(line))
    _tell(output(as_json), check(found, key), found, as_json)


def _tell(
    out: Output,
    findings: Sequence[LeaseFinding],
    found: Sequence[LeaseAudits],
    as_json: bool,
) -> None:
    for item in findings:
        if as_json:
            finding = item.finding
            out.record(
                {
                    "lease_id": item.lease_id,
                    "index": finding.index,
                    "code": str(finding.code),
                    "message": finding.message,
                }
            )
        else:
            out.line(str(item))
    count = sum(len(lease.segments) for lease in found)
    out.say(
        f"{count} commitments of {len(found)} leases: "
        + (f"{len(findings)} contradictions" if findings else "every draw follows from its terms")
    )
    if findings:
        raise click.exceptions.Exit(1)


def _print(out: Output, found: Sequence[LeaseAudits]) -> None:
    from flopmarket.trust.challenge import ChallengeRecord
    from flopmarket.trust.encoding import decode

    rows = []
    for lease in found:
        for item in lease.segments:
            record = decode(ChallengeRecord, item.record)
            rows.append(
                (
                    lease.lease_id[:SHORT_ID],
                    str(item.segment_index),
                    item.state,
                    f"{record.rate_ppm / 10_000:g} %",
                    "drawn" if record.audited else "-",
                    item.auditor[:SHORT_ID] or "-",
                    "yes" if item.verdict else "-",
                )
            )
    columns = ("lease", ">segment", "state", ">rate", "audit", "recomputed by", "verdict")
    out.table(columns, rows, "nothing was committed")
    for lease in found:
        for item in lease.segments:
            if item.arbitration is not None:
                out.say(f"segment {item.segment_index}: {item.arbitration}")
