"""The client against a real gRPC server: a purchase from quote to checked result."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from flopmarket.client import Client, JobEnded, JobState, Money
from flopmarket.client.client import SYSTEM_PORTS
from flopmarket.errors import (
    Conflict,
    FlopmarketError,
    Forbidden,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.tls import CertificateAuthority
from flopmarket.v1 import job_pb2
from tests.integration.client.double_server import RunningFake
from tests.integration.client.doubles import (
    BUYER_KEY,
    CEILING_NANO,
    COORDINATOR_KEY,
    OPERATOR_KEY,
    SEGMENT_PRICE_NANO,
    FakeCoordinator,
    TinyJob,
    expected_state,
)


def test_run_delivers_checked_tensors_and_the_bill(client: Client) -> None:
    job = TinyJob()
    kinds: list[str] = []
    result = client.run(job, progress=lambda event: kinds.append(event.kind))
    np.testing.assert_array_equal(result.state["weights"], expected_state(job, 5)["weights"])
    np.testing.assert_array_equal(result.outputs["loss"], np.arange(5, dtype=np.float32))
    assert result.billed == Money(3 * SEGMENT_PRICE_NANO)
    assert result.receipt.trusted and result.receipt.job_id_checked
    assert kinds[0] == "queued" and kinds[-1] == "succeeded" and "progress" in kinds


def test_a_stateless_job_has_outputs_and_an_empty_state(client: Client) -> None:
    result = client.run(TinyJob(stateless=True))
    assert result.state == {}
    assert result.outputs["loss"].shape == (5,)


def test_artifacts_are_uploaded_once(client: Client, fake: FakeCoordinator) -> None:
    client.submit(TinyJob())
    assert fake.calls["Upload"] == 3
    client.submit(TinyJob())
    assert fake.calls["Upload"] == 3


def test_a_large_artifact_goes_in_chunks(client: Client, fake: FakeCoordinator) -> None:
    size = (3 << 20) + 17
    client.quote(TinyJob(program=bytes(size)))
    assert fake.upload_sizes == [size]


def test_quote_moves_no_money(client: Client, fake: FakeCoordinator) -> None:
    quote = client.quote(TinyJob())
    assert quote.ceiling == Money(CEILING_NANO)
    assert quote.expected.nano <= quote.ceiling.nano
    assert quote.work[0].work_class == "dot-f32"
    assert quote.ineligible == {"MEMORY": 2}
    assert fake.jobs == {}


def test_max_price_is_signed_into_the_job(client: Client, fake: FakeCoordinator) -> None:
    for price in ("$0.008", Decimal("0.008"), Money(8_000_000)):
        handle = client.submit(TinyJob(), max_price=price)
        assert fake.jobs[handle.job_id].spec.max_price_nano == 8_000_000
    default = client.submit(TinyJob())
    assert fake.jobs[default.job_id].spec.max_price_nano == CEILING_NANO


@pytest.mark.parametrize("price", [1, 0.5, True])
def test_a_bare_number_is_no_price(client: Client, price: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.submit(TinyJob(), max_price=price)  # type: ignore[arg-type]
    assert caught.value.code == "MONEY_AMBIGUOUS"


def test_a_budget_below_the_market_is_refused_with_the_reason(client: Client) -> None:
    with pytest.raises(QuotaExceeded) as caught:
        client.submit(TinyJob(), max_price="0.000001")
    assert caught.value.code == "BUDGET_BELOW_QUOTE"
    assert caught.value.hint == "raise --max-price"
    assert not caught.value.retryable


def test_an_unknown_verification_level_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.run(TinyJob(), verification="trust-me")
    assert caught.value.code == "VERIFICATION_UNKNOWN"


def test_a_repeated_request_id_gives_the_first_job(client: Client) -> None:
    first = client.submit(TinyJob(), request_id="r1")
    again = client.submit(TinyJob(), request_id="r1")
    assert again.job_id == first.job_id
    assert client.submit(TinyJob()).job_id != first.job_id
    assert again.wait().job_id == first.job_id
    with pytest.raises(Conflict) as caught:
        client.submit(TinyJob(steps=6), request_id="r1")
    assert caught.value.code == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (job_pb2.Job.STATE_FAILED, "JOB_FAILED"),
        (job_pb2.Job.STATE_CANCELLED, "JOB_CANCELLED"),
    ],
)
def test_a_job_without_result_raises_and_its_part_can_be_fetched(
    client: Client, fake: FakeCoordinator, ended: job_pb2.Job.State, code: str
) -> None:
    fake.outcome = ended
    handle = client.submit(TinyJob())
    with pytest.raises(JobEnded, match="NO_WORKER_LEFT") as caught:
        handle.wait()
    assert caught.value.code == code
    tensors = client.fetch(handle.job_id)
    np.testing.assert_array_equal(tensors.outputs["loss"], [0, 1])
    np.testing.assert_array_equal(tensors.state["weights"], expected_state(TinyJob(), 2)["weights"])


def test_a_running_job_can_be_fetched_without_a_receipt(
    client: Client, fake: FakeCoordinator
) -> None:
    handle = client.submit(TinyJob())
    fake.jobs[handle.job_id].message.state = job_pb2.Job.STATE_RUNNING
    tensors = client.fetch(handle.job_id)
    assert tensors.receipt is None and tensors.receipt_file == b""
    assert "GetReceipt" not in fake.calls


def test_jobs_page_and_come_newest_first(client: Client) -> None:
    made = [client.submit(TinyJob()).job_id for _ in range(3)]
    assert [job.job_id for job in client.jobs()] == made[::-1]


def test_cancel_is_signed(client: Client) -> None:
    handle = client.submit(TinyJob())
    assert handle.cancel().state is JobState.CANCELLED


def test_register_account_deposit_statement(client: Client, fake: FakeCoordinator) -> None:
    account_id = client.register("Ada")
    assert account_id == BUYER_KEY.key_id
    done = client.deposit(OPERATOR_KEY, "12.5", reference="bank 7", request_id="d1")
    again = client.deposit(OPERATOR_KEY, "12.5", reference="bank 7", request_id="d1")
    assert done == again
    account = client.account()
    assert (account.display_name, account.available) == ("Ada", Money(12_500_000_000))
    (line,) = client.transfers()
    assert (line.change, line.reference) == (Money(12_500_000_000), "bank 7")
    client.deposit(OPERATOR_KEY, "1", target=DepositTarget.BOND)
    assert fake.transfers[-1].balance == "bond"


def test_only_the_operator_deposits(client: Client) -> None:
    with pytest.raises(Forbidden) as caught:
        client.deposit(BUYER_KEY, "12.5")
    assert caught.value.code == "SIGNER_NOT_ALLOWED"


def test_prices_need_no_key(fake: FakeCoordinator) -> None:
    with Client(fake.address) as anonymous:
        (price,) = anonymous.spot().prices
        assert price.per_pflop == Money(2_100_000)
        (offer,) = anonymous.offers(order_by="price")
        assert offer.flops_per_second == {"dot-f32": 31 * 10**12}
        assert list(anonymous.offers(min_memory_bytes=1 << 40)) == []
        with pytest.raises(Unauthenticated) as caught:
            anonymous.account()
    assert caught.value.code == "KEY_NEEDED"


def test_a_lost_session_is_opened_again(client: Client, fake: FakeCoordinator) -> None:
    client.account()
    fake.tokens.clear()  # the coordinator restarted
    client.account()
    assert fake.calls["OpenSession"] == 2


def test_a_session_is_renewed_before_it_ends(fake: FakeCoordinator) -> None:
    offset_us = [0]
    ports = replace(SYSTEM_PORTS, now_us=lambda: SYSTEM_PORTS.now_us() + offset_us[0])
    with Client(fake.address, BUYER_KEY, ports=ports) as client:
        client.account()
        offset_us[0] = 3_600_000_000 - 60_000_000
        fake_open = fake.open
        fake.open = lambda message, body, key: _opened_any_time(fake_open, message, body, key)  # type: ignore[method-assign]
        client.account()
    assert fake.calls["OpenSession"] == 2


def _opened_any_time(original: object, message: object, body: type, key: object) -> object:
    """The envelope as opened without the check of time: the test's clock is ahead."""
    from flopmarket.trust.envelope import Envelope, Signature, open_envelope

    envelope = Envelope(
        message.payload_type,  # type: ignore[attr-defined]
        message.payload,  # type: ignore[attr-defined]
        tuple(Signature(s.key_id, s.signature) for s in message.signatures),  # type: ignore[attr-defined]
    )
    return open_envelope(
        envelope,
        body,
        keys={BUYER_KEY.key_id: BUYER_KEY.public},
        audience=COORDINATOR_KEY.key_id,
        now_us=None,
        replay=None,
    )


