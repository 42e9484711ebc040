"""``flop dispute``: reach the verdict of a transcript file again, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flopmarket.cli.options import json_option, output
from flopmarket.cli.output import Output

if TYPE_CHECKING:
    from flopmarket.jobs.dispute_replay import Explained

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def dispute() -> None:
    """Disputed segments: replay a transcript, explain it."""


@dispute.command()
@_FILE
@json_option
def replay(file: Path, as_json: bool) -> None:
    """Reach the verdict of FILE again; exit code 2 when its records do not lead to it."""
    found = _replayed(file)
    out = output(as_json)
    if as_json:
        out.record(_as_json(found))
        return
    verdict = found.verdict
    out.line(f"{verdict.outcome} ({verdict.reason})")
    out.say("the records of the file lead to the verdict that it states")


@dispute.command()
@_FILE
@json_option
def show(file: Path, as_json: bool) -> None:
    """Explain FILE: the place, both values, the recomputed one, and what to do."""
    found = _replayed(file)
    out = output(as_json)
    if as_json:
        out.record(_as_json(found))
    else:
        _print(out, found)


def _replayed(file: Path) -> Explained:
    from flopmarket.errors import InvalidInput, LimitExceeded
    from flopmarket.jobs.dispute_replay import replay_file
    from flopmarket.limits import MAX_DISPUTE_TRANSCRIPT_BYTES

    try:
        if file.stat().st_size > MAX_DISPUTE_TRANSCRIPT_BYTES:
            raise LimitExceeded(f"larger than {MAX_DISPUTE_TRANSCRIPT_BYTES} bytes")
        return replay_file(file.read_bytes())
    except OSError as error:
        raise InvalidInput(str(error.strerror), code="DISPUTE_UNREADABLE") from None


def _print(out: Output, found: Explained) -> None:
    verdict = found.verdict
    out.fields(
        [
            ("dispute", verdict.dispute_id.hex()),
            ("verdict", f"{verdict.outcome} ({verdict.reason})"),
            ("place", found.place),
            ("tiles", f"{verdict.differing_tiles} of {verdict.tiles} tiles differ"),
            ("seen", verdict.seen),
            ("what to do", verdict.remedy),
        ]
    )
    if not found.elements:
        out.say("the dispute ended before a tile was recomputed")
        return
    out.table(
        [">element", ">producer", ">auditor", ">recomputed"],
        [(str(e.element), e.producer, e.auditor, e.recomputed) for e in found.elements],
        empty="",
    )


def _as_json(found: Explained) -> dict[str, object]:
    from flopmarket.trust.dispute_documents import NOWHERE

    verdict = found.verdict

    def index(value: int) -> int | None:
        return None if value == NOWHERE else value

    return {
        "dispute_id": verdict.dispute_id,
        "outcome": str(verdict.outcome),
        "reason": str(verdict.reason),
        "step": index(verdict.step),
        "operation": index(verdict.operation),
        "tile": index(verdict.tile),
        "tiles": verdict.tiles,
        "differing_tiles": verdict.differing_tiles,
        "producer_wrong_bits": verdict.producer_wrong_bits,
        "auditor_wrong_bits": verdict.auditor_wrong_bits,
        "place": found.place,
        "seen": verdict.seen,
        "remedy": verdict.remedy,
        "elements": [
            {
                "element": e.element,
                "producer": e.producer,
                "auditor": e.auditor,
                "recomputed": e.recomputed,
            }
            for e in found.elements
        ],
    }
