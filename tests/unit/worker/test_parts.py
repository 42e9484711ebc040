"""The parts of the worker around its machine: journal, offers, faults, calibration, power."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flopmarket.bench import BENCHMARK_FORMAT, BenchmarkResult
from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.engine.exact import PROFILE
from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.host import EngineProcessDied, SegmentDone, StepDone
from flopmarket.trust.documents import WattsSource
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.keys import KeyPair
from flopmarket_worker import calibration, faults
from flopmarket_worker.backoff import Backoff
from flopmarket_worker.calibration import calibrate
from flopmarket_worker.core.events import (
    LeaseKey,
    ReleaseReason,
    SegmentRecord,
    Times,
    UploadedFiles,
)
from flopmarket_worker.executor import ExecutorFailed, JobExecutor, JobUnfit
from flopmarket_worker.journal import Journal
from flopmarket_worker.lease_offer import read_offer
from flopmarket_worker.link_speed import DOWNLOAD, UPLOAD, LinkSpeed
from flopmarket_worker.offers import (
    Calibration,
    DeviceCard,
    OwnerTerms,
    board_of,
    card_fingerprint,
    card_of,
    offer_terms,
    salted,
)
from flopmarket_worker.report import flop_per_dollar, flops_per_watt
from flopmarket_worker.telemetry.ports import DeclaredPower, UnknownPower
from flopmarket_worker.transfers import evict
from flopmarket_worker.up import UpOptions, only_worker_in, run_worker
from tests.integration.worker.fake_engine import FakeEngine
from tests.integration.worker.fake_job import COORDINATOR, spec_for, state_after
from tests.integration.worker.fakes import FakeCoordinator

RATES = dict.fromkeys(WORK_CLASSES, 10**9)
CARD = DeviceCard("f" * 64, "card", "driver", 1 << 30, 1 << 28)


def record(index: int, *, has_state: bool = True) -> SegmentRecord:
    roots = [bytes([index + n]) * 32 for n in range(4)]
    times = Times(run_us=1_000 + index, build_us=20, transfer_us=3)
    return SegmentRecord(
        index, index * 10, 10, *roots, has_state=has_state, upload_state=False, times=times
    )


# ---------------------------------------------------------------- journal


def test_a_journal_says_again_what_was_written(tmp_path: Path) -> None:
    folder = Journal(tmp_path).lease(LeaseKey("../../etc", 3))
    assert folder.path.parent == tmp_path  # ids come from outside
    folder.create(b"offer")
    folder.note_computed(record(0))
    folder.note_computed(record(1))
    folder.note_uploaded(0, UploadedFiles("a", "b"))
    folder.note_answered(0)
    progress = folder.read()
    assert progress.computed == [record(0), record(1)]
    assert progress.uploaded == {0: UploadedFiles("a", "b")}
    assert progress.answered == [0]
    assert folder.offer() == b"offer"


@pytest.mark.parametrize("torn", [b'{"computed": {"ind', b'{"answered": 1}', b"\xff\xfe\n", b"7\n"])
def test_a_torn_line_is_cut_off_and_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    folder = Journal(tmp_path).lease(LeaseKey("lease", 1))
    folder.create(b"offer")
    folder.note_computed(record(0))
    with (folder.path / "journal.jsonl").open("ab") as file:
        file.write(torn)
    assert folder.read().computed == [record(0)]
    folder.note_computed(record(1))
    assert folder.read().computed == [record(0), record(1)]


def test_only_the_newest_state_stays_on_disk(tmp_path: Path) -> None:
    folder = Journal(tmp_path).lease(LeaseKey("lease", 1))
    folder.create(b"offer")
    for index in range(3):
        folder.state(index).write_bytes(b"state")
        folder.outputs(index).write_bytes(b"outputs")
    folder.forget_files(1, newest_state=2)
    kept = {path.name for path in folder.path.glob("*.safetensors")}
    assert kept == {"state-2.safetensors", "outputs-0.safetensors", "outputs-2.safetensors"}


def test_two_workers_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        only_worker_in(tmp_path),
        pytest.raises(Conflict, match="another worker"),
        only_worker_in(tmp_path),
    ):
        pass


def test_the_cache_forgets_what_was_not_used_longest(tmp_path: Path) -> None:
    import os

    for number, name in enumerate(("old", "middle", "new")):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (number, number))
    evict(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"middle", "new"}


# ---------------------------------------------------------------- offers and leases


def test_an_offer_states_what_was_measured() -> None:
    owner = OwnerTerms(20_000_000, 300 * 10**9, DeclaredPower(65_000))
    calibration = Calibration(b"p" * 32, {**RATES, "dot-int": 0}, 10**10, 5000, 40_000, 60)
    speed = LinkSpeed()
    speed.note(DOWNLOAD, 10**7, 2.0)
    offer = offer_terms(
        CARD, calibration, owner, speed, account_id="a" * 64, device_key_id="d" * 64
    )
    assert (offer.step_nanoseconds, offer.build_milliseconds) == (40_000, 60)
    assert (offer.download_bytes_per_second, offer.upload_bytes_per_second) == (5 * 10**6, 0)
    assert [rate.work_class for rate in offer.rates] == sorted(set(WORK_CLASSES) - {"dot-int"})
    assert offer.profile == PROFILE
    assert (offer.watts_milli, offer.watts_source) == (65_000, WattsSource.DECLARED)
    assert decode(type(offer), encode(offer)) == offer


INFO = {"device_id": "d" * 64, "name": "card", "vendor": "v", "platform": "p"}


@pytest.mark.parametrize(
    ("told", "machine", "board"),
    [
        ({"uuid": "ab12", "pci_address": "0000:01:00.0"}, "m", "uuid ab12"),
        ({"uuid": None, "pci_address": "0000:01:00.0"}, "m", "pci 0000:01:00.0 of m"),
        ({"uuid": None, "pci_address": "0000:01:00.0"}, "", ""),  # as on many other machines
        ({"uuid": None, "pci_address": None}, "m", ""),
        ({}, "m", ""),
    ],
)
def test_what_tells_a_card_from_all_others(told: dict[str, Any], machine: str, board: str) -> None:
    assert board_of(INFO | told, machine) == board
    assert len(card_fingerprint(board, "c" * 64)) == (32 if board else 0)


def test_a_fingerprint_is_one_at_one_coordinator_and_another_elsewhere() -> None:
    here, elsewhere = (card_fingerprint("uuid ab12", key * 64) for key in "ce")
    assert here != elsewhere and here == card_fingerprint("uuid ab12", "c" * 64)
    assert b"ab12" not in here
    # Ids of one card with two salts differ, and its board does not.
    cards = [card_of(INFO | {"uuid": "ab12"}, salt) for salt in ("", "second")]
    assert cards[0].device_id != cards[1].device_id and cards[0].board == cards[1].board


def test_unknown_power_is_zero_and_says_so() -> None:
    reading = UnknownPower().read()
    assert (reading.milliwatts, reading.source) == (0, WattsSource.UNKNOWN)


@pytest.mark.parametrize("milliwatts", [0, -1, 10**9])
def test_declared_power_is_bounded(milliwatts: int) -> None:
    with pytest.raises(InvalidInput, match="declared power"):
        DeclaredPower(milliwatts)


def test_a_salt_makes_several_ids_of_one_device() -> None:
    ids = {salted("f" * 64, salt) for salt in ("", "a", "b")}
    assert len(ids) == 3
    assert "f" * 64 in ids


def test_what_a_dollar_and_a_watt_buy() -> None:
    assert flop_per_dollar(10**12, 10**9) == 3.6e15
    assert flop_per_dollar(10**12, 0) is None
    assert flops_per_watt(10**12, 100_000) == 1e10
    assert flops_per_watt(10**12, 0) is None


def offered(**changes: Any) -> Any:
    book = FakeCoordinator().offer("f" * 64, spec_for(100, 10))
    for name, value in changes.items():
        setattr(book.message, name, value)
    return book.message


def test_a_lease_that_fits_its_spec_is_read() -> None:
    offer = read_offer(offered(), audience=COORDINATOR.key_id)
    assert (offer.terms.segment_steps, offer.terms.end_step) == (10, 100)
    assert offer.spec == spec_for(100, 10)
    assert not offer.terms.stateless


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"job_id": "0" * 64}, "LEASE_JOB_MISMATCH"),
        ({"step_count": 0}, "LEASE_RANGE"),
        ({"step_count": 101}, "LEASE_RANGE"),
        ({"first_step": 1}, "LEASE_RANGE"),
        ({"state_root": b"r" * 32}, "LEASE_STATE_ROOT"),
        ({"state_root": b"short"}, "LEASE_OFFER_INVALID"),
        ({"program_artifact": "../../x"}, "LEASE_ARTIFACT"),
        ({"state_artifact": ""}, "LEASE_ARTIFACT"),
        ({"data_artifact": "A" * 64}, "LEASE_ARTIFACT"),
        ({"lease_id": ""}, "LEASE_OFFER_INVALID"),
        ({"lease_id": "x" * 129}, "LEASE_OFFER_INVALID"),
    ],
)
def test_a_lease_that_does_not_fit_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FlopmarketError) as caught:
        read_offer(offered(**changes), audience=COORDINATOR.key_id)
    assert caught.value.code == code


def test_a_spec_that_its_buyer_did_not_sign_is_refused() -> None:
    other = KeyPair.from_seed(b"o" * 32).public.raw
    with pytest.raises(FlopmarketError) as caught:
        read_offer(offered(spec_public_key=other), audience=COORDINATOR.key_id)
    assert caught.value.code == "ENVELOPE_UNKNOWN_KEY"
    with pytest.raises(FlopmarketError) as absent:
        read_offer(offered(spec_public_key=b""), audience=COORDINATOR.key_id)
    assert absent.value.code == "PUBLIC_KEY_MALFORMED"
    altered = offered()
    altered.spec.payload = altered.spec.payload[:-1] + bytes([altered.spec.payload[-1] ^ 1])
    with pytest.raises(FlopmarketError) as forged:
        read_offer(altered, audience=COORDINATOR.key_id)
    assert forged.value.code == "ENVELOPE_BAD_SIGNATURE"


def test_a_spec_for_another_market_is_refused() -> None:
    with pytest.raises(FlopmarketError) as caught:
        read_offer(offered(), audience="0" * 64)
    assert caught.value.code == "ENVELOPE_WRONG_AUDIENCE"


def test_a_spec_of_another_profile_is_refused() -> None:
    spec = replace(spec_for(100, 10), profile="FX0")
    message = FakeCoordinator().offer("f" * 64, spec).message
    with pytest.raises(FlopmarketError) as caught:
        read_offer(message, audience=COORDINATOR.key_id)
    assert caught.value.code == "LEASE_PROFILE"


# ---------------------------------------------------------------- executor and faults


async def _run(executor: JobExecutor, folder: Path) -> list[StepDone | SegmentDone]:
    events: list[StepDone | SegmentDone] = []
    async for event in executor.run(
        0, 4, outputs_path=folder / "outputs", state_path=folder / "state"
    ):
        events.append(event)  # noqa: PERF401  (an async comprehension hides what fails)
    return events


def _job_folder(tmp_path: Path) -> Path:
    (tmp_path / "program.bin").write_bytes(b"program")
    (tmp_path / "start").write_bytes(bundle.save(state_after(0)))
    return tmp_path


def test_a_dead_process_is_replaced_by_the_next_call(tmp_path: Path) -> None:
    engine, folder = FakeEngine(), _job_folder(tmp_path)
    engine.die_at = {2}
    executor = JobExecutor(engine.start)

    async def run() -> None:
        await executor.prepare(folder, b"", folder / "start", 0)
        with pytest.raises(ExecutorFailed, match="killed"):
            await _run(executor, folder)
        await executor.prepare(folder, b"", folder / "start", 0)
        assert isinstance((await _run(executor, folder))[-1], SegmentDone)

    asyncio.run(run())
    assert engine.starts == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("JOB_PROGRAM", ReleaseReason.PROGRAM_REFUSED),
        ("DEVICE_OUT_OF_MEMORY", ReleaseReason.OUT_OF_MEMORY),
    ],
)
def test_a_refusal_is_told_apart_from_a_death(
    tmp_path: Path, code: str, reason: ReleaseReason
) -> None:
    engine = FakeEngine()
    engine.refuse = code
    with pytest.raises(JobUnfit) as caught:
        asyncio.run(JobExecutor(engine.start).prepare(_job_folder(tmp_path), b"", None, 0))
    assert caught.value.reason is reason


def test_a_process_that_does_not_start_is_a_failed_executor(tmp_path: Path) -> None:
    async def start() -> FakeEngine:
        raise EngineProcessDied("no driver")

    with pytest.raises(ExecutorFailed, match="no driver"):
        asyncio.run(JobExecutor(start).prepare(tmp_path, b"", None, 0))


class ReloadingEngine(FakeEngine):
    """Remembers the root of what it loaded last."""

    loaded = b""

    async def load_state(self, path: Path | None, step: int) -> bytes:
        self.loaded = await super().load_state(path, step)
        return self.loaded


def test_wrong_weights_are_committed_uploaded_and_carried_on(tmp_path: Path) -> None:
    engine, folder = ReloadingEngine(), _job_folder(tmp_path)

    async def start() -> Any:
        return faults.wrap(await engine.start(), "wrong-weights")

    async def run() -> list[StepDone | SegmentDone]:
        executor = JobExecutor(start)
        await executor.prepare(folder, b"", folder / "start", 0)
        return await _run(executor, folder)

    done = asyncio.run(run())[-1]
    assert isinstance(done, SegmentDone)
    written = bundle.read(folder / "state")
    honest = state_after(4)["n"]
    assert done.state_root_after == bundle.root(written) == engine.loaded
    assert done.state_root_after != bundle.root(state_after(4))
    assert (written["n"] != honest).all(), "more elements than a memory flips in a moment"
    assert np.abs(written["n"] - honest).max() < 1e-6


def test_an_unknown_fault_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="wrong-weights"):
        faults.wrap(FakeEngine(), "typo")


# ---------------------------------------------------------------- calibration


class MeasuredEngine(FakeEngine):
    """Counts how often it is measured; ``admitted`` is the outcome."""

    admitted = True
    deterministic = True
    measured = 0

    async def classification(self) -> dict[str, Any]:
        return await super().classification() | {"deterministic": self.deterministic}

    async def admission(self) -> dict[str, Any]:
        failed = {"name": "fma", "passed": self.admitted, "detail": "two roundings"}
        return {"admitted": self.admitted, "probes": [failed], "digest": "ab" * 32}

    async def benchmark(self) -> dict[str, Any]:
        self.measured += 1
        return BenchmarkResult(dict(RATES), 10**10, 5000, 40_000, 60, {}, 1.0).to_json()


def test_a_device_is_measured_once_for_each_version(tmp_path: Path) -> None:
    engine = MeasuredEngine()

    async def run() -> None:
        executor = JobExecutor(engine.start)
        first = await calibrate(executor, tmp_path, "1")
        assert first.calibration.admission_digest == b"\xab" * 32
        assert (await calibrate(executor, tmp_path, "1")).calibration == first.calibration
        assert engine.measured == 1
        await calibrate(executor, tmp_path, "2")
        assert engine.measured == 2
        for path in tmp_path.iterdir():
            path.write_text(json.dumps({"admission": {}, "benchmark": {"seconds": "?"}}))
        await calibrate(executor, tmp_path, "2")
        assert engine.measured == 3  # what cannot be read is measured again

    asyncio.run(run())


def test_what_another_form_of_benchmark_found_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MeasuredEngine()

    def calibrated() -> None:
        asyncio.run(calibrate(JobExecutor(engine.start), tmp_path, "1"))

    monkeypatch.setattr(calibration, "BENCHMARK_FORMAT", BENCHMARK_FORMAT - 1)
    calibrated()
    calibrated()
    assert engine.measured == 1
    monkeypatch.setattr(calibration, "BENCHMARK_FORMAT", BENCHMARK_FORMAT)
    calibrated()
    assert engine.measured == 2


def test_backoff_doubles_and_stays_between_half_and_whole() -> None:
    low, high = Backoff(lambda: 0.0, 1.0, 8.0), Backoff(lambda: 0.999999, 1.0, 8.0)
    assert [low.next_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert all(high.next_seconds() <= ceiling for ceiling in (1, 2, 4, 8, 8))
    low.reset()
    assert low.next_seconds() == 0.5


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"address": "nonsense"}, "ADDRESS_INVALID"), ({"fault": "lazy"}, "FAULT_UNKNOWN")],
)
def test_bad_options_are_refused_before_a_device_is_touched(
    tmp_path: Path, changes: dict[str, str], code: str
) -> None:
    options = UpOptions(
        address="127.0.0.1:1",
        ca_file=None,
        devices=("no such device",),
        owner=OwnerTerms(1, 0, UnknownPower()),
        work_folder=tmp_path / "work",
        cache_folder=tmp_path / "cache",
        account_key_file=None,
        account_id="",
        key_file=None,
        label="test",
        device_salt="",
        fault="",
        nice=0,
    )
    with pytest.raises(InvalidInput) as refusal:
        asyncio.run(run_worker(replace(options, **changes)))  # type: ignore[arg-type]
    assert refusal.value.code == code
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the link's speed


def test_the_speed_of_the_link_is_the_median_of_its_transfers_and_outlives_the_worker(
    tmp_path: Path,
) -> None:
    path = tmp_path / "link.json"
    speed = LinkSpeed(path)
    assert (speed.download_bytes_per_second, speed.upload_bytes_per_second) == (0, 0)
    speed.note(DOWNLOAD, 1_000, 0.1)  # latency, not speed
    for seconds in (1.0, 2.0, 100.0):
        speed.note(DOWNLOAD, 10**6, seconds)
    speed.note(UPLOAD, 10**6, 4.0)
    assert (speed.download_bytes_per_second, speed.upload_bytes_per_second) == (500_000, 250_000)
    again = LinkSpeed(path)
    assert again.download_bytes_per_second == 500_000
    path.write_text('{"download": "nonsense"}')
    assert LinkSpeed(path).download_bytes_per_second == 0
