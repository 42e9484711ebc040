"""One blind audit: sealed answers, their opening in turn, and what comes of silence.

Everybody who computes a segment commits to it alike: the roots in the open, ``inner``, the hash of
its step checksums, behind a salt. An auditor's answer is a commitment like the worker's. Only when
it is there does anybody open: first the auditor, who is bound by its commitment, then the worker,
who was bound all along. So neither can copy the other, and what the worker opens is of no use to an
auditor who comes later.

:func:`begin` and :func:`handle` are a state machine without clock or effects: an :class:`Exchange`
and an event give the next exchange and instructions for the caller, which is the coordinator. A
message that does not fit raises :class:`~flopmarket.errors.Conflict` and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from flopmarket.errors import Conflict
from flopmarket.limits import MAX_AUDIT_ROUNDS
from flopmarket.trust.documents import KeyId
from flopmarket.trust.encoding import Digest, digest, document

SECOND_US = 1_000_000


@document("flopmarket.inner-secret.v1")
class InnerSecret:
    """Signed by a device key: what one of its commitments hides; that carries the digest of this.

    The key is part of it, so that nobody's hidden value can be repeated as one's own.
    """

    device_key_id: KeyId
    salt: Digest
    inner: Digest


def seal_inner(secret: InnerSecret) -> bytes:
    """What a commitment carries in place of ``inner``."""
    return digest(secret)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long each part may take, in microseconds; silence after that has consequences."""

    jitter_us: int = 600 * SECOND_US
    """Audits start at a drawn moment below this after their commitment."""
    idle_us: int = 600 * SECOND_US
    """For a drawn auditor that is there to become free; then the next one is asked."""
    answer_us: int = 1_800 * SECOND_US
    """For an auditor to fetch the start state, recompute and commit, beside the time that its
    device is expected to compute."""
    opening_us: int = 60 * SECOND_US
    """For an auditor to open its commitment."""
    worker_us: int = 24 * 3_600 * SECOND_US
    """For a worker to open its commitment."""


class Phase(StrEnum):
    """Who is waited for."""

    DELAYED = "delayed"
    ASKING = "asking"
    """A drawn auditor is to take the work as soon as its device is free."""
    SEALING = "sealing"
    AUDITOR_OPENS = "auditor-opens"
    WORKER_OPENS = "worker-opens"
    ENDED = "ended"


class Outcome(StrEnum):
    """How an audit ended."""

    EQUAL = "EQUAL"
    ROOTS_DIFFER = "ROOTS_DIFFER"
    """Both opened: a dispute decides who is wrong."""
    INNER_DIFFERS = "INNER_DIFFERS"
    """Equal roots, other checksums: nobody is slashed, a third run decides who loses the audit."""
    WORKER_SILENT = "WORKER_SILENT"
    """The roots agree, the commitment stayed closed: the unit is forfeited, a strike."""
    UNANSWERED_DIFFERENCE = "UNANSWERED_DIFFERENCE"
    """The roots differ and the worker does not answer. The house recomputes, so that no auditor
    accuses who is away; if it finds the same, this is a lost dispute."""
    NO_AUDITOR = "NO_AUDITOR"
    """Nobody of those drawn answered: the house recomputes."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody committed to. ``sealed_inner`` is :func:`seal_inner` of its secret."""

    device_key_id: str
    state_root: bytes
    outputs_root: bytes
    sealed_inner: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """One audit under way. ``order`` are the auditors as drawn, ``asked`` how many were asked.

    ``answer`` is the auditor's commitment, ``answer_inner`` what it opened (empty before).
    """

    task_id: str
    claim: Claim
    order: tuple[str, ...]
    waits: Waits
    phase: Phase
    deadline_us: int
    asked: int = 0
    answer: Claim | None = None
    answer_inner: bytes = b""
    outcome: Outcome | None = None

    @property
    def auditor(self) -> str:
        """Key of the auditor in charge; empty before the first is asked."""
        return self.order[self.asked - 1] if self.asked else ""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing came; the caller looks at the clock. Sent at every deadline, early is harmless."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The auditor in charge has the work; it needs ``expected_us`` by its own figures."""

    expected_us: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """The auditor's commitment, its signature checked."""

    answer: Claim


@dataclass(frozen=True, slots=True)
class AuditorOpened:
    """The auditor's secret, its signature checked."""

    secret: InnerSecret


@dataclass(frozen=True, slots=True)
class WorkerOpened:
    """The worker's secret, its signature checked."""

    secret: InnerSecret


@dataclass(frozen=True, slots=True)
class Refused:
    """Whoever was asked to open says that it cannot: the same as silence, at once."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The auditor in charge cannot, or gives the work back before it commits, with leave."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The auditor in charge took the work and let it lapse."""


Event: TypeAlias = (
    TimePassed | Taken | Sealed | AuditorOpened | WorkerOpened | Refused | Declined | Failed
)


@dataclass(frozen=True, slots=True)
class AskAuditor:
    """Give the work to this key as soon as it is free, and tell by :class:`Taken`."""

    key_id: str


@dataclass(frozen=True, slots=True)
class AskToOpen:
    """Ask this key, auditor or worker, to open what it committed to."""

    key_id: str


@dataclass(frozen=True, slots=True)
class AuditorFailed:
    """This auditor took the work, or committed, and then said nothing: no pay, a strike."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome; it is in the exchange, too."""

    outcome: Outcome


Instruction: TypeAlias = AskAuditor | AskToOpen | AuditorFailed | Ended
Step: TypeAlias = tuple[Exchange, tuple[Instruction, ...]]


