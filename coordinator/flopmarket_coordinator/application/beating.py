"""Signs of life of many workers in one command.

Most heartbeats say nothing but "still here": what they cost is a row each, so those of one moment
share their statements. A worker that holds leases is looked at by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.errors import Forbidden
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_working import (
    HeartbeatAnswer,
    HeldLease,
    JobProgress,
    Progress,
)
from flopmarket_coordinator.application.working import WorkingUseCases, banned_error
from flopmarket_coordinator.store import identity, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import LeaseRow


@dataclass(frozen=True, slots=True)
class Beat:
    """One worker's sign of life: leases it says it holds, and how far it is in them."""

    session: Session
    held: tuple[HeldLease, ...]
    progress: tuple[Progress, ...]


class BeatingUseCases(WorkingUseCases):
    """Heartbeats."""

    def worker_heartbeats(
        self, tx: Transaction, beats: Sequence[Beat]
    ) -> tuple[HeartbeatAnswer | Forbidden, ...]:
        """Renew presence and leases of many workers; an answer each, in their order.

        A worker that was banned meanwhile gets :class:`Forbidden`, which ends its connection.
        """
        keys = sorted({beat.session.key_id for beat in beats})
        banned = identity.banned_reasons(tx, keys)
        work.saw_workers(tx, [key for key in keys if key not in banned])
        live: dict[str, list[LeaseRow]] = defaultdict(list)
        for lease in work.live_leases_of_keys(tx, keys):
            live[lease.device_key_id].append(lease)
        return tuple(
            self._beat(tx, beat, live[beat.session.key_id], banned.get(beat.session.key_id))
            for beat in beats
        )

    def _beat(
        self, tx: Transaction, beat: Beat, live: Sequence[LeaseRow], banned: str | None
    ) -> HeartbeatAnswer | Forbidden:
        if beat.session.role is not KeyRole.DEVICE:
            return Forbidden("workers come with a device key", code="NOT_A_DEVICE")
        if banned is not None:
            return banned_error(beat.session.key_id, banned)
        if not beat.held:
            return HeartbeatAnswer((), ())
        _, lost = self._held(tx, beat.session, beat.held)
        leases = {lease.lease_id: lease for lease in live if not lease.audit_id}
        reports = tuple(
            JobProgress(lease.job_id, item.step, dict(item.scalars))
            for item in beat.progress
            if (lease := leases.get(item.lease_id)) is not None
            and lease.first_step <= item.step <= lease.end_step
        )
        return HeartbeatAnswer(reports, tuple(lost))
