"""What a worker checks of its coordinator's draws: the values of a lease's chain, as they come.

The anchor came with the lease, signed; every accepted commitment is answered with the next value.
A value that does not lead to the anchor, or a decision that does not follow from it, is a
contradiction that anybody can see in the coordinator's own records (``flop job audits``). Nothing
is remembered across restarts but the lease itself: any value leads back to the anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.trust.challenge import ChallengeTerms, Purpose, draw, is_drawn, leads_to
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope, unverified_body
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import PublicKey


def read_terms(envelope: Envelope, coordinator: PublicKey | None) -> ChallengeTerms:
    """The terms of a lease; :class:`EnvelopeError` unless this coordinator signed them. Without a
    key they are read as they are: from a lease that was checked when it came."""
    if coordinator is None:
        try:
            return unverified_body(envelope, ChallengeTerms)
        except FlopmarketError as error:
            raise EnvelopeError(error.message, code=EnvelopeCode.MALFORMED) from error
    opened = open_envelope(
        envelope,
        ChallengeTerms,
        keys=keys_by_id(coordinator),
        audience=coordinator.key_id,
        now_us=None,
        replay=None,
    )
    return opened.body


def check_terms(terms: ChallengeTerms, lease_id: str, steps: int) -> None:
    """:class:`InvalidInput` ``LEASE_CHALLENGE`` for terms of another lease, or of fewer values than
    commitments that the lease could have."""
    if terms.lease_id != lease_id or terms.values < steps:
        raise InvalidInput(
            f"terms of lease {terms.lease_id[:64]!r} with {terms.values} values; the lease is "
            f"{lease_id[:64]!r} of {steps} steps",
            code="LEASE_CHALLENGE",
        )


@dataclass(slots=True)
class ChallengeCheck:
    """One lease: what was committed, and the newest value that was right."""

    terms: ChallengeTerms
    commitments: dict[int, bytes] = field(default_factory=dict)
    known_index: int = 0
    known: bytes = b""

    def committed(self, index: int, commitment_digest: bytes) -> None:
        """Commitment number ``index``, from one, is on its way."""
        self.commitments[index] = commitment_digest

    def answered(self, index: int, value: bytes, rate_ppm: int, audited: bool) -> str:
        """What is wrong with an answer; empty when it follows from the terms."""
        if not self._in_chain(index, value):
            return f"value {index} of the lease's chain does not lead to its anchor"
        commitment = self.commitments.pop(index, None)
        if commitment is None:  # it was sent before a restart, or is answered again
            return ""
        drawn = is_drawn(draw(Purpose.AUDIT, value, commitment), rate_ppm)
        if drawn != audited:
            decided = "audited" if audited else "not audited"
            return f"commitment {index} is {decided}; drawn was the opposite"
        return ""

    def _in_chain(self, index: int, value: bytes) -> bool:
        if not 1 <= index <= self.terms.values or len(value) != len(self.terms.anchor):
            return False
        if index == self.known_index:
            return value == self.known
        if index < self.known_index:
            return leads_to(self.known, value, self.known_index - index)
        known = self.known or self.terms.anchor
        if not leads_to(value, known, index - self.known_index):
            return False
        self.known_index, self.known = index, value
        return True


class ChallengeChecks:
    """The checks of all leases that a worker holds."""

    def __init__(self) -> None:
        self._of: dict[str, ChallengeCheck] = {}

    def begin(self, terms: ChallengeTerms | None) -> None:
        """A lease was taken, or found on disk. Without terms nothing can be checked."""
        if terms is not None:
            self._of.setdefault(terms.lease_id, ChallengeCheck(terms))

    def end(self, lease_id: str) -> None:
        """A lease is over."""
        self._of.pop(lease_id, None)

    def committed(self, lease_id: str, index: int, commitment_digest: bytes) -> None:
        """See :meth:`ChallengeCheck.committed`."""
        check = self._of.get(lease_id)
        if check is not None:
            check.committed(index, commitment_digest)

    def answered(
        self, lease_id: str, index: int, value: bytes, rate_ppm: int, audited: bool
    ) -> str:
        """See :meth:`ChallengeCheck.answered`; empty for a lease without terms."""
        check = self._of.get(lease_id)
        return "" if check is None else check.answered(index, value, rate_ppm, audited)
