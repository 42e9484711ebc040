"""Admission and benchmark of a device, remembered until something that matters changes.

Both take seconds and are a function of the device, its driver and the engine's version, so their
result is cached in the work folder under exactly those. A device that is not admitted is never
offered; the refusal is not cached, since a driver update is the cure.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flopmarket.bench import BENCHMARK_FORMAT, BenchmarkResult
from flopmarket.engine.exact import ADMISSION, PROFILE
from flopmarket.errors import FlopmarketError
from flopmarket.limits import MAX_CALIBRATION_BYTES
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import write_durably
from flopmarket_worker.offers import Calibration, NotAdmitted

logger = logging.getLogger("flopmarket.worker")

_IDENTITY_FIELDS = ("device_id", "name", "platform", "platform_version", "driver_version")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a device. ``info`` is the engine's device card, ``admission`` its proof."""

    info: Mapping[str, Any]
    admission: Mapping[str, Any]
    benchmark: BenchmarkResult

    @property
    def calibration(self) -> Calibration:
        """The part that an offer needs."""
        return Calibration(
            admission_digest=admission_digest(self.admission),
            flops_per_second=self.benchmark.flops_per_second,
            bandwidth_bytes_per_second=self.benchmark.bandwidth_bytes_per_second,
            launch_nanoseconds=self.benchmark.launch_nanoseconds,
            step_nanoseconds=self.benchmark.step_nanoseconds,
            build_milliseconds=self.benchmark.build_milliseconds,
        )


async def calibrate(
    executor: JobExecutor, folder: Path, version: str, *, again: bool = False
) -> Measured:
    """Measure the device, or remember. Raises :class:`NotAdmitted` or what the engine says.

    ``version`` is the engine's; ``again`` measures in any case.
    """
    info = dict((await executor.engine()).device_info)
    path = folder / f"{_cache_key(info, version)}.json"
    remembered = None if again else _read(path, info)
    if remembered is not None:
        return remembered
    logger.info("measuring %s, which takes up to a minute", info.get("index_name", "the device"))
    admission = await executor.admission()
    if not is_admitted(admission):
        raise NotAdmitted(
            f"device {info.get('index_name') or info.get('name')} does not compute {PROFILE}: "
            f"{_first_failure(admission)}",
            hint="another driver for the same card may",
        )
    benchmark = BenchmarkResult.from_json(await executor.benchmark())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = json.dumps({"admission": admission, "benchmark": benchmark.to_json()}, indent=1)
    write_durably(path, content.encode())
    return Measured(info, admission, benchmark)


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
    known = [*fields, PROFILE, str(ADMISSION), str(BENCHMARK_FORMAT), version]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:40]


def _read(path: Path, info: Mapping[str, Any]) -> Measured | None:
    """The remembered measurement; None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_CALIBRATION_BYTES))
        return Measured(
            info, dict(value["admission"]), BenchmarkResult.from_json(value["benchmark"])
        )
    except (OSError, ValueError, KeyError, TypeError, FlopmarketError):
        return None
