"""Orders and explanations, between messages and values."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.errors import InvalidInput
from flopmarket.market.order import MARKET_ORDER, Constraints, OrderTerms, OrderType
from flopmarket.trust.encoding import encode
from flopmarket.v1 import common_pb2, job_pb2, market_pb2
from flopmarket_coordinator.application.types_orders import (
    JobExplanation,
    OfferExplanation,
    Why,
)


def order_of(message: job_pb2.Order | None) -> OrderTerms:
    """The order of a request; without one any offer will do. InvalidInput ``ORDER_...``."""
    if message is None:
        return MARKET_ORDER
    kind = message.kind or OrderType.MARKET.value
    if kind not in list(OrderType):
        raise InvalidInput(
            f"an order is {' or '.join(OrderType)}, not {kind[:40]!r}", code="ORDER_KIND"
        )
    terms = OrderTerms(
        OrderType(kind),
        Constraints(
            work_class=message.work_class,
            max_unit_price_nano=message.limit_per_pflop.nano,
            min_memory_bytes=message.min_memory_bytes,
            min_flops_per_watt=message.min_flops_per_watt,
            allowed_regions=tuple(message.allowed_regions),
            denied_regions=tuple(message.denied_regions),
            allowed_owners=tuple(message.allowed_owners),
            denied_owners=tuple(message.denied_owners),
        ),
    )
    encode(terms)  # what could not be signed, because a text is too long, is not quoted either
    return terms


def job_explanation(value: JobExplanation) -> job_pb2.ExplainJobResponse:
    """Why a job waits."""
    message = job_pb2.ExplainJobResponse(
        as_of_us=value.as_of_us,
        job_id=value.job_id,
        state=job_pb2.Job.State.Value(f"STATE_{value.state.name}"),
        summary=value.summary,
        reasons=[_why(item) for item in value.reasons],
        offers=value.offers,
        fitting=value.fitting,
        ahead=value.ahead,
        work_class=value.work_class,
    )
    if value.limit_nano is not None:
        message.limit_per_pflop.nano = value.limit_nano
    if value.best_ask_nano is not None:
        message.best_ask_per_pflop.nano = value.best_ask_nano
    return message


def offer_explanations(
    as_of_us: int, values: Iterable[OfferExplanation]
) -> market_pb2.ExplainOfferResponse:
    """Why offers have work or have none."""
    return market_pb2.ExplainOfferResponse(
        as_of_us=as_of_us,
        offers=[
            market_pb2.OfferExplanation(
                offer_id=item.offer_id,
                device_name=item.device_name,
                state=item.state,
                reasons=[_why(reason) for reason in item.reasons],
                summary=item.summary,
                proof=item.proof,
            )
            for item in values
        ],
    )


def _why(value: Why) -> common_pb2.Reason:
    return common_pb2.Reason(
        code=str(value.reason), text=value.text, hint=value.hint, count=value.count
    )
