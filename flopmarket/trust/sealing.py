"""One blind audit: sealed answers, their opening in turn, and what comes of silence.

A worker's commitment hides ``inner``, the hash of its step checksums, behind a salt; an auditor
seals its whole answer. Only when the seal is there does anybody open: first the auditor, who is
bound by its seal, then the worker, who was bound all along. So neither can copy the other, and what
the worker opens is of no use to an auditor who comes later.

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
from flopmarket.trust.documents import Identifier, KeyId
from flopmarket.trust.encoding import Digest, digest, document

SECOND_US = 1_000_000


@document("flopmarket.inner-secret.v1")
class InnerSecret:
    """What a worker's commitment hides; the commitment carries its digest.

    The key is part of it, so that nobody's hidden value can be repeated as one's own.
    """

    device_key_id: KeyId
    salt: Digest
    inner: Digest


@document("flopmarket.audit-answer.v1")
class AuditAnswer:
    """What an auditor computed; its seal is the digest of this."""

    auditor_key_id: KeyId
    task_id: Identifier
    salt: Digest
    state_root: Digest
    outputs_root: Digest
    inner: Digest


@document("flopmarket.audit-seal.v1")
class AuditSeal:
    """Signed by an auditor's device key: "my answer is fixed"; the answer follows."""

    auditor_key_id: KeyId
    task_id: Identifier
    seal: Digest


def seal_inner(secret: InnerSecret) -> bytes:
    """What a commitment carries in place of ``inner``."""
    return digest(secret)


def seal_answer(answer: AuditAnswer) -> AuditSeal:
    """The document that an auditor signs before anybody opens."""
    return AuditSeal(answer.auditor_key_id, answer.task_id, digest(answer))


@dataclass(frozen=True, slots=True)
class Waits:
    """How long each part may take, in microseconds; silence after that has consequences."""

    jitter_us: int = 600 * SECOND_US
    """Audits start at a drawn moment below this after their commitment."""
    answer_us: int = 1_800 * SECOND_US
    """For an auditor to fetch the start state, recompute and seal."""
    opening_us: int = 60 * SECOND_US
    """For an auditor to open its seal."""
    worker_us: int = 24 * 3_600 * SECOND_US
    """For a worker to open its commitment, or to serve a state that only it has."""


class Phase(StrEnum):
    """Who is waited for."""

    DELAYED = "delayed"
    SEALING = "sealing"
    AUDITOR_OPENS = "auditor-opens"
    STATE_MISSING = "state-missing"
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
    STATE_WITHHELD = "STATE_WITHHELD"
    """The start state never came: nothing that builds on it is paid, a strike."""
    NO_AUDITOR = "NO_AUDITOR"
    """Nobody of those drawn answered: the house recomputes."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the worker committed to. ``sealed_inner`` is :func:`seal_inner` of its secret."""

    device_key_id: str
    state_root: bytes
    outputs_root: bytes
    sealed_inner: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """One audit under way. ``order`` are the auditors as drawn, ``asked`` how many were asked."""

    task_id: str
    claim: Claim
    order: tuple[str, ...]
    waits: Waits
    phase: Phase
    deadline_us: int
    asked: int = 0
    seal: bytes = b""
    answer: AuditAnswer | None = None
    outcome: Outcome | None = None

    @property
    def auditor(self) -> str:
        """Key of the auditor in charge; empty before the first is asked."""
        return self.order[self.asked - 1] if self.asked else ""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing came; the caller looks at the clock. Sent at every deadline, early is harmless."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The auditor's seal, its signature checked."""

    seal: AuditSeal


@dataclass(frozen=True, slots=True)
class AuditorOpened:
    """The auditor's answer, its signature checked."""

    answer: AuditAnswer


@dataclass(frozen=True, slots=True)
class WorkerOpened:
    """The worker's secret, its signature checked."""

    secret: InnerSecret


@dataclass(frozen=True, slots=True)
class StateMissing:
    """The auditor in charge could not get the start state from anywhere."""


@dataclass(frozen=True, slots=True)
class StateServed:
    """The start state is there again."""


@dataclass(frozen=True, slots=True)
class Declined:
    """The auditor in charge gives the task back before sealing, with leave: its owner is back."""


Event: TypeAlias = (
    TimePassed | Sealed | AuditorOpened | WorkerOpened | StateMissing | StateServed | Declined
)


@dataclass(frozen=True, slots=True)
class AskAuditor:
    """Give the task to this key: recompute, then seal."""

    key_id: str


@dataclass(frozen=True, slots=True)
class AskToOpen:
    """Ask this key, auditor or worker, to open what it sealed."""

    key_id: str


@dataclass(frozen=True, slots=True)
class AskForState:
    """Ask the worker for the start state."""

    key_id: str


@dataclass(frozen=True, slots=True)
class AuditorFailed:
    """This auditor sealed or accepted and then said nothing: no pay, a strike."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome; it is in the exchange, too."""

    outcome: Outcome


