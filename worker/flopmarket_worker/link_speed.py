"""How fast this machine's link to the coordinator is, as its own transfers show.

Offers state it, so that a quote knows what fetching a job's files takes. Small files tell about
latency and not about the link; they are left out. Remembered in the work folder between runs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from statistics import median_low

from flopmarket.limits import LINK_SAMPLES, MAX_CALIBRATION_BYTES, MIN_LINK_SAMPLE_BYTES
from flopmarket_worker.journal import write_durably

logger = logging.getLogger("flopmarket.worker")

DOWNLOAD = "download"
UPLOAD = "upload"


class LinkSpeed:
    """Medians of the last transfers each way, bytes per second; 0 before the first."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._samples: dict[str, list[int]] = _read(path)

    @property
    def download_bytes_per_second(self) -> int:
        """From the coordinator to here."""
        return median_low(self._samples[DOWNLOAD] or [0])

    @property
    def upload_bytes_per_second(self) -> int:
        """From here to the coordinator."""
        return median_low(self._samples[UPLOAD] or [0])

    def note(self, way: str, size_bytes: int, seconds: float) -> None:
        """A transfer of ``size_bytes`` took so long."""
        if size_bytes < MIN_LINK_SAMPLE_BYTES or seconds <= 0:
            return
        samples = self._samples[way]
        samples.append(int(size_bytes / seconds))
        del samples[:-LINK_SAMPLES]
        if self._path is not None:
            try:
                write_durably(self._path, json.dumps(self._samples).encode())
            except OSError as error:  # a figure for quotes is no reason to stop a transfer
                logger.warning("the link's speed is not remembered: %s", error)


def _read(path: Path | None) -> dict[str, list[int]]:
    """What an earlier run wrote; nothing when there is no such file or it cannot be read."""
    samples: dict[str, list[int]] = {DOWNLOAD: [], UPLOAD: []}
    if path is None:
        return samples
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_CALIBRATION_BYTES))
        return {way: [int(item) for item in value[way]][-LINK_SAMPLES:] for way in samples}
    except (OSError, ValueError, KeyError, TypeError):
        return samples