def test_errors_of_the_wire_are_ours_and_printable(client: Client, fake: FakeCoordinator) -> None:
    client.coordinator()
    fake.tricks.add("refuse")
    with pytest.raises(Unavailable) as caught:
        client.spot()
    assert caught.value.code == "DRAINING"
    assert caught.value.retryable
    assert caught.value.hint == "try again soon"
    assert "\x1b" not in caught.value.message
    assert fake.calls["GetSpot"] == 4  # the service config's attempts


def test_not_found_and_malformed_ids(client: Client) -> None:
    with pytest.raises(NotFound):
        client.job("a" * 64)
    with pytest.raises(InvalidInput) as caught:
        client.job("../../etc/passwd")
    assert caught.value.code == "JOB_ID_INVALID"


def test_nobody_there(unused_port: int) -> None:
    with (
        Client(f"127.0.0.1:{unused_port}", BUYER_KEY) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.spot()
    assert caught.value.code == "COORDINATOR_UNREACHABLE"
    assert str(unused_port) in caught.value.message


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tls_with_the_coordinators_own_authority(tmp_path: Path) -> None:
    now_us = SYSTEM_PORTS.now_us()
    authority = CertificateAuthority.create("market", now_us=now_us)
    stranger = CertificateAuthority.create("stranger", now_us=now_us)
    file = tmp_path / "ca.crt"
    file.write_bytes(authority.identity.certificate_pem)
    with RunningFake(authority.issue_server(["127.0.0.1"], now_us=now_us)) as fake:
        with Client(fake.address, BUYER_KEY, ca=file) as client:
            assert client.account().account_id == BUYER_KEY.key_id
        with (
            Client(fake.address, BUYER_KEY, ca=stranger.identity.certificate_pem) as deceived,
            pytest.raises(Unavailable),
        ):
            deceived.spot()


def test_a_tls_client_does_not_fall_back_to_plain_text(fake: FakeCoordinator) -> None:
    authority = CertificateAuthority.create("market", now_us=SYSTEM_PORTS.now_us())
    pem = authority.identity.certificate_pem
    with Client(fake.address, BUYER_KEY, ca=pem) as client, pytest.raises(Unavailable):
        client.spot()
    assert fake.calls == {}


def test_an_authority_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FlopmarketError) as caught:
        Client("127.0.0.1:1", BUYER_KEY, ca=tmp_path / "missing.crt")
    assert caught.value.code == "CA_UNREADABLE"


def test_a_key_can_be_a_file(fake: FakeCoordinator, tmp_path: Path) -> None:
    BUYER_KEY.save(tmp_path / "buyer.pem")
    with Client(fake.address, tmp_path / "buyer.pem") as client:
        assert client.account().account_id == BUYER_KEY.key_id


def test_a_ci_key_acts_for_its_account(fake: FakeCoordinator) -> None:
    with Client(fake.address, OPERATOR_KEY, account_id=BUYER_KEY.key_id) as client:
        assert client.account().account_id == BUYER_KEY.key_id


def test_something_else_is_not_a_job(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.quote(KeyPair.generate())
    assert caught.value.code == "NOT_A_JOB"
