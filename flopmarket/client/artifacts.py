"""Artifacts over the wire: uploaded when absent, downloaded under a limit, named by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from flopmarket.client.failures import AnswerRefused
from flopmarket.client.session import Session
from flopmarket.errors import Unavailable
from flopmarket.limits import ARTIFACT_CHUNK_BYTES, CLIENT_TRANSFER_SECONDS, MAX_STAT_DIGESTS
from flopmarket.v1 import artifact_pb2, artifact_pb2_grpc

UPLOAD_ATTEMPTS = 3
UPLOAD_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a job: sent, or known to the coordinator from an earlier job of ours."""

    name: str
    digest: str
    size_bytes: int
    already_there: bool


OnUpload: TypeAlias = Callable[[Upload], None]


class Artifacts:
    """The artifact store of one coordinator, through one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._service = artifact_pb2_grpc.ArtifactServiceStub(session.channel)

    def ensure(self, files: Mapping[str, bytes], told: OnUpload | None = None) -> dict[str, str]:
        """Upload every file the coordinator does not hold; digests (hex) by name.

        ``told`` hears of every file before it is sent, or instead. An upload whose connection is
        lost begins again, a few times.
        """
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        present = self._present(sorted(set(digests.values())))
        for name, digest in digests.items():
            known = digest in present
            if told is not None:
                told(Upload(name, digest, len(files[name]), already_there=known))
            if not known:
                self._upload_again(digest, files[name])
                present.add(digest)
        return digests

    def download(
        self, digest: str, *, max_bytes: int, job_id: str = "", dispute_id: str = ""
    ) -> bytes:
        """The bytes with this sha256 (hex), at most ``max_bytes``.

        Raises AnswerRefused (ARTIFACT_TOO_LONG, ARTIFACT_HASH_MISMATCH); nothing is kept then.
        """
        request = artifact_pb2.DownloadRequest(digest=digest, job_id=job_id, dispute_id=dispute_id)
        received = bytearray()
        hasher = hashlib.sha256()
        with self._session.stream(
            self._service.Download, request, timeout_seconds=CLIENT_TRANSFER_SECONDS
        ) as answers:
            for answer in answers:
                if len(received) + len(answer.chunk) > max_bytes:
                    raise AnswerRefused(
                        f"artifact {digest} is longer than the {max_bytes} bytes it can have",
                        code="ARTIFACT_TOO_LONG",
                    )
                received += answer.chunk
                hasher.update(answer.chunk)
        if hasher.hexdigest() != digest:
            raise AnswerRefused(
                f"the {len(received)} bytes sent for artifact {digest} have another hash, "
                f"{hasher.hexdigest()}",
                code="ARTIFACT_HASH_MISMATCH",
            )
        return bytes(received)

    def _present(self, digests: list[str]) -> set[str]:
        present: set[str] = set()
        for start in range(0, len(digests), MAX_STAT_DIGESTS):
            asked = digests[start : start + MAX_STAT_DIGESTS]
            answer = self._session.call(self._service.Stat, artifact_pb2.StatRequest(digests=asked))
            present.update(answer.present)
        return present

    def _upload_again(self, digest: str, data: bytes) -> None:
        for attempt in range(1, UPLOAD_ATTEMPTS + 1):
            try:
                return self._upload(digest, data)
            except Unavailable:
                if attempt == UPLOAD_ATTEMPTS:
                    raise
            self._session.ports.sleep(attempt * UPLOAD_PAUSE_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def _upload(self, digest: str, data: bytes) -> None:
        call: Any = self._service.Upload.future(
            _upload_messages(digest, data),
            timeout=CLIENT_TRANSFER_SECONDS,
            metadata=self._session.metadata(),
        )
        try:
            answer = call.result()
        except grpc.RpcError as error:
            raise self._session.failure(error) from None
        finally:
            call.cancel()
        if answer.digest != digest or answer.size_bytes != len(data):
            raise AnswerRefused(
                f"{answer.size_bytes} of {len(data)} bytes of artifact {digest} were taken",
                code="UPLOAD_INCOMPLETE",
            )


def _upload_messages(digest: str, data: bytes) -> Iterator[artifact_pb2.UploadRequest]:
    yield artifact_pb2.UploadRequest(
        header=artifact_pb2.UploadHeader(digest=digest, size_bytes=len(data))
    )
    for chunk in _chunks(memoryview(data)):
        yield artifact_pb2.UploadRequest(chunk=bytes(chunk))


def _chunks(view: memoryview) -> Iterable[memoryview]:
    for start in range(0, len(view), ARTIFACT_CHUNK_BYTES):
        yield view[start : start + ARTIFACT_CHUNK_BYTES]
