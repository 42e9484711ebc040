"""``flop run --local``: the job of a purchase on this machine, with the digests of the market."""

from __future__ import annotations

import time

from flopmarket.cli.output import Output, duration
from flopmarket.cli.purchase import Loaded
from flopmarket.cli.saving import Destination
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import Mode


def run_here(
    loaded: Loaded, device: str | None, mode: str, saver: Destination, out: Output
) -> None:
    """Run, save and print; ``device`` None is the first one of this machine."""
    prepared = loaded.prepared
    assert isinstance(prepared, PreparedJob)
    started = time.monotonic()
    result = run_local(prepared, device, mode=Mode(mode))
    seconds = time.monotonic() - started
    written = saver.save(result, loaded.model, b"", out)
    if out.as_json:
        out.record(
            {
                "state_root": result.state_root,
                "outputs_root": result.outputs_root,
                "mode": str(result.mode),
                "device_class": result.device_class,
                "steps": prepared.steps,
                "seconds": seconds,
                "files": written,
            }
        )
        return
    out.fields(
        [
            ("steps", f"{prepared.steps} in {duration(seconds)}"),
            ("mode", f"{result.mode} {result.device_class}".strip()),
            ("final state", result.state_root.hex()),
            ("outputs", result.outputs_root.hex()),
            *((name, path) for name, path in written.items()),
        ]
    )
