"""Protobuf to plain values and back: the only place that knows both sides.

``*_of`` functions read messages of strangers and refuse what is out of bounds; the others write
answers. Limits of the documents inside envelopes are the trust package's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_HELD_LEASES,
    MAX_HELLO_OFFERS,
    MAX_PAGE_SIZE,
    MAX_PROGRESS_SCALARS,
    MAX_REASON_CHARACTERS,
    MAX_REQUEST_TEXT_CHARACTERS,
)
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.v1 import common_pb2, job_pb2, ledger_pb2, worker_pb2
from flopmarket.wire import envelope_from_proto, envelope_to_proto, order_to_proto
from flopmarket_coordinator.application.types_buying import JobView, SegmentView
from flopmarket_coordinator.application.types_money import TransferView
from flopmarket_coordinator.application.types_working import (
    CommitmentAnswer,
    HeldLease,
    Hello,
    Instruction,
    LeaseOffered,
    OfferRefused,
    OpeningAsked,
    Progress,
    SegmentOpening,
    StepsAsked,
    Welcome,
)
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.rpc import convert_steps

_JOB_STATES = {
    JobState.QUEUED: job_pb2.Job.STATE_QUEUED,
    JobState.RUNNING: job_pb2.Job.STATE_RUNNING,
    JobState.VERIFYING: job_pb2.Job.STATE_VERIFYING,
    JobState.SUCCEEDED: job_pb2.Job.STATE_SUCCEEDED,
    JobState.CANCELLED: job_pb2.Job.STATE_CANCELLED,
    JobState.FAILED: job_pb2.Job.STATE_FAILED,
}

# --- reading what strangers send ------------------------------------------------------------------


def text_of(value: str, name: str, limit: int = MAX_REQUEST_TEXT_CHARACTERS) -> str:
    """A text field of a request within its limit."""
    if len(value) > limit:
        raise LimitExceeded(
            f"{name} has {len(value)} characters, at most {limit}",
            details={"field": name, "limit": str(limit)},
        )
    if "\0" in value:  # no database row of PostgreSQL holds it
        raise InvalidInput(f"{name} has a zero byte", code="TEXT_ZERO_BYTE")
    return value


def class_of(value: bytes) -> str:
    """A class of devices as hex, "" for none; InvalidInput ``JOB_CLASS`` for another length."""
    if len(value) not in (0, DIGEST_BYTES):
        raise InvalidInput(
            f"a class of devices is named by {DIGEST_BYTES} bytes, not {len(value)}",
            code="JOB_CLASS",
        )
    return value.hex()


def page_size_of(value: int) -> int:
    """Entries of one page: ours when it is left open, at most ``MAX_PAGE_SIZE``."""
    if value < 0:
        raise InvalidInput(f"page_size = {value} is negative", code="PAGE_SIZE_INVALID")
    return min(value, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def job_states_of(values: Sequence[job_pb2.Job.State.ValueType]) -> tuple[JobState, ...]:
    """States to list jobs of; InvalidInput ``JOB_STATE_UNKNOWN`` for what is none."""
    known = {number: state for state, number in _JOB_STATES.items()}
    _check_count(len(values), len(known), "states")
    if unknown := [value for value in values if value not in known]:
        raise InvalidInput(f"no job is in state number {unknown[0]}", code="JOB_STATE_UNKNOWN")
    return tuple(known[value] for value in values)


def hello_of(message: worker_pb2.Hello) -> Hello:
    """A worker's first message."""
    _check_count(len(message.offers), MAX_HELLO_OFFERS, "offers")
    return Hello(
        agent_version=text_of(message.agent_version, "agent_version"),
        offers=tuple(envelope_from_proto(offer) for offer in message.offers),
        held=held_of(message.held),
    )


def held_of(messages: Sequence[worker_pb2.HeldLease]) -> tuple[HeldLease, ...]:
    """Leases a worker says it works on."""
    _check_count(len(messages), MAX_HELD_LEASES, "held leases")
    return tuple(HeldLease(text_of(item.lease_id, "lease_id"), item.fence) for item in messages)


def progress_of(messages: Sequence[worker_pb2.Progress]) -> tuple[Progress, ...]:
    """Where a worker is in its leases."""
    _check_count(len(messages), MAX_HELD_LEASES, "progress reports")
    for message in messages:
        _check_count(len(message.scalars), MAX_PROGRESS_SCALARS, "scalars")
        for name in message.scalars:
            text_of(name, "name of a scalar")
    return tuple(
        Progress(text_of(item.lease_id, "lease_id"), item.step, dict(item.scalars))
        for item in messages
    )


def _check_count(count: int, limit: int, name: str) -> None:
    if count > limit:
        raise LimitExceeded(
            f"{count} {name} in one message, at most {limit}",
            details={"field": name, "limit": str(limit)},
        )


# --- writing answers ------------------------------------------------------------------------------


def money(nano: int) -> common_pb2.Money:
    """An amount in nano-units."""
    return common_pb2.Money(nano=nano)


