"""Predicted and delivered time: what leases promise, what workers report, what is learned from it.

A commitment brings the worker's own account of its time; the part of it that the coordinator's
clock allows is written down beside the prediction. When the segment is paid, the device's factors
learn from it (:mod:`flopmarket.market.calibrate`). Nobody is paid by any of this: a lease keeps
its frozen terms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from flopmarket.limits import MAX_ACCURACY_DELIVERIES, MAX_ACCURACY_ROWS
from flopmarket.market.accuracy import Accuracy, Delivered, accuracy_of, accuracy_rows
from flopmarket.market.calibrate import (
    AUDIT,
    LATE,
    believed_us,
    learn,
    scaled,
    setup_families,
    step_families,
)
from flopmarket.market.offer import Offer
from flopmarket.market.predict import PICOSECONDS_PER_MICROSECOND
from flopmarket.market.proof import PROVED_CLASS
from flopmarket.market.work import NO_PROMISES, JobWork, StepWork
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.types_buying import AccuracyReport
from flopmarket_coordinator.application.types_working import TimeReport
from flopmarket_coordinator.core.changes import CalibrationChanged
from flopmarket_coordinator.core.proving import DELIVERED_STEP_PICOSECONDS, delivered
from flopmarket_coordinator.store import benchmarks, prediction
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.prediction import DeliveryRow
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow


class PredictingUseCases(UseCases):
    """How good the predictions are. No key is needed to ask."""

    def accuracy(self, tx: Transaction, work_class: str = "", offer_id: str = "") -> AccuracyReport:
        """Prediction errors of the newest settled segments, by device and class and of all
        together; "" for every class or offer."""
        rows = prediction.settled_deliveries(tx, work_class, offer_id, MAX_ACCURACY_DELIVERIES)
        delivered = [
            Delivered(
                row.offer_id,
                row.device_name,
                row.work_class,
                row.roofline_us,
                row.predicted_us,
                row.measured_us,
            )
            for row in rows
        ]
        overall: Accuracy = accuracy_of("", "", work_class, delivered)
        return AccuracyReport(tx.now_us, overall, accuracy_rows(delivered)[:MAX_ACCURACY_ROWS])


def work_text(work: JobWork) -> str:
    """The counted work of a job, as its row keeps it."""
    return json.dumps(
        {
            "flops": dict(work.step.flops),
            "bytes_moved": work.step.bytes_moved,
            "launches": work.step.launches,
            "download_bytes": work.download_bytes,
            "kernels": work.kernels,
            "program": work.program,
        }
    )


def job_work(job: JobRow) -> JobWork:
    """The counted work of a stored job. Rows of older versions know no transfer and no builds."""
    stored = json.loads(job.work)
    return JobWork(
        step=StepWork(stored["flops"], stored["bytes_moved"], stored["launches"]),
        steps=job.steps,
        download_bytes=stored.get("download_bytes", 0),
        kernels=stored.get("kernels", 0),
        program=stored.get("program", ""),
    )


def lease_forecast(offer: Offer, work: JobWork) -> Mapping[str, int | str]:
    """What a lease's row remembers of what was expected: all that is known now, whatever the job
    was promised to be priced by."""
    forecast = offer.predict(replace(work, promised=NO_PROMISES))
    return {
        "work_class": forecast.work_class,
        "roofline_picoseconds": forecast.roofline_picoseconds,
        "factor_ppm": forecast.factor_ppm,
        "setup_roofline_us": _microseconds(forecast.setup_roofline_picoseconds),
        "setup_predicted_us": _microseconds(forecast.setup_picoseconds),
    }


def note_delivery(
    tx: Transaction, job: JobRow, lease: LeaseRow, segment_id: int, steps: int, report: TimeReport
) -> int:
    """Write down a commitment's times; what is now believed of the lease in all, microseconds.

    ``lease`` is as it was before the commitment. The setup comes with a lease's first segment and
    lay between the offer of the lease and its acceptance.
    """
    run_us = believed_us(report.run_us, tx.now_us - lease.accepted_at_us, lease.measured_us)
    first = lease.next_step == lease.first_step
    setup_us = believed_us(report.setup_us, lease.accepted_at_us - lease.created_at_us, 0)
    step_picoseconds = scaled(lease.roofline_picoseconds, lease.factor_ppm)
    prediction.add_delivery(
        tx,
        DeliveryRow(
            segment_id=segment_id,
            offer_id=lease.offer_id,
            device_name=lease.device_name,
            work_class=lease.work_class,
            program=job_work(job).program,
            step_picoseconds=lease.roofline_picoseconds,
            roofline_us=_microseconds(lease.roofline_picoseconds * steps),
            predicted_us=_microseconds(step_picoseconds * steps),
            measured_us=run_us,
            setup_roofline_us=lease.setup_roofline_us if first else 0,
            setup_predicted_us=lease.setup_predicted_us if first else 0,
            setup_measured_us=setup_us if first else 0,
            settled_at_us=0,
        ),
    )
    return lease.measured_us + run_us


def learn_delivery(tx: Transaction, segment_id: int) -> None:
    """Let the device's factors learn from a segment that is paid now.

    Work by the number of families, whatever the job. A worker that reported nothing teaches
    nothing.
    """
    row = prediction.settle_delivery(tx, segment_id)
    if row is None or row.measured_us == 0 or row.roofline_us == 0:
        return
    steps = step_families(row.program, row.work_class, row.step_picoseconds)
    setup = setup_families(row.program)
    known = prediction.running(tx, row.offer_id, (*steps, *setup, LATE))
    changed = learn(known, steps, row.measured_us, row.roofline_us)
    changed |= learn(known, (LATE,), row.measured_us, row.predicted_us)
    if row.setup_roofline_us:
        changed |= learn(known, setup, row.setup_measured_us, row.setup_roofline_us)
    prediction.remember(tx, row.offer_id, changed)
    standing = benchmarks.standing(tx, row.offer_id)
    heavy = row.step_picoseconds >= DELIVERED_STEP_PICOSECONDS
    if standing is not None and heavy and row.work_class == PROVED_CLASS:
        found = delivered(standing, row.roofline_us, row.measured_us)
        benchmarks.put_standing(tx, row.offer_id, found)
    tx.note(CalibrationChanged(row.offer_id))


def learn_audit(tx: Transaction, row: SegmentRow) -> None:
    """Remember how long the verdict on a segment took, over the segment's own time."""
    delivered = prediction.delivery(tx, row.segment_id)
    if delivered is None or delivered.measured_us == 0:
        return
    known = prediction.running(tx, prediction.HOUSE, (AUDIT,))
    waited_us = tx.now_us - row.committed_at_us
    changed = learn(known, (AUDIT,), waited_us, delivered.measured_us)
    prediction.remember(tx, prediction.HOUSE, changed)


def _microseconds(picoseconds: int) -> int:
    return -(-picoseconds // PICOSECONDS_PER_MICROSECOND)
