"""Leases that an earlier run of the worker left on disk.

A lease is taken up again when everything it needs is there: the offer, the outputs that were not
uploaded, the state to go on from. Anything else is deleted, and the coordinator learns from the
greeting that the lease is not held any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from flopmarket.errors import FlopmarketError
from flopmarket.v1 import worker_pb2
from flopmarket_worker.core import events
from flopmarket_worker.journal import Journal, LeaseFolder, Progress
from flopmarket_worker.lease_offer import LeaseOffer, read_offer

logger = logging.getLogger("flopmarket.worker")


@dataclass(frozen=True, slots=True)
class Found:
    """One lease to go on with."""

    offer: LeaseOffer
    event: events.Recovered

    @property
    def next_step(self) -> int:
        """Steps of the job that are done."""
        computed = self.event.computed
        return computed[-1].end_step if computed else self.offer.terms.first_step


def recover(journal: Journal, device_ids: frozenset[str]) -> Iterator[Found]:
    """Leases worth going on with, at most one a device; the folders of all others are deleted."""
    taken: set[str] = set()
    for folder in journal.folders():
        found = _read(folder)
        device_id = "" if found is None else found.offer.terms.device_id
        if found is None or device_id not in device_ids or device_id in taken:
            logger.info("an unusable lease folder was deleted")
            folder.delete()
            continue
        taken.add(device_id)
        yield found


def _read(folder: LeaseFolder) -> Found | None:
    try:
        message = worker_pb2.LeaseOffered.FromString(folder.offer())
        offer = read_offer(message, audience=None)
        progress = folder.read()
    except (OSError, DecodeError, FlopmarketError):
        return None
    if not _is_whole(folder, offer, progress):
        return None
    return Found(
        offer,
        events.Recovered(
            offer.terms,
            tuple(progress.computed),
            tuple(progress.uploaded.items()),
            tuple(index for index in progress.answered if index in progress.uploaded),
        ),
    )


def _is_whole(folder: LeaseFolder, offer: LeaseOffer, progress: Progress) -> bool:
    """Whether the segments follow each other and their files are there."""
    step, root, index = offer.terms.first_step, offer.terms.state_root, offer.terms.first_segment
    for record in progress.computed:
        if (record.first_step, record.state_root_before, record.index) != (step, root, index):
            return False
        if record.index not in progress.uploaded and not folder.outputs(record.index).exists():
            return False
        step, root, index = record.end_step, record.state_root_after, record.index + 1
    if step > offer.terms.end_step:
        return False
    newest = [record.index for record in progress.computed if record.has_state]
    return not newest or folder.state(newest[-1]).exists()
