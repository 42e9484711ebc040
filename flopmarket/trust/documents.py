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

from flopmarket.limits import MAX_REGION_CHARACTERS
from flopmarket.trust.encoding import Digest, Length, MaxLength, document
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import KEY_ID_LENGTH, PUBLIC_KEY_BYTES, KeyRole
from flopmarket.trust.modes import NO_CLASS, Mode, in_order

Identifier = Annotated[str, MaxLength(128)]
KeyId = Annotated[str, MaxLength(KEY_ID_LENGTH)]
Label = Annotated[str, MaxLength(256)]
Currency = Annotated[str, MaxLength(16)]
RawPublicKey = Annotated[bytes, Length(PUBLIC_KEY_BYTES)]

MAX_RATES = 32
CARD_FINGERPRINT_BYTES = 32
NO_LIMIT_NANO = 2**63 - 1
"""The amount that stands for "no limit" in a grant or a budget."""


class WattsSource(StrEnum):
    """Where an offer's power figure comes from; nothing is paid by it."""

    DECLARED = "declared"
    MEASURED = "measured"
    UNKNOWN = "unknown"


class DepositTarget(StrEnum):
    """Which balance of an account a deposit goes to."""

    AVAILABLE = "available"
    BOND = "bond"
    AUDITS = "audits"
    """What outside auditors are paid from: a gift of the account, never its own again."""


@document("flopmarket.account-registration.v1")
class AccountRegistration:
    """Signed by the owner key it names: "open an account that this key owns".

    The opener verifies it against the key that came with the request, then compares the two.
    """

    owner_key: RawPublicKey
    display_name: Label


@document("flopmarket.device-grant.v2")
class DeviceGrant:
    """Signed by the owner key: lets another key act for the account in the role it names.

    ``role`` is ``device`` (run work; no limits, they are zero) or ``ci`` (submit jobs): a CI key
    may spend ``cap_nano`` over its life and ``monthly_nano`` in a calendar month (UTC),
    :data:`NO_LIMIT_NANO` where there is none, and nothing from ``expires_at_us`` on. A later grant
    to the same key takes the place of the earlier one. An owner cannot grant more.
    """

    account_id: Identifier
    device_key: RawPublicKey
    label: Label
    role: KeyRole
    cap_nano: int = 0
    monthly_nano: int = 0
    expires_at_us: int = 0

    def __post_init__(self) -> None:
        if self.role not in (KeyRole.DEVICE, KeyRole.CI):
            raise _invalid(f"a grant is for role device or ci, not {self.role}")
        limits = (self.cap_nano, self.monthly_nano, self.expires_at_us)
        if self.role is KeyRole.DEVICE and any(limits):
            raise _invalid("a device key spends nothing: its limits are zero")
        if self.role is KeyRole.CI and not self.expires_at_us:
            raise _invalid("the grant of a CI key has an end")
        if max(limits) > NO_LIMIT_NANO:
            raise _invalid(f"limits and times are at most {NO_LIMIT_NANO}")


@document("flopmarket.budget-change.v1")
class BudgetChange:
    """Signed by the owner key: what the account may hold and spend in a calendar month (UTC).

    ``monthly_nano`` is :data:`NO_LIMIT_NANO` for no limit.
    """

    account_id: Identifier
    monthly_nano: int

    def __post_init__(self) -> None:
        if self.monthly_nano > NO_LIMIT_NANO:
            raise _invalid(f"a limit is at most {NO_LIMIT_NANO}")


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


@document("flopmarket.offer-terms.v3")
class OfferTerms:
    """Signed by a device key: "this device does work at these rates for this ask".

    ``rates`` are in ascending order of class, one each. ``region`` is where the owner says the
    device is (``flopmarket.market.region.check_region``), empty when unstated. ``step_nanoseconds``
    is host time of one step beside its kernels, ``build_milliseconds`` a cold build of one kernel,
    the two link rates are of the device's connection to the coordinator. These four,
    ``watts_milli`` and ``card_price_nano`` are zero when unknown. Amounts are nano-units of the
    coordinator's currency.

    ``modes`` are those it takes jobs of, ascending by name. ``admission_digest`` names the proof
    that the device computes ``profile``, zeros unless it offers exact mode. ``class_kernels`` and
    ``class_results`` are zeros unless it offers class mode
    (:mod:`flopmarket.trust.device_class`). ``card_fingerprint`` is empty when not told.
    """

    account_id: Identifier
    device_key_id: KeyId
    device_id: Identifier
    device_name: Label
    driver: Label
    profile: Annotated[str, MaxLength(64)]
    memory_bytes: int
    max_allocation_bytes: int
    region: Annotated[str, MaxLength(MAX_REGION_CHARACTERS)]
    ask_nano_per_hour: int
    rates: Annotated[tuple[Rate, ...], MaxLength(MAX_RATES)]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    step_nanoseconds: int
    build_milliseconds: int
    download_bytes_per_second: int
    upload_bytes_per_second: int
    watts_milli: int
    watts_source: WattsSource
    card_price_nano: int
    admission_digest: Digest
    modes: Annotated[tuple[Mode, ...], MaxLength(len(Mode))] = (Mode.EXACT,)
    class_kernels: Digest = NO_CLASS
    class_results: Digest = NO_CLASS
    card_fingerprint: Annotated[bytes, MaxLength(CARD_FINGERPRINT_BYTES)] = b""

    def __post_init__(self) -> None:
        classes = [rate.work_class for rate in self.rates]
        if classes != sorted(set(classes)):
            raise _invalid("rates must be in ascending order of work class, each class once")
        if (self.watts_source is WattsSource.UNKNOWN) != (self.watts_milli == 0):
            raise _invalid("watts_milli is zero when watts_source is unknown, and only then")
        if not in_order(self.modes):
            raise _invalid("modes are ascending by name, each once, and at least one")
        for stated in (self.class_kernels, self.class_results):
            if (stated == NO_CLASS) == (Mode.CLASS in self.modes):
                raise _invalid("an offer names its class when it offers class mode, and only then")
        if Mode.EXACT not in self.modes and self.admission_digest != NO_CLASS:
            raise _invalid("an offer without exact mode has no proof of admission")
        if len(self.card_fingerprint) not in (0, CARD_FINGERPRINT_BYTES):
            raise _invalid(f"a card's fingerprint has {CARD_FINGERPRINT_BYTES} bytes, or is empty")


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


