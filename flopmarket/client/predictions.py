"""How good the coordinator's predictions are: a call that needs no key. A part of Client."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.client.failures import clean_text
from flopmarket.client.session import Session
from flopmarket.v1 import market_pb2, market_pb2_grpc


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Relative errors of predicted times over some delivered segments, parts per million.

    Texts are empty where several devices or classes are taken together.
    ``measured_over_predicted_ppm`` above 1,000,000 is slower than predicted.
    """

    offer_id: str
    device_name: str
    work_class: str
    segments: int
    error_p50_ppm: int
    error_p90_ppm: int
    measured_over_predicted_ppm: int
    uncalibrated_error_p50_ppm: int
    uncalibrated_error_p90_ppm: int


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Of the newest settled segments: all together, by class, and by device and class."""

    as_of_us: int
    overall: Accuracy
    rows: tuple[Accuracy, ...]


class PredictionCalls:
    """What :class:`Client` knows about predictions."""

    _session: Session
    _market: market_pb2_grpc.MarketServiceStub

    def accuracy(self, work_class: str = "", offer_id: str = "") -> AccuracyReport:
        """Prediction errors lately; of one class or one offer, or of all."""
        request = market_pb2.GetAccuracyRequest(work_class=work_class, offer_id=offer_id)
        answer = self._session.call(self._market.GetAccuracy, request, authenticated=False)
        rows = tuple(_accuracy(row) for row in answer.rows)
        return AccuracyReport(answer.as_of_us, _accuracy(answer.overall), rows)


def _accuracy(message: market_pb2.Accuracy) -> Accuracy:
    return Accuracy(
        offer_id=clean_text(message.offer_id),
        device_name=clean_text(message.device_name),
        work_class=clean_text(message.work_class),
        segments=message.segments,
        error_p50_ppm=message.error_p50_ppm,
        error_p90_ppm=message.error_p90_ppm,
        measured_over_predicted_ppm=message.measured_over_predicted_ppm,
        uncalibrated_error_p50_ppm=message.uncalibrated_error_p50_ppm,
        uncalibrated_error_p90_ppm=message.uncalibrated_error_p90_ppm,
    )
