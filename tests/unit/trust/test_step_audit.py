"""Step audits as laws: which steps are drawn, how often one wrong step is among them, what is
refused, and what a smaller chance of detection costs."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from math import comb, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.trust.audit_policy import (
    RULES,
    AuditRules,
    Level,
    rate_ppm,
    stake_rate_ppm,
    steps_detection_ppm,
    steps_of_budget,
)
from flopmarket.trust.challenge import (
    AuditorList,
    Chain,
    ChainName,
    ChallengeTerms,
    FindingCode,
    Purpose,
    drawn_steps,
    leads_to,
    rederive,
)
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import digest
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket.trust.step_audit import (
    EQUAL,
    DrawnState,
    OneStep,
    StepAnswer,
    StepClaim,
    StepCode,
    check_answer,
    check_claim,
    check_roots,
    drawn_by,
    judge_step,
    root_at,
)

MILLION = 1_000_000
WORKER = "d" * 64
ONES = st.binary(min_size=32, max_size=32)


def hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def commitment(steps: int = 10, first: int = 20) -> Commitment:
    sealed = seal_inner(InnerSecret(WORKER, hashed("salt"), hashed("inner")))
    before, after = hashed("root 0"), hashed(f"root {steps}")
    return Commitment(
        hashed("job"), "lease", 1, WORKER, 2, first, steps, before, after, hashed("outputs"), sealed
    )


def claim_of(body: Commitment) -> StepClaim:
    return StepClaim(
        digest(body), WORKER, hashed("salt"), hashed("inner"), hashed("list"), hashed("roots")
    )


# --- what is drawn --------------------------------------------------------------------------------


@given(ONES, st.integers(0, 2**40), st.integers(1, 500), st.integers(1, 64))
def test_drawn_steps_are_different_ones_of_the_segment(
    x: bytes, first: int, steps: int, drawn: int
) -> None:
    found = drawn_steps(x, first, steps, drawn)
    assert found == drawn_steps(x, first, steps, drawn)
    assert len(found) == len(set(found)) == min(drawn, steps)
    assert list(found) == sorted(found)
    assert first <= found[0] and found[-1] < first + steps


@pytest.mark.parametrize(("first", "steps", "drawn"), [(-1, 3, 1), (0, 0, 1), (0, 3, 0)])
def test_nothing_is_drawn_from_nothing(first: int, steps: int, drawn: int) -> None:
    with pytest.raises(InvalidInput):
        drawn_steps(bytes(32), first, steps, drawn)


def test_every_set_of_steps_is_equally_likely() -> None:
    """All 20 sets of 3 of 6 steps over 20,000 draws: chi-square below its 99.9 % point (19)."""
    draws = 20_000
    seen = Counter(drawn_steps(hashed(f"x {n}"), 0, 6, 3) for n in range(draws))
    expected = draws / comb(6, 3)
    assert len(seen) == comb(6, 3)
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 43.8


def test_a_claim_cannot_be_fitted_to_the_draw() -> None:
    """The chain's value comes after the claim: whatever a worker signs, other steps follow."""
    body = commitment(steps=1_000)
    claim = claim_of(body)
    chain = Chain(hashed("secret"), ChainName("lease", Purpose.STEPS), 10)
    value = chain.value(1)
    assert leads_to(value, chain.anchor, 1)
    drawn = drawn_by(value, claim, body, 4)
    assert drawn == drawn_by(value, claim, body, 4)
    others = {drawn_by(value, replace(claim, roots=hashed(f"{n}")), body, 4) for n in range(50)}
    assert len({*others, drawn, drawn_by(chain.value(2), claim, body, 4)}) == 52


# --- how often a cheat is caught ------------------------------------------------------------------


def transitions(kind: str, steps: int, at: int) -> set[int]:
    """Steps of a segment that lead elsewhere than is claimed. States are numbers that count up to
    where the program stays (``fixed``)."""
    fixed = at + 1
    right = [min(n, fixed) for n in range(steps + 1)]
    claimed = {
        "honest": right,
        "skipped step": [n if n <= at else n - 1 for n in range(steps + 1)],
        "wrong step": [n if n <= at else n + 1 for n in range(steps + 1)],
        # All work after ``at`` is saved: from the fixed point every further step is right.
        "fixed-point jump": [n if n < at else fixed for n in range(steps + 1)],
    }[kind]
    follows = (lambda n: n + 1) if "step" in kind else (lambda n: min(n + 1, fixed))
    return {n for n in range(steps) if follows(claimed[n]) != claimed[n + 1]}