def job(view: JobView) -> job_pb2.Job:
    """A job with the segments its view has."""
    return job_pb2.Job(
        job_id=view.job_id,
        title=view.title,
        state=_JOB_STATES[view.state],
        kind=view.kind,
        created_at_us=view.created_at_us,
        ended_at_us=view.ended_at_us,
        steps=view.steps,
        steps_committed=view.steps_committed,
        steps_verified=view.steps_verified,
        ceiling=money(view.ceiling_nano),
        billed=money(view.billed_nano),
        reason=view.reason,
        segments=[segment(item) for item in view.segments],
        state_artifact=view.state_artifact,
        state_root=view.state_root,
        program_digest=view.program_digest,
        segment_steps=view.segment_steps,
        segment_count=view.segment_count,
        order=order_to_proto(view.order),
        deadline_us=view.deadline_us,
        verification=view.verification,
        surcharge_ppm=view.surcharge_ppm,
        surcharge=money(view.surcharge_nano),
        mode=view.mode.value,
        class_digest=bytes.fromhex(view.device_class),
    )


def segment(view: SegmentView) -> job_pb2.Segment:
    """One segment of a job."""
    return job_pb2.Segment(
        index=view.index,
        first_step=view.first_step,
        steps=view.steps,
        state=str(view.state),
        device_id=view.device_id,
        device_name=view.device_name,
        worker_key_id=view.device_key_id,
        price=money(view.price_nano),
        state_root=view.state_root,
        outputs_root=view.outputs_root,
        outputs_artifact=view.outputs_artifact,
        checkpoint_artifact=view.checkpoint_artifact,
        reason=view.reason,
        surcharge=money(view.surcharge_nano),
    )


def instruction(value: Instruction) -> worker_pb2.SessionResponse:
    """An instruction to a worker."""
    if isinstance(value, OpeningAsked):
        asked = worker_pb2.OpeningAsked(lease_id=value.lease_id, segment_index=value.segment_index)
        return worker_pb2.SessionResponse(opening_asked=asked)
    if isinstance(value, StepsAsked):
        return convert_steps.asked(value, instruction(value.work).lease_offered)
    if not isinstance(value, LeaseOffered):
        revoked = worker_pb2.LeaseRevoked(
            lease_id=value.lease_id, fence=value.fence, reason=value.reason, detail=value.detail
        )
        return worker_pb2.SessionResponse(lease_revoked=revoked)
    offered = worker_pb2.LeaseOffered(
        lease_id=value.lease_id,
        fence=value.fence,
        device_id=value.device_id,
        job_id=value.job_id,
        spec=envelope_to_proto(value.spec),
        spec_public_key=value.spec_public_key,
        program_artifact=value.program_artifact,
        frozen_artifact=value.frozen_artifact,
        data_artifact=value.data_artifact,
        state_artifact=value.state_artifact,
        state_root=value.state_root,
        first_step=value.first_step,
        step_count=value.step_count,
        first_segment=value.first_segment,
        price=common_pb2.PriceTerms(
            ask_nano_per_hour=value.price.ask_nano_per_hour,
            step_picoseconds=value.price.step_picoseconds,
        ),
        expires_at_us=value.expires_at_us,
        grant=None if value.grant is None else envelope_to_proto(value.grant),
        buyer_public_key=value.buyer_public_key,
        owner_links=[envelope_to_proto(link) for link in value.owner_links],
        signer_rotations=[envelope_to_proto(item) for item in value.signer_rotations],
        challenge_terms=None
        if value.challenge_terms is None
        else envelope_to_proto(value.challenge_terms),
    )
    return worker_pb2.SessionResponse(lease_offered=offered)


def welcome(value: Welcome) -> worker_pb2.SessionResponse:
    """The answer to a worker's hello."""
    message = worker_pb2.Welcome(
        session_id=value.session_id,
        time_us=value.time_us,
        heartbeat_ms=value.heartbeat_ms,
        kept=[
            worker_pb2.HeldLease(lease_id=item.lease_id, fence=item.fence) for item in value.kept
        ],
    )
    return worker_pb2.SessionResponse(welcome=message)


def offer_refused(value: OfferRefused) -> worker_pb2.SessionResponse:
    """Why an offer is not listed."""
    message = worker_pb2.OfferRefused(
        device_id=value.device_id, code=value.code, message=value.message
    )
    return worker_pb2.SessionResponse(offer_refused=message)


def opening_of(message: worker_pb2.SegmentOpened) -> SegmentOpening:
    """A worker's answer to an :class:`OpeningAsked`."""
    has_secret = message.HasField("secret")
    return SegmentOpening(
        text_of(message.lease_id, "lease_id"),
        message.segment_index,
        envelope_from_proto(message.secret) if has_secret else None,
        text_of(message.code, "code"),
        message.message[:MAX_REASON_CHARACTERS],
    )


def commitment_answer(value: CommitmentAnswer) -> worker_pb2.SessionResponse:
    """Whether a commitment counts."""
    message = worker_pb2.CommitmentAnswer(
        lease_id=value.lease_id,
        segment_index=value.segment_index,
        accepted=value.accepted,
        code=value.code,
        message=value.message,
        challenge_value=value.challenge_value,
        rate_ppm=value.rate_ppm,
        audited=value.audited,
    )
    return worker_pb2.SessionResponse(commitment_answer=message)


def rates(values: Mapping[str, int]) -> Iterable[common_pb2.ClassRate]:
    """Rates by class of work, in the order of the classes' names."""
    return [
        common_pb2.ClassRate(work_class=name, flops_per_second=value)
        for name, value in sorted(values.items())
    ]


def transfer(view: TransferView) -> ledger_pb2.Transfer:
    """One line of a statement."""
    return ledger_pb2.Transfer(
        transfer_id=view.transfer_id,
        time_us=view.time_us,
        kind=view.kind,
        balance=view.balance,
        change_nano=view.change_nano,
        amount_nano=view.amount_nano,
        purpose=view.purpose,
        job_id=view.job_id,
        reference=view.reference,
    )
