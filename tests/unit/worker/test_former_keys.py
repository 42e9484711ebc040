"""Keys that a machine's rotations have left: which ones it still answers with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_FORMER_KEYS
from flopmarket.trust.dispute_documents import DisputeMove
from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.key_identity import kept_key_files, next_key_path, replace_key_file
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import worker_pb2
from flopmarket.wire import envelope_from_proto
from flopmarket_worker.disputing import DisputeDesk, read_question
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.offers import OwnerTerms
from flopmarket_worker.signing import Sealer, random_nonce, wall_clock_us
from flopmarket_worker.telemetry.ports import DeclaredPower
from flopmarket_worker.up import UpOptions, former_keys, load_credentials
from tests.fuzz.disputes import COORDINATOR_OF_WORK, PRODUCER, asked_seeds

ACCOUNT = "a" * 64


def rotated(path: Path, times: int) -> list[KeyPair]:
    """All keys of a machine, oldest first; the last one lies in ``path``."""
    keys = [KeyPair.generate()]
    keys[0].save(path)
    for _ in range(times):
        keys.append(KeyPair.generate())
        replace_key_file(path, keys[-1], ACCOUNT, KeyRole.DEVICE)
    return keys


def options(folder: Path) -> UpOptions:
    return UpOptions(
        address="127.0.0.1:1",
        ca_file=None,
        devices=(),
        owner=OwnerTerms(20_000_000, 0, DeclaredPower(65_000)),
        work_folder=folder,
        cache_folder=folder,
        account_key_file=None,
        account_id=ACCOUNT,
        key_file=None,
        label="",
        device_salt="",
        fault="",
        nice=0,
    )


def test_a_machine_answers_with_every_key_it_had(tmp_path: Path) -> None:
    *former, present = rotated(tmp_path / "device.pem", 3)
    credentials = load_credentials(options(tmp_path))
    assert (credentials.device.key_id, credentials.finishing) == (present.key_id, False)
    assert {key.key_id for key in credentials.former} == {key.key_id for key in former}


def test_a_machine_of_one_key_has_no_other(tmp_path: Path) -> None:
    rotated(tmp_path / "device.pem", 0)
    assert load_credentials(options(tmp_path)).former == ()


def test_what_rotations_did_not_leave_is_no_former_key(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    before, _ = rotated(path, 1)
    KeyPair.generate().save(next_key_path(path))
    KeyPair.generate().save(tmp_path / "device.01234567.pem")
    KeyPair.generate().save(tmp_path / f"other.{before.key_id[:8]}.pem")
    (tmp_path / "device.readable.pem").write_text("no key")
    assert [key.key_id for key in former_keys(path)] == [before.key_id]


def test_only_the_newest_ones_are_kept_in_mind(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    keys = rotated(path, MAX_FORMER_KEYS + 2)
    assert len(kept_key_files(path)) == MAX_FORMER_KEYS + 2
    found = former_keys(path)
    assert len(found) == MAX_FORMER_KEYS and keys[-2].key_id in {key.key_id for key in found}


class _Tracer:
    """An engine and its files, as far as a dispute's first list needs them."""

    async def start(self) -> Any:
        return self

    async def stop(self) -> None:
        return

    async def trace_open(self, folder: Path, spec: bytes, begin: object) -> None:
        assert folder.is_dir()

    async def trace_answer(self, question: object, path: Path) -> None:
        path.write_bytes(b"a list")

    async def fetch(self, *_: object, **__: object) -> None:
        return

    download = fetch


def question() -> worker_pb2.DisputeAsked:
    """Asked of ``PRODUCER``."""
    return worker_pb2.DisputeAsked.FromString(asked_seeds()["question"])


def test_a_question_to_a_former_key_is_the_machines() -> None:
    present, audience = KeyPair.generate(), COORDINATOR_OF_WORK.key_id
    read_question(question(), audience, present, PRODUCER)
    with pytest.raises(InvalidInput, match="another key's"):
        read_question(question(), audience, present)


def test_moves_are_signed_by_the_key_that_committed(tmp_path: Path) -> None:
    said: list[worker_pb2.DisputeMoved] = []
    tracer: Any = _Tracer()
    journal = Journal(tmp_path / "leases")

    async def answer() -> None:
        desk = DisputeDesk(
            tmp_path / "disputes",
            (KeyPair.generate(), PRODUCER),
            {"d" * 64: JobExecutor(tracer.start)},
            tracer,
            said.append,
            wall_clock_us,
            journal.openings(wall_clock_us),
            journal.checksum_lists(wall_clock_us),
        )
        sealer = Sealer(COORDINATOR_OF_WORK.key_id, wall_clock_us, random_nonce)
        await desk.hear(question(), sealer)
        await desk.stop()

    asyncio.run(answer())
    (moved,) = said
    assert moved.payload == b"a list"
    body = open_envelope(
        envelope_from_proto(moved.move),
        DisputeMove,
        keys=keys_by_id(PRODUCER.public),
        audience=COORDINATOR_OF_WORK.key_id,
        now_us=None,
        replay=None,
    ).body
    assert body.dispute_id.hex() == question().dispute_id
