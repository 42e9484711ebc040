"""The pure decisions as tables: transitions, ranges, verdicts, slashes, checker."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket_coordinator.core import escrow, invariants
from flopmarket_coordinator.core.invariants import (
    JobFacts,
    LeaseFacts,
    SegmentFacts,
    Snapshot,
    check,
)
from flopmarket_coordinator.core.leasing import Checked, Part, checked_run, open_ranges
from flopmarket_coordinator.core.ledger import (
    ESCROW,
    Balance,
    Purpose,
    Transfer,
    TransferKind,
)
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    IllegalTransition,
    JobState,
    LeaseState,
    SegmentState,
    check_transition,
)
from flopmarket_coordinator.core.verification import Claimed, Recomputed, judge


def test_final_states_are_final_and_illegal_steps_tell_the_story() -> None:
    assert all(not JOB_TRANSITIONS[state] for state in FINAL_JOB_STATES)
    with pytest.raises(IllegalTransition) as error:
        check_transition(
            JOB_TRANSITIONS, JobState.FAILED, JobState.RUNNING, name="job j", story=["1 failed: x"]
        )
    assert "job j" in error.value.message and "1 failed: x" in error.value.message


@given(
    st.integers(1, 60),
    st.integers(1, 10),
    st.sets(st.integers(0, 59)),
)
def test_open_ranges_are_what_nobody_has(steps: int, segment: int, taken: set[int]) -> None:
    had = [(at, 1) for at in taken if at < steps]
    found = open_ranges(steps, segment, had, steps)
    assert open_ranges(steps, segment, had, 2) == found[:2]
    covered = [
        step for item in found for step in range(item.first_step, item.first_step + item.step_count)
    ]
    assert covered == [step for step in range(steps) if step not in taken]
    for item in found:
        last = item.first_step + item.step_count - 1
        assert item.first_step // segment == last // segment == item.index


def part(index: int, state: str, *, saved: bool) -> Part:
    return Part(index, index, 3 * index, 3, SegmentState(state), b"r", "file" if saved else "")


@pytest.mark.parametrize(
    ("parts", "stateless", "every", "checked", "payable"),
    [
        ([("verified", True)], False, False, 3, 3),
        ([("verified", False)], False, False, 3, 0),
        ([("verified", False)], False, True, 3, 3),
        ([("verified", False)], True, False, 3, 3),
        ([("verified", False), ("verified", True)], False, False, 6, 6),
        ([("committed", True), ("verified", True)], False, False, 0, 0),
        ([("settled", True), ("verified", False), ("committed", True)], False, False, 6, 3),
    ],
)
def test_pay_follows_durable_verified_states(
    parts: list[tuple[str, bool]], stateless: bool, every: bool, checked: int, payable: int
) -> None:
    live = [part(at, state, saved=saved) for at, (state, saved) in enumerate(parts)]
    run = functools.partial(checked_run, stateless=stateless, every=every)
    assert run(live, Checked(0, 0)) == Checked(checked, payable)
    for at in range(len(live)):  # however far it was looked at before
        before = run(live[:at], Checked(0, 0))
        rest = [item for item in live if item.first_step >= before.checked_steps]
        assert run(rest, before) == Checked(checked, payable)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Recomputed(b"s", b"o", b"o", b"s"), "EQUAL"),
        (Recomputed(b"x", b"o", b"o", b"s"), "STATE_DIFFERS"),
        (Recomputed(b"s", b"x", b"o", b"s"), "OUTPUTS_DIFFER"),
        (Recomputed(b"s", b"o", b"o", b""), "CHECKPOINT_FILE_DIFFERS"),
        (Recomputed(b"s", b"o", b"x", b"s"), "OUTPUTS_FILE_DIFFERS"),
    ],
)
def test_verdicts_compare_bits(found: Recomputed, code: str) -> None:
    assert judge(Claimed(b"s", b"o", "outputs", "checkpoint"), found) == code


HOLD, RENEWED = escrow.open_hold("j", "b", 100)
GOOD_JOB = JobFacts(
    "j", JobState.RUNNING, 100, 0, 0, RENEWED.transfer_id, 100, None, None, None, 0, 0, 3, 1
)
GOOD = Snapshot(
    transfers=(escrow.deposit("op", "r", "b", Balance.AVAILABLE, 500, "cash"), HOLD),
    balances={"b/available": (500, 100), "platform/external": (-500, 0)},
    jobs=(GOOD_JOB,),
    segments=(SegmentFacts(1, "j", "w", SegmentState.COMMITTED, 0, 3, 10, 0, "", False),),
    leases=(LeaseFacts("l", "j", "o", True, 1, LeaseState.RUNNING),),
)
SEGMENT = GOOD.segments[0]
UNDONE = replace(SEGMENT, state=SegmentState.VOID)
LEASE = GOOD.leases[0]
ORPHAN = Transfer("t", TransferKind.VOID, "b/available", ESCROW, 1, Purpose.HOLD, pending_id="none")
VOID = escrow.close_hold("j", "b", RENEWED)
OVERDRAFT = Transfer("t", TransferKind.DIRECT, "poor", "b/available", 1, Purpose.DEPOSIT)


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("money-conserved", {"balances": {**GOOD.balances, "x": (1, 0)}}),
        ("balance-cache", {"balances": {**GOOD.balances, "b/available": (499, 100)}}),
        ("not-overdrawn", {"transfers": (*GOOD.transfers, OVERDRAFT)}),
        ("clearing-empty", {"transfers": (*GOOD.transfers, replace(OVERDRAFT, credit=ESCROW))}),
        ("transfer-pairs", {"transfers": (*GOOD.transfers, ORPHAN)}),
        ("hold-resolved-once", {"transfers": (*GOOD.transfers, VOID)}),
        ("open-hold", {"jobs": (replace(GOOD_JOB, hold_nano=99),)}),
        ("billed", {"jobs": (replace(GOOD_JOB, billed_nano=1),)}),
        ("fees-collected", {"jobs": (replace(GOOD_JOB, fee_nano=1),)}),
        ("verdict-before-pay", {"segments": (replace(SEGMENT, state=SegmentState.VERIFIED),)}),
        ("held-pay", {"segments": (replace(SEGMENT, held_state="held", to_held_nano=1),)}),
        ("lease-exclusive", {"leases": (LEASE, replace(LEASE, lease_id="m", fence=2))}),
        ("fence-rises", {"leases": (LEASE, replace(LEASE, state=LeaseState.EXPIRED))}),
        ("steps-overlap", {"segments": (SEGMENT, replace(SEGMENT, segment_id=2, first_step=2))}),
        ("receipt", {"jobs": (replace(GOOD_JOB, receipt_invoice_nano=0),)}),
        ("job-sums", {"jobs": (replace(GOOD_JOB, live_steps=2),)}),
        ("job-sums", {"jobs": (replace(GOOD_JOB, checked_steps=3),)}),
        ("money-returned", {"jobs": (replace(GOOD_JOB, returned_nano=1),)}),
        ("money-returned", {"segments": (replace(UNDONE, was_settled=True),)}),
        ("held-pay", {"segments": (replace(SEGMENT, held_state="waiting"),)}),
        ("held-pay", {"segments": (replace(SEGMENT, held_state="released"),)}),
    ],
)
def test_the_checker_sees_every_kind_of_damage(rule: str, changed: dict[str, object]) -> None:
    assert check(GOOD) == ()
    found = check(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert rule in {finding.rule for finding in found}


def test_every_rule_has_a_case() -> None:
    marks = test_the_checker_sees_every_kind_of_damage.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(invariants.RULES)
