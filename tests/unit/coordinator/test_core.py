"""The pure decisions as tables: transitions, matching, ranges, verdicts, slashes, checker."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.market.offer import Offer
from flopmarket.market.predict import DeviceRates, StepWork
from flopmarket_coordinator.core import escrow, invariants
from flopmarket_coordinator.core.invariants import (
    JobFacts,
    LeaseFacts,
    SegmentFacts,
    Snapshot,
    check,
)
from flopmarket_coordinator.core.leasing import Part, durable_prefix, open_ranges
from flopmarket_coordinator.core.ledger import (
    ESCROW,
    Balance,
    Purpose,
    Transfer,
    TransferKind,
    changes,
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
from flopmarket_coordinator.core.matching import (
    Candidate,
    Demand,
    OpenWork,
    Reason,
    assign,
    leasable,
)
from flopmarket_coordinator.core.verification import Claimed, Recomputed, judge

OFFER = Offer(
    "o1", "owner", "key", "card", "card", "driver", "FX1", 1_000,
    DeviceRates({"dot-f32": 1_000}, 1_000, 0), 3_600, 0, "unknown", 0,
)  # fmt: skip
SLOW = DeviceRates({"dot-f32": 1}, 1, 0)
IDLE = Candidate(OFFER, online=True, busy=False, banned=False)
DEMAND = Demand("buyer", "FX1", 500, StepWork({"dot-f32": 1_000}, 0, 1))
WORK = OpenWork("job", 0, 10, DEMAND, 10, 10)


def test_final_states_are_final_and_illegal_steps_tell_the_story() -> None:
    assert all(not JOB_TRANSITIONS[state] for state in FINAL_JOB_STATES)
    with pytest.raises(IllegalTransition) as error:
        check_transition(
            JOB_TRANSITIONS, JobState.FAILED, JobState.RUNNING, name="job j", story=["1 failed: x"]
        )
    assert "job j" in error.value.message and "1 failed: x" in error.value.message


@pytest.mark.parametrize(
    ("work", "candidate", "reason"),
    [
        (replace(WORK, demand=replace(DEMAND, profile="FX2")), IDLE, Reason.PROFILE),
        (replace(WORK, demand=replace(DEMAND, peak_memory_bytes=1_001)), IDLE, Reason.MEMORY),
        (replace(WORK, demand=replace(DEMAND, buyer="owner")), IDLE, Reason.SAME_OWNER),
        (
            replace(WORK, demand=replace(DEMAND, work=StepWork({"integer": 1}, 0, 1))),
            IDLE,
            Reason.NO_RATE,
        ),
        (WORK, replace(IDLE, banned=True), Reason.BANNED),
        (WORK, replace(IDLE, online=False), Reason.OFFLINE),
        (WORK, replace(IDLE, busy=True), Reason.BUSY),
        (replace(WORK, avoid=frozenset({"o1"})), IDLE, Reason.RECENTLY_DECLINED),
        (replace(WORK, money_nano=9), IDLE, Reason.MAX_PRICE),
        (
            WORK,
            replace(IDLE, offer=replace(OFFER, ask_nano_per_hour=2**62, rates=SLOW)),
            Reason.UNPRICEABLE,
        ),
    ],
)
def test_every_obstacle_has_its_name(work: OpenWork, candidate: Candidate, reason: Reason) -> None:
    assert leasable(work, candidate) is reason


@given(st.permutations(range(4)))
def test_matching_is_cheapest_first_and_does_not_depend_on_order(order: list[int]) -> None:
    asks = (4_000, 3_600, 3_600, 3_700)
    candidates = [
        replace(IDLE, offer=replace(OFFER, offer_id=f"o{at}", ask_nano_per_hour=asks[at]))
        for at in order
    ]
    rich = replace(WORK, money_nano=10**6)
    works = [rich, replace(rich, job_id="second"), replace(rich, job_id="third")]
    assignments, unmatched = assign(works, candidates)
    assert [item.offer.offer_id for item in assignments] == ["o1", "o2", "o3"]
    assert unmatched == ()


def test_what_stays_waiting_says_why() -> None:
    _, (left,) = assign([WORK, replace(WORK, job_id="second")], [IDLE])
    assert left.reasons == (("BUSY", 1),)


@given(
    st.integers(1, 60),
    st.integers(1, 10),
    st.sets(st.integers(0, 59)),
)
def test_open_ranges_are_what_nobody_has(steps: int, segment: int, taken: set[int]) -> None:
    found = open_ranges(steps, segment, [(at, 1) for at in taken if at < steps])
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
    ("parts", "stateless", "every", "ready"),
    [
        ([("verified", True)], False, False, [0]),
        ([("verified", False)], False, False, []),
        ([("verified", False)], False, True, [0]),
        ([("verified", False)], True, False, [0]),
        ([("verified", False), ("verified", True)], False, False, [0, 1]),
        ([("committed", True), ("verified", True)], False, False, []),
        ([("settled", True), ("verified", False), ("committed", True)], False, False, []),
    ],
)
def test_pay_follows_durable_verified_states(
    parts: list[tuple[str, bool]], stateless: bool, every: bool, ready: list[int]
) -> None:
    live = [part(at, state, saved=saved) for at, (state, saved) in enumerate(parts)]
    assert durable_prefix(live, stateless=stateless, every=every) == ready


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


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.lists(st.integers(1, 10**12), max_size=4),
)
def test_a_slash_spends_what_was_forfeited_and_no_more_reserve_than_there_is(
    held: int, bond: int, reserve: int, owed: list[int]
) -> None:
    claims = [escrow.Claim(at, f"w{at}", amount) for at, amount in enumerate(owed)]
    outcome = escrow.slash(
        job_id="j", segment_id=1, cheat="c", buyer="b", held_nano=held, bond_nano=bond,
        reserve_nano=reserve, claims=claims,
    )  # fmt: skip
    sums: dict[str, int] = {}
    for transfer in outcome.transfers:
        for change in changes(transfer, None):
            sums[change.account] = sums.get(change.account, 0) + change.balance_nano
    assert sums.get(ESCROW, 0) == 0 and sum(sums.values()) == 0
    assert sums.get("c/held", 0) == -held and sums.get("c/bond", 0) == -bond
    assert sums.get("platform/reserve", 0) >= -reserve
    assert outcome.compensated_nano + outcome.unpaid_nano == sum(owed)
    left = held + bond - min(held + bond, sum(owed))
    assert outcome.refund_nano == -(-left // 2)


HOLD, RENEWED = escrow.open_hold("j", "b", 100)
GOOD_JOB = JobFacts("j", JobState.RUNNING, 100, 0, 0, RENEWED.transfer_id, 100, None, None, None)
GOOD = Snapshot(
    transfers=(escrow.deposit("op", "r", "b", Balance.AVAILABLE, 500, "cash"), HOLD),
    balances={"b/available": (500, 100), "platform/external": (-500, 0)},
    jobs=(GOOD_JOB,),
    segments=(SegmentFacts(1, "j", "w", SegmentState.COMMITTED, 0, 3, 10, 0, "", False),),
    leases=(LeaseFacts("l", "j", "o", True, 1, LeaseState.RUNNING),),
)
SEGMENT = GOOD.segments[0]
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
        ("verdict-before-pay", {"segments": (replace(SEGMENT, state=SegmentState.VERIFIED),)}),
        ("held-pay", {"segments": (replace(SEGMENT, held_state="held", to_held_nano=1),)}),
        ("lease-exclusive", {"leases": (LEASE, replace(LEASE, lease_id="m", fence=2))}),
        ("fence-rises", {"leases": (LEASE, replace(LEASE, state=LeaseState.EXPIRED))}),
        ("steps-overlap", {"segments": (SEGMENT, replace(SEGMENT, segment_id=2, first_step=2))}),
        ("receipt", {"jobs": (replace(GOOD_JOB, receipt_invoice_nano=0),)}),
    ],
)
def test_the_checker_sees_every_kind_of_damage(rule: str, changed: dict[str, object]) -> None:
    assert check(GOOD) == ()
    found = check(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert rule in {finding.rule for finding in found}


def test_every_rule_has_a_case() -> None:
    marks = test_the_checker_sees_every_kind_of_damage.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(invariants.RULES)
