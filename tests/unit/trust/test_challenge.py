"""Draws of audits and auditors: what the worker and the coordinator can and cannot influence."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_CHAIN_VALUES
from flopmarket.trust import challenge
from flopmarket.trust.audit_policy import RULES, Level, rate_ppm
from flopmarket.trust.challenge import (
    AuditorList,
    Chain,
    ChainName,
    ChallengeRecord,
    ChallengeTerms,
    FindingCode,
    Purpose,
    auditors,
    draw,
    is_drawn,
    jitter_us,
    leads_to,
    permutation,
    rederive,
)
from flopmarket.trust.encoding import decode, digest, encode, tagged_hash

SECRET = b"s" * 32
NAME = ChainName("lease", Purpose.AUDIT)
CANDIDATES = tuple(f"{number:064x}" for number in range(7))
HOUSE = tuple(f"{number:064x}" for number in range(100, 103))
ONE = 1_000_000


def number(value: int) -> bytes:
    return tagged_hash("flopmarket.test.v1", value.to_bytes(8, "big"))


def chi_square_bound(freedom: int) -> float:
    """The 99.9 % quantile (Wilson and Hilferty)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 3.0902 * part**0.5) ** 3)


def chi_square(counts: list[int], expected: list[float]) -> float:
    return sum((found - mean) ** 2 / mean for found, mean in zip(counts, expected, strict=True))


# --- chains ---------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.data())
def test_every_value_leads_to_every_earlier_one(values: int, data: st.DataObject) -> None:
    chain = Chain(SECRET, NAME, values)
    later = data.draw(st.integers(1, values))
    earlier = data.draw(st.integers(0, later - 1))
    known = chain.value(earlier) if earlier else chain.anchor
    assert leads_to(chain.value(later), known, later - earlier)
    assert not leads_to(chain.value(later), known, later - earlier + 1)
    assert not leads_to(chain.value(later), known, 0)


def test_a_chain_is_a_function_of_secret_and_name() -> None:
    first = Chain(SECRET, NAME, 50)
    assert [first.value(j) for j in range(1, 51)] == [
        Chain(SECRET, NAME, 50).value(j) for j in range(1, 51)
    ]
    anchors = {
        Chain(secret, ChainName(lease, purpose), values).anchor
        for secret in (SECRET, b"t" * 32)
        for lease in ("lease", "lease2")
        for purpose in Purpose
        for values in (49, 50)
    }
    assert len(anchors) == 8 * len(Purpose)


def test_going_forwards_costs_two_hashes_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    values, hashes = 10_000, 0
    chain = Chain(SECRET, NAME, values)
    link = challenge.link

    def counted(value: bytes) -> bytes:
        nonlocal hashes
        hashes += 1
        return link(value)

    monkeypatch.setattr(challenge, "link", counted)
    for index in range(1, values + 1):
        chain.value(index)
    assert hashes <= 1.1 * values
    assert len(chain._kept) + len(chain._block) <= 2 * values**0.5 + 3


@pytest.mark.parametrize("index", [0, -1, 4])
def test_a_chain_ends(index: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        Chain(SECRET, NAME, 3).value(index)
    assert caught.value.code == "CHAIN_EXHAUSTED"


def test_chains_are_bounded() -> None:
    with pytest.raises(LimitExceeded):
        Chain(SECRET, NAME, MAX_CHAIN_VALUES + 1)
    with pytest.raises(LimitExceeded):
        Chain(SECRET, NAME, 0)
    with pytest.raises(InvalidInput):
        Chain(b"short", NAME, 1)


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [14_286, 200_000])
def test_grinding_commitments_leaves_the_rate_unchanged(rate: int) -> None:
    """A worker makes 10^5 pairs of commitments and sends the one that the values it has seen so far
    would not have audited. It has not seen the value that decides.
    """
    chain, tries = Chain(SECRET, NAME, 2), 100_000
    guess, value = chain.value(1), chain.value(2)
    hits = grinded = 0
    for attempt in range(tries):
        pair = (number(2 * attempt), number(2 * attempt + 1))
        sent = next((c for c in pair if not is_drawn(draw(Purpose.AUDIT, guess, c), rate)), pair[0])
        grinded += is_drawn(draw(Purpose.AUDIT, guess, sent), rate)
        hits += is_drawn(draw(Purpose.AUDIT, value, sent), rate)
    mean = tries * rate / ONE
    assert grinded < mean * (rate / ONE) * 1.5  # against the value it knew, grinding works
    assert chi_square([hits, tries - hits], [mean, tries - mean]) < chi_square_bound(1)


