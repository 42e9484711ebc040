"""From protobuf to the client's own values: the one place where an answer is checked and cleaned.

Raises :class:`~flopmarket.client.failures.AnswerRefused` when an answer makes no sense, before
anything of it is used.
"""

from __future__ import annotations

import math
import re

from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.money import Money
from flopmarket.client.results import (
    Account,
    ClassWork,
    CoordinatorInfo,
    Deposited,
    EligibleOffer,
    JobEvent,
    JobInfo,
    JobState,
    Quote,
    QuotedClass,
    QuotedLevel,
    SegmentInfo,
    Transfer,
)
from flopmarket.trust.keys import PublicKey
from flopmarket.v1 import identity_pb2, job_pb2, ledger_pb2

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_digest_text(text: str, name: str, *, empty: bool = False) -> str:
    """``text`` if it is 64 lower-case hex digits (or nothing, where that is allowed)."""
    if (empty and not text) or _HEX_DIGEST.fullmatch(text):
        return text
    raise AnswerRefused(f"{name} {clean_text(text, 80)!r} is not 64 hex digits")


def coordinator_from_proto(message: identity_pb2.GetCoordinatorResponse) -> CoordinatorInfo:
    """Raises AnswerRefused when the key id is not that of the key."""
    key = PublicKey(message.public_key)
    if key.key_id != message.key_id:
        raise AnswerRefused("the coordinator's key id does not belong to its key")
    return CoordinatorInfo(
        message.key_id,
        key,
        clean_text(message.profile),
        clean_text(message.currency, 16),
        message.time_us,
        clean_text(message.version),
        message.fee_ppm,
    )


def quote_from_proto(message: job_pb2.QuoteJobResponse, currency: str) -> Quote:
    """The quote; refused when the expected price is above the ceiling."""
    if message.expected.nano > message.ceiling.nano:
        raise AnswerRefused("the quote expects more than its own ceiling")
    return Quote(
        quote_id=clean_text(message.quote_id),
        as_of_us=message.as_of_us,
        expires_at_us=message.expires_at_us,
        ceiling=price_of(message.ceiling.nano, currency),
        expected=price_of(message.expected.nano, currency),
        fee_within_expected=price_of(message.fee_within_expected.nano, currency),
        work=tuple(ClassWork(clean_text(w.work_class), w.flops_per_step) for w in message.work),
        steps=message.steps,
        bytes_moved_per_step=message.bytes_moved_per_step,
        peak_memory_bytes=message.peak_memory_bytes,
        offers=tuple(
            EligibleOffer(
                offer_id=clean_text(offer.offer_id),
                device_name=clean_text(offer.device_name),
                total=price_of(offer.total.nano, currency),
                seconds=finite(offer.seconds),
                setup_seconds=finite(offer.setup_seconds),
                joules=finite(offer.joules),
                joules_source=clean_text(offer.joules_source),
                calibration_ppm=offer.calibration_ppm,
                busy_seconds=finite(offer.busy_seconds),
                work_class=clean_text(offer.work_class),
                per_pflop=price_of(offer.per_pflop.nano, currency),
            )
            for offer in message.offers
        ),
        finish_seconds_p50=finite(message.finish_seconds_p50),
        finish_seconds_p95=finite(message.finish_seconds_p95),
        verification=clean_text(message.verification),
        detection_probability=finite(message.detection_probability),
        joules=finite(message.joules),
        joules_source=clean_text(message.joules_source),
        ineligible={clean_text(reason): count for reason, count in message.ineligible.items()},
        work_class=clean_text(message.work_class),
        per_pflop=price_of(message.expected_per_pflop.nano, currency),
        eligible=max(message.eligible_offers, len(message.offers)),
        transfer_bytes=message.transfer_bytes,
        transfer_seconds=finite(message.transfer_seconds),
        transfer_price=price_of(message.transfer_price.nano, currency),
        kernel_builds=message.kernel_builds,
        build_seconds=finite(message.build_seconds),
        build_price=price_of(message.build_price.nano, currency),
        storage_bytes=message.storage_bytes,
        storage_retention_us=message.storage_retention_us,
        verification_price=price_of(message.verification_price.nano, currency),
        wait_seconds_p50=finite(message.wait_seconds_p50),
        wait_seconds_p95=finite(message.wait_seconds_p95),
        spread_segments=message.spread_segments,
        without_offers=clean_text(message.without_offers),
        levels=tuple(_level_from_proto(item, currency) for item in message.levels),
        mode=clean_text(message.mode),
        device_class=class_from_proto(message.class_digest),
        classes=tuple(_class_from_proto(item, currency) for item in message.classes),
        audited_steps=message.audited_steps,
        audited_of_steps=message.audited_of_steps,
        others_recompute=message.others_recompute,
    )


def class_from_proto(value: bytes) -> str:
    """A class of devices as hex, "" for none; refused when it is no digest."""
    return check_digest_text(value.hex(), "class of devices", empty=True)


def _class_from_proto(message: job_pb2.QuotedClass, currency: str) -> QuotedClass:
    return QuotedClass(
        device_class=class_from_proto(message.class_digest),
        device_name=clean_text(message.device_name),
        driver=clean_text(message.driver),
        devices=message.devices,
        other_accounts=message.other_accounts,
        expected=price_of(message.expected.nano, currency),
        ceiling=price_of(message.ceiling.nano, currency),
        convicted_ppm=message.convicted_ppm,
        outvoted_ppm=message.outvoted_ppm,
    )


