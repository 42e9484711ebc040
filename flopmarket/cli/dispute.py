"""``flop dispute``: disputes of our jobs and devices; a transcript's verdict again, offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output, write_file
from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.jobs.dispute_replay import Explained
    from flopmarket.trust.dispute_documents import Claim

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_ID = re.compile(r"[0-9a-f]{64}")

_FOLLOWS = {
    "producer-wrong": "the segment is not paid and somebody else computes it; the worker's bond "
    "and held pay answer for it, or, for a first flipped bit, the device is tested again",
    "auditor-wrong": "the auditor's bond answers for it; the house recomputes the rest of the "
    "segment, since only its first difference was judged",
    "both-wrong": "neither is paid, both bonds answer for it; somebody else computes the segment",
    "third-run": "nobody is slashed; a third account or the house computes the segment",
}


@click.group()
def dispute() -> None:
    """Disputed segments: list them, fetch a transcript, explain it, replay it."""


@dispute.command("list")
@json_option
@connection_options
def list_disputes(as_json: bool, **connection: Any) -> None:
    """Disputes about jobs that we bought or computed, newest first."""
    out = output(as_json)
    with connect(connection) as client:
        found = client.disputes()
    if as_json:
        for item in found:
            out.record(item)
        return
    rows = [
        (
            item.dispute_id[:16],
            instant(item.opened_at_us),
            item.job_id[:12],
            str(item.segment_index),
            ",".join(item.roles),
            item.outcome or f"asked: {item.level}",
            item.reason,
        )
        for item in found
    ]
    out.table(
        ["dispute", "opened", "job", ">segment", "we are", "outcome", "reason"],
        rows,
        empty="no disputes",
    )


@dispute.command()
@click.argument("dispute_id", metavar="ID")
@click.option("-o", "--out", "target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@connection_options
def fetch(dispute_id: str, target: Path | None, force: bool, **connection: Any) -> None:
    """Save the transcript of dispute ID; whoever has the file can replay it."""
    with connect(connection) as client:
        full = _full_id(client, dispute_id)
        data = client.dispute_transcript(full)
    target = target or Path(f"{full[:16]}.dispute")
    write_file(target, data, force=force)
    out = output()
    out.line(str(target))
    out.say(f"{len(data)} bytes; reach its verdict with `flop dispute replay {target}`")


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
@click.argument("what", metavar="FILE|ID")
@json_option
@connection_options
def show(what: str, as_json: bool, **connection: Any) -> None:
    """Explain a dispute: who said what, where they part, who is right, what follows.

    A FILE is replayed on this machine; an ID is fetched from the coordinator and replayed here.
    """
    out = output(as_json)
    if Path(what).is_file():
        found = _replayed(Path(what))
    else:
        from flopmarket.jobs.dispute_replay import replay_file

        with connect(connection) as client:
            full = _full_id(client, what)
            info = client.dispute(full)
            if not info.transcript:
                if as_json:
                    out.record(info)
                else:
                    _print_unfinished(out, info)
                return
            found = replay_file(client.dispute_transcript(full))
    if as_json:
        out.record(_as_json(found))
    else:
        _print(out, found)


def _full_id(client: Any, given: str) -> str:
    """The id, or the one of our disputes that begins like this."""
    from flopmarket.errors import NotFound

    if _ID.fullmatch(given):
        return given
    matching = [
        item.dispute_id for item in client.disputes() if given and item.dispute_id.startswith(given)
    ]
    if len(matching) != 1:
        raise NotFound(
            f"{len(matching)} of our disputes begin with {given[:80]!r}, and no file is called so",
            code="UNKNOWN_DISPUTE",
            hint="flop dispute list",
        )
    return str(matching[0])


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


def _print_unfinished(out: Output, info: Any) -> None:
    """A dispute that lasts, or that lists could not decide."""
    until = f"the list of {info.level} until {instant(info.deadline_us)}" if info.level else ""
    out.fields(
        [
            ("dispute", info.dispute_id),
            ("about", f"job {info.job_id}, segment {info.segment_index}"),
            ("waits for", until or "nothing"),
            ("verdict", f"{info.outcome} ({info.reason})" if info.outcome else "none yet"),
            ("seen", info.seen),
            ("what follows", _FOLLOWS.get(info.outcome, "")),
        ]
    )


def _claimed(claim: Claim) -> str:
    from flopmarket.trust.keys import PublicKey

    state, outputs = claim.state_root_after.hex()[:16], claim.outputs_root.hex()[:16]
    return f"key {PublicKey(claim.key).key_id}: state {state}, outputs {outputs}"


def _print(out: Output, found: Explained) -> None:
    from flopmarket.trust.dispute_documents import Party

    verdict, opening = found.verdict, found.opening
    steps = f"steps {opening.first_step} to {opening.first_step + opening.steps}"
    out.fields(
        [
            ("dispute", verdict.dispute_id.hex()),
            ("about", f"job {opening.job_id.hex()}, segment {opening.segment_index}, {steps}"),
            *((str(party), _claimed(opening.claim(party))) for party in Party),
        ]
    )
    out.table(
        [">after", "who", "said", ">bytes"],
        [
            (
                f"{move.after_us / 1e6:.1f} s",
                move.party or "referee",
                f"list of {move.what}" if move.party else move.what,
                str(move.size_bytes or ""),
            )
            for move in found.moves
        ],
        empty="nobody said anything",
    )
    out.fields(
        [
            ("verdict", f"{verdict.outcome} ({verdict.reason})"),
            ("place", found.place),
            ("tiles", f"{verdict.differing_tiles} of {verdict.tiles} tiles differ"),
            ("seen", verdict.seen),
            ("what to do", verdict.remedy),
            ("what follows", _FOLLOWS.get(str(verdict.outcome), "")),
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
        "job_id": found.opening.job_id,
        "segment_index": found.opening.segment_index,
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
        "follows": _FOLLOWS.get(str(verdict.outcome), ""),
        "moves": [
            {
                "after_us": move.after_us,
                "party": move.party,
                "what": move.what,
                "size_bytes": move.size_bytes,
            }
            for move in found.moves
        ],
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
