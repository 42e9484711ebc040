"""``flop quote``, ``flop run`` and ``flop submit``: a JOB.py or a MODEL.onnx, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.mode_options import DEFAULT_MODE, mode_options
from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.order_options import order_options
from flopmarket.cli.purchase import (
    DEFAULT_LEVEL,
    LEVELS,
    Purchase,
    purchase_options,
    upload_line,
)
from flopmarket.cli.quoting import print_quote

if TYPE_CHECKING:
    from flopmarket.client.jobs import PreparedJob
    from flopmarket.client.orders import Order
    from flopmarket.jobs.form import JobForm

max_price_option = click.option(
    "--max-price", metavar="AMOUNT", help="Hard cap, such as 0.25; else the quote's ceiling."
)
request_id_option = click.option(
    "--request-id", help="Repeat with the same id: nothing is bought twice."
)
verify_option = click.option(
    "--verify",
    "verification",
    type=click.Choice(LEVELS),
    help="How much is recomputed by others; without it what JOB.py says, or deter.",
)


@click.command()
@purchase_options
@click.option("--rows", type=click.IntRange(min=1), help="Rows of a MODEL.onnx without --input.")
@click.option(
    "--shape",
    "shapes",
    metavar="NAME=3,224,224",
    multiple=True,
    help="With --rows: shape of one row, where the model leaves it open.",
)
@verify_option
@mode_options
@order_options
@json_option
@connection_options
def quote(
    purchase: Purchase,
    rows: int | None,
    shapes: tuple[str, ...],
    verification: str | None,
    mode: str | None,
    device_class: str,
    order: Order,
    as_json: bool,
    **connection: Any,
) -> None:
    """The price of a job before it runs. No money moves.

    JOB.py is Python of your own, run on this machine; it assigns a job to `job` or defines
    `make_job()`. MODEL.onnx is applied to every row of --input, or to --rows N rows of any content.
    """
    if rows is not None and (purchase.inputs or not purchase.is_model):
        raise click.UsageError("--rows is for a MODEL.onnx without --input")
    if shapes and rows is None:
        raise click.UsageError("--shape goes with --rows")
    what: PreparedJob | JobForm
    if rows is None:
        loaded = purchase.load()
        what, level, mode = loaded.prepared, loaded.level(verification), loaded.mode(mode)
    else:
        what, level = purchase.form(rows, shapes), verification or DEFAULT_LEVEL
        mode = mode or DEFAULT_MODE
    with connect(connection) as client:
        found = client.quote(what, order, verification=level, mode=mode, device_class=device_class)
    out = output(as_json)
    if as_json:
        out.record(found)
    else:
        print_quote(out, found)


@click.command()
@purchase_options
@max_price_option
@verify_option
@mode_options
@request_id_option
@order_options
@json_option
@connection_options
def submit(
    purchase: Purchase,
    max_price: str | None,
    verification: str | None,
    mode: str | None,
    device_class: str,
    request_id: str | None,
    order: Order,
    as_json: bool,
    **connection: Any,
) -> None:
    """Buy a job and return at once; prints the job's id.

    JOB.py and MODEL.onnx are as for `flop run`.
    """
    loaded = purchase.load()
    out = output(as_json)
    with connect(connection) as client:
        handle = client.submit(
            loaded.prepared,
            max_price,
            verification=loaded.level(verification),
            mode=loaded.mode(mode),
            device_class=device_class,
            request_id=request_id,
            order=order,
            on_upload=lambda upload: out.say(upload_line(upload)),
        )
    if as_json:
        out.record(handle.info)
        return
    out.line(handle.job_id)
    out.say(f"{handle.info.ceiling} is held; follow it with `flop job watch {handle.job_id}`")


@click.command()
@purchase_options
@max_price_option
@verify_option
@mode_options
@request_id_option
@click.option(
    "-o",
    "--out",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="JOB.py: folder for state, outputs and receipt. MODEL.onnx: results.npz if not given.",
)
@click.option("--force", is_flag=True, help="Overwrite existing results.")
@click.option("--local", is_flag=True, help="Run here, without a market: the same digests.")
@click.option("--device", metavar="NAME", help="With --local: a device as in `flop bench`.")
@order_options
@json_option
@connection_options
def run(
    purchase: Purchase,
    max_price: str | None,
    verification: str | None,
    mode: str | None,
    device_class: str,
    request_id: str | None,
    target: Path | None,
    force: bool,
    local: bool,
    device: str | None,
    order: Order,
    as_json: bool,
    **connection: Any,
) -> None:
    """Buy a job, watch it, fetch its result and verify it.

    JOB.py is Python of your own that defines a job. MODEL.onnx is applied to every row of --input,
    and its outputs are written to results.npz under the model's own names.

    An interrupt leaves the job running; `flop job watch` and `flop job fetch` go on from there.
    """
    from flopmarket.cli.progress import ProgressDisplay
    from flopmarket.cli.saving import destination

    if device is not None and not local:
        raise click.UsageError("--device goes with --local")
    if device_class and local:
        raise click.UsageError("--class is for the market; here the device decides")
    saver = destination(target, is_model=purchase.is_model, force=force)
    loaded = purchase.load()
    out = output(as_json)
    if local:
        from flopmarket.cli.locally import run_here

        run_here(loaded, device, loaded.mode(mode), saver, out)
        return
    with connect(connection) as client:
        handle = client.submit(
            loaded.prepared,
            max_price,
            verification=loaded.level(verification),
            mode=loaded.mode(mode),
            device_class=device_class,
            request_id=request_id,
            order=order,
            on_upload=lambda upload: out.say(upload_line(upload)),
        )
        out.say(f"job {handle.job_id}: at most {handle.info.ceiling}")
        try:
            with ProgressDisplay() as display:
                result = handle.wait(display)
        except KeyboardInterrupt:
            out.say(f"the job goes on; `flop job watch {handle.job_id}`, or `flop job cancel` it")
            raise
    written = saver.save(result, loaded.model, result.receipt_file, out)
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
