"""The documents that people and machines of the market sign.

Each travels as the body of an envelope (:mod:`flopmarket.trust.envelope`); who may sign which is
:mod:`flopmarket.trust.policy`. The signed job specification is declared beside the job itself, in
``flopmarket.jobs``. Every number is an integer with its unit in its name; ids are text that the
coordinator or the caller chose, digests and roots are 32 bytes, key ids are 64 hex digits.

A changed field is a new document with the next version in its tag: signed bytes are for ever.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from flopmarket.trust.encoding import Digest, Length, MaxLength, document
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import KEY_ID_LENGTH, PUBLIC_KEY_BYTES, KeyRole

Identifier = Annotated[str, MaxLength(128)]
KeyId = Annotated[str, MaxLength(KEY_ID_LENGTH)]
Label = Annotated[str, MaxLength(256)]
RawPublicKey = Annotated[bytes, Length(PUBLIC_KEY_BYTES)]

MAX_RATES = 32


class WattsSource(StrEnum):
    """Where an offer's power figure comes from; nothing is paid by it."""

    DECLARED = "declared"
    MEASURED = "measured"
    UNKNOWN = "unknown"


class DepositTarget(StrEnum):
    """Which balance of an account a deposit goes to."""

    AVAILABLE = "available"
    BOND = "bond"


@document("flopmarket.account-registration.v1")
class AccountRegistration:
    """Signed by the owner key it names: "open an account that this key owns".

    The opener verifies it against the key that came with the request, then compares the two.
    """

    owner_key: RawPublicKey
    display_name: Label


@document("flopmarket.device-grant.v1")
class DeviceGrant:
    """Signed by the owner key: lets another key act for the account in the role it names.

    ``role`` is ``device`` (run work) or ``ci`` (submit jobs); an owner cannot grant more.
    """

    account_id: Identifier
    device_key: RawPublicKey
    label: Label
    role: KeyRole

    def __post_init__(self) -> None:
        if self.role not in (KeyRole.DEVICE, KeyRole.CI):
            raise _invalid(f"a grant is for role device or ci, not {self.role}")


@document("flopmarket.session-request.v1")
class SessionRequest:
    """Signed by an owner, device, CI or operator key: opens an authenticated gRPC session.

    ``role`` is what the caller claims to be and must be what its key is registered as; ``purpose``
    is shown in the audit trail.
    """

    account_id: Identifier
    role: KeyRole
    purpose: Label


@document("flopmarket.rate.v1")
class Rate:
    """Part of an offer: sustained rate in one class of work, such as ``dot-f32``."""

    work_class: Annotated[str, MaxLength(64)]
    flops_per_second: int


@document("flopmarket.offer-terms.v1")
class OfferTerms:
    """Signed by a device key: "this device does work at these rates for this ask".

    ``rates`` are in ascending order of class, one each. ``watts_milli`` and
    ``card_price_nano_usd`` are zero when unknown. ``admission_digest`` names the proof that the
    device computes ``profile``.
    """

    account_id: Identifier
    device_key_id: KeyId
    device_id: Identifier
    device_name: Label
    driver: Label
    profile: Annotated[str, MaxLength(64)]
    memory_bytes: int
    max_allocation_bytes: int
    ask_nano_usd_per_hour: int
    rates: Annotated[tuple[Rate, ...], MaxLength(MAX_RATES)]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    watts_milli: int
    watts_source: WattsSource
    card_price_nano_usd: int
    admission_digest: Digest

    def __post_init__(self) -> None:
        classes = [rate.work_class for rate in self.rates]
        if classes != sorted(set(classes)):
            raise _invalid("rates must be in ascending order of work class, each class once")
        if (self.watts_source is WattsSource.UNKNOWN) != (self.watts_milli == 0):
            raise _invalid("watts_milli is zero when watts_source is unknown, and only then")


@document("flopmarket.lease-acceptance.v1")
class LeaseAcceptance:
    """Signed by a device key: "I run these steps of this job under this lease and fence"."""

    job_id: Digest
    lease_id: Identifier
    fence: int
    device_key_id: KeyId
    device_id: Identifier
    first_step: int
    step_count: int

    def __post_init__(self) -> None:
        if self.step_count == 0:
            raise _invalid("step_count must be at least 1")


@document("flopmarket.commitment.v1")
class Commitment:
    """Signed by a device key: "from this state I computed these steps, and this came out".

    The device cannot change its answer after the challenge is drawn from this. ``inner`` hashes the
    checksums of every step; it is salted by what nobody but a worker who did the steps knows.
    """

    job_id: Digest
    lease_id: Identifier
    fence: int
    device_key_id: KeyId
    segment_index: int
    first_step: int
    steps_done: int
    state_root_before: Digest
    state_root_after: Digest
    outputs_root: Digest
    inner: Digest

    def __post_init__(self) -> None:
        if self.steps_done == 0:
            raise _invalid("steps_done must be at least 1")


@document("flopmarket.segment-verdict.v1")
class SegmentVerdict:
    """Signed by an auditor's device key (or the coordinator's): the outcome of one recomputation.

    ``expected_state_root`` and ``expected_outputs_root`` are what the auditor computed, whether or
    not they agree with the commitment that ``commitment_digest`` names.
    """

    job_id: Digest
    segment_index: int
    commitment_digest: Digest
    auditor_key_id: KeyId
    accepted: bool
    reason_code: Annotated[str, MaxLength(64)]
    expected_state_root: Digest
    expected_outputs_root: Digest


@document("flopmarket.cancel-request.v1")
class CancelRequest:
    """Signed by the buyer's owner or CI key: "stop this job"; finished segments stay paid."""

    job_id: Digest
    request_id: Identifier


@document("flopmarket.deposit.v1")
class Deposit:
    """Signed by the operator key: "this money arrived for this account".

    A bond is an operator's credit at stake for honest work; it is not the account's to spend.
    ``reference`` names the payment outside; a repeated ``request_id`` changes nothing.
    """

    account_id: Identifier
    target: DepositTarget
    amount_nano_usd: int
    reference: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        if not 0 < self.amount_nano_usd < 2**63:
            raise _invalid("amount_nano_usd must be above zero and fit signed 64 bits")


def _invalid(message: str) -> DocumentError:
    return DocumentError(message, code="DOCUMENT_INVALID")
