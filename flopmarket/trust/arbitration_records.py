"""How a class decided between two of its devices, checked by anybody, offline.

Published are the signed answers of the auditor that differed and of every arbiter that answered;
the worker's own commitment stands beside them. :func:`check_arbitrated` counts them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flopmarket.errors import FlopmarketError
from flopmarket.trust.arbitration import Outcome, Vote, judge
from flopmarket.trust.audit_answers import Answered, AuditorAnswer, opened
from flopmarket.trust.challenge import Finding, FindingCode
from flopmarket.trust.documents import Commitment
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.sealing import InnerSecret, seal_inner

OUTVOTED = "CLASS_OUTVOTED"
"""The verdict's code for a worker that stands alone in its class."""
_IN_WORDS = {
    Outcome.PRODUCER_WRONG.value: "the worker stands alone, its segment is rejected",
    Outcome.AUDITOR_WRONG.value: "the auditor stands alone, the segment counts",
    Outcome.UNDECIDED.value: "undecided, the unit is void and nobody is called wrong",
}


@dataclass(frozen=True, slots=True)
class Arbitrated:
    """One arbitration as published. ``outcome`` is what the coordinator says it came to,
    ``house_accounts`` which of the accounts that took part are the operator's."""

    outcome: str
    auditor: AuditorAnswer
    arbiters: tuple[AuditorAnswer, ...]
    house_accounts: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[AuditorAnswer, ...]:
        """All but the worker's."""
        return (self.auditor, *self.arbiters)

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""
        return sum(answer.size_bytes for answer in self.answers)

    def __str__(self) -> str:
        """One line for a person; says what the coordinator says, not what the answers show."""
        asked = ", ".join(_key_id(answer)[:12] or "nobody" for answer in self.arbiters) or "nobody"
        house = ", one of them the house's" if self.house_accounts else ""
        return (
            f"auditor {_key_id(self.auditor)[:12]} differed from the worker; of their class "
            f"{asked} answered{house}: {_IN_WORDS.get(self.outcome, self.outcome)}"
        )


def check_arbitrated(
    found: Arbitrated | None,
    witnesses: Sequence[AuditorAnswer],
    asked: Answered,
    house: Sequence[str],
    coordinator: PublicKey,
) -> Iterator[Finding]:
    """Everything about an arbitration that contradicts the draw, the answers or the verdict.

    ``house`` are the keys of the operator's that the lease named; ``witnesses`` are the answers of
    earlier audits of the segment, which are votes where they are of somebody else.
    """
    verdict, index = asked.verdict, asked.record.index
    convicted = verdict is not None and verdict.reason_code == OUTVOTED
    if found is None:
        if convicted:
            message = "it was outvoted, and nobody's answer is shown"
            yield Finding(index, FindingCode.ARBITRATION_DIFFERS, message)
        return
    votes: list[Vote] = []
    for answer in found.answers:
        try:
            vote = _vote(answer, found.house_accounts, asked, coordinator)
        except FlopmarketError as error:
            yield Finding(index, FindingCode.ARBITRATION_DIFFERS, error.message)
            return
        yield from _check_asked(vote, asked, house)
        yield from _check_opening(answer, index, coordinator)
        votes.append(vote)
    accounts = [asked.worker_account, *(vote.account_id for vote in votes)]
    if len(set(accounts)) != len(accounts):
        message = "an account has more than one voice in it"
        yield Finding(index, FindingCode.AUDITOR_NOT_APART, message)
    for witness in witnesses:
        if witness.account_id in accounts:
            continue
        accounts.append(witness.account_id)
        try:
            votes.append(_vote(witness, found.house_accounts, asked, coordinator))
        except FlopmarketError:
            return  # found where answers are checked
    ends = (asked.claim.state_root_after, asked.claim.outputs_root)
    account = asked.worker_account
    worker = Vote(asked.worker.key_id, account, *ends, account in found.house_accounts)
    outcome = judge(worker, votes[0], votes[1:])
    if outcome != found.outcome:
        message = f"the answers make it {outcome}, the coordinator says {found.outcome[:40]!r}"
        yield Finding(index, FindingCode.ARBITRATION_DIFFERS, message)
    if convicted != (outcome is Outcome.PRODUCER_WRONG):
        said = "nothing" if verdict is None else verdict.reason_code
        message = f"the answers make it {outcome}, the verdict says {said}"
        yield Finding(index, FindingCode.ARBITRATION_DIFFERS, message)
    if convicted and verdict is not None:
        expected = (verdict.expected_state_root, verdict.expected_outputs_root)
        if expected != votes[0].ends or verdict.auditor_key_id != votes[0].key_id:
            message = "the verdict says other roots than those that outvoted the worker"
            yield Finding(index, FindingCode.ARBITRATION_DIFFERS, message)


def speaks_for_arbiter(found: Arbitrated, asked: Answered) -> bool:
    """Whether the verdict is in the name of somebody who took part in the arbitration."""
    keys = {_key_id(answer) for answer in found.answers}
    return asked.verdict is not None and asked.verdict.auditor_key_id in keys


def _key_id(answer: AuditorAnswer) -> str:
    try:
        return PublicKey(answer.public_key).key_id
    except FlopmarketError:
        return ""


def _vote(
    answer: AuditorAnswer, house_accounts: Sequence[str], asked: Answered, coordinator: PublicKey
) -> Vote:
    """What somebody signed. Whoever answered for another segment agrees with nobody here."""
    key = PublicKey(answer.public_key)
    body = opened(answer.commitment, Commitment, key, coordinator)
    ends = (body.state_root_after, body.outputs_root)
    same = (body.job_id, body.first_step, body.steps_done, body.state_root_before) == (
        asked.claim.job_id,
        asked.claim.first_step,
        asked.claim.steps_done,
        asked.claim.state_root_before,
    )
    if not same:
        ends = (b"", key.raw)
    return Vote(key.key_id, answer.account_id, *ends, answer.account_id in house_accounts)


def _check_asked(vote: Vote, asked: Answered, house: Sequence[str]) -> Iterator[Finding]:
    """Who answered was drawn with the segment, or is the house's."""
    record = asked.record
    if record.audited and vote.key_id not in (*record.auditors, *house):
        message = f"{vote.key_id[:16]} took part and was not drawn"
        yield Finding(record.index, FindingCode.AUDITOR_NOT_DRAWN, message)


def _check_opening(answer: AuditorAnswer, index: int, coordinator: PublicKey) -> Iterator[Finding]:
    """A voice counts when it is opened: before that it could be a copy."""
    key = PublicKey(answer.public_key)
    try:
        body = opened(answer.commitment, Commitment, key, coordinator)
        secret = opened(answer.opening, InnerSecret, key, coordinator)
    except FlopmarketError as error:
        message = f"{key.key_id[:16]}: its opening: {error.message}"
        yield Finding(index, FindingCode.OPENING_MISSING, message)
        return
    if secret.device_key_id != key.key_id or seal_inner(secret) != body.sealed_inner:
        message = f"{key.key_id[:16]}: its opening is not what its commitment hides"
        yield Finding(index, FindingCode.OPENING_DIFFERS, message)
