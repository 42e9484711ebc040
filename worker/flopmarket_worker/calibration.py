"""Admission and benchmark of a device, remembered until something that matters changes.

Both take seconds and are a function of the device, its driver and the engine's version, so their
result is cached in the work folder under exactly those. A device that is not admitted is never
offered for exact jobs: it is *fast-only*, and its fast kernels are classified instead, as are those
of an admitted device whose owner offers class mode.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flopmarket.bench import BENCHMARK_FORMAT, BenchmarkResult
from flopmarket.engine.classes import CLASSES
from flopmarket.engine.exact import ADMISSION, PROFILE
from flopmarket.errors import FlopmarketError
from flopmarket.limits import MAX_CALIBRATION_BYTES
from flopmarket.trust.modes import Mode
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import write_durably
from flopmarket_worker.offers import Calibration

logger = logging.getLogger("flopmarket.worker")

_IDENTITY_FIELDS = ("device_id", "name", "platform", "platform_version", "driver_version")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a device. ``info`` is the engine's device card, ``admission`` its proof,
    ``classification`` the report on its fast kernels, None when nobody needed it."""

    info: Mapping[str, Any]
    admission: Mapping[str, Any]
    benchmark: BenchmarkResult
    classification: Mapping[str, Any] | None = None

    @property
    def refusal(self) -> str:
        """Why the device does not compute exactly; empty for an admitted one."""
        return "" if is_admitted(self.admission) else _first_failure(self.admission)

    @property
    def calibration(self) -> Calibration:
        """The part that an offer needs."""
        return Calibration(
            admission_digest=None if self.refusal else admission_digest(self.admission),
            flops_per_second=self.benchmark.flops_per_second,
            bandwidth_bytes_per_second=self.benchmark.bandwidth_bytes_per_second,
            launch_nanoseconds=self.benchmark.launch_nanoseconds,
            step_nanoseconds=self.benchmark.step_nanoseconds,
            build_milliseconds=self.benchmark.build_milliseconds,
            classified=_classified(self.classification),
        )


async def calibrate(
    executor: JobExecutor,
    folder: Path,
    version: str,
    *,
    modes: Collection[Mode] = (),
    again: bool = False,
) -> Measured:
    """Measure the device, or remember. Raises what the engine says.

    ``version`` is the engine's; ``modes`` are those that the owner asks for, by which it is decided
    whether the device is classified; ``again`` measures in any case.
    """
    info = dict((await executor.engine()).device_info)
    path = folder / f"{_cache_key(info, version)}.json"
    known = None if again else _read(path, info)
    if known is None:
        name = info.get("index_name", "the device")
        logger.info("measuring %s, which takes up to a minute", name)
        admission = await executor.admission()
        known = Measured(info, admission, BenchmarkResult.from_json(await executor.benchmark()))
    elif known.classification is not None or not _needs_class(known, modes):
        return known
    if _needs_class(known, modes):
        known = replace(known, classification=await executor.classification())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "admission": dict(known.admission),
        "benchmark": known.benchmark.to_json(),
        "classification": known.classification,
    }
    write_durably(path, json.dumps(content, indent=1).encode())
    return known


def _needs_class(known: Measured, modes: Collection[Mode]) -> bool:
    """Whether class mode is offered if there is a class: when asked for, or as all that is left."""
    return Mode.CLASS in modes if modes else bool(known.refusal)


def _classified(report: Mapping[str, Any] | None) -> tuple[bytes, bytes] | None:
    """Kernels and results of a deterministic device's report; None without a class."""
    if report is None or report.get("deterministic") is not True:
        return None
    return bytes.fromhex(report["kernels"]), bytes.fromhex(report["results"])


def is_admitted(admission: Mapping[str, Any]) -> bool:
    """Whether the proof says that the device computes the exact profile."""
    return admission.get("admitted") is True


def admission_digest(admission: Mapping[str, Any]) -> bytes:
    """32 bytes that name the proof: its own digest where it has one."""
    stated = admission.get("digest")
    if isinstance(stated, str) and len(stated) == 64:
        return bytes.fromhex(stated)
    canonical = json.dumps(admission, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"flopmarket.admission.v1\0" + canonical).digest()


def _first_failure(admission: Mapping[str, Any]) -> str:
    for probe in admission.get("probes", ()):
        if isinstance(probe, Mapping) and probe.get("passed") is False:
            return f"{probe.get('name', 'probe')}: {probe.get('detail', 'failed')}"[:300]
    return "no reason is stated"


def _cache_key(info: Mapping[str, Any], version: str) -> str:
    fields = [str(info.get(name, "")) for name in _IDENTITY_FIELDS]
    known = [*fields, PROFILE, str(ADMISSION), str(CLASSES), str(BENCHMARK_FORMAT), version]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:40]


def _read(path: Path, info: Mapping[str, Any]) -> Measured | None:
    """The remembered measurement; None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_CALIBRATION_BYTES))
        found = Measured(
            info,
            dict(value["admission"]),
            BenchmarkResult.from_json(value["benchmark"]),
            value["classification"],
        )
        _classified(found.classification)  # or it is measured anew
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FlopmarketError):
        return None
