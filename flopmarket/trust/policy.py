"""Who may sign what: one table, apart from all cryptography.

An opened envelope proves which key signed; the caller looks up that key's registered role and
standing, and asks here whether the role may sign the document. Whether the key belongs to the
account that the document names is the caller's check: it needs the coordinator's records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flopmarket.trust.administration import AdminAction
from flopmarket.trust.benchmark import BenchmarkReport
from flopmarket.trust.canaries import CanaryTerms
from flopmarket.trust.challenge import AuditorList, ChallengeRecord, ChallengeTerms
from flopmarket.trust.dispute_documents import DisputeMove, DisputeVerdict
from flopmarket.trust.documents import (
    AccountRegistration,
    BondWithdrawal,
    BudgetChange,
    CancelRequest,
    CoinGrant,
    Commitment,
    Deposit,
    DeviceGrant,
    LeaseAcceptance,
    LedgerHead,
    OfferTerms,
    SegmentVerdict,
    SessionRequest,
    Withdrawal,
    WithdrawalDecision,
)
from flopmarket.trust.encoding import Document, domain_of
from flopmarket.trust.errors import SignerNotAllowed
from flopmarket.trust.key_documents import (
    AccountAdmission,
    CertificateRequest,
    Enrolment,
    Invitation,
    KeyRecovery,
    KeyRevocation,
    KeyRotation,
    RecoveryKey,
    RecoveryObjection,
)
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.sealing import InnerSecret
from flopmarket.trust.step_audit import StepAnswer, StepClaim

_OWNER = frozenset({KeyRole.OWNER})
_DEVICE = frozenset({KeyRole.DEVICE})
_BUYER = frozenset({KeyRole.OWNER, KeyRole.CI})
_OPERATOR = frozenset({KeyRole.OPERATOR})
_COORDINATOR = frozenset({KeyRole.COORDINATOR})

# Documents that other packages declare are named by their tag, so that this table stays whole.
JOB_SPEC_DOMAIN = "flopmarket.job-spec.v4"

ALLOWED_ROLES: Mapping[str, frozenset[KeyRole]] = MappingProxyType(
    {
        domain_of(AccountRegistration): _OWNER,
        domain_of(DeviceGrant): _OWNER,
        domain_of(BudgetChange): _OWNER,
        domain_of(SessionRequest): frozenset(
            {KeyRole.OWNER, KeyRole.DEVICE, KeyRole.CI, KeyRole.OPERATOR}
        ),
        domain_of(KeyRotation): frozenset({KeyRole.OWNER, KeyRole.DEVICE, KeyRole.CI}),
        domain_of(KeyRevocation): _OWNER,
        # The first one by the owner, later ones by the key it replaces (trust/ownership.py).
        domain_of(RecoveryKey): frozenset({KeyRole.OWNER, KeyRole.RECOVERY}),
        domain_of(KeyRecovery): frozenset({KeyRole.RECOVERY}),
        domain_of(RecoveryObjection): _OWNER,
        domain_of(Invitation): _OWNER,
        domain_of(Enrolment): frozenset({KeyRole.INVITATION}),
        domain_of(AccountAdmission): frozenset({KeyRole.INVITATION}),
        domain_of(CertificateRequest): _DEVICE,
        domain_of(OfferTerms): _DEVICE,
        domain_of(LeaseAcceptance): _DEVICE,
        domain_of(Commitment): _DEVICE,
        domain_of(InnerSecret): _DEVICE,
        domain_of(SegmentVerdict): frozenset({KeyRole.DEVICE, KeyRole.COORDINATOR}),
        domain_of(CancelRequest): _BUYER,
        domain_of(Deposit): _OPERATOR,
        JOB_SPEC_DOMAIN: _BUYER,
        domain_of(Withdrawal): _OWNER,
        domain_of(BondWithdrawal): _OWNER,
        domain_of(WithdrawalDecision): _OPERATOR,
        domain_of(CoinGrant): _OPERATOR,
        domain_of(AdminAction): _OPERATOR,
        domain_of(LedgerHead): _COORDINATOR,
        domain_of(BenchmarkReport): _COORDINATOR,
        domain_of(ChallengeTerms): _COORDINATOR,
        domain_of(CanaryTerms): _COORDINATOR,
        domain_of(ChallengeRecord): _COORDINATOR,
        domain_of(AuditorList): _COORDINATOR,
        domain_of(StepClaim): _DEVICE,
        domain_of(StepAnswer): _DEVICE,
        domain_of(DisputeMove): frozenset({KeyRole.DEVICE, KeyRole.COORDINATOR}),
        domain_of(DisputeVerdict): _COORDINATOR,
    }
)


RETIRED_MAY_SIGN = frozenset(
    domain_of(kind)
    for kind in (SessionRequest, Commitment, InnerSecret, DisputeMove, CertificateRequest)
)
"""What a device key signs after another took its place: it finishes and answers for what it began,
and begins nothing."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A key's standing, from the caller's records: its registered role, and if it is revoked.

    ``retired``: a device key that was rotated and still finishes its work.
    """

    role: KeyRole
    revoked: bool = False
    retired: bool = False


def check_may_sign(document: Document | type, signer: KeyRole | Signer) -> None:
    """:class:`SignerNotAllowed` unless a key of this role and standing may sign the document.

    A type that is not in the table may be signed by nobody.
    """
    standing = signer if isinstance(signer, Signer) else Signer(signer)
    domain = domain_of(document if isinstance(document, type) else type(document))
    if standing.revoked:
        raise SignerNotAllowed(
            f"a revoked {standing.role} key cannot sign {domain}",
            code="KEY_REVOKED",
            hint="use another key of the account; a revoked one never comes back",
        )
    if standing.retired and domain not in RETIRED_MAY_SIGN:
        raise SignerNotAllowed(
            f"another key took the place of this {standing.role} key: it cannot sign {domain}",
            code="KEY_ROTATED",
            hint="use the new key",
        )
    allowed = ALLOWED_ROLES.get(domain, frozenset())
    if standing.role not in allowed:
        names = ", ".join(sorted(allowed)) or "no"
        raise SignerNotAllowed(
            f"a {standing.role} key cannot sign {domain}: it takes {names} key",
            details={"role": str(standing.role), "document": domain},
        )


def check_role_claim(request: SessionRequest, signer: Signer) -> None:
    """:class:`SignerNotAllowed` unless a session is opened in the role the key is registered as."""
    check_may_sign(request, signer)
    if request.role is not signer.role:
        raise SignerNotAllowed(
            f"the key is registered as {signer.role} and asks for a session as {request.role}",
            code="ROLE_MISMATCH",
        )
