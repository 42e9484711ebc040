"""How far predictions are off: relative errors of delivered segments, before and after calibration.

The error of one segment is ``|predicted - measured| / measured``, in parts per million; medians
and 90th percentiles are the nearest rank. Pure; the coordinator answers ``GetAccuracy`` with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.calibrate import ONE_PPM, lower_median, quantile


@dataclass(frozen=True, slots=True)
class Delivered:
    """One segment: what the benchmark alone predicted, what calibration made of it, what it took.

    ``measured_us`` is above zero.
    """

    offer_id: str
    device_name: str
    work_class: str
    roofline_us: int
    predicted_us: int
    measured_us: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors over some segments; texts are empty where several devices or classes are together.

    ``measured_over_predicted_ppm`` is the median ratio: 1,000,000 is exact, more is slower than
    predicted. All figures are zero without segments.
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


def accuracy_of(
    offer_id: str, device_name: str, work_class: str, delivered: Sequence[Delivered]
) -> Accuracy:
    """The errors of all these segments together."""
    if not delivered:
        return Accuracy(offer_id, device_name, work_class, 0, 0, 0, 0, 0, 0)
    after = [_error_ppm(item.predicted_us, item.measured_us) for item in delivered]
    before = [_error_ppm(item.roofline_us, item.measured_us) for item in delivered]
    ratios = [item.measured_us * ONE_PPM // max(1, item.predicted_us) for item in delivered]
    return Accuracy(
        offer_id=offer_id,
        device_name=device_name,
        work_class=work_class,
        segments=len(delivered),
        error_p50_ppm=lower_median(after),
        error_p90_ppm=quantile(after, 90),
        measured_over_predicted_ppm=lower_median(ratios),
        uncalibrated_error_p50_ppm=lower_median(before),
        uncalibrated_error_p90_ppm=quantile(before, 90),
    )


def accuracy_rows(delivered: Sequence[Delivered]) -> tuple[Accuracy, ...]:
    """By class over all devices, then by device and class; each in alphabetical order."""
    by_class: dict[str, list[Delivered]] = {}
    by_device: dict[tuple[str, str, str], list[Delivered]] = {}
    for item in delivered:
        by_class.setdefault(item.work_class, []).append(item)
        device = (item.device_name, item.offer_id, item.work_class)
        by_device.setdefault(device, []).append(item)
    rows = [accuracy_of("", "", name, items) for name, items in sorted(by_class.items())]
    rows += [
        accuracy_of(offer_id, name, work_class, items)
        for (name, offer_id, work_class), items in sorted(by_device.items())
    ]
    return tuple(rows)


def _error_ppm(predicted: int, measured: int) -> int:
    return abs(predicted - measured) * ONE_PPM // measured
