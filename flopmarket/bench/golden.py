"""Does a device compute FX1? Its answer to every golden program, beside the committed digests.

What ``flop bench golden`` shows. A record of several devices becomes the table of docs/devices.md
by :func:`table_row`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flopmarket.engine.exact import ADMISSION

_SHORT = 16


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One golden program. ``digest`` is 64 hex digits, or empty where it did not run."""

    name: str
    passed: bool
    digest: str
    detail: str


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """One device. ``digest`` is the admission digest, equal on all admitted devices with float64
    (and on all without); ``failed_probes`` are (name, detail)."""

    device: str
    driver: str
    platform: str
    kind: str
    profile: str
    admission: int
    admitted: bool
    digest: str
    contract_helper: bool
    rows: tuple[GoldenRow, ...]
    failed_probes: tuple[tuple[str, str], ...]
    probes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "device": self.device,
            "driver": self.driver,
            "platform": self.platform,
            "kind": self.kind,
            "profile": self.profile,
            "admission": self.admission,
            "admitted": self.admitted,
            "digest": self.digest,
            "contract_helper": self.contract_helper,
            "golden": {
                row.name: {"passed": row.passed, "digest": row.digest, "detail": row.detail}
                for row in self.rows
            },
            "probes": self.probes,
            "failed_probes": dict(self.failed_probes),
            "seconds": round(self.seconds, 3),
        }


def golden(device: str | None, *, cache_dir: Path | None = None) -> GoldenReport:
    """Admit ``device`` (as ``devices.find`` takes it) and keep every digest.

    Raises EngineError when there is no such device; what the device does wrong is in the report.
    """
    from flopmarket.engine.admission import examine
    from flopmarket.engine.runtime import devices
    from flopmarket.engine.runtime.open import opened
    from flopmarket.engine.runtime.resident import CompileOptions

    info = devices.find(device)
    began = time.perf_counter()
    with opened(info, CompileOptions(cache_dir=cache_dir)) as handle:
        report, results = examine(handle)
    seconds = time.perf_counter() - began
    names = {f"golden: {result.name}" for result in results}
    asked = [probe for probe in report.probes if probe.name not in names]
    return GoldenReport(
        device=info.name,
        driver=info.driver_version,
        platform=info.platform,
        kind=str(info.kind),
        profile=report.profile,
        admission=ADMISSION,
        admitted=report.admitted,
        digest=report.digest,
        contract_helper=report.contract_helper,
        rows=tuple(GoldenRow(r.name, r.passed, r.digest, r.detail) for r in results),
        failed_probes=tuple((probe.name, probe.detail) for probe in asked if not probe.passed),
        probes=len(asked),
        seconds=seconds,
    )


def table_row(record: dict[str, Any]) -> str:
    """One line of the table of docs/devices.md, from :meth:`GoldenReport.to_json`."""
    failed = [name for name, row in record["golden"].items() if not row["passed"]]
    wrong = [*record["failed_probes"], *(f"golden {name}" for name in failed)]
    verdict = "admitted" if record["admitted"] else f"fast-only: {', '.join(wrong)}"
    golden_count = f"{len(record['golden']) - len(failed)} of {len(record['golden'])}"
    probe_count = f"{record['probes'] - len(record['failed_probes'])} of {record['probes']}"
    cells = (
        record["device"],
        f"{record['platform']} {record['driver']}",
        probe_count,
        golden_count,
        f"`{record['digest'][:_SHORT]}`",
        verdict,
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
