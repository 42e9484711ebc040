"""Quotes and prediction errors as messages."""

from __future__ import annotations

from flopmarket.market.accuracy import Accuracy
from flopmarket.market.predict import PICOSECONDS_PER_SECOND
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.market.quote import Quote, QuotedClass, QuotedLevel, QuotedOffer
from flopmarket.v1 import common_pb2, job_pb2, market_pb2
from flopmarket_coordinator.application.types_buying import AccuracyReport
from flopmarket_coordinator.rpc.convert import money


def quote(value: Quote, without_offers: str) -> job_pb2.QuoteJobResponse:
    """A firm ceiling and what it rests on. ``without_offers``: refuse or rest."""
    return job_pb2.QuoteJobResponse(
        quote_id=value.quote_id,
        as_of_us=value.as_of_us,
        expires_at_us=value.expires_at_us,
        ceiling=money(value.ceiling_nano),
        expected=money(value.expected_nano),
        fee_within_expected=money(value.fee_within_expected_nano),
        work=[
            common_pb2.ClassWork(work_class=name, flops_per_step=count)
            for name, count in sorted(value.work.items())
        ],
        steps=value.steps,
        bytes_moved_per_step=value.bytes_moved_per_step,
        peak_memory_bytes=value.peak_memory_bytes,
        offers=[_offer(item) for item in value.offers],
        finish_seconds_p50=value.finish_seconds_p50,
        finish_seconds_p95=value.finish_seconds_p95,
        verification=value.level.assurance.level,
        detection_probability=value.level.assurance.detected_one_ppm / PARTS_PER_MILLION,
        joules=value.joules,
        joules_source=value.joules_source,
        ineligible=dict(value.ineligible),
        work_class=value.work_class,
        expected_per_pflop=money(value.unit_price_nano),
        eligible_offers=value.eligible,
        transfer_bytes=value.transfer_bytes,
        transfer_seconds=value.transfer_seconds,
        transfer_price=money(value.transfer_nano),
        kernel_builds=value.kernel_builds,
        build_seconds=value.build_seconds,
        build_price=money(value.build_nano),
        storage_bytes=value.storage_bytes,
        storage_retention_us=value.storage_retention_us,
        verification_price=money(value.level.surcharge_nano),
        wait_seconds_p50=value.wait_seconds_p50,
        wait_seconds_p95=value.wait_seconds_p95,
        spread_segments=value.spread_segments,
        without_offers=without_offers,
        levels=[_level(item) for item in value.levels],
        mode=value.mode.value,
        class_digest=bytes.fromhex(value.device_class),
        classes=[_class(item) for item in value.classes],
        audited_steps=value.by_steps.drawn if value.by_steps else 0,
        audited_of_steps=value.by_steps.steps if value.by_steps else 0,
        others_recompute=value.by_steps is not None and value.by_steps.others,
    )


def accuracy(report: AccuracyReport) -> market_pb2.GetAccuracyResponse:
    """How far predictions were off."""
    return market_pb2.GetAccuracyResponse(
        as_of_us=report.as_of_us,
        overall=_accuracy(report.overall),
        rows=[_accuracy(row) for row in report.rows],
    )


def _level(item: QuotedLevel) -> job_pb2.QuotedLevel:
    terms = item.assurance
    return job_pb2.QuotedLevel(
        level=terms.level,
        audited_ppm=terms.audited_ppm,
        surcharge_ppm=terms.surcharge_ppm,
        surcharge=money(item.surcharge_nano),
        expected=money(item.expected_nano),
        ceiling=money(item.ceiling_nano),
        detected_one_ppm=terms.detected_one_ppm,
        detected_ten_ppm=terms.detected_ten_ppm,
        detected_all_ppm=terms.detected_all_ppm,
    )


def _class(item: QuotedClass) -> job_pb2.QuotedClass:
    return job_pb2.QuotedClass(
        class_digest=bytes.fromhex(item.device_class),
        device_name=item.device_name,
        driver=item.driver,
        devices=item.devices,
        other_accounts=item.other_accounts,
        expected=money(item.expected_nano),
        ceiling=money(item.ceiling_nano),
        convicted_ppm=item.convicted_ppm,
        outvoted_ppm=item.outvoted_ppm,
    )


def _offer(item: QuotedOffer) -> job_pb2.EligibleOffer:
    return job_pb2.EligibleOffer(
        offer_id=item.offer_id,
        device_name=item.device_name,
        total=money(item.total_nano),
        seconds=item.seconds,
        setup_seconds=item.forecast.setup_picoseconds / PICOSECONDS_PER_SECOND,
        joules=item.joules,
        joules_source=item.watts_source,
        calibration_ppm=item.forecast.factor_ppm,
        busy_seconds=item.busy_seconds,
        work_class=item.forecast.work_class,
        per_pflop=money(item.unit_price_nano),
    )


def _accuracy(row: Accuracy) -> market_pb2.Accuracy:
    return market_pb2.Accuracy(
        offer_id=row.offer_id,
        device_name=row.device_name,
        work_class=row.work_class,
        segments=row.segments,
        error_p50_ppm=row.error_p50_ppm,
        error_p90_ppm=row.error_p90_ppm,
        measured_over_predicted_ppm=row.measured_over_predicted_ppm,
        uncalibrated_error_p50_ppm=row.uncalibrated_error_p50_ppm,
        uncalibrated_error_p90_ppm=row.uncalibrated_error_p90_ppm,
    )