def begin(
    task_id: str,
    claim: Claim,
    order: tuple[str, ...],
    jitter_us: int,
    now_us: int,
    waits: Waits | None = None,
) -> Exchange:
    """An audit that starts ``jitter_us`` from now; of ``order`` the first few are ever asked."""
    return Exchange(
        task_id,
        claim,
        order[:MAX_AUDIT_ROUNDS],
        waits or Waits(),
        Phase.DELAYED,
        now_us + jitter_us,
    )


def handle(exchange: Exchange, event: Event, now_us: int) -> Step:
    """The next exchange and what the caller has to do.

    :class:`~flopmarket.errors.Conflict` ``AUDIT_NOT_EXPECTED`` for an event of another phase or
    party, ``AUDIT_OPENING_WRONG`` for an opening that is not what was sealed. Deadlines bind when
    ``TimePassed`` tells of them: an answer that comes before it is in time.
    """
    waits = exchange.waits
    match exchange.phase, event:
        case Phase.ENDED, TimePassed():
            return exchange, ()
        case _, TimePassed():
            return _overdue(exchange, now_us) if now_us >= exchange.deadline_us else (exchange, ())
        case Phase.ASKING, Taken(expected_us):
            return _wait(exchange, Phase.SEALING, now_us + waits.answer_us + expected_us)
        case Phase.ASKING | Phase.SEALING, Declined():
            return _next_auditor(exchange, now_us)
        case Phase.SEALING | Phase.AUDITOR_OPENS, Failed():
            return _auditor_failed(exchange, now_us)
        case Phase.SEALING, Sealed(answer):
            _expect(exchange, answer.device_key_id, exchange.auditor)
            sealed = replace(exchange, answer=answer)
            deadline_us = now_us + waits.opening_us
            return _wait(sealed, Phase.AUDITOR_OPENS, deadline_us, AskToOpen(exchange.auditor))
        case Phase.AUDITOR_OPENS, AuditorOpened(secret):
            assert exchange.answer is not None, "the phase begins with it"
            _expect_opening(exchange, secret, exchange.answer, "the auditor's opening")
            opened = replace(exchange, answer_inner=secret.inner)
            worker, deadline_us = exchange.claim.device_key_id, now_us + waits.worker_us
            return _wait(opened, Phase.WORKER_OPENS, deadline_us, AskToOpen(worker))
        case Phase.WORKER_OPENS, WorkerOpened(secret):
            return _compare(exchange, secret)
        case Phase.AUDITOR_OPENS, Refused(key_id):
            _expect(exchange, key_id, exchange.auditor)
            return _auditor_failed(exchange, now_us)
        case Phase.WORKER_OPENS, Refused(key_id):
            _expect(exchange, key_id, exchange.claim.device_key_id)
            return _worker_silent(exchange)
        case phase, _:
            raise Conflict(
                f"audit {exchange.task_id} is {phase} and expects no {type(event).__name__}",
                code="AUDIT_NOT_EXPECTED",
            )


def _overdue(exchange: Exchange, now_us: int) -> Step:
    match exchange.phase:
        case Phase.DELAYED | Phase.ASKING:
            return _next_auditor(exchange, now_us)
        case Phase.SEALING | Phase.AUDITOR_OPENS:
            return _auditor_failed(exchange, now_us)
        case _:
            return _worker_silent(exchange)


def _auditor_failed(exchange: Exchange, now_us: int) -> Step:
    following, instructions = _next_auditor(exchange, now_us)
    return following, (AuditorFailed(exchange.auditor), *instructions)


def _worker_silent(exchange: Exchange) -> Step:
    agree = _roots_agree(exchange)
    return _end(exchange, Outcome.WORKER_SILENT if agree else Outcome.UNANSWERED_DIFFERENCE)


def _next_auditor(exchange: Exchange, now_us: int) -> Step:
    if exchange.asked == len(exchange.order):
        return _end(exchange, Outcome.NO_AUDITOR)
    following = replace(exchange, asked=exchange.asked + 1, answer=None, answer_inner=b"")
    deadline_us = now_us + exchange.waits.idle_us
    return _wait(following, Phase.ASKING, deadline_us, AskAuditor(following.auditor))


def _compare(exchange: Exchange, secret: InnerSecret) -> Step:
    _expect_opening(exchange, secret, exchange.claim, "the worker's opening")
    if not _roots_agree(exchange):
        return _end(exchange, Outcome.ROOTS_DIFFER)
    same = exchange.answer_inner == secret.inner
    return _end(exchange, Outcome.EQUAL if same else Outcome.INNER_DIFFERS)


def _roots_agree(exchange: Exchange) -> bool:
    answer, claim = exchange.answer, exchange.claim
    return answer is not None and (answer.state_root, answer.outputs_root) == (
        claim.state_root,
        claim.outputs_root,
    )


def _wait(exchange: Exchange, phase: Phase, deadline_us: int, *said: Instruction) -> Step:
    return replace(exchange, phase=phase, deadline_us=deadline_us), said


def _end(exchange: Exchange, outcome: Outcome) -> Step:
    return replace(exchange, phase=Phase.ENDED, outcome=outcome), (Ended(outcome),)


def _expect(exchange: Exchange, key_id: str, expected: str) -> None:
    if key_id != expected:
        raise Conflict(
            f"audit {exchange.task_id} waits for {expected}, not for {key_id}",
            code="AUDIT_NOT_EXPECTED",
        )


def _expect_opening(exchange: Exchange, secret: InnerSecret, claim: Claim, name: str) -> None:
    _expect(exchange, secret.device_key_id, claim.device_key_id)
    found = seal_inner(secret)
    if found != claim.sealed_inner:
        raise Conflict(
            f"{name} is not what was sealed: {found.hex()[:16]}, not "
            f"{claim.sealed_inner.hex()[:16]}",
            code="AUDIT_OPENING_WRONG",
            hint="open with the salt and the value of the commitment",
        )
