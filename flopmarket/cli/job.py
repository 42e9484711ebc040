"""``flop job``: the jobs of our account."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.audits import audits, verify_audits
from flopmarket.cli.job_ids import SHORT_ID, job_id_argument, resolve
from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.client.results import JobInfo

STATES = ("queued", "running", "verifying", "succeeded", "cancelled", "failed")


@click.group()
def job() -> None:
    """Jobs: list, show, watch, wait, cancel, fetch, why, audits. JOB is an id or its beginning."""


job.add_command(audits)
job.add_command(verify_audits)


@job.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only jobs in this state; repeatable.",
)
@json_option
@connection_options
def list_jobs(states: tuple[str, ...], as_json: bool, **connection: Any) -> None:
    """Our jobs, newest first."""
    from flopmarket.client.results import JobState

    wanted = [JobState(state) for state in states]
    columns = ("job", "state", "kind", ">verified", ">billed", ">ceiling", "created (UTC)", "title")
    nothing = "no such jobs" if states else "no jobs yet; buy one with `flop run JOB.py`"
    with connect(connection) as client:
        output(as_json).listing(client.jobs(wanted), columns, _cells, nothing)


def _cells(found: JobInfo) -> tuple[str, ...]:
    return (
        found.job_id[:SHORT_ID],
        found.state,
        found.kind,
        f"{found.steps_verified}/{found.steps}",
        str(found.billed),
        str(found.ceiling),
        instant(found.created_at_us),
        found.title,
    )


@job.command()
@job_id_argument
@click.option("--all", "every", is_flag=True, help="All segments, however many there are.")
@json_option
@connection_options
def show(job_id: str, every: bool, as_json: bool, **connection: Any) -> None:
    """How a job stands, segment by segment."""
    with connect(connection) as client:
        found = client.job(resolve(client, job_id))
        if every and found.segment_count > len(found.segments):
            found = replace(found, segments=tuple(client.segments(found.job_id)))
    out = output(as_json)
    if as_json:
        out.record(found)
    else:
        _print_job(out, found)


@job.command()
@job_id_argument
@click.option(
    "--after", default=0, type=click.IntRange(min=0), help="Sequence number to go on from."
)
@json_option
@connection_options
def watch(job_id: str, after: int, as_json: bool, **connection: Any) -> None:
    """Follow a job's story until it has ended; exit code 1 when it did not succeed.

    Goes on by itself when the connection is lost.
    """
    from flopmarket.client.buying import ended_without_result
    from flopmarket.client.results import JobState

    out = output(as_json)
    with connect(connection) as client:
        found = resolve(client, job_id)
        for event in client.watch(found, after):
            if as_json:
                out.record(event)
            else:
                scalars = "".join(f"  {name} {value:.4g}" for name, value in event.scalars.items())
                step = f"  step {event.step}" if event.step else ""
                text = f"  {event.text}" if event.text else ""
                out.line(f"{instant(event.time_us)}  {event.kind:<11}{step}{scalars}{text}")
        ended = client.job(found)
    if ended.state is not JobState.SUCCEEDED:
        raise ended_without_result(ended)


@job.command()
@job_id_argument
@click.option("--timeout", metavar="SPAN", help="Such as 2h; without it there is no end to it.")
@json_option
@connection_options
def wait(job_id: str, timeout: str | None, as_json: bool, **connection: Any) -> None:
    """Wait until a job has ended. Prints nothing but the outcome.

    Exit code 0: succeeded. 1: failed or was cancelled. 7: the time was up, and the job goes on.
    """
    from flopmarket.cli.spans import span_seconds
    from flopmarket.client.buying import ended_without_result
    from flopmarket.client.results import JobState

    seconds = None if timeout is None else span_seconds(timeout, "--timeout")
    out = output(as_json)
    with connect(connection) as client:
        ended = client.wait(resolve(client, job_id), timeout_seconds=seconds)
    if as_json:
        out.record(ended)
    if ended.state is not JobState.SUCCEEDED:
        raise ended_without_result(ended)
    if not as_json:
        out.line(f"{ended.job_id} {ended.state}, billed {ended.billed} of at most {ended.ceiling}")


@job.command()
@job_id_argument
@json_option
@connection_options
def cancel(job_id: str, as_json: bool, **connection: Any) -> None:
    """Stop a job. Finished segments stay paid, the rest of the hold is released."""
    with connect(connection) as client:
        found = client.cancel(resolve(client, job_id))
    out = output(as_json)
    if as_json:
        out.record(found)
    else:
        out.say(f"job {found.job_id[:SHORT_ID]} is {found.state}; billed {found.billed}")


@job.command()
@job_id_argument
@click.option(
    "-o",
    "--out",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Folder, or a .npz file for rows; a folder named by the job's short id if not given.",
)
@click.option(
    "--model",
    "model_file",
    metavar="MODEL.onnx",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With a .npz file: name the outputs as this model does.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@json_option
@connection_options
def fetch(
    job_id: str,
    target: Path | None,
    model_file: Path | None,
    force: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Fetch state, outputs and receipt, checked against their roots.

    With a .npz file as --out: the outputs of an inference job, one row an input row.
    """
    from flopmarket.cli.saving import destination

    as_rows = target is not None and target.suffix == ".npz"
    if model_file is not None and not as_rows:
        raise click.UsageError("--model goes with --out FILE.npz")
    out = output(as_json)
    with connect(connection) as client:
        found = resolve(client, job_id)
        saver = destination(target or Path(found[:SHORT_ID]), is_model=as_rows, force=force)
        tensors = client.fetch(found)
    model = None
    if model_file is not None:
        from flopmarket.engine.formats.onnx import load

        model = load(model_file)
    written = saver.save(tensors, model, tensors.receipt_file, out)
    if as_json:
        out.record({"job_id": found, "proven": tensors.receipt is not None, "files": written})
        return
    out.fields(list(written.items()))
    if tensors.receipt is None:
        out.say("the job is running: this is its last durable verified state, no receipt yet")


