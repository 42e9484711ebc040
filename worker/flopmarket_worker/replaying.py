"""What replays for disputes and for step audits share: device, files, and another attempt.

A replay needs nothing of the lease on disk: question and work come over the session, the job's
files from the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path

from flopmarket.limits import MAX_BUNDLE_BYTES
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.lease_offer import LeaseOffer
from flopmarket_worker.transfers import Transfers

_STATE_FILE = "start.safetensors"
_FURTHER_ATTEMPTS = 9
_PAUSE_SECONDS = 3.0


def short_pauses() -> Iterator[float]:
    """Between attempts while the coordinator or an engine cannot work for a moment."""
    return repeat(_PAUSE_SECONDS, _FURTHER_ATTEMPTS)


def device_of(executors: Mapping[str, JobExecutor], work: LeaseOffer) -> JobExecutor:
    """The device that did the work; any other one of ours computes the same bits."""
    return executors.get(work.terms.device_id) or next(iter(executors.values()))


async def fetch_job(
    transfers: Transfers,
    work: LeaseOffer,
    folder: Path,
    *,
    lease_id: str = "",
    dispute_id: str = "",
) -> Path | None:
    """Fetch the job's files to ``folder`` in the name of a lease or of a dispute.

    Returns the path of the state to start from, None for a stateless program. Raises what
    :meth:`Transfers.fetch` raises.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for artifact, name, max_bytes in work.files:
        await transfers.fetch(
            artifact, lease_id, folder / name, max_bytes=max_bytes, dispute_id=dispute_id
        )
    if work.terms.stateless:
        return None
    state = folder / _STATE_FILE
    await transfers.download(
        work.state_artifact, lease_id, state, max_bytes=MAX_BUNDLE_BYTES, dispute_id=dispute_id
    )
    return state
