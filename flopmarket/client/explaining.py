"""Questions to the coordinator: why does a job wait, why is a device idle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.money import Money
from flopmarket.client.results import JobState
from flopmarket.client.results_orders import JobExplanation, OfferExplanation, Why
from flopmarket.v1 import common_pb2, job_pb2, market_pb2

if TYPE_CHECKING:
    from flopmarket.client.session import Session
    from flopmarket.v1.job_pb2_grpc import JobServiceStub
    from flopmarket.v1.market_pb2_grpc import MarketServiceStub


class Explaining:
    """The part of a client that asks why. Needs a key."""

    _session: Session
    _jobs: JobServiceStub
    _market: MarketServiceStub

    def explain_job(self, job_id: str) -> JobExplanation:
        """Why a job of ours waits, or what it does."""
        answer = self._session.call(self._jobs.ExplainJob, job_pb2.ExplainJobRequest(job_id=job_id))
        if answer.job_id != job_id:
            raise AnswerRefused(
                f"the coordinator explains job {clean_text(answer.job_id, 80)}, not {job_id}",
                code="JOB_ID_MISMATCH",
            )
        return job_explanation_from_proto(answer, self._session.coordinator().currency)

    def explain_offers(self, offer_id: str = "") -> tuple[OfferExplanation, ...]:
        """Why devices of our account are idle; one of them, or all."""
        answer = self._session.call(
            self._market.ExplainOffer,
            market_pb2.ExplainOfferRequest(offer_id=offer_id),
            authenticated=True,
        )
        return offer_explanations_from_proto(answer)


def job_explanation_from_proto(
    message: job_pb2.ExplainJobResponse, currency: str
) -> JobExplanation:
    """The coordinator's answer about a job."""
    name = job_pb2.Job.State.Name(message.state).removeprefix("STATE_").lower()
    if name not in list(JobState):
        raise AnswerRefused(f"a job cannot be in state {name}")

    def price(field: str) -> Money | None:
        known = message.HasField(field)  # type: ignore[arg-type]
        return Money(getattr(message, field).nano, currency) if known else None

    return JobExplanation(
        as_of_us=message.as_of_us,
        job_id=message.job_id,
        state=JobState(name),
        summary=clean_text(message.summary),
        reasons=_reasons(message.reasons),
        offers=message.offers,
        fitting=message.fitting,
        ahead=message.ahead,
        work_class=clean_text(message.work_class),
        limit_per_pflop=price("limit_per_pflop"),
        best_ask_per_pflop=price("best_ask_per_pflop"),
    )


def offer_explanations_from_proto(
    message: market_pb2.ExplainOfferResponse,
) -> tuple[OfferExplanation, ...]:
    """The coordinator's answer about devices."""
    return tuple(
        OfferExplanation(
            offer_id=clean_text(item.offer_id),
            device_name=clean_text(item.device_name),
            state=clean_text(item.state),
            summary=clean_text(item.summary),
            reasons=_reasons(item.reasons),
            proof=clean_text(item.proof),
        )
        for item in message.offers
    )


def _reasons(messages: Iterable[common_pb2.Reason]) -> tuple[Why, ...]:
    return tuple(
        Why(clean_text(item.code), clean_text(item.text), clean_text(item.hint), item.count)
        for item in messages
    )
