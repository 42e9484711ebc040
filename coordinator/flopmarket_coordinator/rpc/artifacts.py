"""ArtifactService: bytes by content hash, in chunks, within what was declared and allowed."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from flopmarket.errors import InvalidInput, LimitExceeded, QuotaExceeded, Unavailable
from flopmarket.limits import ARTIFACT_CHUNK_BYTES, MAX_STAT_DIGESTS, UPLOAD_IDLE_SECONDS
from flopmarket.v1 import artifact_pb2, artifact_pb2_grpc
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.artifacts import check_digest, check_size
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert
from flopmarket_coordinator.rpc.interceptors import caller
from flopmarket_coordinator.rpc.rates import RateLimiter
from flopmarket_coordinator.store.engine import Transaction


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    """Asks the application who may, and the store to keep.

    ``uploads`` are the bytes of each account over time. ``_incoming`` is what uploads that are
    under way have declared, by account, so that many at once cannot pass one quota.
    """

    def __init__(self, backend: Backend, uploads: RateLimiter) -> None:
        self._backend = backend
        self._uploads = uploads
        self._incoming: dict[str, int] = {}

    async def Stat(
        self, request: artifact_pb2.StatRequest, context: Any
    ) -> artifact_pb2.StatResponse:
        session, application = caller(), self._backend.application
        if len(request.digests) > MAX_STAT_DIGESTS:
            raise LimitExceeded(
                f"{len(request.digests)} digests in one inquiry, at most {MAX_STAT_DIGESTS}",
                details={"field": "digests", "limit": str(MAX_STAT_DIGESTS)},
            )
        digests = tuple(check_digest(digest) for digest in request.digests)
        present = await self._backend.query(
            lambda tx: application.artifact_present(tx, session, digests)
        )
        return artifact_pb2.StatResponse(present=present)

    async def Upload(
        self, request_iterator: AsyncIterator[artifact_pb2.UploadRequest], context: Any
    ) -> artifact_pb2.UploadResponse:
        session, backend = caller(), self._backend
        header = await _header(request_iterator)
        digest, size = check_digest(header.digest), check_size(header.size_bytes)
        lease_id = convert.text_of(header.lease_id, "lease_id")
        dispute_id = convert.text_of(header.dispute_id, "dispute_id")
        self._take_quota(session.account_id, size)
        others = self._incoming.get(session.account_id, 0)
        self._incoming[session.account_id] = others + size
        try:
            await backend.query(
                lambda tx: backend.application.artifact_may_put(
                    tx, session, others + size, lease_id, dispute_id
                )
            )
            # Bytes that are here already are still read and hashed: to know a hash is not to have
            # the bytes, and whoever has them may read them.
            await backend.artifacts.write(digest, size, _chunks(request_iterator))
            await backend.command(
                lambda tx: self._record(tx, session, digest, size, lease_id, dispute_id)
            )
        finally:
            self._incoming[session.account_id] -= size
            if not self._incoming[session.account_id]:
                del self._incoming[session.account_id]
        return artifact_pb2.UploadResponse(digest=digest, size_bytes=size)

    def _record(
        self,
        tx: Transaction,
        session: Session,
        digest: str,
        size: int,
        lease_id: str,
        dispute_id: str,
    ) -> None:
        """On the writer thread, where the collector removes files too: the bytes must be here."""
        if not self._backend.artifacts.present(digest):
            raise Unavailable(
                f"artifact {digest} was collected while it arrived again",
                code="ARTIFACT_COLLECTED",
                hint="upload it again",
            )
        self._backend.application.artifact_put(tx, session, digest, size, lease_id, dispute_id)

    def _take_quota(self, account_id: str, size_bytes: int) -> None:
        """Bytes off the account's quota; they come back with time, whatever became of them."""
        wait_seconds = self._uploads.wait_seconds(account_id, float(size_bytes))
        if wait_seconds > 0:
            raise QuotaExceeded(
                f"this account has uploaded its quota; {size_bytes} bytes fit in "
                f"{wait_seconds:.0f} s",
                code="ARTIFACT_QUOTA",
                retryable=True,
                details={
                    "size_bytes": str(size_bytes),
                    "retry_after_ms": str(int(wait_seconds * 1000) + 1),
                },
            )

    async def Download(
        self, request: artifact_pb2.DownloadRequest, context: Any
    ) -> AsyncIterator[artifact_pb2.DownloadResponse]:
        session, backend = caller(), self._backend
        digest = check_digest(request.digest)
        lease_id = convert.text_of(request.lease_id, "lease_id")
        job_id = convert.text_of(request.job_id, "job_id")
        dispute_id = convert.text_of(request.dispute_id, "dispute_id")
        await backend.query(
            lambda tx: backend.application.artifact_may_read(
                tx, session, digest, lease_id, job_id, dispute_id
            )
        )
        async for chunk in backend.artifacts.stream(digest):
            yield artifact_pb2.DownloadResponse(chunk=chunk)


async def _header(
    requests: AsyncIterator[artifact_pb2.UploadRequest],
) -> artifact_pb2.UploadHeader:
    first = await _next(requests)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidInput(
            "an upload begins with a header that declares digest and size",
            code="UPLOAD_HEADER_MISSING",
        )
    return first.header


async def _chunks(requests: AsyncIterator[artifact_pb2.UploadRequest]) -> AsyncIterator[bytes]:
    while (request := await _next(requests)) is not None:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput("an upload has one header, then chunks", code="UPLOAD_CHUNK_MISSING")
        if not 0 < len(request.chunk) <= ARTIFACT_CHUNK_BYTES:
            raise LimitExceeded(
                f"a chunk of {len(request.chunk)} bytes, 1 to {ARTIFACT_CHUNK_BYTES}",
                code="UPLOAD_CHUNK_SIZE",
                details={
                    "size_bytes": str(len(request.chunk)),
                    "limit": str(ARTIFACT_CHUNK_BYTES),
                },
            )
        yield request.chunk


async def _next(
    requests: AsyncIterator[artifact_pb2.UploadRequest],
) -> artifact_pb2.UploadRequest | None:
    try:
        async with asyncio.timeout(UPLOAD_IDLE_SECONDS):
            return await anext(requests, None)
    except TimeoutError as error:
        raise Unavailable(
            f"no chunk came for {UPLOAD_IDLE_SECONDS} s", code="UPLOAD_IDLE"
        ) from error
