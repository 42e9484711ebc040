"""Differences inside a class: who may be called wrong, by whom, and that it always ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import Conflict
from flopmarket.limits import MAX_ARBITER_PASSES
from flopmarket.trust import arbitration
from flopmarket.trust.arbitration import (
    ARBITERS,
    EQUAL_ANSWERS,
    Answered,
    Arbitration,
    AskArbiter,
    Candidate,
    Ended,
    Event,
    Outcome,
    Passed,
    Silent,
    Step,
    Vote,
    Word,
    between,
    handle,
    judge,
)

RIGHT, WRONG, ODD, STRANGE = b"r" * 32, b"w" * 32, b"o" * 32, b"s" * 32
ANSWERS = (RIGHT, WRONG, ODD, STRANGE)


def vote(name: str, root: bytes, *, house: bool = False) -> Vote:
    return Vote(f"key {name}", name, root, b"outputs", house)


def candidates(*names: str, house: tuple[str, ...] = ()) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"key {name}", name, name in house) for name in names)


PRODUCER, AUDITOR = vote("producer", RIGHT), vote("auditor", WRONG)
FOUR = candidates("a", "b", "c", "d")


def begin(
    task_id: str,
    producer: Vote,
    auditor: Vote,
    order: Sequence[Candidate],
    witnesses: Sequence[Vote] = (),
) -> Step:
    return arbitration.begin(between(task_id, producer, auditor, order, witnesses))


def asked(step: Step) -> list[str]:
    return [said.key_id.removeprefix("key ") for said in step[1] if isinstance(said, AskArbiter)]


def play(step: Step, *events: Event) -> Step:
    for event in events:
        step = handle(step[0], event)
    return step


def answer(name: str, root: bytes, *, house: bool = False) -> Answered:
    return Answered(vote(name, root, house=house))


# --- the rule -------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(ANSWERS), st.booleans()), min_size=2, max_size=7),
)
def test_nobody_is_wrong_without_three_others_or_the_house_and_never_with_company(
    said: list[tuple[bytes, bool]],
) -> None:
    votes = [vote(str(place), *item[:1], house=item[1]) for place, item in enumerate(said)]
    producer, auditor, *others = votes
    outcome = judge(producer, auditor, others)
    if outcome is Outcome.UNDECIDED:
        return
    loser = producer if outcome is Outcome.PRODUCER_WRONG else auditor
    against = [item for item in votes if item.ends != loser.ends]
    best = max(sum(a.ends == b.ends for b in against) for a in against)
    assert [item for item in votes if item.ends == loser.ends] == [loser]
    assert not loser.house
    houses = {item.ends for item in votes if item.house}
    assert best >= EQUAL_ANSWERS or len(houses) == 1
    assert len(houses) <= 1


@given(st.data())
def test_the_rule_knows_neither_roles_nor_order(data: st.DataObject) -> None:
    said = data.draw(
        st.lists(st.tuples(st.sampled_from(ANSWERS), st.booleans()), min_size=2, max_size=6)
    )
    producer, auditor, *others = [
        vote(str(place), root, house=house) for place, (root, house) in enumerate(said)
    ]
    mixed = data.draw(st.permutations(others))
    outcome = judge(producer, auditor, others)
    assert judge(producer, auditor, mixed) is outcome
    turned = {
        Outcome.PRODUCER_WRONG: Outcome.AUDITOR_WRONG,
        Outcome.AUDITOR_WRONG: Outcome.PRODUCER_WRONG,
        Outcome.UNDECIDED: Outcome.UNDECIDED,
    }
    if producer.ends != auditor.ends:
        assert judge(auditor, producer, others) is turned[outcome]


def test_every_pair_of_arbiters_answers() -> None:
    """The whole table of a class without the house, in both orders of arrival."""
    for roots in product(ANSWERS, repeat=ARBITERS):
        expected = Outcome.UNDECIDED
        if set(roots) == {RIGHT}:
            expected = Outcome.AUDITOR_WRONG
        if set(roots) == {WRONG}:
            expected = Outcome.PRODUCER_WRONG
        for order in permutations(zip("ab", roots, strict=True)):
            step = begin("task", PRODUCER, AUDITOR, FOUR)
            assert asked(step) == ["a", "b"]
            step = play(step, *(answer(name, root) for name, root in order))
            assert step[1] == (Ended(expected),)
            assert step[0].outcome is expected


# --- who is asked ---------------------------------------------------------------------------------


def test_an_arbiter_that_says_nothing_is_replaced_and_not_asked_again() -> None:
    step = begin("task", PRODUCER, AUDITOR, FOUR)
    step = play(step, Silent("key a"))
    assert asked(step) == ["c"]
    step = play(step, Passed("key b"))
    assert asked(step) == ["d"]
    step = play(step, Passed("key c"))
    assert asked(step) == ["b"]  # it was only busy
    step = play(step, answer("d", RIGHT), answer("b", RIGHT))
    assert step[0].outcome is Outcome.AUDITOR_WRONG
    assert [item.word for item in step[0].questions if item.key_id == "key a"] == [Word.SILENT]


def test_nobody_left_decides_nothing() -> None:
    assert begin("task", PRODUCER, AUDITOR, ())[1] == (Ended(Outcome.UNDECIDED),)
    step = begin("task", PRODUCER, AUDITOR, candidates("a"))
    assert asked(step) == ["a"]
    for root in (RIGHT, WRONG):
        assert play(step, answer("a", root))[0].outcome is Outcome.UNDECIDED
    step = begin("task", PRODUCER, AUDITOR, FOUR)
    for name in "abcd":
        step = play(step, Silent(f"key {name}"))
    assert step[0].outcome is Outcome.UNDECIDED


def test_accounts_that_took_part_are_never_asked_and_one_account_is_asked_once() -> None:
    order = (
        Candidate("key p2", "producer"),
        Candidate("key a2", "auditor"),
        Candidate("key x1", "x"),
        Candidate("key x2", "x"),
        Candidate("key y1", "y"),
    )
    step = begin("task", PRODUCER, AUDITOR, order)
    assert asked(step) == ["x1", "y1"]
    step = play(step, Answered(Vote("key x1", "x", RIGHT, b"outputs")), Silent("key y1"))
    assert step[0].outcome is Outcome.UNDECIDED  # a second card of x is no second voice


def test_an_earlier_equal_answer_is_a_vote() -> None:
    witness = vote("w", RIGHT)
    step = begin("task", PRODUCER, AUDITOR, (*candidates("w"), *FOUR), [witness, witness])
    assert asked(step) == ["a"]
    assert play(step, answer("a", RIGHT))[0].outcome is Outcome.AUDITOR_WRONG
    assert play(step, answer("a", WRONG))[0].outcome is Outcome.UNDECIDED


def test_words_that_come_twice_late_or_from_others_change_nothing() -> None:
    step = begin("task", PRODUCER, AUDITOR, FOUR)
    step = play(step, Silent("key a"))
    for event in (
        answer("a", WRONG),  # late: c was asked in its place
        Silent("key a"),
        answer("d", WRONG),
        Passed("key d"),
        Answered(Vote("key b", "somebody else", WRONG, b"outputs")),
        answer("producer", RIGHT),
    ):
        with pytest.raises(Conflict) as caught:
            handle(step[0], event)
        assert caught.value.code == "ARBITRATION_NOT_EXPECTED"
    step = play(step, answer("b", RIGHT))
    with pytest.raises(Conflict):
        handle(step[0], answer("b", WRONG))
    step = play(step, answer("c", RIGHT))
    for event in (answer("c", WRONG), Passed("key b")):
        with pytest.raises(Conflict):
            handle(step[0], event)


@pytest.mark.parametrize("root", [RIGHT, WRONG])
def test_two_who_agree_or_are_one_have_nothing_to_decide(root: bytes) -> None:
    other = vote("auditor", RIGHT) if root is RIGHT else vote("producer", WRONG)
    with pytest.raises(Conflict) as caught:
        begin("task", PRODUCER, other, FOUR)
    assert caught.value.code == "ARBITRATION_NO_DIFFERENCE"


# --- the house ------------------------------------------------------------------------------------


def test_the_house_is_asked_first_and_alone_and_decides() -> None:
    order = candidates("a", "b", "h", house=("h",))
    for root, outcome in (
        (RIGHT, Outcome.AUDITOR_WRONG),
        (WRONG, Outcome.PRODUCER_WRONG),
        (ODD, Outcome.UNDECIDED),
    ):
        step = begin("task", PRODUCER, AUDITOR, order)
        assert asked(step) == ["h"]
        assert play(step, answer("h", root, house=True))[0].outcome is outcome


def test_where_the_house_is_away_the_others_decide_and_it_may_come_back() -> None:
    order = candidates("a", "b", "h", house=("h",))
    step = play(begin("task", PRODUCER, AUDITOR, order), Passed("key h"))
    assert asked(step) == ["a", "b"]
    assert play(step, answer("a", RIGHT), answer("b", RIGHT))[0].outcome is Outcome.AUDITOR_WRONG
    step = play(step, Silent("key a"), Silent("key b"))
    assert asked(step) == ["h"]
    step = play(step, answer("h", WRONG, house=True))
    assert step[0].outcome is Outcome.PRODUCER_WRONG


@pytest.mark.parametrize("producing", [True, False])
def test_a_party_of_the_house_is_believed_unless_somebody_sides_with_the_other(
    producing: bool,
) -> None:
    producer = vote("producer", RIGHT, house=producing)
    auditor = vote("auditor", WRONG, house=not producing)
    ours, theirs = (RIGHT, WRONG) if producing else (WRONG, RIGHT)
    wins = Outcome.AUDITOR_WRONG if producing else Outcome.PRODUCER_WRONG
    step = begin("task", producer, auditor, FOUR)
    assert asked(step) == ["a"]
    assert play(step, answer("a", ours))[0].outcome is wins
    assert play(step, answer("a", theirs))[0].outcome is Outcome.UNDECIDED
    assert play(step, answer("a", ODD))[0].outcome is wins
    assert begin("task", producer, auditor, ())[0].outcome is wins


def test_a_house_that_contradicts_itself_accuses_nobody() -> None:
    auditor = vote("auditor", WRONG, house=True)
    step = begin("task", PRODUCER, auditor, candidates("h", house=("h",)))
    assert play(step, answer("h", ODD, house=True))[0].outcome is Outcome.UNDECIDED


# --- any course of events -------------------------------------------------------------------------


@st.composite
def classes(draw: st.DrawFn) -> tuple[tuple[Candidate, ...], dict[str, bytes]]:
    accounts = draw(st.lists(st.sampled_from("abcdef"), max_size=8))
    houses = draw(st.sets(st.sampled_from("ef")))
    order = tuple(
        Candidate(f"key {account}{place}", account, account in houses)
        for place, account in enumerate(accounts)
    )
    roots = {item.key_id: draw(st.sampled_from(ANSWERS[:3])) for item in order}
    return order, roots


@given(classes(), st.data())
def test_any_course_of_events_ends_and_accuses_only_who_stands_alone(
    known: tuple[tuple[Candidate, ...], dict[str, bytes]], data: st.DataObject
) -> None:
    order, roots = known
    by_key = {item.key_id: item for item in order}
    state, said = begin("task", PRODUCER, AUDITOR, order)
    events = 0
    while state.outcome is None:
        waiting = [item.key_id for item in state.questions if item.word is Word.ASKED]
        assert waiting, "somebody is always waited for"
        key_id = data.draw(st.sampled_from(waiting))
        item = by_key[key_id]
        event: Event = data.draw(
            st.sampled_from(
                [
                    Answered(Vote(key_id, item.account_id, roots[key_id], b"outputs", item.house)),
                    Passed(key_id),
                    Silent(key_id),
                ]
            )
        )
        state, said = handle(state, event)
        events += 1
        assert events <= len(order) * MAX_ARBITER_PASSES
        _check_questions(state)
    assert said == (Ended(state.outcome),)
    votes = [state.producer, state.auditor, *state.others]
    assert len({item.account_id for item in votes}) == len(votes)
    if state.outcome is not Outcome.UNDECIDED:
        wrong = state.producer
        if state.outcome is Outcome.AUDITOR_WRONG:
            wrong = state.auditor
        assert [item for item in votes if item.ends == wrong.ends] == [wrong]
        assert any(item.house for item in votes) or len(votes) == 1 + EQUAL_ANSWERS


def _check_questions(state: Arbitration) -> None:
    spoken = [
        item.account_id for item in state.questions if item.word in (Word.ASKED, Word.ANSWERED)
    ]
    assert len(set(spoken)) == len(spoken), "an account is asked twice at a time"
    assert not {state.producer.account_id, state.auditor.account_id} & set(spoken)
    for key in {item.key_id for item in state.questions}:
        asked_times = [item.word for item in state.questions if item.key_id == key]
        assert len(asked_times) <= MAX_ARBITER_PASSES
        assert Word.SILENT not in asked_times[:-1]