Instruction: TypeAlias = AskAuditor | AskToOpen | AskForState | AuditorFailed | Ended
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
    match exchange.phase, event:
        case Phase.ENDED, TimePassed():
            return exchange, ()
        case _, TimePassed():
            return _overdue(exchange, now_us) if now_us >= exchange.deadline_us else (exchange, ())
        case Phase.SEALING, Sealed(seal):
            _expect(exchange, seal.auditor_key_id, seal.task_id)
            return _wait(
                replace(exchange, seal=seal.seal),
                Phase.AUDITOR_OPENS,
                now_us + exchange.waits.opening_us,
                AskToOpen(exchange.auditor),
            )
        case Phase.SEALING, StateMissing():
            return _wait(
                exchange,
                Phase.STATE_MISSING,
                now_us + exchange.waits.worker_us,
                AskForState(exchange.claim.device_key_id),
            )
        case Phase.SEALING, Declined():
            return _next_auditor(exchange, now_us)
        case Phase.STATE_MISSING, StateServed():
            return _wait(
                exchange,
                Phase.SEALING,
                now_us + exchange.waits.answer_us,
                AskAuditor(exchange.auditor),
            )
        case Phase.AUDITOR_OPENS, AuditorOpened(answer):
            _expect(exchange, answer.auditor_key_id, answer.task_id)
            _expect_digest(digest(answer), exchange.seal, "the auditor's answer")
            return _wait(
                replace(exchange, answer=answer),
                Phase.WORKER_OPENS,
                now_us + exchange.waits.worker_us,
                AskToOpen(exchange.claim.device_key_id),
            )
        case Phase.WORKER_OPENS, WorkerOpened(secret):
            return _compare(exchange, secret)
        case phase, _:
            raise Conflict(
                f"audit {exchange.task_id} is {phase} and expects no {type(event).__name__}",
                code="AUDIT_NOT_EXPECTED",
            )


def _overdue(exchange: Exchange, now_us: int) -> Step:
    match exchange.phase:
        case Phase.DELAYED:
            return _next_auditor(exchange, now_us)
        case Phase.SEALING | Phase.AUDITOR_OPENS:
            following, instructions = _next_auditor(exchange, now_us)
            return following, (AuditorFailed(exchange.auditor), *instructions)
        case Phase.STATE_MISSING:
            return _end(exchange, Outcome.STATE_WITHHELD)
        case _:
            agree = _roots_agree(exchange)
            return _end(exchange, Outcome.WORKER_SILENT if agree else Outcome.UNANSWERED_DIFFERENCE)


def _next_auditor(exchange: Exchange, now_us: int) -> Step:
    if exchange.asked == len(exchange.order):
        return _end(exchange, Outcome.NO_AUDITOR)
    following = replace(exchange, asked=exchange.asked + 1, seal=b"", answer=None)
    return _wait(
        following,
        Phase.SEALING,
        now_us + exchange.waits.answer_us,
        AskAuditor(following.auditor),
    )


def _compare(exchange: Exchange, secret: InnerSecret) -> Step:
    if secret.device_key_id != exchange.claim.device_key_id:
        raise Conflict(
            f"audit {exchange.task_id} is of another worker than {secret.device_key_id}",
            code="AUDIT_NOT_EXPECTED",
        )
    _expect_digest(seal_inner(secret), exchange.claim.sealed_inner, "the worker's opening")
    if not _roots_agree(exchange):
        return _end(exchange, Outcome.ROOTS_DIFFER)
    same = exchange.answer is not None and exchange.answer.inner == secret.inner
    return _end(exchange, Outcome.EQUAL if same else Outcome.INNER_DIFFERS)


def _roots_agree(exchange: Exchange) -> bool:
    answer, claim = exchange.answer, exchange.claim
    return answer is not None and (answer.state_root, answer.outputs_root) == (
        claim.state_root,
        claim.outputs_root,
    )


def _wait(exchange: Exchange, phase: Phase, deadline_us: int, instruction: Instruction) -> Step:
    return replace(exchange, phase=phase, deadline_us=deadline_us), (instruction,)


def _end(exchange: Exchange, outcome: Outcome) -> Step:
    return replace(exchange, phase=Phase.ENDED, outcome=outcome), (Ended(outcome),)


def _expect(exchange: Exchange, key_id: str, task_id: str) -> None:
    if (key_id, task_id) != (exchange.auditor, exchange.task_id):
        raise Conflict(
            f"audit {exchange.task_id} waits for {exchange.auditor}, not for {key_id} on {task_id}",
            code="AUDIT_NOT_EXPECTED",
        )


def _expect_digest(found: bytes, sealed: bytes, name: str) -> None:
    if found != sealed:
        raise Conflict(
            f"{name} is not what was sealed: {found.hex()[:16]}, not {sealed.hex()[:16]}",
            code="AUDIT_OPENING_WRONG",
            hint="open with the salt and the values of the commitment",
        )
