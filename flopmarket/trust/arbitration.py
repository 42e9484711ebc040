"""Two devices of one class differ, and no referee can say who is right: others of it decide.

Bits of fast kernels are a matter of the class that computes them. Nobody outside can recompute
them, so where a worker and its auditor both stand by different roots, further accounts of the class
compute the segment, each blind as the auditor was. Three equal answers of three accounts against
one that stands alone decide, or a worker of the house that nobody else contradicts. Otherwise
nothing is decided, and nobody is accused.

:func:`begin` and :func:`handle` are a state machine without clock or effects, as
:mod:`flopmarket.trust.sealing` is: how one arbiter is asked, waited for and opened is told there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from flopmarket.errors import Conflict
from flopmarket.limits import MAX_ARBITER_PASSES

EQUAL_ANSWERS = 3
"""Of so many accounts, against one that stands alone."""
ARBITERS = EQUAL_ANSWERS - 1


@dataclass(frozen=True, slots=True)
class Vote:
    """What a device of one account came to. ``house``: the account is the operator's."""

    key_id: str
    account_id: str
    state_root: bytes
    outputs_root: bytes
    house: bool = False

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """What votes are compared by."""
        return self.state_root, self.outputs_root


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that can be asked, in the place where it was drawn."""

    key_id: str
    account_id: str
    house: bool = False


class Outcome(StrEnum):
    """How an arbitration ended."""

    PRODUCER_WRONG = "producer-wrong"
    AUDITOR_WRONG = "auditor-wrong"
    UNDECIDED = "undecided"
    """No majority, or nobody is left to ask: nobody is accused, and the unit counts for nothing."""


class Word(StrEnum):
    """What became of one question."""

    ASKED = "asked"
    ANSWERED = "answered"
    PASSED = "passed"
    """Its device was busy or away, or gave the work back: it may be asked again."""
    SILENT = "silent"
    """It took the work and said nothing: it is not asked again."""


@dataclass(frozen=True, slots=True)
class Question:
    """One candidate that was asked, and its answer."""

    key_id: str
    account_id: str
    word: Word
    vote: Vote | None = None


@dataclass(frozen=True, slots=True)
class Arbitration:
    """One difference under way. ``witnesses`` answered the same segment before and were equal to
    the producer; ``candidates`` stand in the order in which they were drawn."""

    task_id: str
    producer: Vote
    auditor: Vote
    candidates: tuple[Candidate, ...]
    witnesses: tuple[Vote, ...] = ()
    questions: tuple[Question, ...] = ()
    outcome: Outcome | None = None

    @property
    def others(self) -> tuple[Vote, ...]:
        """All votes but those of the two who differ."""
        answers = (question.vote for question in self.questions if question.vote is not None)
        return (*self.witnesses, *answers)


@dataclass(frozen=True, slots=True)
class Answered:
    """An arbiter committed and opened; its signatures are checked."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class Passed:
    """An arbiter could not take the work, with leave."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Silent:
    """An arbiter took the work and did not answer, or did not open its answer."""

    key_id: str


Event: TypeAlias = Answered | Passed | Silent


@dataclass(frozen=True, slots=True)
class AskArbiter:
    """Give this key the segment as a blind audit; :class:`Event` tells what came of it."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome; it is in the arbitration, too. Nobody is being asked any more."""

    outcome: Outcome


Instruction: TypeAlias = AskArbiter | Ended
Step: TypeAlias = tuple[Arbitration, tuple[Instruction, ...]]


def judge(producer: Vote, auditor: Vote, others: Sequence[Vote]) -> Outcome:
    """What the votes come to; a function of who said what, not of when.

    Who shares its answer with anybody is never wrong, nor is the house, nor anybody by votes that
    the house contradicts. Votes are of different accounts.
    """
    words = {vote.ends for vote in (producer, auditor, *others) if vote.house}
    sides = (
        (producer, auditor, Outcome.PRODUCER_WRONG),
        (auditor, producer, Outcome.AUDITOR_WRONG),
    )
    for loser, winner, outcome in sides:
        if loser.house or any(vote.ends == loser.ends for vote in (winner, *others)):
            continue
        equal = 1 + sum(vote.ends == winner.ends for vote in others)
        if words == {winner.ends} or (not words and equal >= EQUAL_ANSWERS):
            return outcome
    return Outcome.UNDECIDED


