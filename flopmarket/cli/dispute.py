"""``flop dispute``: disputes and rulings of our jobs and devices; their files replayed offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from flopmarket.cli.options import connect, connection_options, json_option, output, write_file
from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.client.disputes import DisputeInfo
    from flopmarket.client.rulings import RulingInfo
    from flopmarket.jobs.dispute_replay import Explained
    from flopmarket.trust.dispute_documents import Claim

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))

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
    """Disputed and rejected segments: list them, fetch what proves it, explain it, replay it.

    A dispute compares lists down to one tile. Other rulings have a kind of their own: arbitration
    (a class of devices decided), steps (drawn steps of a segment), house (the operator alone).
    """


@dispute.command("list")
@json_option
@connection_options
def list_disputes(as_json: bool, **connection: Any) -> None:
    """Disputes and rulings about jobs that we bought or computed, newest first."""
    from flopmarket.cli.ruling import LISTED, listed_cells, listed_json

    out = output(as_json)
    with connect(connection) as client:
        found: list[DisputeInfo | RulingInfo] = [*client.disputes(), *client.rulings()]
    found.sort(key=lambda item: item.opened_at_us, reverse=True)
    if as_json:
        for item in found:
            out.record(listed_json(item))
    else:
        out.table(LISTED, [listed_cells(item) for item in found], empty="no disputes")


@dispute.command()
@click.argument("dispute_id", metavar="ID")
@click.option("-o", "--out", "target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@connection_options
def fetch(dispute_id: str, target: Path | None, force: bool, **connection: Any) -> None:
    """Save the transcript of dispute ID, or the signed words behind a ruling; whoever has the file
    can replay it."""
    with connect(connection) as client:
        found = _named(client, dispute_id)
        data = _file_of(client, found)
    target = target or Path(f"{found.name[:16]}.dispute")
    write_file(target, data, force=force)
    out = output()
    out.line(str(target))
    out.say(f"{len(data)} bytes; reach its verdict with `flop dispute replay {target}`")


@dispute.command()
@_FILE
@click.option(
    "--key",
    metavar="FILE|HEX",
    help="The coordinator's public key, for a ruling; without it the key inside is used.",
)
@json_option
def replay(file: Path, key: str | None, as_json: bool) -> None:
    """Reach the verdict of FILE again; exit code 2 when its records do not lead to it."""
    from flopmarket.cli.ruling import print_replayed, read_ruling

    out = output(as_json)
    ruling = read_ruling(file, key)
    if ruling is not None:
        print_replayed(out, ruling)
        return
    found = _replayed(file)
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
    """Explain a dispute or a ruling: who said what, where they part, who is right, what follows.

    A FILE is replayed on this machine; an ID is fetched from the coordinator and replayed here.
    """
    from flopmarket.cli.ruling import print_ruling, read_ruling, ruling_of

    out = output(as_json)
    if Path(what).is_file():
        ruling = read_ruling(Path(what), None)
        if ruling is not None:
            print_ruling(out, ruling)
            return
        found = _replayed(Path(what))
    else:
        from flopmarket.jobs.dispute_replay import replay_file

        with connect(connection) as client:
            named = _named(client, what)
            if named.is_ruling:
                print_ruling(out, ruling_of(client, named.name))
                return
            info = client.dispute(named.name)
            if not info.transcript:
                if as_json:
                    out.record(info)
                else:
                    _print_unfinished(out, info)
                return
            found = replay_file(client.dispute_transcript(named.name))
    if as_json:
        out.record(_as_json(found))
    else:
        _print(out, found)


class _Named(NamedTuple):
    """What a person named: its whole id, and whether it is a ruling."""

    name: str
    is_ruling: bool


def _named(client: Any, given: str) -> _Named:
    """The one of our disputes and rulings whose id begins like this."""
    from flopmarket.errors import NotFound

    known = [_Named(item.dispute_id, False) for item in client.disputes()]
    known += [_Named(item.ruling_id, True) for item in client.rulings()]
    matching = [item for item in known if given and item.name.startswith(given)]
    if len(matching) != 1:
        raise NotFound(
            f"{len(matching)} of our disputes begin with {given[:80]!r}, and no file is called so",
            code="UNKNOWN_DISPUTE",
            hint="flop dispute list",
        )
    return matching[0]


def _file_of(client: Any, found: _Named) -> bytes:
    """What proves it; NotFound (DISPUTE_NO_TRANSCRIPT) while there is nothing."""
    from flopmarket.errors import NotFound
    from flopmarket.trust.ruling_records import to_file

    if not found.is_ruling:
        return bytes(client.dispute_transcript(found.name))
    _, record = client.ruling(found.name)
    if record is None:
        raise NotFound("others are asked, or it was dropped", code="DISPUTE_NO_TRANSCRIPT")
    return to_file(record, client.coordinator().public_key.raw)


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
