"""``flop quote``, ``flop run`` and ``flop submit``: a JOB.py and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import Output, duration, scaled, size

if TYPE_CHECKING:
    from flopmarket.client.results import Quote

job_file = click.argument(
    "job_file",
    metavar="JOB.py",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
max_price_option = click.option(
    "--max-price", metavar="AMOUNT", help="Hard cap, such as 0.25; else the quote's ceiling."
)
request_id_option = click.option(
    "--request-id", help="Repeat with the same id: nothing is bought twice."
)
verify_option = click.option(
    "--verify", default="audit-all", show_default=True, help="Verification level."
)


@click.command()
@job_file
@json_option
@connection_options
def quote(job_file: Path, as_json: bool, **connection: Any) -> None:
    """The price of the job that JOB.py defines, before it runs. No money moves.

    JOB.py is Python of your own, run on this machine; it assigns a job to `job` or defines
    `make_job()`.
    """
    from flopmarket.cli.jobfile import load_job

    prepared = load_job(job_file)
    with connect(connection) as client:
        found = client.quote(prepared)
    out = output(as_json)
    if as_json:
        out.record(found)
    else:
        print_quote(out, found)


@click.command()
@job_file
@max_price_option
@verify_option
@request_id_option
@json_option
@connection_options
def submit(
    job_file: Path,
    max_price: str | None,
    verify: str,
    request_id: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Buy the job that JOB.py defines and return at once; prints the job's id."""
    from flopmarket.cli.jobfile import load_job

    prepared = load_job(job_file)
    with connect(connection) as client:
        handle = client.submit(prepared, max_price, verify=verify, request_id=request_id)
    out = output(as_json)
    if as_json:
        out.record(handle.info)
        return
    out.line(handle.job_id)
    out.say(f"{handle.info.ceiling} is held; follow it with `flop job watch {handle.job_id}`")


@click.command()
@job_file
@max_price_option
@verify_option
@request_id_option
@click.option(
    "-o",
    "--out",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write state, outputs and receipt here.",
)
@click.option("--force", is_flag=True, help="Overwrite files in the output folder.")
@json_option
@connection_options
def run(
    job_file: Path,
    max_price: str | None,
    verify: str,
    request_id: str | None,
    folder: Path | None,
    force: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Buy the job that JOB.py defines, watch it, fetch its result and verify it.

    An interrupt leaves the job running; `flop job watch` and `flop job fetch` go on from there.
    """
    from flopmarket.cli.jobfile import load_job
    from flopmarket.cli.progress import ProgressDisplay
    from flopmarket.cli.saving import check_folder, save_result

    prepared = load_job(job_file)
    if folder is not None:
        check_folder(folder, force=force)
    out = output(as_json)
    with connect(connection) as client:
        handle = client.submit(prepared, max_price, verify=verify, request_id=request_id)
        out.say(f"job {handle.job_id}: at most {handle.info.ceiling}")
        try:
            with ProgressDisplay() as display:
                result = handle.wait(display)
        except KeyboardInterrupt:
            out.say(f"the job goes on; `flop job watch {handle.job_id}`, or `flop job cancel` it")
            raise
    written = {}
    if folder is not None:
        written = save_result(
            folder, result.state, result.outputs, result.receipt_file, force=force
        )
    if as_json:
        out.record(
            {
                "job_id": result.job_id,
                "billed_nano": result.billed.nano,
                "currency": result.billed.currency,
                "state_root": result.state_root,
                "outputs_root": result.outputs_root,
                "files": written,
            }
        )
        return
    out.fields(
        [
            ("job", result.job_id),
            ("billed", f"{result.billed} of at most {result.job.ceiling}"),
            ("final state", f"{result.state_root.hex()} (recomputed here)"),
            ("outputs", f"{result.outputs_root.hex()} (recomputed here)"),
            ("receipt", "valid, signed by the coordinator"),
            *((name, path) for name, path in written.items()),
        ]
    )


def print_quote(out: Output, quote: Quote) -> None:
    """A quote for people: what is bought, from whom, for how much, how sure."""
    pairs = [
        (
            f"work {work.work_class}",
            f"{scaled(work.flops_per_step * quote.steps, 'FLOP')} "
            f"({scaled(work.flops_per_step, 'FLOP')} a step)",
        )
        for work in quote.work
        if work.flops_per_step
    ]
    joules = f"{scaled(quote.joules, 'J')} ({quote.joules_source})" if quote.joules else "unknown"
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(quote.ineligible.items()))
    pairs += [
        ("steps", str(quote.steps)),
        ("bytes moved", size(quote.bytes_moved_per_step * quote.steps)),
        ("peak memory", size(quote.peak_memory_bytes)),
        ("offers", f"{len(quote.offers)} eligible" + (f"; not: {reasons}" if reasons else "")),
    ]
    if quote.offers:
        pairs += [
            ("expected", f"{quote.expected} (fee of {quote.fee_within_expected} inside)"),
            ("ceiling", f"{quote.ceiling} (never billed more)"),
            (
                "finish",
                f"{duration(quote.finish_seconds_p50)} likely, "
                f"{duration(quote.finish_seconds_p95)} at the 95th percentile",
            ),
            ("energy", joules),
        ]
    detection = f"{quote.detection_probability:.4g}"
    pairs.append(
        (
            "verification",
            f"{quote.verification}: a wrong segment is detected with probability {detection}",
        )
    )
    out.fields(pairs)
    if quote.offers:
        rows = [
            (offer.offer_id, offer.device_name, str(offer.total), duration(offer.seconds))
            for offer in quote.offers
        ]
        out.line("")
        out.table(("offer", "device", ">total", ">time"), rows, "")
    else:
        out.say("no offer can run this job now: there is no price yet")
    out.say("workers see the tensors they compute on")