def test_draws_of_one_commitment_are_independent() -> None:
    """Audit, house and jitter read different words: a table of 2 x 2 x 2 has no pattern."""
    tries, counts = 40_000, [0] * 8
    for attempt in range(tries):
        x = draw(Purpose.AUDIT, SECRET, number(attempt))
        first = next(auditors(x, replace(RULES, house_ppm=500_000), CANDIDATES, HOUSE))
        cell = (is_drawn(x, 500_000), first in HOUSE, jitter_us(x, 100) < 50)
        counts[sum(bit << place for place, bit in enumerate(cell))] += 1
    assert chi_square(counts, [tries / 8] * 8) < chi_square_bound(7)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 10**12))
def test_certain_impossible_and_bounded(x: bytes, most_us: int) -> None:
    assert is_drawn(x, ONE)
    assert not is_drawn(x, 0)
    assert 0 <= jitter_us(x, most_us) <= max(most_us - 1, 0)


def test_purposes_are_drawn_apart() -> None:
    assert len({draw(purpose, SECRET, SECRET) for purpose in Purpose}) == len(Purpose)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 300), st.integers(0, 300))
def test_orders_are_permutations(x: bytes, length: int, first: int) -> None:
    order = list(permutation(x, length))
    assert sorted(order) == list(range(length))
    assert list(islice(permutation(x, length), first)) == order[:first]


def test_every_order_is_as_likely_wherever_a_candidate_stands() -> None:
    tries, seen = 24_000, dict[tuple[int, ...], int]()
    for attempt in range(tries):
        order = tuple(permutation(number(attempt), 5))
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 120
    assert chi_square(list(seen.values()), [tries / 120] * 120) < chi_square_bound(119)


def test_the_house_is_first_as_often_as_the_rules_say_and_last_otherwise() -> None:
    tries, first = 50_000, 0
    for attempt in range(tries):
        order = auditors(draw(Purpose.AUDIT, SECRET, number(attempt)), RULES, CANDIDATES, HOUSE)
        first += next(order) in HOUSE
    mean = tries * RULES.house_ppm / ONE
    assert chi_square([first, tries - first], [mean, tries - mean]) < chi_square_bound(1)
    everybody = list(auditors(number(1), RULES, CANDIDATES, HOUSE))
    assert sorted(everybody) == sorted(CANDIDATES + HOUSE)


# --- published records ----------------------------------------------------------------------------


class Lease:
    """An honest coordinator's records of one lease."""

    def __init__(self, commitments: int = 120, streak: int = 48) -> None:
        self.chain = Chain(SECRET, NAME, 200)
        self.candidates = AuditorList(CANDIDATES)
        self.house = AuditorList(HOUSE)
        self.terms = ChallengeTerms(
            lease_id="lease",
            device_key_id="f" * 64,
            anchor=self.chain.anchor,
            cross_anchor=Chain(SECRET, ChainName("lease", Purpose.CROSS), 200).anchor,
            values=200,
            rules=digest(RULES),
            level=Level.DETER,
            streak=streak,
            stake_nano=300_000,
            candidates=digest(self.candidates),
            house=digest(self.house),
        )
        self.records: list[ChallengeRecord] = []
        for index in range(1, commitments + 1):
            self.commit(index, price=40_000 if index % 10 == 0 else 1_000)

    def commit(self, index: int, price: int) -> None:
        commitment, value = number(index), self.chain.value(index)
        verdicts = sum(record.audited for record in self.records[:-3])
        streak = self.terms.streak + verdicts
        rate = rate_ppm(RULES, self.terms.level, streak, price, self.terms.stake_nano)
        x = draw(Purpose.AUDIT, value, commitment)
        audited = is_drawn(x, rate)
        asked = tuple(islice(auditors(x, RULES, CANDIDATES, HOUSE), 2 if audited else 0))
        self.records.append(
            ChallengeRecord(index, commitment, price, verdicts, value, rate, audited, asked)
        )

    def findings(self) -> list[tuple[int, FindingCode]]:
        found = rederive(self.terms, RULES, self.candidates, self.house, self.records)
        return [(finding.index, finding.code) for finding in found]

    def change(self, index: int, **fields: object) -> list[tuple[int, FindingCode]]:
        self.records[index - 1] = replace(self.records[index - 1], **fields)  # type: ignore[arg-type]
        return self.findings()


