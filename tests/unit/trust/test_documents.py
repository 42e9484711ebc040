"""The protocol's documents, and who may sign them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flopmarket.trust import (
    benchmark,
    canaries,
    challenge,
    documents,
    key_documents,
    policy,
    sealing,
    step_audit,
)
from flopmarket.trust.administration import AdminAction
from flopmarket.trust.dispute_documents import DisputeMove, DisputeVerdict
from flopmarket.trust.documents import (
    AccountRegistration,
    BondWithdrawal,
    BudgetChange,
    CancelRequest,
    CoinGrant,
    Commitment,
    Deposit,
    DepositTarget,
    DeviceGrant,
    LeaseAcceptance,
    LedgerHead,
    OfferTerms,
    Rate,
    SegmentVerdict,
    SessionRequest,
    WattsSource,
    Withdrawal,
    WithdrawalDecision,
)
from flopmarket.trust.encoding import decode, digest, document, domain_of, encode
from flopmarket.trust.envelope import keys_by_id, open_envelope, seal
from flopmarket.trust.errors import DocumentError, EnvelopeError, SignerNotAllowed
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.policy import Signer, check_may_sign, check_role_claim

KEY = KeyPair.from_seed(b"d" * 32)
H = b"h" * 32
OFFER = OfferTerms(
    account_id="a",
    device_key_id=KEY.key_id,
    device_id="d",
    device_name="RX 7900 XTX",
    driver="rusticl",
    profile="FX1",
    memory_bytes=24 << 30,
    max_allocation_bytes=16 << 30,
    region="eu-de",
    ask_nano_per_hour=1,
    rates=(Rate("dot-f16", 2), Rate("dot-f32", 1)),
    bandwidth_bytes_per_second=1,
    launch_nanoseconds=1,
    step_nanoseconds=0,
    build_milliseconds=0,
    download_bytes_per_second=0,
    upload_bytes_per_second=0,
    watts_milli=355_000,
    watts_source=WattsSource.DECLARED,
    card_price_nano=0,
    admission_digest=H,
)
COMMITMENT = Commitment(H, "lease", 3, KEY.key_id, 1, 100, 50, H, b"i" * 32, b"o" * 32, b"n" * 32)
KEY_DOCUMENTS = {
    value
    for value in vars(key_documents).values()
    if isinstance(value, type) and value.__module__ == key_documents.__name__
}
AUDIT_DOCUMENTS = {challenge.AuditorList, challenge.ChallengeRecord, challenge.ChallengeTerms}
AUDIT_DOCUMENTS |= {sealing.InnerSecret, benchmark.BenchmarkReport, canaries.CanaryTerms}
AUDIT_DOCUMENTS |= {step_audit.StepClaim, step_audit.StepAnswer}
SAMPLES: list[Any] = [
    AccountRegistration(KEY.public.raw, "Grete"),
    DeviceGrant("a", KEY.public.raw, "cellar", KeyRole.DEVICE),
    SessionRequest("a", KeyRole.DEVICE, "run work"),
    OFFER,
    LeaseAcceptance(H, "lease", 3, KEY.key_id, "d", 100, 50),
    COMMITMENT,
    SegmentVerdict(H, 1, digest(COMMITMENT), KEY.key_id, True, "EQUAL", b"i" * 32, b"o" * 32),
    CancelRequest(H, "r"),
    Deposit("a", DepositTarget.BOND, 1, "USD", "wire", "r"),
    Withdrawal("a", 1, "USD", "DE00 1234", "r"),
    WithdrawalDecision("w", True, "wire 9"),
    CoinGrant("a", DepositTarget.AVAILABLE, 1, "welcome", "r"),
    LedgerHead(2, 7, H, "USD", 5),
    BondWithdrawal("a", 1, "USD", "DE00 1234", "r"),
    BudgetChange("a", 50),
    DeviceGrant("a", KEY.public.raw, "nightly", KeyRole.CI, 20, 5, 1_000),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_document_travels_in_an_envelope(sample: Any) -> None:
    envelope = seal(sample, KEY, audience="c", nonce=bytes(16), issued_at_us=1, expires_at_us=2)
    opened = open_envelope(
        envelope,
        type(sample),
        keys=keys_by_id(KEY.public),
        audience="c",
        now_us=1,
        replay=None,
    )
    assert opened.body == sample == decode(type(sample), encode(sample))


def test_no_two_documents_share_a_tag_and_none_lacks_a_sample_or_a_rule() -> None:
    declared = {
        value
        for value in vars(documents).values()
        if isinstance(value, type) and "__document_layout__" in vars(value)
    } - {Rate}
    assert declared == {type(sample) for sample in SAMPLES}
    tags = {domain_of(cls) for cls in declared}
    assert len(tags) == len(declared)
    elsewhere = {policy.JOB_SPEC_DOMAIN, domain_of(AdminAction)}
    elsewhere |= {domain_of(DisputeMove), domain_of(DisputeVerdict)}
    elsewhere |= {domain_of(cls) for cls in KEY_DOCUMENTS | AUDIT_DOCUMENTS}
    assert set(policy.ALLOWED_ROLES) - tags == elsewhere


@pytest.mark.parametrize(
    ("sample", "change"),
    [
        (SAMPLES[1], {"role": KeyRole.OWNER}),
        (SAMPLES[1], {"role": KeyRole.COORDINATOR}),
        (SAMPLES[1], {"cap_nano": 1}),
        (SAMPLES[1], {"role": KeyRole.CI}),
        (SAMPLES[-1], {"role": KeyRole.DEVICE}),
        (SAMPLES[-1], {"cap_nano": 2**63}),
        (SAMPLES[-2], {"monthly_nano": 2**63}),
        (OFFER, {"rates": OFFER.rates[::-1]}),
        (OFFER, {"rates": OFFER.rates[:1] * 2}),
        (OFFER, {"watts_source": WattsSource.UNKNOWN}),
        (OFFER, {"watts_milli": 0}),
        (SAMPLES[4], {"step_count": 0}),
        (COMMITMENT, {"steps_done": 0}),
        (SAMPLES[8], {"amount_nano": 0}),
        (SAMPLES[9], {"amount_nano": 0}),
        (SAMPLES[9], {"destination": ""}),
        (SAMPLES[10], {"reference": ""}),
        (SAMPLES[11], {"amount_nano": 2**63}),
        (SAMPLES[8], {"amount_nano": 2**63}),
    ],
)
def test_documents_that_contradict_themselves_do_not_exist(
    sample: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(DocumentError) as caught:
        replace(sample, **change)
    assert caught.value.code == "DOCUMENT_INVALID"


def test_a_contradiction_that_arrives_signed_is_malformed() -> None:
    raw = encode(SAMPLES[8])
    zero = raw.replace((1).to_bytes(8, "big"), bytes(8))
    with pytest.raises(DocumentError):
        decode(Deposit, zero)


def another(value: int | str | bytes) -> int | str | bytes:
    """A value of the same type and length that differs."""
    if isinstance(value, int):
        return value + 1
    return value[:-1] + ("x" if isinstance(value, str) else b"x")


def test_every_field_of_a_commitment_changes_its_digest() -> None:
    changed = {name: another(getattr(COMMITMENT, name)) for name in COMMITMENT.__dataclass_fields__}
    digests = {digest(replace(COMMITMENT, **{name: value})) for name, value in changed.items()}
    assert len(digests | {digest(COMMITMENT)}) == 12


ALLOWED = {
    ("AccountRegistration", "owner"),
    ("DeviceGrant", "owner"),
    ("BudgetChange", "owner"),
    ("SessionRequest", "owner"),
    ("SessionRequest", "device"),
    ("SessionRequest", "ci"),
    ("SessionRequest", "operator"),
    ("OfferTerms", "device"),
    ("LeaseAcceptance", "device"),
    ("Commitment", "device"),
    ("SegmentVerdict", "device"),
    ("SegmentVerdict", "coordinator"),
    ("CancelRequest", "owner"),
    ("CancelRequest", "ci"),
    ("Deposit", "operator"),
    ("Withdrawal", "owner"),
    ("BondWithdrawal", "owner"),
    ("WithdrawalDecision", "operator"),
    ("CoinGrant", "operator"),
    ("LedgerHead", "coordinator"),
}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
@pytest.mark.parametrize("role", KeyRole)
def test_who_may_sign_what(sample: Any, role: KeyRole) -> None:
    if (type(sample).__name__, role.value) in ALLOWED:
        check_may_sign(sample, role)
        check_may_sign(type(sample), Signer(role))
    else:
        with pytest.raises(SignerNotAllowed) as caught:
            check_may_sign(sample, role)
        assert caught.value.code == "SIGNER_NOT_ALLOWED"
        assert role.value in caught.value.message
    with pytest.raises(SignerNotAllowed) as caught:
        check_may_sign(sample, Signer(role, revoked=True))
    assert caught.value.code == "KEY_REVOKED"


@document("flopmarket.job-spec.v4")
class StandInJobSpec:
    a: int


@document("flopmarket.unheard-of.v1")
class UnheardOf:
    a: int


@pytest.mark.parametrize(
    ("cls", "roles"),
    [
        (StandInJobSpec, {KeyRole.OWNER, KeyRole.CI}),
        (UnheardOf, set()),
    ],
)
def test_a_device_key_spends_nothing_and_unknown_documents_have_no_signer(
    cls: type, roles: set[KeyRole]
) -> None:
    for role in KeyRole:
        if role in roles:
            check_may_sign(cls(1), role)
        else:
            with pytest.raises(SignerNotAllowed):
                check_may_sign(cls(1), role)


def test_a_session_is_opened_in_the_registered_role_only() -> None:
    request = SessionRequest("a", KeyRole.OWNER, "withdraw")
    check_role_claim(request, Signer(KeyRole.OWNER))
    with pytest.raises(SignerNotAllowed) as caught:
        check_role_claim(request, Signer(KeyRole.DEVICE))
    assert caught.value.code == "ROLE_MISMATCH"
    with pytest.raises(SignerNotAllowed) as caught:
        check_role_claim(request, Signer(KeyRole.OWNER, revoked=True))
    assert caught.value.code == "KEY_REVOKED"


def test_a_registration_of_somebody_elses_key_does_not_open() -> None:
    mallory = KeyPair.from_seed(b"m" * 32)
    stolen = seal(
        AccountRegistration(KEY.public.raw, "Mallory"),
        mallory,
        audience="c",
        nonce=bytes(16),
        issued_at_us=1,
        expires_at_us=2,
    )
    with pytest.raises(EnvelopeError) as caught:
        open_envelope(
            stolen,
            AccountRegistration,
            keys=lambda _hint: KEY.public,
            audience="c",
            now_us=1,
            replay=None,
        )
    assert caught.value.code == "ENVELOPE_BAD_SIGNATURE"