def _level_from_proto(message: job_pb2.QuotedLevel, currency: str) -> QuotedLevel:
    return QuotedLevel(
        level=clean_text(message.level),
        audited_ppm=message.audited_ppm,
        surcharge_ppm=message.surcharge_ppm,
        surcharge=price_of(message.surcharge.nano, currency),
        expected=price_of(message.expected.nano, currency),
        ceiling=price_of(message.ceiling.nano, currency),
        detected_one_ppm=message.detected_one_ppm,
        detected_ten_ppm=message.detected_ten_ppm,
        detected_all_ppm=message.detected_all_ppm,
    )


def job_from_proto(message: job_pb2.Job, currency: str) -> JobInfo:
    """The job; refused when an id, a root or the state is malformed."""
    name = job_pb2.Job.State.Name(message.state) if message.state in _STATES else ""
    if not name:
        raise AnswerRefused(f"a job cannot be in state number {message.state}")
    return JobInfo(
        job_id=check_digest_text(message.job_id, "job id"),
        title=clean_text(message.title),
        state=JobState(name.removeprefix("STATE_").lower()),
        kind=clean_text(message.kind),
        created_at_us=message.created_at_us,
        ended_at_us=message.ended_at_us,
        steps=message.steps,
        steps_committed=message.steps_committed,
        steps_verified=message.steps_verified,
        segment_steps=message.segment_steps,
        ceiling=price_of(message.ceiling.nano, currency),
        billed=price_of(message.billed.nano, currency),
        reason=clean_text(message.reason),
        segments=tuple(segment_from_proto(item, currency) for item in message.segments),
        state_artifact=check_digest_text(message.state_artifact, "state artifact", empty=True),
        state_root=message.state_root,
        program_digest=clean_text(message.program_digest),
        segment_count=max(message.segment_count, len(message.segments)),
        order_kind=clean_text(message.order.kind),
        work_class=clean_text(message.order.work_class),
        limit_per_pflop=price_of(message.order.limit_per_pflop.nano, currency)
        if message.order.HasField("limit_per_pflop")
        else None,
        deadline_us=message.deadline_us,
        verification=clean_text(message.verification),
        surcharge_ppm=message.surcharge_ppm,
        surcharge=price_of(message.surcharge.nano, currency),
        mode=clean_text(message.mode),
        device_class=class_from_proto(message.class_digest),
    )


def event_from_proto(message: job_pb2.WatchJobResponse, currency: str) -> JobEvent:
    """One event of a watch."""
    return JobEvent(
        sequence=message.sequence,
        time_us=message.time_us,
        kind=clean_text(message.kind),
        text=clean_text(message.text),
        job=job_from_proto(message.job, currency) if message.HasField("job") else None,
        step=message.step,
        scalars={clean_text(name): value for name, value in sorted(message.scalars.items())},
    )


def account_from_proto(message: ledger_pb2.GetAccountResponse, currency: str) -> Account:
    """Balances."""
    return Account(
        clean_text(message.account_id),
        clean_text(message.display_name),
        Money(message.available.nano, currency),
        Money(message.reserved.nano, currency),
        Money(message.held.nano, currency),
        Money(message.bond.nano, currency),
        price_of(message.overdraft.nano, currency),
    )


def transfer_from_proto(message: ledger_pb2.Transfer, currency: str) -> Transfer:
    """One line of a statement."""
    return Transfer(
        clean_text(message.transfer_id),
        message.time_us,
        clean_text(message.kind),
        clean_text(message.balance),
        Money(message.change_nano, currency),
        Money(message.amount_nano, currency),
        clean_text(message.purpose),
        clean_text(message.job_id),
        clean_text(message.reference),
    )


def deposited_from_proto(message: ledger_pb2.DepositResponse, currency: str) -> Deposited:
    """What a deposit did."""
    return Deposited(clean_text(message.transfer_id), Money(message.available.nano, currency))


_STATES = frozenset(job_pb2.Job.State.values()) - {job_pb2.Job.STATE_UNSPECIFIED}


def segment_from_proto(message: job_pb2.Segment, currency: str) -> SegmentInfo:
    """One segment of a job."""
    return SegmentInfo(
        index=message.index,
        first_step=message.first_step,
        steps=message.steps,
        state=clean_text(message.state),
        device_id=clean_text(message.device_id),
        device_name=clean_text(message.device_name),
        worker_key_id=clean_text(message.worker_key_id),
        price=price_of(message.price.nano, currency),
        state_root=message.state_root,
        outputs_root=message.outputs_root,
        outputs_artifact=check_digest_text(message.outputs_artifact, "artifact", empty=True),
        checkpoint_artifact=check_digest_text(message.checkpoint_artifact, "artifact", empty=True),
        reason=clean_text(message.reason),
    )


def price_of(nano: int, currency: str) -> Money:
    """An amount from zero up."""
    if nano < 0:
        raise AnswerRefused(f"a price of {nano} nano-units is negative")
    return Money(nano, currency)


def finite(value: float) -> float:
    """The figure, refused unless it is finite and from zero up."""
    if not math.isfinite(value) or value < 0:
        raise AnswerRefused(f"{value} is not a finite figure from zero up")
    return value