def test_honest_records_have_no_findings_and_survive_encoding() -> None:
    lease = Lease()
    assert lease.findings() == []
    assert {record.rate_ppm for record in lease.records} == {14_286, 100_000, ONE}
    assert 5 < sum(record.audited for record in lease.records) < 40
    assert decode(ChallengeTerms, encode(lease.terms)) == lease.terms
    for record in lease.records:
        assert decode(ChallengeRecord, encode(record)) == record


@settings(max_examples=30)
@given(st.integers(1, 120), st.binary(min_size=32, max_size=32))
def test_a_value_of_the_coordinators_choice_is_found(index: int, value: bytes) -> None:
    """Also one that would have given the same decision."""
    assert (index, FindingCode.VALUE_NOT_IN_CHAIN) in Lease().change(index, value=value)


def test_another_value_of_the_same_chain_is_found() -> None:
    lease = Lease()
    found = lease.change(50, value=lease.chain.value(51))
    assert (50, FindingCode.VALUE_NOT_IN_CHAIN) in found
    assert (51, FindingCode.VALUE_NOT_IN_CHAIN) not in found


def test_audits_that_were_or_were_not_drawn_are_found() -> None:
    lease = Lease()
    index = next(record.index for record in lease.records if record.audited)
    assert lease.change(index, audited=False, auditors=())[0] == (index, FindingCode.WRONG_DECISION)
    lease = Lease()
    index = next(record.index for record in lease.records if not record.audited)
    codes = {code for _, code in lease.change(index, audited=True, auditors=CANDIDATES[:1])}
    assert FindingCode.WRONG_DECISION in codes


def test_auditors_of_the_coordinators_choice_are_found() -> None:
    lease = Lease()
    record = next(record for record in lease.records if record.audited)
    for chosen in (record.auditors[::-1], record.auditors[1:], ()):
        found = Lease().change(record.index, auditors=chosen)
        assert found == [(record.index, FindingCode.WRONG_AUDITORS)]


def test_rates_against_the_rules_are_found() -> None:
    assert (7, FindingCode.WRONG_RATE) in Lease().change(7, rate_ppm=10_000)
    assert (10, FindingCode.WRONG_RATE) in Lease().change(10, price_nano=1_000)


def test_verdicts_out_of_nothing_are_found() -> None:
    lease = Lease()
    assert (5, FindingCode.VERDICTS_IMPOSSIBLE) in lease.change(5, right_verdicts=6)
    last = lease.records[-1].right_verdicts
    assert (120, FindingCode.VERDICTS_IMPOSSIBLE) in Lease().change(120, right_verdicts=last - 3)


def test_records_left_out_are_found() -> None:
    lease = Lease()
    del lease.records[60]
    assert lease.findings() == [(62, FindingCode.OUT_OF_SEQUENCE)]


def test_lists_and_rules_are_frozen_with_the_lease() -> None:
    lease = Lease(0)
    lease.candidates = AuditorList(CANDIDATES[::-1])
    lease.house = AuditorList((*HOUSE, "f" * 64))
    assert lease.findings() == [
        (0, FindingCode.CANDIDATES_DIFFER),
        (0, FindingCode.CANDIDATES_DIFFER),
        (0, FindingCode.SELF_AUDIT),
    ]
    other = replace(RULES, floor_ppm=1)
    lease = Lease(0)
    found = rederive(lease.terms, other, lease.candidates, lease.house, ())
    assert [finding.code for finding in found] == [FindingCode.RULES_DIFFER]


def test_one_key_twice_in_a_list_is_found() -> None:
    lease = Lease(0)
    lease.candidates = AuditorList((CANDIDATES[0], CANDIDATES[0]))
    lease.terms = replace(lease.terms, candidates=digest(lease.candidates))
    assert lease.findings() == [(0, FindingCode.CANDIDATES_DIFFER)]