@job.command()
@job_id_argument
@json_option
@connection_options
def why(job_id: str, as_json: bool, **connection: Any) -> None:
    """Why a job waits: its place, what offers lack, and its limit beside the cheapest ask."""
    from flopmarket.cli.reasons import print_job

    with connect(connection) as client:
        found = client.explain_job(resolve(client, job_id))
    out = output(as_json)
    if as_json:
        out.record(found)
    else:
        print_job(out, found)


def _order_of(found: JobInfo) -> str:
    """The order in a line: its kind, its limit, its end."""
    from flopmarket.client.client import NO_DEADLINE_US

    parts = [found.order_kind or "market"]
    if found.limit_per_pflop is not None:
        parts.append(f"at most {found.limit_per_pflop} a PFLOP of {found.work_class}")
    if 0 < found.deadline_us < NO_DEADLINE_US:
        parts.append(f"until {instant(found.deadline_us)} UTC")
    return ", ".join(parts)


def _level_of(found: JobInfo) -> str:
    if not found.surcharge_ppm:
        return f"{found.verification}, no surcharge"
    return (
        f"{found.verification}, {found.surcharge_ppm / 10_000:.4g} % on every price "
        f"({found.surcharge} of the bill)"
    )


def _print_job(out: Output, found: JobInfo) -> None:
    pairs = [
        ("job", found.job_id),
        ("title", found.title or "-"),
        ("state", found.state + (f" ({found.reason})" if found.reason else "")),
        ("kind", found.kind),
        (
            "steps",
            f"{found.steps}: {found.steps_committed} committed, {found.steps_verified} verified",
        ),
        ("billed", f"{found.billed} of at most {found.ceiling}"),
        ("mode", f"{found.mode} {found.device_class}".strip()),
        ("verification", _level_of(found)),
        ("order", _order_of(found)),
        ("created", f"{instant(found.created_at_us)} UTC"),
        ("ended", f"{instant(found.ended_at_us)} UTC" if found.ended_at_us else "-"),
        ("program", found.program_digest),
        ("state root", found.state_root.hex() or "-"),
    ]
    out.fields(pairs)
    if not found.segments:
        return
    rows = [
        (
            str(segment.index),
            f"{segment.first_step}-{segment.first_step + segment.steps - 1}",
            segment.state,
            segment.device_name,
            str(segment.price),
            segment.reason,
        )
        for segment in found.segments
    ]
    out.line("")
    out.table((">segment", ">steps", "state", "device", ">price", "reason"), rows, "")
    if found.segment_count > len(rows):
        out.say(f"the first {len(rows)} of {found.segment_count} segments; --all lists them all")
