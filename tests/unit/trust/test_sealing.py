"""The blind audit: who may open when, deadlines, and that nobody gains by silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import Conflict
from flopmarket.limits import MAX_AUDIT_ROUNDS
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.sealing import (
    AskAuditor,
    AskToOpen,
    AuditorFailed,
    AuditorOpened,
    Claim,
    Declined,
    Ended,
    Event,
    Exchange,
    Failed,
    InnerSecret,
    Instruction,
    Outcome,
    Phase,
    Refused,
    Sealed,
    Taken,
    TimePassed,
    Waits,
    WorkerOpened,
    begin,
    handle,
    seal_inner,
)

WORKER, FIRST, SECOND = "a" * 64, "b" * 64, "c" * 64
STATE, OUTPUTS, INNER = b"s" * 32, b"o" * 32, b"i" * 32
OTHER = b"x" * 32
SECRET = InnerSecret(WORKER, b"1" * 32, INNER)
CLAIM = Claim(WORKER, STATE, OUTPUTS, seal_inner(SECRET))
ANSWER_SECRET = InnerSecret(FIRST, b"2" * 32, INNER)
ANSWER = Claim(FIRST, STATE, OUTPUTS, seal_inner(ANSWER_SECRET))
SECOND_SECRET = InnerSecret(SECOND, b"3" * 32, INNER)
SECOND_ANSWER = Claim(SECOND, STATE, OUTPUTS, seal_inner(SECOND_SECRET))
WAITS = Waits()
START_US = 1_000_000_000
JITTER_US = 5_000_000
EXPECTED_US = 7_000_000


class Audit:
    """One exchange with a clock that the test moves."""

    def __init__(self, order: tuple[str, ...] = (FIRST, SECOND), claim: Claim = CLAIM) -> None:
        self.now_us = START_US
        self.exchange = begin("task", claim, order, JITTER_US, START_US)
        self.said: list[Instruction] = []

    def hear(self, event: Event) -> tuple[Instruction, ...]:
        self.exchange, instructions = handle(self.exchange, event, self.now_us)
        self.said += instructions
        return instructions

    def overdue(self) -> tuple[Instruction, ...]:
        self.now_us = self.exchange.deadline_us
        return self.hear(TimePassed())

    def reach_auditor(self) -> None:
        self.overdue()
        self.hear(Taken(EXPECTED_US))

    def reach_worker(self, answer: Claim = ANSWER, secret: InnerSecret = ANSWER_SECRET) -> None:
        self.reach_auditor()
        self.hear(Sealed(answer))
        self.hear(AuditorOpened(secret))


def refused(audit: Audit, event: Event, code: str) -> None:
    before = audit.exchange
    with pytest.raises(Conflict) as caught:
        audit.hear(event)
    assert caught.value.code == code
    assert audit.exchange == before


def test_an_audit_that_agrees() -> None:
    audit = Audit()
    assert audit.hear(TimePassed()) == ()
    assert audit.overdue() == (AskAuditor(FIRST),)
    assert audit.hear(Taken(EXPECTED_US)) == ()
    assert audit.exchange.deadline_us == audit.now_us + WAITS.answer_us + EXPECTED_US
    assert audit.hear(Sealed(ANSWER)) == (AskToOpen(FIRST),)
    assert audit.hear(AuditorOpened(ANSWER_SECRET)) == (AskToOpen(WORKER),)
    assert audit.hear(WorkerOpened(SECRET)) == (Ended(Outcome.EQUAL),)
    assert (audit.exchange.phase, audit.exchange.outcome) == (Phase.ENDED, Outcome.EQUAL)
    assert audit.exchange.auditor == FIRST
    assert audit.hear(TimePassed()) == ()


@pytest.mark.parametrize(
    ("changes", "inner", "answered", "silent"),
    [
        ({}, INNER, Outcome.EQUAL, Outcome.WORKER_SILENT),
        ({"state_root": OTHER}, INNER, Outcome.ROOTS_DIFFER, Outcome.UNANSWERED_DIFFERENCE),
        ({"outputs_root": OTHER}, INNER, Outcome.ROOTS_DIFFER, Outcome.UNANSWERED_DIFFERENCE),
        ({}, OTHER, Outcome.INNER_DIFFERS, Outcome.WORKER_SILENT),
    ],
)
def test_outcomes(
    changes: dict[str, bytes], inner: bytes, answered: Outcome, silent: Outcome
) -> None:
    secret = replace(ANSWER_SECRET, inner=inner)
    answer = replace(ANSWER, sealed_inner=seal_inner(secret), **changes)  # type: ignore[arg-type]
    audit = Audit()
    audit.reach_worker(answer, secret)
    assert audit.hear(WorkerOpened(SECRET)) == (Ended(answered),)
    audit = Audit()
    audit.reach_worker(answer, secret)
    assert audit.overdue() == (Ended(silent),)
    assert audit.now_us - START_US >= WAITS.worker_us
    audit = Audit()
    audit.reach_worker(answer, secret)
    assert audit.hear(Refused(WORKER)) == (Ended(silent),)


def test_a_worker_that_comes_back_within_a_day_loses_nothing() -> None:
    audit = Audit()
    audit.reach_worker()
    audit.now_us += WAITS.worker_us - 1
    assert audit.hear(TimePassed()) == ()
    assert audit.hear(WorkerOpened(SECRET)) == (Ended(Outcome.EQUAL),)


def test_a_busy_auditor_is_waited_for_and_then_passed_over_without_a_word() -> None:
    audit = Audit()
    audit.overdue()
    audit.now_us += WAITS.idle_us - 1
    assert audit.hear(TimePassed()) == ()
    assert audit.overdue() == (AskAuditor(SECOND),)
    assert audit.hear(Declined()) == (Ended(Outcome.NO_AUDITOR),)
    assert not [said for said in audit.said if isinstance(said, AuditorFailed)]


@pytest.mark.parametrize("lapse", [None, Failed()])
def test_a_silent_auditor_is_replaced_before_and_after_its_seal(lapse: Event | None) -> None:
    audit = Audit()
    audit.reach_auditor()
    said = audit.overdue() if lapse is None else audit.hear(lapse)
    assert said == (AuditorFailed(FIRST), AskAuditor(SECOND))
    audit.hear(Taken(0))
    audit.hear(Sealed(SECOND_ANSWER))
    said = audit.overdue() if lapse is None else audit.hear(lapse)
    assert said == (AuditorFailed(SECOND), Ended(Outcome.NO_AUDITOR))
    assert AskToOpen(WORKER) not in audit.said


def test_an_auditor_that_lost_its_secret_is_like_a_silent_one() -> None:
    audit = Audit()
    audit.reach_auditor()
    audit.hear(Sealed(ANSWER))
    refused(audit, Refused(SECOND), "AUDIT_NOT_EXPECTED")
    assert audit.hear(Refused(FIRST)) == (AuditorFailed(FIRST), AskAuditor(SECOND))


def test_an_auditor_may_decline_before_it_seals() -> None:
    audit = Audit()
    audit.reach_auditor()
    assert audit.hear(Declined()) == (AskAuditor(SECOND),)
    audit.hear(Taken(0))
    audit.hear(Sealed(SECOND_ANSWER))
    refused(audit, Declined(), "AUDIT_NOT_EXPECTED")


def test_only_the_auditor_in_charge_and_only_what_it_sealed() -> None:
    audit = Audit()
    audit.overdue()
    refused(audit, Sealed(ANSWER), "AUDIT_NOT_EXPECTED")
    audit.hear(Taken(0))
    refused(audit, Sealed(SECOND_ANSWER), "AUDIT_NOT_EXPECTED")
    audit.hear(Sealed(ANSWER))
    refused(audit, AuditorOpened(SECOND_SECRET), "AUDIT_NOT_EXPECTED")
    refused(audit, AuditorOpened(replace(ANSWER_SECRET, inner=OTHER)), "AUDIT_OPENING_WRONG")
    refused(audit, AuditorOpened(replace(ANSWER_SECRET, salt=OTHER)), "AUDIT_OPENING_WRONG")
    refused(audit, WorkerOpened(SECRET), "AUDIT_NOT_EXPECTED")


def test_only_the_worker_and_only_what_it_committed_to() -> None:
    audit = Audit()
    audit.reach_worker()
    refused(audit, WorkerOpened(replace(SECRET, inner=OTHER)), "AUDIT_OPENING_WRONG")
    refused(audit, WorkerOpened(replace(SECRET, device_key_id=FIRST)), "AUDIT_NOT_EXPECTED")
    refused(audit, Refused(FIRST), "AUDIT_NOT_EXPECTED")
    assert audit.hear(WorkerOpened(SECRET)) == (Ended(Outcome.EQUAL),)


def test_a_sealed_value_copied_by_another_worker_cannot_be_opened() -> None:
    """The copier repeats the sealed value and, after the original opened, its salt and inner."""
    copier = "d" * 64
    audit = Audit(claim=replace(CLAIM, device_key_id=copier))
    audit.reach_worker()
    refused(audit, WorkerOpened(replace(SECRET, device_key_id=copier)), "AUDIT_OPENING_WRONG")


def test_equal_answers_of_two_auditors_have_different_seals() -> None:
    seals = {seal_inner(replace(ANSWER_SECRET, device_key_id=key)) for key in (FIRST, SECOND)}
    assert len(seals) == 2
    assert decode(InnerSecret, encode(SECRET)) == SECRET


def test_auditors_asked_for_one_segment_are_bounded() -> None:
    order = tuple(f"{number:064x}" for number in range(MAX_AUDIT_ROUNDS + 10))
    audit = Audit(order)
    while audit.exchange.phase is not Phase.ENDED:
        audit.overdue()
    asked = [said.key_id for said in audit.said if isinstance(said, AskAuditor)]
    assert asked == list(order[:MAX_AUDIT_ROUNDS])
    assert Audit(()).overdue() == (Ended(Outcome.NO_AUDITOR),)


EVENTS: list[Event] = [
    TimePassed(),
    Taken(EXPECTED_US),
    Declined(),
    Failed(),
    WorkerOpened(SECRET),
    WorkerOpened(replace(SECRET, salt=OTHER)),
    Refused(WORKER),
    Refused(FIRST),
]
for made in (ANSWER_SECRET, SECOND_SECRET):
    EVENTS += [
        Sealed(Claim(made.device_key_id, root, OUTPUTS, seal_inner(made)))
        for root in (STATE, OTHER)
    ]
    EVENTS.append(AuditorOpened(made))


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, WAITS.worker_us)), max_size=40))
def test_whatever_comes_in_whatever_order(story: list[tuple[Event, int]]) -> None:
    """Nothing but Conflict is raised; the worker is asked only when an auditor has opened; nobody
    is asked twice; and silence ends every audit.
    """
    audit = Audit()
    for event, passes_us in story:
        audit.now_us += passes_us
        before = audit.exchange
        try:
            said = audit.hear(event)
        except Conflict:
            assert audit.exchange is before
            continue
        check(before, audit.exchange, said)
    for _ in range(4 * len(audit.exchange.order)):
        audit.overdue()
    assert audit.exchange.phase is Phase.ENDED
    assert sum(isinstance(said, Ended) for said in audit.said) == 1
    for kind in (AuditorFailed, AskAuditor):
        named = [said.key_id for said in audit.said if isinstance(said, kind)]
        assert len(named) == len(set(named))


def check(before: Exchange, after: Exchange, said: tuple[Instruction, ...]) -> None:
    if before.phase is Phase.ENDED:
        assert (after, said) == (before, ())
    if AskToOpen(WORKER) in said:
        assert after.answer is not None
        assert after.answer_inner == INNER
    assert (after.outcome is None) == (after.phase is not Phase.ENDED)
    if after.outcome in (Outcome.EQUAL, Outcome.ROOTS_DIFFER, Outcome.INNER_DIFFERS):
        assert before.phase is Phase.WORKER_OPENS
