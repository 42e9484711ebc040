"""Use cases of artifacts: who may put and read which bytes. The bytes themselves are elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flopmarket.errors import Forbidden, InvalidInput, NotFound, QuotaExceeded
from flopmarket.limits import MAX_COLLECTED_ARTIFACTS
from flopmarket.trust.keys import KeyRole
from flopmarket_coordinator.application import step_access
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.application.dispute_access import check_may_upload, may_read
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import ArtifactInfo
from flopmarket_coordinator.core.lifecycle import LIVE_LEASE_STATES, SegmentState
from flopmarket_coordinator.store import collecting, decisions, disputes, jobs, segments, work
from flopmarket_coordinator.store.decisions import DecisionKind
from flopmarket_coordinator.store.engine import Transaction

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactUseCases(UseCases):
    """Metadata and grants of artifacts."""

    def artifact_may_put(
        self,
        tx: Transaction,
        session: Session,
        size_bytes: int,
        lease_id: str,
        dispute_id: str = "",
    ) -> None:
        """Whether an upload may begin: of buyers within their quota, of workers for a lease or a
        dispute.

        ``size_bytes`` counts everything of the account that is on its way.
        """
        if size_bytes < 0:
            raise InvalidInput("an artifact has a size", code="ARTIFACT_SIZE")
        if session.role in (KeyRole.OWNER, KeyRole.CI):
            self._within_quota(tx, session.account_id, size_bytes)
            return
        if dispute_id:
            check_may_upload(tx, session, size_bytes, dispute_id)
            return
        lease = work.lease(tx, lease_id) if lease_id else None
        if session.role is KeyRole.DEVICE and step_access.may_upload(
            tx, session, size_bytes, lease_id
        ):
            return
        if (
            session.role is not KeyRole.DEVICE
            or lease is None
            or lease.device_key_id != session.key_id
            or lease.state not in LIVE_LEASE_STATES
        ):
            raise Forbidden("a worker uploads for a live lease of its own", code="NO_LEASE")

    def _within_quota(self, tx: Transaction, account_id: str, size_bytes: int) -> None:
        stored, most = (
            work.stored_bytes(tx, account_id),
            self._parameters.max_stored_bytes_per_account,
        )
        if stored + size_bytes > most:
            raise QuotaExceeded(
                f"the account stores {stored} bytes; {size_bytes} more pass its {most}",
                code="ARTIFACT_STORAGE_QUOTA",
                hint="uploads that no job needs are freed after some days",
                details={
                    "stored_bytes": str(stored),
                    "size_bytes": str(size_bytes),
                    "limit": str(most),
                },
            )

    def artifact_put(
        self,
        tx: Transaction,
        session: Session,
        digest: str,
        size_bytes: int,
        lease_id: str,
        dispute_id: str = "",
    ) -> None:
        """These bytes are durable now. Whoever uploads them may use them; again, no change."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput("a digest is 64 lower-case hex digits", code="ARTIFACT_DIGEST")
        if session.role not in (KeyRole.OWNER, KeyRole.CI) or not work.may_read(
            tx, digest, session.account_id
        ):
            self.artifact_may_put(tx, session, size_bytes, lease_id, dispute_id)
        if dispute_id and session.role is KeyRole.DEVICE:
            disputes.add_artifact(tx, digest, size_bytes)
            return
        work.add_artifact(tx, digest, size_bytes, session.account_id)

    def artifact_may_read(
        self,
        tx: Transaction,
        session: Session,
        digest: str,
        lease_id: str,
        job_id: str,
        dispute_id: str = "",
    ) -> ArtifactInfo:
        """Size of an artifact that the caller uploaded, or reaches through a lease, a job or a
        dispute.

        Anything else does not exist for the caller: :class:`NotFound` ``ARTIFACT_MISSING``.
        """
        size = work.artifact_size(tx, digest)
        if size is not None and (
            work.may_read(tx, digest, session.account_id)
            or (lease_id and self._in_lease(tx, session, digest, lease_id))
            or (lease_id and step_access.may_read(tx, session, digest, lease_id))
            or (job_id and self._in_job(tx, session, digest, job_id))
            or (dispute_id and may_read(tx, session, digest, dispute_id))
        ):
            return ArtifactInfo(digest, size)
        raise NotFound(
            f"artifact {digest[:80]} is not here, or not yours",
            code="ARTIFACT_MISSING",
            details={"digest": digest[:80]},
        )

    def plan_collection(self, tx: Transaction) -> collecting.Plan:
        """Artifacts that nothing needs: see ``artifact_unused_us``, ``artifact_retention_us``."""
        return collecting.plan(
            tx,
            unused_before_us=tx.now_us - self._parameters.artifact_unused_us,
            ended_before_us=tx.now_us - self._parameters.artifact_retention_us,
            most=MAX_COLLECTED_ARTIFACTS,
        )

    def collect(self, tx: Transaction, plan: collecting.Plan) -> list[str]:
        """Forget what a plan names and nothing has needed since; their files may be removed."""
        dropped = collecting.drop(tx, plan)
        if dropped:
            decisions.record(
                tx,
                DecisionKind.ARTIFACTS_COLLECTED,
                "",
                actor=self._key.key_id,
                cause="retention",
                reason=f"{len(dropped)} artifacts that nothing needs",
                detail=" ".join(dropped),
            )
        return dropped

    def artifact_present(
        self, tx: Transaction, session: Session, digests: Sequence[str]
    ) -> tuple[str, ...]:
        """Which of these the caller uploaded already; the rest must be uploaded."""
        return tuple(item for item in digests if work.may_read(tx, item, session.account_id))

    def _in_lease(self, tx: Transaction, session: Session, digest: str, lease_id: str) -> bool:
        """Whether a live lease of this worker needs the artifact."""
        lease = work.lease(tx, lease_id)
        if lease is None or lease.device_key_id != session.key_id:
            return False
        if lease.state not in LIVE_LEASE_STATES:
            return False
        job = jobs.get(tx, lease.job_id)
        return job is not None and digest in (
            job.program_artifact,
            job.frozen_artifact,
            job.data_artifact,
            lease.state_artifact,
        )

    def _in_job(self, tx: Transaction, session: Session, digest: str, job_id: str) -> bool:
        """Whether the artifact is a verified result of the caller's job."""
        job = jobs.get(tx, job_id)
        if job is None or job.buyer != session.account_id:
            return False
        checked = {SegmentState.VERIFIED, SegmentState.SETTLED}
        results = segments.of_job(tx, job_id, checked)
        return any(digest in (row.outputs_artifact, row.checkpoint_artifact) for row in results)
