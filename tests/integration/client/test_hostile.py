"""A coordinator that lies: each lie is refused by name, and nothing of it is delivered."""

from __future__ import annotations

import pytest

from flopmarket.client import AnswerRefused, Client
from flopmarket.client import artifacts as artifacts_module
from flopmarket.errors import FlopmarketError
from tests.integration.client.doubles import BUYER_KEY, COORDINATOR_KEY, FakeCoordinator, TinyJob


@pytest.mark.parametrize(
    ("trick", "code"),
    [
        ("download-wrong-hash", "ARTIFACT_HASH_MISMATCH"),
        ("receipt-other-job", "RECEIPT_OTHER_JOB"),
        ("receipt-bad-signature", "ENVELOPE_BAD_SIGNATURE"),
        ("receipt-other-key", "ENVELOPE_BAD_SIGNATURE"),
        ("receipt-garbage", "ENVELOPE_MALFORMED"),
        ("wrong-state", "STATE_ROOT_MISMATCH"),
        ("wrong-outputs", "OUTPUTS_ROOT_MISMATCH"),
        ("not-a-bundle", "BUNDLE_MALFORMED"),
        ("hidden-segment", "SEGMENT_MISSING"),
        ("other-job-answered", "JOB_ID_MISMATCH"),
        ("billed-more", "BILLED_DIFFERS"),
        ("state-unknown", "ANSWER_REFUSED"),
    ],
)
def test_a_lie_about_the_result_is_refused(
    client: Client, fake: FakeCoordinator, trick: str, code: str
) -> None:
    client.submit(TinyJob(steps=3))  # another job, whose receipt can be passed off
    handle = client.submit(TinyJob())
    fake.tricks.add(trick)
    with pytest.raises(FlopmarketError) as caught:
        handle.wait()
    assert caught.value.code == code
    assert caught.value.message


def test_a_download_without_end_is_cut(
    client: Client, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = client.submit(TinyJob())
    fake.tricks.add("download-endless")
    digest = fake.jobs[handle.job_id].message.state_artifact
    store = artifacts_module.Artifacts(client._session)
    with pytest.raises(AnswerRefused) as caught:
        store.download(digest, job_id=handle.job_id, max_bytes=2 << 20)
    assert caught.value.code == "ARTIFACT_TOO_LONG"


@pytest.mark.parametrize(
    ("trick", "code"),
    [("other-job-answered", "JOB_ID_MISMATCH"), ("upload-lost", "UPLOAD_INCOMPLETE")],
)
def test_a_lie_about_the_submission_is_refused(
    client: Client, fake: FakeCoordinator, trick: str, code: str
) -> None:
    fake.tricks.add(trick)
    with pytest.raises(AnswerRefused) as caught:
        client.submit(TinyJob(), max_price="1")
    assert caught.value.code == code


def test_a_quote_that_expects_more_than_its_ceiling(client: Client, fake: FakeCoordinator) -> None:
    fake.tricks.add("quote-upside-down")
    with pytest.raises(AnswerRefused):
        client.quote(TinyJob())


def test_a_figure_that_is_not_a_number(client: Client, fake: FakeCoordinator) -> None:
    fake.tricks.add("infinite-rate")
    with pytest.raises(AnswerRefused):
        list(client.offers())


def test_a_key_id_of_another_key(client: Client, fake: FakeCoordinator) -> None:
    fake.tricks.add("liar-key")
    with pytest.raises(AnswerRefused):
        client.coordinator()


def test_a_coordinator_other_than_the_pinned_one(fake: FakeCoordinator) -> None:
    with Client(fake.address, BUYER_KEY, coordinator_key="a" * 64) as wary:
        with pytest.raises(AnswerRefused) as caught:
            wary.account()
        assert caught.value.code == "COORDINATOR_KEY_CHANGED"
    assert "OpenSession" not in fake.calls  # nothing was signed for a stranger
    with Client(fake.address, BUYER_KEY, coordinator_key=COORDINATOR_KEY.key_id) as content:
        content.account()


def test_text_from_a_worker_cannot_drive_the_terminal(client: Client) -> None:
    handle = client.submit(TinyJob())
    assert "\x1b" not in client.job(handle.job_id).segments[0].device_name