@document("flopmarket.commitment.v2")
class Commitment:
    """Signed by a device key: "from this state I computed these steps, and this came out".

    The device cannot change its answer after the challenge is drawn from this. ``sealed_inner``
    hides the hash of the checksums of every step until an auditor has committed too
    (:func:`flopmarket.trust.sealing.seal_inner`).
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
    sealed_inner: Digest

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


@document("flopmarket.deposit.v2")
class Deposit:
    """Signed by the operator key: "this money arrived for this account".

    A bond is an operator's credit at stake for honest work; it is not the account's to spend.
    ``amount_nano`` is in nano-units of ``currency``, which must be the coordinator's.
    ``reference`` names the payment outside; a repeated ``request_id`` changes nothing.
    """

    account_id: Identifier
    target: DepositTarget
    amount_nano: int
    currency: Currency
    reference: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        _check_amount(self.amount_nano)


@document("flopmarket.withdrawal.v1")
class Withdrawal:
    """Signed by the owner key: "pay this much of the account's money out".

    ``destination`` says where to, in words that the operator understands (an IBAN, a PayPal name);
    the amount is reserved until the operator settles or rejects it. A repeated ``request_id``
    changes nothing.
    """

    account_id: Identifier
    amount_nano: int
    currency: Currency
    destination: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        _check_amount(self.amount_nano)
        if not self.destination:
            raise _invalid("a withdrawal names where the money goes")


@document("flopmarket.bond-withdrawal.v1")
class BondWithdrawal:
    """Signed by the owner key: "pay this much of the account's bond out".

    As :class:`Withdrawal`; the account must have nothing at stake any more.
    """

    account_id: Identifier
    amount_nano: int
    currency: Currency
    destination: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        _check_amount(self.amount_nano)
        if not self.destination:
            raise _invalid("a withdrawal names where the money goes")


@document("flopmarket.withdrawal-decision.v1")
class WithdrawalDecision:
    """Signed by the operator key: "this withdrawal was paid out" or "it will not be".

    ``reference`` names the payment outside, or says why there is none. Deciding the same again
    changes nothing; deciding otherwise is a conflict.
    """

    withdrawal_id: Identifier
    paid: bool
    reference: Label

    def __post_init__(self) -> None:
        if not self.reference:
            raise _invalid("a decision has a reference: the payment's, or the reason for none")


@document("flopmarket.coin-grant.v1")
class CoinGrant:
    """Signed by the operator key of a flopcoin market: "this account gets coins of the house".

    The issuing account goes below zero by the same amount, so the sum of all accounts stays zero.
    """

    account_id: Identifier
    target: DepositTarget
    amount_nano: int
    reference: Label
    request_id: Identifier

    def __post_init__(self) -> None:
        _check_amount(self.amount_nano)


@document("flopmarket.ledger-head.v1")
class LedgerHead:
    """Signed by the coordinator: "the ledger had these batches, and this is their root".

    ``root`` is that of the log of :mod:`flopmarket.trust.ledger_log` over the first
    ``batch_count`` batches, which hold the first ``transfer_count`` transfers. Two heads of one
    coordinator that no consistency proof joins prove that it rewrote its books.
    """

    batch_count: int
    transfer_count: int
    root: Digest
    currency: Currency
    as_of_us: int


def _check_amount(amount_nano: int) -> None:
    if not 0 < amount_nano < 2**63:
        raise _invalid("amount_nano must be above zero and fit signed 64 bits")


def _invalid(message: str) -> DocumentError:
    return DocumentError(message, code="DOCUMENT_INVALID")
