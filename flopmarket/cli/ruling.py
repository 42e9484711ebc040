"""Rulings of ``flop dispute``: arbitrations, step audits and the house's own word, for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.output import Output, instant, plain

if TYPE_CHECKING:
    from flopmarket.client.client import Client
    from flopmarket.client.disputes import DisputeInfo
    from flopmarket.client.rulings import RulingInfo
    from flopmarket.trust.challenge import Finding
    from flopmarket.trust.documents import Commitment
    from flopmarket.trust.keys import PublicKey
    from flopmarket.trust.ruling_records import RulingRecord, Voice

LISTED = ("dispute", "kind", "opened", "job", ">segment", "we are", "outcome", "reason")
_SHOWN_ID = 16
_DIFFERENT = 2
"""Exit code where records do not lead to what they state, as for a transcript."""

_FORFEITED = (
    "the segment is not paid and somebody else computes it; the worker's bond and held pay are "
    "forfeited and its device is banned"
)
_FOLLOWS = {
    ("arbitration", "producer-wrong"): f"{_FORFEITED}; what it did for its class is audited again, "
    "and an operator can lift the ban",
    ("arbitration", "auditor-wrong"): "the segment counts; the auditor is not paid, and its bond "
    "and held pay answer for it",
    ("arbitration", "undecided"): "nobody is accused and nothing forfeited: a strike for both, and "
    "a segment that did not count before is void and computed again by another device",
    ("arbitration", "void"): "nobody is accused: the segment fell with an earlier one",
    ("arbitration", ""): "nothing yet: the segment is neither accepted nor paid",
    ("steps", "producer-wrong"): f"{_FORFEITED}; the files that convict it are kept",
    ("steps", "undecided"): "nothing is forfeited: the unit is not paid and somebody else computes "
    "it, a strike; every segment of the device is audited until its streak has grown again",
    ("house", "producer-wrong"): _FORFEITED,
}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is known of a ruling: from the coordinator, from a file, or both. ``trusted`` is False
    where the file itself named the key that its signatures are held to."""

    info: RulingInfo | None
    record: RulingRecord | None
    coordinator: PublicKey
    trusted: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What does not follow from the signed words."""
        from flopmarket.trust.ruling_records import check_ruling

        return () if self.record is None else check_ruling(self.record, self.coordinator)

    def word(self, name: str) -> str:
        """Its kind, outcome or reason."""
        return str(getattr(self.info or self.record, name))


def listed_json(item: DisputeInfo | RulingInfo) -> dict[str, Any]:
    """One line of a list for a program; both have the id under one name."""
    content: dict[str, Any] = plain(item)
    name = content.pop("ruling_id", None) or content.pop("dispute_id")
    return {"dispute_id": name, "kind": content.pop("kind", "dispute"), **content}


def listed_cells(item: DisputeInfo | RulingInfo) -> tuple[str, ...]:
    """One line of a list for a person."""
    content = listed_json(item)
    level = content.get("level", "")
    return (
        content["dispute_id"][:_SHOWN_ID],
        content["kind"],
        instant(item.opened_at_us),
        item.job_id[:12],
        str(item.segment_index),
        ",".join(item.roles),
        item.outcome or (f"asked: {level}" if level else "others are asked"),
        item.reason,
    )


def ruling_of(client: Client, ruling_id: str) -> Ruling:
    """From the coordinator."""
    info, record = client.ruling(ruling_id)
    return Ruling(info, record, client.coordinator().public_key, trusted=True)


def read_ruling(file: Path, key: str | None) -> Ruling | None:
    """From a file; None where it is none of this type."""
    from flopmarket.cli.receipt import trusted_key
    from flopmarket.errors import InvalidInput
    from flopmarket.limits import MAX_RULING_FILE_BYTES
    from flopmarket.trust.ruling_records import from_file, is_ruling_file

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_RULING_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(str(error.strerror), code="DISPUTE_UNREADABLE") from None
    if not is_ruling_file(data):
        return None
    record, inside = from_file(data)
    trusted, named = trusted_key(key)
    if named and named not in (inside.key_id, inside.raw.hex()):
        raise InvalidInput(f"signed for {inside.key_id}, not {named}", code="RULING_WRONG_KEY")
    return Ruling(None, record, trusted or inside, trusted=bool(trusted or named))


def print_replayed(out: Output, ruling: Ruling) -> None:
    """The verdict that the signed words lead to; exit code 2 when they do not."""
    findings = ruling.findings
    if out.as_json:
        out.record(_as_json(ruling, findings))
    elif not findings:
        out.line(f"{ruling.word('outcome')} ({ruling.word('reason')})")
    _say_checked(out, ruling, findings)
    if findings:
        raise click.exceptions.Exit(_DIFFERENT)


def print_ruling(out: Output, ruling: Ruling) -> None:
    """Who answered what, what it came to, what it means and what can be done."""
    from flopmarket.trust.reason_codes import finding

    findings = ruling.findings
    if out.as_json:
        out.record(_as_json(ruling, findings))
    else:
        reason = ruling.word("reason")
        out.fields(_about(ruling))
        _print_voices(out, ruling)
        meaning = finding(reason) if reason else None
        out.fields(
            [
                ("verdict", f"{ruling.word('outcome')} ({reason})" if reason else "none yet"),
                *(() if ruling.info is None else (("seen", ruling.info.seen),)),
                *(() if meaning is None else (("means", meaning.seen),)),
                ("what follows", _follows(ruling)),
                *(("", line) for line in (() if ruling.info is None else ruling.info.follows)),
                *(() if meaning is None else (("for buyers", meaning.for_buyers),)),
                *(() if meaning is None else (("for owners", meaning.remedy),)),
            ]
        )
        _say_checked(out, ruling, findings)
    if findings:
        raise click.exceptions.Exit(_DIFFERENT)


def _about(ruling: Ruling) -> list[tuple[str, str]]:
    info = ruling.info
    kind = ruling.word("kind")
    if info is None:
        body = _claim(ruling)
        steps = f"steps {body.first_step} to {body.first_step + body.steps_done}"
        about = f"job {body.job_id.hex()}, segment {body.segment_index}, {steps}"
        return [(kind, ruling.word("ruling_id")), ("about", about)]
    steps = f"steps {info.first_step} to {info.first_step + info.steps}"
    until = instant(info.ended_at_us) if info.ended_at_us else "now"
    return [
        (kind, info.ruling_id),
        ("about", f"job {info.job_id}, segment {info.segment_index}, {steps}"),
        ("we are", ", ".join(info.roles)),
        ("from, to", f"{instant(info.opened_at_us)}, {until}"),
    ]


def _claim(ruling: Ruling) -> Commitment:
    """What the worker signed; its signature is checked where findings are."""
    from flopmarket.trust.documents import Commitment
    from flopmarket.trust.envelope import unverified_body

    assert ruling.record is not None, "it is from a file"
    return unverified_body(ruling.record.segment.commitment, Commitment)


def _voices(ruling: Ruling) -> tuple[Voice, ...]:
    from flopmarket.errors import FlopmarketError
    from flopmarket.trust.ruling_records import voices

    if ruling.record is None:
        return ()
    try:
        return voices(ruling.record, ruling.coordinator)
    except FlopmarketError:
        return ()  # the findings say why


def _print_voices(out: Output, ruling: Ruling) -> None:
    rows = [
        (
            voice.part,
            voice.key_id + (" (the house's)" if voice.house else ""),
            f"state {voice.state_root.hex()[:16]}, outputs {voice.outputs_root.hex()[:16]}",
        )
        for voice in _voices(ruling)
    ]
    rows += [("arbiter", key, word) for key, word in _unheard(ruling)]
    out.table(("who", "device", "said"), rows, "answers are shown when the ruling is there")
    drawn = _drawn_steps(ruling)
    if drawn:
        out.say(f"steps drawn and answered for: {', '.join(map(str, drawn))}")


def _unheard(ruling: Ruling) -> tuple[tuple[str, str], ...]:
    return () if ruling.info is None else ruling.info.unheard


def _drawn_steps(ruling: Ruling) -> tuple[int, ...]:
    """The steps that a worker answered for; none elsewhere."""
    from flopmarket.trust.envelope import unverified_body
    from flopmarket.trust.step_audit import StepAnswer

    steps = None if ruling.record is None else ruling.record.segment.steps
    if steps is None:
        return ()
    answer = unverified_body(steps.answer, StepAnswer)
    return tuple(state.step for state in answer.states)


def _follows(ruling: Ruling) -> str:
    return _FOLLOWS.get((ruling.word("kind"), ruling.word("outcome")), "")


def _say_checked(out: Output, ruling: Ruling, findings: tuple[Finding, ...]) -> None:
    """What was checked here, and whose word the rest is."""
    for item in findings:
        out.say(f"{item.code}: {item.message}")
    if ruling.record is None or findings:
        return
    checked = {
        "arbitration": "the signed and opened answers lead to this outcome",
        "steps": "the worker's signed claim opens its commitment",
    }.get(ruling.record.kind, "the coordinator's verdict is about what the worker signed")
    drawn = ""
    if ruling.record.kind != "house":
        drawn = "; whom or what the draw chose is published when the job has ended"
        if ruling.record.draws is not None:
            drawn = "; who and what was looked at follows from the published draw"
    out.say(f"{checked}{drawn}; which accounts keys belong to is the coordinator's word")
    if not ruling.trusted:
        out.say(f"signatures are those of {ruling.coordinator.key_id}, the key inside: compare it")


def _as_json(ruling: Ruling, findings: tuple[Finding, ...]) -> dict[str, Any]:
    from flopmarket.trust.reason_codes import finding

    reason = ruling.word("reason")
    meaning = finding(reason) if reason else None
    known = {} if ruling.info is None else listed_json(ruling.info)
    record = ruling.record
    known.pop("follows", None)
    return {
        **known,
        "dispute_id": ruling.word("ruling_id"),
        "kind": ruling.word("kind"),
        "outcome": ruling.word("outcome"),
        "reason": reason,
        "means": "" if meaning is None else meaning.seen,
        "for_buyers": "" if meaning is None else meaning.for_buyers,
        "remedy": "" if meaning is None else meaning.remedy,
        "follows": _follows(ruling),
        "consequences": [] if ruling.info is None else list(ruling.info.follows),
        "answers": plain(_voices(ruling)),
        "unheard": [{"key_id": key, "word": word} for key, word in _unheard(ruling)],
        "drawn_steps": list(_drawn_steps(ruling)),
        "draw_published": record is not None and record.draws is not None,
        "contradictions": [{"code": str(item.code), "message": item.message} for item in findings],
        "coordinator_key_id": ruling.coordinator.key_id,
        "trusted": ruling.trusted,
    }
