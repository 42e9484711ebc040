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
    Offer,
    Quote,
    SegmentInfo,
    Spot,
    SpotPrice,
    Transfer,
)
from flopmarket.trust.keys import PublicKey
from flopmarket.v1 import identity_pb2, job_pb2, ledger_pb2, market_pb2

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
        ceiling=_price(message.ceiling.nano, currency),
        expected=_price(message.expected.nano, currency),
        fee_within_expected=_price(message.fee_within_expected.nano, currency),
        work=tuple(ClassWork(clean_text(w.work_class), w.flops_per_step) for w in message.work),
        steps=message.steps,
        bytes_moved_per_step=message.bytes_moved_per_step,
        peak_memory_bytes=message.peak_memory_bytes,
        offers=tuple(
            EligibleOffer(
                clean_text(offer.offer_id),
                clean_text(offer.device_name),
                _price(offer.total.nano, currency),
                _finite(offer.seconds),
            )
            for offer in message.offers
        ),
        finish_seconds_p50=_finite(message.finish_seconds_p50),
        finish_seconds_p95=_finite(message.finish_seconds_p95),
        verification=clean_text(message.verification),
        detection_probability=_finite(message.detection_probability),
        joules=_finite(message.joules),
        joules_source=clean_text(message.joules_source),
        ineligible={clean_text(reason): count for reason, count in message.ineligible.items()},
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
        ceiling=_price(message.ceiling.nano, currency),
        billed=_price(message.billed.nano, currency),
        reason=clean_text(message.reason),
        segments=tuple(_segment(segment, currency) for segment in message.segments),
        state_artifact=check_digest_text(message.state_artifact, "state artifact", empty=True),
        state_root=message.state_root,
        program_digest=clean_text(message.program_digest),
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


def spot_from_proto(message: market_pb2.GetSpotResponse) -> Spot:
    """Spot prices."""
    currency = clean_text(message.currency, 16)
    return Spot(
        message.as_of_us,
        currency,
        tuple(
            SpotPrice(
                clean_text(price.work_class),
                clean_text(price.best_offer_id),
                clean_text(price.device_name),
                _price(price.per_pflop.nano, currency),
                _finite(price.flops_per_dollar_hour),
                _finite(price.flop_per_dollar),
                _finite(price.flops_per_watt),
                clean_text(price.watts_source),
                price.offers,
            )
            for price in message.prices
        ),
    )


def offer_from_proto(message: market_pb2.Offer, currency: str) -> Offer:
    """One live offer."""
    return Offer(
        offer_id=clean_text(message.offer_id),
        account_id=clean_text(message.account_id),
        device_id=clean_text(message.device_id),
        device_name=clean_text(message.device_name),
        driver=clean_text(message.driver),
        profile=clean_text(message.profile),
        memory_bytes=message.memory_bytes,
        flops_per_second={clean_text(r.work_class): r.flops_per_second for r in message.rates},
        bandwidth_bytes_per_second=message.bandwidth_bytes_per_second,
        launch_nanoseconds=message.launch_nanoseconds,
        ask_per_hour=_price(message.ask_per_hour.nano, currency),
        milliwatts=message.milliwatts,
        watts_source=clean_text(message.watts_source),
        card_price=_price(message.card_price.nano, currency),
        state=clean_text(message.state),
        flops_per_dollar=_finite(message.flops_per_dollar),
        flops_per_watt=_finite(message.flops_per_watt),
        verified_segments=message.verified_segments,
        rejected_segments=message.rejected_segments,
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


def _segment(message: job_pb2.Segment, currency: str) -> SegmentInfo:
    return SegmentInfo(
        index=message.index,
        first_step=message.first_step,
        steps=message.steps,
        state=clean_text(message.state),
        device_id=clean_text(message.device_id),
        device_name=clean_text(message.device_name),
        worker_key_id=clean_text(message.worker_key_id),
        price=_price(message.price.nano, currency),
        state_root=message.state_root,
        outputs_root=message.outputs_root,
        outputs_artifact=check_digest_text(message.outputs_artifact, "artifact", empty=True),
        checkpoint_artifact=check_digest_text(message.checkpoint_artifact, "artifact", empty=True),
        reason=clean_text(message.reason),
    )


def _price(nano: int, currency: str) -> Money:
    if nano < 0:
        raise AnswerRefused(f"a price of {nano} nano-units is negative")
    return Money(nano, currency)


def _finite(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise AnswerRefused(f"{value} is not a finite figure from zero up")
    return value