def between(
    task_id: str,
    producer: Vote,
    auditor: Vote,
    candidates: Sequence[Candidate],
    witnesses: Sequence[Vote] = (),
    questions: Sequence[Question] = (),
) -> Arbitration:
    """An arbitration as it stands after these questions. Candidates of an account that has spoken
    before the first of them are left out, and of witnesses of one account all but one.

    :class:`~flopmarket.errors.Conflict` ``ARBITRATION_NO_DIFFERENCE`` where the two agree or are
    of one account.
    """
    if producer.ends == auditor.ends or producer.account_id == auditor.account_id:
        raise Conflict(f"{task_id} has nothing to decide", code="ARBITRATION_NO_DIFFERENCE")
    spoken = {producer.account_id, auditor.account_id}
    heard: list[Vote] = []
    for vote in witnesses:
        if vote.account_id not in spoken:
            spoken.add(vote.account_id)
            heard.append(vote)
    left = tuple(item for item in candidates if item.account_id not in spoken)
    return Arbitration(task_id, producer, auditor, left, tuple(heard), tuple(questions))


def begin(arbitration: Arbitration) -> Step:
    """Whom to ask first."""
    return _go_on(arbitration)


def handle(arbitration: Arbitration, event: Event) -> Step:
    """The next arbitration, and what the caller has to do.

    :class:`~flopmarket.errors.Conflict` ``ARBITRATION_NOT_EXPECTED`` for a word of somebody who is
    not being asked: an answer that comes late or twice changes nothing.
    """
    match event:
        case Answered(vote):
            said = Question(vote.key_id, vote.account_id, Word.ANSWERED, vote)
        case Passed(key_id):
            said = Question(key_id, "", Word.PASSED)
        case Silent(key_id):
            said = Question(key_id, "", Word.SILENT)
    for place, question in enumerate(arbitration.questions):
        if question.word is not Word.ASKED or question.key_id != said.key_id:
            continue
        if said.vote is not None and said.account_id != question.account_id:
            break
        questions = list(arbitration.questions)
        questions[place] = replace(said, account_id=question.account_id)
        return _go_on(replace(arbitration, questions=tuple(questions)))
    raise Conflict(
        f"{arbitration.task_id} does not wait for {said.key_id}", code="ARBITRATION_NOT_EXPECTED"
    )


def _go_on(arbitration: Arbitration) -> Step:
    """Ask whom it takes, or end. It ends only when nobody is being asked."""
    said: list[Instruction] = []
    while (following := _next(arbitration)) is not None:
        asked = Question(following.key_id, following.account_id, Word.ASKED)
        arbitration = replace(arbitration, questions=(*arbitration.questions, asked))
        said.append(AskArbiter(following.key_id))
    if any(question.word is Word.ASKED for question in arbitration.questions):
        return arbitration, tuple(said)
    outcome = judge(arbitration.producer, arbitration.auditor, arbitration.others)
    return replace(arbitration, outcome=outcome), (Ended(outcome),)


def _next(arbitration: Arbitration) -> Candidate | None:
    """Who is asked beside those who are being asked; None when these are enough, or all there are.

    The house comes first and alone: its word spares everybody else theirs.
    """
    open_ones = [item for item in arbitration.questions if item.word is Word.ASKED]
    house = {item.key_id for item in arbitration.candidates if item.house}
    if any(item.key_id in house for item in open_ones):
        return None
    if len(open_ones) >= _wanted(arbitration):
        return None
    following = _least_asked(arbitration)
    return None if following is not None and following.house and open_ones else following


def _wanted(arbitration: Arbitration) -> int:
    """How many more answers a decision takes; 0 when there is one, or can be none."""
    producer, auditor, others = arbitration.producer, arbitration.auditor, arbitration.others
    if producer.house or auditor.house:
        return max(0, 1 - len(others))  # whether anybody contradicts the house
    answers = {vote.ends for vote in others}
    if any(vote.house for vote in others) or len(answers) > 1:
        return 0
    if answers - {producer.ends, auditor.ends}:
        return 0
    return max(0, ARBITERS - len(others))


def _least_asked(arbitration: Arbitration) -> Candidate | None:
    """Who can be asked now: asked least, of the house, drawn first; None when nobody is left."""
    asked: dict[str, int] = {}
    out: set[str] = set()
    spoken: set[str] = set()
    for question in arbitration.questions:
        asked[question.key_id] = asked.get(question.key_id, 0) + 1
        if question.word is Word.SILENT:
            out.add(question.key_id)
        elif question.word is not Word.PASSED:
            spoken.add(question.account_id)
    left = [
        (asked.get(item.key_id, 0), not item.house, place, item)
        for place, item in enumerate(arbitration.candidates)
        if item.key_id not in out
        and item.account_id not in spoken
        and asked.get(item.key_id, 0) < MAX_ARBITER_PASSES
    ]
    return min(left, key=lambda found: found[:3])[3] if left else None
