"""Parts of the edge by themselves: errors on the wire, rates, signals, artifacts, configuration."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from flopmarket import errors
from flopmarket.engine.errors import EngineError
from flopmarket.limits import MAX_SESSION_QUEUE_MESSAGES
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_working import JobProgress, LeaseRevoked
from flopmarket_coordinator.artifacts import FileArtifactStore
from flopmarket_coordinator.config import CoordinatorConfig, ListenAddress
from flopmarket_coordinator.data_dir import DataDirectory, DirectoryLock
from flopmarket_coordinator.rpc.errors import incident_status, status_of
from flopmarket_coordinator.rpc.interceptors import bearer_token, is_open
from flopmarket_coordinator.rpc.rates import ConcurrencyLimiter, Rate, RateLimiter
from flopmarket_coordinator.rpc.session_hub import ProgressBoard, SessionHub, Signal

NOW_US = 1_800_000_000_000_000


def unpack(status: object) -> tuple[error_details_pb2.ErrorInfo, int | None]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay = None
    for detail in status.details:  # type: ignore[attr-defined]
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToMilliseconds()
        else:
            assert detail.Unpack(info)
    return info, delay


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            (errors.InvalidInput, 3),
            (errors.NotFound, 5),
            (errors.Forbidden, 7),
            (errors.QuotaExceeded, 8),
            (errors.Conflict, 9),
            (errors.FlopmarketError, 13),
            (errors.Unavailable, 14),
            (errors.Unauthenticated, 16),
        ],
    )
    def test_each_kind_has_its_status(self, kind: type[errors.FlopmarketError], code: int) -> None:
        error = kind("no such job", code="JOB_UNKNOWN", hint="look again", details={"job": "ab"})
        status = status_of(error)
        info, delay = unpack(status)
        assert (status.code, status.message) == (code, "no such job")
        assert (info.reason, info.domain) == ("JOB_UNKNOWN", "flopmarket.dev")
        assert dict(info.metadata) == {"job": "ab", "hint": "look again"}
        assert (delay is not None) == error.retryable

    def test_a_retry_says_when(self) -> None:
        error = errors.QuotaExceeded("slow", retryable=True, details={"retry_after_ms": "2500"})
        assert unpack(status_of(error))[1] == 2500

    def test_engine_errors_are_about_the_program_or_the_device(self) -> None:
        assert status_of(EngineError("bad", code="GRAPH_ILLEGAL")).code == 3
        assert status_of(EngineError("busy", code="DEVICE_LOST", retryable=True)).code == 14

    def test_long_texts_are_cut_so_that_the_status_fits_its_headers(self) -> None:
        error = errors.InvalidInput("x" * 100_000, hint="h" * 9999, details={"a": "y" * 9999})
        assert len(status_of(error).SerializeToString()) < 4096

    def test_a_fault_of_ours_shows_an_id_and_nothing_else(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        status = incident_status(KeyError("secret path"), "/x/Y", lambda: "id-7")
        assert status.code == 13
        assert "secret" not in str(status)
        assert "id-7" in status.message
        assert "id-7" in caplog.text


class TestCallers:
    def test_only_named_methods_are_open(self) -> None:
        assert is_open("/flopmarket.v1.IdentityService/Register")
        assert is_open("/flopmarket.v1.MarketService/GetSpot")
        assert is_open("/grpc.health.v1.Health/Check")
        assert not is_open("/flopmarket.v1.IdentityService/GrantDevice")
        assert not is_open("/flopmarket.v1.JobService/QuoteJob")
        assert not is_open("/flopmarket.v1.MarketServiceX/GetSpot")

    @pytest.mark.parametrize("value", ["abc", "Basic abc", "Bearer ", "Bearer " + "x" * 513, ""])
    def test_malformed_headers_are_refused(self, value: str) -> None:
        with pytest.raises(errors.Unauthenticated) as caught:
            bearer_token((("authorization", value),))
        assert caught.value.code == "SESSION_HEADER_MALFORMED"

    def test_two_headers_are_refused_and_none_is_a_stranger(self) -> None:
        header = ("authorization", "Bearer abc")
        assert bearer_token((header,)) == "abc"
        assert bearer_token((("other", "x"),)) is None
        with pytest.raises(errors.Unauthenticated):
            bearer_token((header, header))


class TestRates:
    @given(
        st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 30)), max_size=60),
        st.floats(0.5, 50),
        st.floats(1, 20),
    )
    def test_nobody_gets_more_than_burst_plus_rate(
        self, steps: list[tuple[float, float]], per_second: float, burst: float
    ) -> None:
        now = 0.0
        limiter = RateLimiter(Rate(per_second, burst), lambda: now, max_callers=4)
        taken = 0.0
        for pause, cost in steps:
            now += pause
            wait = limiter.wait_seconds("a", cost)
            if wait == 0:
                taken += min(cost, burst)
            else:
                assert wait * per_second <= burst + 1e-6
            assert taken <= burst + per_second * now + 1e-6

    def test_callers_do_not_share(self) -> None:
        limiter = RateLimiter(Rate(1, 2), lambda: 0.0, max_callers=4)
        limiter.take("a", 2)
        limiter.take("b", 2)
        with pytest.raises(errors.QuotaExceeded) as caught:
            limiter.take("a", 1)
        assert (caught.value.code, caught.value.retryable) == ("RATE_LIMITED", True)
        assert int(caught.value.details["retry_after_ms"]) > 900

    def test_open_calls_are_counted_by_caller(self) -> None:
        calls = ConcurrencyLimiter(1)
        calls.enter("a")
        calls.enter("b")
        with pytest.raises(errors.QuotaExceeded) as caught:
            calls.enter("a")
        assert caught.value.code == "TOO_MANY_CALLS"
        calls.leave("a")
        calls.enter("a")


class TestHub:
    def test_a_full_queue_drops_the_connection(self) -> None:
        hub = SessionHub()
        connection = hub.connect("k")
        for number in range(MAX_SESSION_QUEUE_MESSAGES):
            hub.instruct(LeaseRevoked("k", f"lease-{number}", 1, "X", ""))
            assert connection.failure is None
        hub.instruct(LeaseRevoked("k", "one-more", 1, "X", ""))
        assert connection.failure is not None
        assert connection.failure.code == "SESSION_TOO_SLOW"
        assert connection.closed.is_set()

    def test_a_newer_stream_of_a_key_ends_the_older(self) -> None:
        hub = SessionHub()
        older, newer = hub.connect("k"), hub.connect("k")
        assert older.failure is not None
        assert older.failure.code == "SESSION_SUPERSEDED"
        assert not hub.disconnect(older)
        assert hub.disconnect(newer)
        hub.instruct(LeaseRevoked("k", "nobody listens", 1, "X", ""))

    def test_drain_is_the_last_message(self) -> None:
        async def scenario() -> list[worker_pb2.SessionResponse | None]:
            hub = SessionHub()
            connection = hub.connect("k")
            hub.instruct(LeaseRevoked("k", "lease", 1, "X", ""))
            hub.drain(lambda: 700)
            return [await connection.next() for _ in range(3)]

        revoked, drain, end = asyncio.run(scenario())
        assert revoked is not None and revoked.WhichOneof("message") == "lease_revoked"
        assert drain is not None and drain.drain.reconnect_after_ms == 700
        assert end is None

    def test_signals_between_look_and_wait_count(self) -> None:
        async def scenario() -> tuple[bool, bool, bool]:
            signal = Signal()
            seen = signal.version
            signal.notify()
            missed = await signal.wait_past(seen, 5)
            quiet = await signal.wait_past(signal.version, 0.01)
            waiting = asyncio.create_task(signal.wait_past(signal.version, 5))
            await asyncio.sleep(0)
            signal.notify()
            return missed, quiet, await waiting

        assert asyncio.run(scenario()) == (True, False, True)

    def test_progress_reaches_its_watchers_alone(self) -> None:
        board = ProgressBoard()
        first, second, other = (board.subscribe(job) for job in ("a", "a", "b"))
        board.publish(JobProgress("a", 7, {"loss": 0.5}))
        assert [len(queue) for queue in (first, second, other)] == [1, 1, 0]
        first.clear()
        second.clear()
        board.unsubscribe("a", second)
        board.publish(JobProgress("a", 8, {}))
        assert (len(first), len(second)) == (1, 0)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestArtifacts:
    def store(self, folder: Path) -> FileArtifactStore:
        numbers = iter(range(1000))
        store = FileArtifactStore(folder / "artifacts", lambda: f"upload-{next(numbers)}")
        store.prepare()
        return store

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        store, data = self.store(tmp_path), bytes(range(256)) * 9000
        digest = sha256(data)

        async def scenario() -> bytes:
            await store.write(digest, len(data), pieces(data[:1000], data[1000:]))
            await store.write(digest, len(data), pieces(data))
            return b"".join([chunk async for chunk in store.stream(digest)])

        assert asyncio.run(scenario()) == data
        assert store.read(digest, len(data)) == data
        with pytest.raises(errors.LimitExceeded):
            store.read(digest, len(data) - 1)
        assert not list((tmp_path / "artifacts" / ".uploads").iterdir())

    @pytest.mark.parametrize(
        ("declared", "chunks", "code"),
        [
            (3, (b"abc", b"d"), "ARTIFACT_LONGER_THAN_DECLARED"),
            (5, (b"abcd",), "ARTIFACT_SHORTER_THAN_DECLARED"),
            (4, (b"abcX",), "ARTIFACT_HASH_DIFFERS"),
            (2**60, (b"abcd",), "ARTIFACT_TOO_LARGE"),
        ],
    )
    def test_what_was_not_declared_is_not_kept(
        self, tmp_path: Path, declared: int, chunks: tuple[bytes, ...], code: str
    ) -> None:
        store, digest = self.store(tmp_path), sha256(b"abcd")
        with pytest.raises(errors.InvalidInput) as caught:
            asyncio.run(store.write(digest, declared, pieces(*chunks)))
        assert caught.value.code == code
        assert not store.present(digest)
        assert not list((tmp_path / "artifacts" / ".uploads").iterdir())

    @pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65])
    def test_only_a_hash_becomes_a_path(self, tmp_path: Path, digest: str) -> None:
        with pytest.raises(errors.InvalidInput) as caught:
            self.store(tmp_path).path(digest)
        assert caught.value.code == "ARTIFACT_DIGEST_MALFORMED"

    def test_unfinished_uploads_are_removed_at_start(self, tmp_path: Path) -> None:
        left = tmp_path / "artifacts" / ".uploads" / "left"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half")
        self.store(tmp_path)
        assert not left.exists()


class TestConfiguration:
    @pytest.mark.parametrize("host", ["0.0.0.0:1", "[::]:1", "192.168.1.4:1", "market.example:1"])
    def test_no_address_outside_loopback_without_tls(self, tmp_path: Path, host: str) -> None:
        with pytest.raises(errors.InvalidInput) as caught:
            CoordinatorConfig(data_dir=tmp_path, listen=ListenAddress.parse(host))
        assert caught.value.code == "TLS_REQUIRED"

    @pytest.mark.parametrize("host", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
    def test_loopback_may_be_plain(self, tmp_path: Path, host: str) -> None:
        assert CoordinatorConfig(data_dir=tmp_path, listen=ListenAddress.parse(host))

    @pytest.mark.parametrize("text", ["", "localhost", "a:70000", "a:b", "http://a:1", ":1"])
    def test_bad_addresses_are_refused(self, text: str) -> None:
        with pytest.raises(errors.InvalidInput) as caught:
            ListenAddress.parse(text)
        assert caught.value.code == "ADDRESS_INVALID"


class TestDataDirectory:
    def test_keys_are_made_once_and_are_private(self, tmp_path: Path) -> None:
        root = tmp_path / "market"
        first = DataDirectory.create(root, now_us=NOW_US)
        again = DataDirectory.create(root, now_us=NOW_US)
        assert first.key.key_id == again.key.key_id
        assert first.operator_key.key_id == again.operator_key.key_id
        assert first.key.key_id != first.operator_key.key_id
        assert first.authority == again.authority
        assert {path.stat().st_mode & 0o077 for path in (root / "keys").iterdir()} == {0}
        assert b"PRIVATE" not in first.authority_file.read_bytes()

    def test_a_folder_without_keys_is_no_market(self, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFound) as caught:
            DataDirectory.open(tmp_path)
        assert caught.value.code == "DATA_DIR_MISSING"

    def test_two_processes_do_not_share_a_folder(self, tmp_path: Path) -> None:
        with DirectoryLock(tmp_path):
            with pytest.raises(errors.Conflict) as caught, DirectoryLock(tmp_path):
                pass
            assert caught.value.code == "DATA_DIR_LOCKED"
        with DirectoryLock(tmp_path):
            pass
