"""What an auditor of another account answered about a segment, checked by anybody, offline.

The coordinator's verdict says that an auditor agreed; here are the auditor's own words: its signed
commitment of the same segment, and what this and the worker's commitment hide. :func:`check_answer`
holds them to the draw, to each other and to the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flopmarket.errors import FlopmarketError
from flopmarket.trust.challenge import ChallengeRecord, Finding, FindingCode
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import AnyDocument
from flopmarket.trust.envelope import Envelope, keys_by_id, open_envelope
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.sealing import InnerSecret, seal_inner

_PAID = "settled"


@dataclass(frozen=True, slots=True)
class AuditorAnswer:
    """One answer; envelopes in their binary form, an opening that never came is empty.

    ``public_key`` is the auditor's raw key, ``account_id`` whom it acted for by the coordinator's
    records.
    """

    account_id: str
    public_key: bytes
    commitment: bytes
    opening: bytes
    worker_opening: bytes

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""
        return len(self.commitment) + len(self.opening) + len(self.worker_opening)


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer is held to: the segment's record, the worker's words and account, and the
    verdict, None without one (or where a dispute's stands in its place)."""

    record: ChallengeRecord
    claim: Commitment
    worker: PublicKey
    worker_account: str
    state: str
    auditor: str
    verdict: SegmentVerdict | None


def check_answer(
    answer: AuditorAnswer | None, asked: Answered, coordinator: PublicKey
) -> Iterator[Finding]:
    """Everything about an answer that contradicts the draw, the worker's words or the verdict."""
    verdict, index = asked.verdict, asked.record.index
    by_house = verdict is None or verdict.auditor_key_id == coordinator.key_id
    if answer is None:
        if verdict is not None and not by_house:
            message = f"the verdict speaks for {verdict.auditor_key_id[:16]}; its answer is missing"
            yield Finding(index, FindingCode.ANSWER_MISSING, message)
        return
    try:
        auditor = PublicKey(answer.public_key)
        body = opened(answer.commitment, Commitment, auditor, coordinator)
    except FlopmarketError as error:
        yield Finding(index, FindingCode.ANSWER_DIFFERS, error.message)
        return
    yield from _check_auditor(answer, auditor, asked, coordinator)
    if _question(body) != _question(asked.claim) or body.device_key_id != auditor.key_id:
        message = "the auditor's commitment is of another segment, start or key"
        yield Finding(index, FindingCode.ANSWER_DIFFERS, message)
    if verdict is not None and not by_house:
        if verdict.auditor_key_id != auditor.key_id:
            message = f"the verdict speaks for {verdict.auditor_key_id[:16]}, not for this auditor"
            yield Finding(index, FindingCode.ANSWER_DIFFERS, message)
        if _ends(body) != (verdict.expected_state_root, verdict.expected_outputs_root):
            message = "the verdict says other roots than the auditor"
            yield Finding(index, FindingCode.ANSWER_DIFFERS, message)
    same = _ends(body) == _ends(asked.claim)
    if verdict is not None and not by_house and verdict.accepted and not same:
        message = "it was accepted, and the auditor committed to other roots"
        yield Finding(index, FindingCode.ANSWER_DIFFERS, message)
    if _refuted_by(asked, auditor) and same:
        message = "it was refuted by this auditor, who committed to the same roots"
        yield Finding(index, FindingCode.ANSWER_DIFFERS, message)
    yield from _check_openings(answer, body, auditor, asked, coordinator, by_house=by_house)


def _check_auditor(
    answer: AuditorAnswer, auditor: PublicKey, asked: Answered, coordinator: PublicKey
) -> Iterator[Finding]:
    index, name = asked.record.index, auditor.key_id[:16]
    order = asked.record.auditors
    if coordinator.key_id in order:  # nobody behind the house itself is asked
        order = order[: order.index(coordinator.key_id)]
    if auditor.key_id not in order:
        message = f"{name} answered and was not drawn"
        yield Finding(index, FindingCode.AUDITOR_NOT_DRAWN, message)
    if auditor.key_id == asked.worker.key_id or answer.account_id == asked.worker_account:
        message = f"{name} audited the work of its own account"
        yield Finding(index, FindingCode.AUDITOR_NOT_APART, message)


def _check_openings(
    answer: AuditorAnswer,
    body: Commitment,
    auditor: PublicKey,
    asked: Answered,
    coordinator: PublicKey,
    *,
    by_house: bool,
) -> Iterator[Finding]:
    """Both openings are what was sealed; needed where a verdict was paid because they agreed."""
    index, verdict = asked.record.index, asked.verdict
    agreed = verdict is not None and not by_house and verdict.accepted
    needed = (agreed, agreed and asked.state == _PAID)
    seals = (
        ("auditor", answer.opening, auditor, body),
        ("worker", answer.worker_opening, asked.worker, asked.claim),
    )
    inner: list[bytes] = []
    for (who, envelope, key, commitment), is_needed in zip(seals, needed, strict=True):
        if not envelope:
            if is_needed:
                message = f"it was accepted, and the {who} never opened"
                yield Finding(index, FindingCode.OPENING_MISSING, message)
            continue
        try:
            secret = opened(envelope, InnerSecret, key, coordinator)
        except FlopmarketError as error:
            yield Finding(index, FindingCode.OPENING_DIFFERS, f"{who}: {error.message}")
            continue
        if secret.device_key_id != key.key_id or seal_inner(secret) != commitment.sealed_inner:
            message = f"the {who}'s opening is not what its commitment hides"
            yield Finding(index, FindingCode.OPENING_DIFFERS, message)
        inner.append(secret.inner)
    if agreed and asked.state == _PAID and len(inner) == len(seals) and len(set(inner)) > 1:
        message = "it was accepted, and worker and auditor hid different checksums"
        yield Finding(index, FindingCode.OPENING_DIFFERS, message)


def _refuted_by(asked: Answered, auditor: PublicKey) -> bool:
    """Whether the segment fell by a dispute with this very auditor."""
    verdict = asked.verdict
    return verdict is not None and not verdict.accepted and asked.auditor == auditor.key_id


def _question(body: Commitment) -> tuple[object, ...]:
    """What somebody was to compute."""
    return (
        body.job_id,
        body.segment_index,
        body.first_step,
        body.steps_done,
        body.state_root_before,
    )


def _ends(body: Commitment) -> tuple[bytes, bytes]:
    return body.state_root_after, body.outputs_root


def opened(
    data: bytes, kind: type[AnyDocument], signer: PublicKey, coordinator: PublicKey
) -> AnyDocument:
    """The body of an envelope of any age that ``signer`` addressed to this coordinator."""
    return open_envelope(
        Envelope.from_bytes(data),
        kind,
        keys=keys_by_id(signer),
        audience=coordinator.key_id,
        now_us=None,
        replay=None,
    ).body