@pytest.mark.parametrize("kind", ["skipped step", "wrong step", "fixed-point jump"])
@pytest.mark.parametrize(("steps", "drawn"), [(50, 5), (40, 20), (30, 1)])
def test_one_wrong_step_is_caught_as_often_as_it_is_drawn(
    kind: str, steps: int, drawn: int
) -> None:
    """Over 4,000 claims: within the 99.9 % binomial band around m / steps."""
    runs, at, body = 4_000, 17, commitment(steps, 0)
    wrong = transitions(kind, steps, at)
    assert len(wrong) == 1
    value = Chain(hashed("secret"), ChainName("lease", Purpose.STEPS), 5).value(3)
    caught = 0
    for run in range(runs):
        claim = replace(claim_of(body), roots=hashed(f"{kind} {run}"))
        caught += not wrong.isdisjoint(drawn_by(value, claim, body, drawn))
    said = steps_detection_ppm(drawn, steps) / MILLION
    print(f"{kind}: {caught} of {runs}, said {said:.4f}")
    assert abs(caught - said * runs) <= 3.3 * sqrt(runs * said * (1 - said))


@pytest.mark.parametrize("left_out", [1, 5, 25, 50])
def test_who_leaves_out_more_is_caught_more(left_out: int) -> None:
    """So many of 50 steps not computed, 5 drawn: 1 - C(50-k, 5) / C(50, 5), never below k / 50."""
    runs, steps, drawn, body = 2_000, 50, 5, commitment(50, 0)
    wrong = set(range(0, steps, steps // left_out))
    assert len(wrong) == left_out
    value = Chain(hashed("secret"), ChainName("lease", Purpose.STEPS), 5).value(2)
    caught = 0
    for run in range(runs):
        claim = replace(claim_of(body), roots=hashed(f"{left_out} {run}"))
        caught += not wrong.isdisjoint(drawn_by(value, claim, body, drawn))
    said = 1 - comb(steps - left_out, drawn) / comb(steps, drawn)
    assert said >= left_out / steps - 1e-12
    assert abs(caught - said * runs) <= 3.3 * sqrt(runs * said * (1 - said)) + 1e-9


def test_honest_work_is_never_caught() -> None:
    assert transitions("honest", 50, 17) == set()


def test_all_steps_drawn_catch_everything() -> None:
    for kind in ("skipped step", "wrong step", "fixed-point jump"):
        assert transitions(kind, 30, 17) & set(drawn_steps(hashed(kind), 0, 30, 30))


# --- what a smaller chance costs ------------------------------------------------------------------


@given(st.integers(1, 10**6), st.integers(1, 10**12), st.integers(0, 10**18))
def test_as_many_steps_as_the_budget_pays_for(steps: int, step_flops: int, budget: int) -> None:
    drawn = steps_of_budget(RULES, steps, step_flops, budget)
    assert 1 <= drawn <= steps
    assert drawn <= max(RULES.most_steps, 0)
    assert drawn * step_flops <= budget or drawn <= RULES.least_steps
    assert drawn in (steps, RULES.most_steps) or (drawn + 1) * step_flops > budget


@given(st.integers(1, 10**9), st.integers(1, 10**13), st.integers(1, 200), st.integers(1, 200))
def test_a_wrong_unit_loses_as_much_however_few_steps_are_drawn(
    price: int, stake: int, drawn: int, more: int
) -> None:
    """Rate times detection is at least what whole audits give, or the audit is certain."""
    detection = steps_detection_ppm(drawn, drawn + more)
    whole = stake_rate_ppm(RULES, price, stake)
    rate = stake_rate_ppm(RULES, price, stake, detection)
    assert rate >= whole
    assert rate == MILLION or rate * detection >= whole * MILLION - 2 * MILLION
    assert rate == MILLION or rate * detection * 7 * stake >= 30 * price * MILLION * MILLION


def test_a_level_is_what_it_says_until_every_segment_is_audited() -> None:
    stake = 300_000
    assert rate_ppm(RULES, Level.CHECK, 100, 1_000, stake) == 200_000
    assert rate_ppm(RULES, Level.CHECK, 100, 1_000, stake, 500_000) == 400_000
    assert rate_ppm(RULES, Level.CHECK, 100, 1_000, stake, 100_000) == MILLION
    assert rate_ppm(RULES, Level.DETER, 100, 1, 10**9, 250_000) == 4 * RULES.floor_ppm


@pytest.mark.parametrize("detection", [0, -1, MILLION + 1])
def test_no_audit_detects_nothing_or_more_than_all(detection: int) -> None:
    with pytest.raises(InvalidInput):
        stake_rate_ppm(RULES, 1, 1, detection)


@pytest.mark.parametrize(("least", "most"), [(0, 4), (5, 4), (1, 1_025)])
def test_rules_about_steps_are_checked(least: int, most: int) -> None:
    with pytest.raises(InvalidInput):
        AuditRules(least_steps=least, most_steps=most)


# --- what a lease says ----------------------------------------------------------------------------


def terms(**changes: object) -> ChallengeTerms:
    values: dict[str, object] = {
        "lease_id": "lease",
        "device_key_id": WORKER,
        "anchor": hashed("anchor"),
        "cross_anchor": hashed("cross"),
        "values": 9,
        "rules": digest(RULES),
        "level": Level.DETER,
        "streak": 100,
        "stake_nano": 300_000,
        "candidates": digest(AuditorList(())),
        "house": digest(AuditorList(())),
        "steps_anchor": hashed("steps"),
        "audit_steps": 8,
        "detection_ppm": 80_000,
    }
    return ChallengeTerms(**(values | changes))  # type: ignore[arg-type]


def found_in(stated: ChallengeTerms) -> set[FindingCode]:
    empty = AuditorList(())
    return {item.code for item in rederive(stated, RULES, empty, empty, ())}


def test_terms_say_how_many_steps_are_drawn_within_the_rules() -> None:
    assert found_in(terms()) == set()
    assert found_in(terms(audit_steps=0, steps_anchor=bytes(32), detection_ppm=490_000)) == set()
    for wrong in (
        {"audit_steps": RULES.most_steps + 1},
        {"audit_steps": 0},
        {"steps_anchor": bytes(32)},
        {"detection_ppm": 0},
        {"detection_ppm": MILLION + 1},
    ):
        assert found_in(terms(**wrong)) == {FindingCode.WRONG_STEPS}, wrong


# --- what a worker signs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": hashed("other")},
        {"device_key_id": "e" * 64},
        {"salt": hashed("other")},
        {"inner": hashed("other")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_claim_opens_its_own_commitment(change: dict[str, object]) -> None:
    body = commitment()
    check_claim(claim_of(body), body)
    with pytest.raises(InvalidInput):
        check_claim(replace(claim_of(body), **change), body)  # type: ignore[arg-type]


def test_an_answer_has_the_steps_that_were_drawn_and_no_others() -> None:
    claim = claim_of(commitment())
    states = tuple(DrawnState(step, hashed(f"state {step}")) for step in (21, 24))
    answer = StepAnswer(digest(claim), states)
    check_answer(answer, claim, (21, 24), with_values=False)
    for wrong, steps, with_values in (
        (answer, (21, 25), False),
        (answer, (21,), False),
        (answer, (21, 24, 25), False),
        (replace(answer, states=states[::-1]), (21, 24), False),
        (replace(answer, claim=hashed("other")), (21, 24), False),
        (answer, (21, 24), True),
        (replace(answer, states=(replace(states[0], values=hashed("v")), states[1])), (21, 24), 0),
    ):
        with pytest.raises(InvalidInput):
            check_answer(wrong, claim, steps, with_values=bool(with_values))


def test_roots_lead_from_the_committed_state_to_the_committed_state() -> None:
    body = commitment(steps=4)
    roots = b"".join(hashed(f"root {n}") for n in range(5))
    assert check_roots(roots, body) == EQUAL
    assert root_at(roots, body, body.first_step + 4) == body.state_root_after
    for wrong in (
        roots[:-1],
        roots + bytes(32),
        b"",
        hashed("other") + roots[32:],
        roots[:-32] + hashed("other"),
    ):
        assert check_roots(wrong, body).code is StepCode.UNUSABLE


STEP = OneStep(hashed("before"), hashed("after"), b"bbbb", b"aaaaoooo", b"outputs")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, StepCode.EQUAL),
        ({"root_before": hashed("x")}, StepCode.UNUSABLE),
        ({"root_after": hashed("x")}, StepCode.DIFFERS),
        ({"entry_before": b"xxxx"}, StepCode.DIFFERS),
        ({"entry": b"aaaaxxxx"}, StepCode.DIFFERS),
        ({"outputs": b"x"}, StepCode.DIFFERS),
    ],
)
def test_a_step_leads_where_the_worker_signed_or_convicts_it(
    change: dict[str, bytes], code: StepCode
) -> None:
    assert judge_step(3, STEP, replace(STEP, **change)).code is code  # type: ignore[arg-type]
