"""Disputes through the real coordinator: every planted fault is found where it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from grpc import aio

from flopmarket.cli.main import main
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import default_directory
from flopmarket.errors import InvalidInput, Unavailable
from flopmarket.jobs.host import Engine, EngineProcess
from flopmarket.jobs.operations import StepPlan
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.trust.dispute import DisputeWaits
from flopmarket.trust.dispute_documents import NOWHERE, Level, Outcome, Reason
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.transcript import payload_digest, seal_move
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_disputes import DisputeMove
from flopmarket_coordinator.config import ListenAddress
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.store import disputes, identity, jobs, penalties
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_worker.faults import wrap
from flopmarket_worker.lying import LIES
from tests.integration.coordinator.disputed import Scene, lied, scene
from tests.integration.coordinator.engines import InProcessEngine
from tests.integration.coordinator.market import FAST, Person, eventually, running_market
from tests.unit.jobs.disputes import mlp_job

STEPS = 3
JOB = replace(mlp_job(steps=STEPS), segment_steps=STEPS, checkpoint_segments=1)
LONG = replace(mlp_job(steps=2 * STEPS), segment_steps=STEPS, checkpoint_segments=1)


class OnlyDisputes(InProcessEngine):
    """The house's engine, which has no time to recompute segments before a dispute ends."""

    async def open(self, folder: Path, spec: bytes) -> None:
        raise Unavailable("busy with disputes", code="ENGINE_BUSY")


async def only_disputes() -> InProcessEngine:
    return OnlyDisputes()


QUICK = replace(FAST, dispute_waits=DisputeWaits(answer_us=3_000_000))


def play(
    folder: Path,
    story: Callable[[Scene], Awaitable[None]],
    job: PreparedJob = JOB,
    **config: Any,
) -> None:
    async def run() -> None:
        options = {"audit": False, **config}
        async with (
            asyncio.timeout(120),
            running_market(folder, **options) as market,
            scene(market, folder, job) as built,
        ):
            await story(built)

    asyncio.run(run())


@pytest.mark.parametrize("fault", LIES)
def test_a_planted_fault_is_found_at_its_step_operation_and_tile(
    tmp_path: Path, fault: str
) -> None:
    async def story(built: Scene) -> None:
        liar = await built.worker("liar", built.liar(fault))
        (row,) = await built.committed(liar)
        honest = await built.worker("honest", built.honest)
        honest.start()
        right = await built.claim(row, honest.key)
        assert (row.root_after, row.outputs_root) != (right.state_root_after, right.outputs_root)
        ended = await built.ended(await built.dispute(row, right, honest))
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_VALUE)
        found = await built.explained(ended.dispute_id)
        assert (found.verdict.step, found.verdict.operation) == built.liars[0].places[0]
        assert found.verdict.auditor_wrong_bits == 0 < found.verdict.producer_wrong_bits
        plan = StepPlan(JOB.program).operations[found.verdict.operation]
        if fault == "wrong-tile":
            assert found.verdict.tile == plan.layout.count - 1
        if fault == "flipped-bit":
            assert found.verdict.producer_wrong_bits == 1
            assert len(found.elements) == 1
        assert (await built.segment(row.segment_id)).state is SegmentState.REJECTED
        key = await built.query(lambda tx: identity.key(tx, liar.key.key_id))
        # One flipped bit that honest work followed is a strike; saved work costs the stake.
        assert key.revoked == (fault != "flipped-bit")

    play(tmp_path, story, audit=True, start_engine=only_disputes)


@pytest.mark.parametrize("fault", ["wrong-tile", "wrong-data-row"])
def test_parties_replay_on_a_real_device(tmp_path: Path, fault: str) -> None:
    """Steps run on OpenCL, in engine processes; what they say meets the referee's arithmetic."""
    device = devices.find(None).index_name

    async def start() -> Engine:
        return await EngineProcess.start(device, cache_dir=default_directory())

    async def story(built: Scene) -> None:
        liar = await built.worker("liar", built.liar(fault, start=start))
        (row,) = await built.committed(liar)
        honest = await built.worker("honest", start)
        honest.start()
        right = await built.claim(row, honest.key)
        ended = await built.ended(await built.dispute(row, right, honest))
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_VALUE)
        found = await built.explained(ended.dispute_id)
        assert (found.verdict.step, found.verdict.operation) == built.liars[0].places[0]
        assert found.verdict.auditor_wrong_bits == 0

    play(tmp_path, story)


@pytest.mark.parametrize("fault", ["wrong-op", "flipped-bit", "skipped-step"])
def test_who_denies_what_it_did_loses_by_its_own_list(tmp_path: Path, fault: str) -> None:
    async def story(built: Scene) -> None:
        liar = await built.worker("liar", built.liar(fault, consistent=False))
        (row,) = await built.committed(liar)
        honest = await built.worker("honest", built.honest)
        honest.start()
        ended = await built.ended(
            await built.dispute(row, await built.claim(row, honest.key), honest)
        )
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_END)
        assert (await built.explained(ended.dispute_id)).verdict.step == NOWHERE

    play(tmp_path, story)


@pytest.mark.parametrize("fault", ["stale-state", "lower-precision"])
def test_a_lying_auditor_loses_against_an_honest_worker(tmp_path: Path, fault: str) -> None:
    """The disputed segment is the second: both replay from the checkpoint before it."""

    async def story(built: Scene) -> None:
        honest = await built.worker("honest", built.honest)
        rows = await built.committed(honest)
        liar = await built.worker("liar", built.liar(fault))
        liar.start()
        lie = lied(fault, STEPS)
        wrong = await built.claim(rows[1], liar.key, lie)
        ended = await built.ended(await built.dispute(rows[1], wrong, liar))
        assert (ended.outcome, ended.reason) == (Outcome.AUDITOR_WRONG, Reason.WRONG_VALUE)
        found = await built.explained(ended.dispute_id)
        assert (found.verdict.step, found.verdict.operation) == lie.place
        assert found.verdict.producer_wrong_bits == 0 < found.verdict.auditor_wrong_bits
        assert (await built.segment(rows[1].segment_id)).state is not SegmentState.REJECTED

    play(tmp_path, story, LONG)


def test_both_wrong_both_pay(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        first = await built.worker("first", built.liar("wrong-op"))
        (row,) = await built.committed(first)
        second = await built.worker("second", built.liar("lower-precision"))
        second.start()
        claim = await built.claim(row, second.key, lied("lower-precision", STEPS))
        ended = await built.ended(await built.dispute(row, claim, second))
        assert (ended.outcome, ended.reason) == (Outcome.BOTH_WRONG, Reason.WRONG_VALUE)
        assert (await built.segment(row.segment_id)).state is SegmentState.REJECTED

    play(tmp_path, story)


@pytest.mark.parametrize("fault", ["flipped-bit", "wrong-data-row", ""])
def test_the_house_against_a_worker(tmp_path: Path, fault: str) -> None:
    """The house answers with an engine of its own; an honest worker never loses against it."""

    async def story(built: Scene) -> None:
        start = built.liar(fault) if fault else built.honest
        worker = await built.worker("worker", start)
        coordinator = built.market.coordinator
        (row,) = await built.committed(worker)
        key = coordinator.directory.key
        evaluate = {"evaluate": lied("wrong-op", STEPS)} if not fault else {}
        house = await built.claim(row, key, **evaluate)
        ended = await built.ended(await built.dispute(row, house, None))
        if fault:
            assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_VALUE)
            found = await built.explained(ended.dispute_id)
            assert (found.verdict.step, found.verdict.operation) == built.liars[0].places[0]
        else:
            # The house's engine is honest now, so its earlier claim is not what it can show.
            assert (ended.outcome, ended.reason) == (Outcome.AUDITOR_WRONG, Reason.WRONG_END)
            again = await built.segment(row.segment_id)  # it has to compute the segment once more
            assert (again.state, again.house_task) == (SegmentState.COMMITTED, "recompute")

    play(tmp_path, story, audit=True, start_engine=only_disputes)


@pytest.mark.parametrize("fault", ["flipped-bit", "wrong-op-denied", ""])
def test_what_the_houses_own_audit_finds_its_worker_answers_for(tmp_path: Path, fault: str) -> None:
    """The house recomputes what was committed, disputes it, and no dispute meets honest work."""

    async def story(built: Scene) -> None:
        name = fault.removesuffix("-denied")
        consistent = name == fault
        start = built.liar(name, consistent=consistent) if fault else built.honest
        worker = await built.worker("worker", start)
        (row,) = await built.committed(worker)

        async def decided() -> bool:
            state = (await built.segment(row.segment_id)).state
            return state is not SegmentState.COMMITTED

        await eventually(decided, 60.0)
        segment = await built.segment(row.segment_id)
        if not fault:
            assert segment.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
            return
        assert (segment.state, segment.reason) == (SegmentState.REJECTED, "STATE_DIFFERS")
        views = await built.query(
            lambda tx: built.market.coordinator.backend.application.list_disputes(
                tx, _session(built.buyer.account_id), 10, ""
            )
        )
        (view,) = views.disputes
        reason = Reason.WRONG_VALUE if consistent else Reason.WRONG_END
        assert (view.row.outcome, view.row.reason) == (Outcome.PRODUCER_WRONG, reason)
        assert (await built.explained(view.row.dispute_id)).verdict.reason is reason
        key = await built.query(lambda tx: identity.key(tx, worker.key.key_id))
        assert key.revoked == (fault != "flipped-bit")

    parameters = replace(FAST, house_disputes=True)
    play(tmp_path, story, audit=True, parameters=parameters)


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("flipped-memory", "after step"),
        ("flipped-memory-late", "after step"),
        ("flipped-memory-end", "after step"),
        ("flipped-output", "of output loss in step"),
    ],
)
@pytest.mark.parametrize("by_house", [True, False])
def test_a_bit_that_flipped_once_is_shown_by_what_was_kept(
    tmp_path: Path, fault: str, place: str, by_house: bool
) -> None:
    """Run again, the segment ends right: the worker loses, and keeps its stake."""

    async def story(built: Scene) -> None:
        async def unlucky() -> Engine:
            return wrap(await built.honest(), fault)

        worker = await built.worker("worker", unlucky)
        (row,) = await built.committed(worker)
        honest = await built.worker("honest", built.honest)
        if by_house:
            dispute_id = await built.house_dispute(row)
        else:
            honest.start()
            right = await built.claim(row, honest.key)
            dispute_id = await built.dispute(row, right, honest)
        ended = await built.ended(dispute_id)
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_END)
        assert (await built.segment(row.segment_id)).state is SegmentState.REJECTED
        key = await built.query(lambda tx: identity.key(tx, worker.key.key_id))
        assert not key.revoked
        kinds = await built.query(lambda tx: penalties.strikes(tx, [worker.key.key_id], -1))
        assert [item.kind for item in kinds] == [StrikeKind.FLIP]
        events = await built.query(lambda tx: jobs.events(tx, row.job_id, 0, 100))
        (text,) = [event.text for event in events if "flipped in memory" in event.text]
        assert place in text and "no work was saved" in text
        assert (await built.explained(dispute_id)).verdict.reason is Reason.WRONG_END

    play(tmp_path, story, audit=True, start_engine=only_disputes)


@pytest.mark.parametrize("fault", ["skipped-step-denied", "wrong-weights"])
def test_a_cheat_that_denies_is_not_excused(tmp_path: Path, fault: str) -> None:
    async def story(built: Scene) -> None:
        async def liar() -> Engine:
            return wrap(await built.honest(), fault)

        worker = await built.worker("liar", liar)
        (row,) = await built.committed(worker)
        honest = await built.worker("honest", built.honest)
        honest.start()
        right = await built.claim(row, honest.key)
        ended = await built.ended(await built.dispute(row, right, honest))
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_END)
        key = await built.query(lambda tx: identity.key(tx, worker.key.key_id))
        assert key.revoked

    play(tmp_path, story, audit=True, start_engine=only_disputes)


def _session(account_id: str) -> Session:
    return Session(account_id, "", KeyRole.OWNER, 2**62)


def test_a_restart_in_the_middle_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(120):
            async with running_market(tmp_path, audit=False) as market:
                built = Scene(market, tmp_path, JOB)
                liar = await built.worker("liar", built.liar("wrong-tile"))
                (row,) = await built.committed(liar)
                honest = await built.worker("honest", built.honest)
                right = await built.claim(row, honest.key)
                dispute_id = await built.dispute(row, right, honest)

                async def half() -> bool:
                    rows = await built.query(lambda tx: _moves(tx, dispute_id))
                    return rows == 1

                await eventually(half, 30.0)
                host, _, port = market.coordinator.address.rpartition(":")
                listen = ListenAddress(host, int(port))
            # The honest party comes only now, and the first list is not asked for again.
            async with running_market(tmp_path, audit=False, listen=listen) as again:
                built.market = again
                honest.start()
                ended = await built.ended(dispute_id)
                assert ended.outcome == Outcome.PRODUCER_WRONG
                assert ended.asked_again >= 1
                await built.close()

    asyncio.run(run())


def _moves(tx: Transaction, dispute_id: str) -> int:
    return len(disputes.moves(tx, dispute_id))


@pytest.mark.parametrize("signed", [True, False])
def test_garbage_loses_at_once_and_what_is_unsigned_is_nobodys_word(
    tmp_path: Path, signed: bool
) -> None:
    """A signed list that is none loses; bytes beside a signature for others are not taken, so
    their sender is silent."""

    async def story(built: Scene) -> None:
        honest = await built.worker("honest", built.honest)
        (row,) = await built.committed(honest)
        fool = await built.worker("fool", built.honest)
        claim = await built.claim(row, fool.key, lied("wrong-op", STEPS))
        dispute_id = await built.dispute(row, claim, fool)
        opened = await built.query(lambda tx: disputes.get(tx, dispute_id))
        rubbish = b"no list at all"
        list_digest = payload_digest(rubbish if signed else b"something else")
        envelope = seal_move(
            opened.question, Level.STEPS, list_digest, fool.key, bytes(16), opened.opened_at_us
        )
        session = Session(fool.person.account_id, fool.key.key_id, KeyRole.DEVICE, 2**62)
        backend = built.market.coordinator.backend
        move = DisputeMove(dispute_id, envelope, rubbish, "")

        def sent() -> Awaitable[None]:
            return backend.command(lambda tx: backend.application.dispute_moved(tx, session, move))

        if signed:
            await sent()
        else:
            with pytest.raises(InvalidInput, match="not the one that was signed"):
                await sent()
        ended = await built.ended(dispute_id)
        reason = Reason.MALFORMED if signed else Reason.SILENT
        assert (ended.outcome, ended.reason) == (Outcome.AUDITOR_WRONG, reason)

    play(tmp_path, story, parameters=QUICK)


def test_long_lists_are_uploaded_and_people_read_the_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flopmarket_worker.disputing.MAX_INLINE_DISPUTE_BYTES", 100)

    async def story(built: Scene) -> None:
        liar = await built.worker("liar", built.liar("lower-precision"))
        (row,) = await built.committed(liar)
        honest = await built.worker("honest", built.honest)
        honest.start()
        right = await built.claim(row, honest.key)
        ended = await built.ended(await built.dispute(row, right, honest))
        assert (ended.outcome, ended.reason) == (Outcome.PRODUCER_WRONG, Reason.WRONG_VALUE)
        with pytest.raises(aio.AioRpcError):  # a stranger reads nothing
            stranger = await Person(built.market).join("stranger")
            await built.transcript(stranger, ended.dispute_id)
        await asyncio.to_thread(_read_as_people_do, built, ended.dispute_id, tmp_path)

    play(tmp_path, story)


def _read_as_people_do(built: Scene, dispute_id: str, folder: Path) -> None:
    key_file = folder / "buyer.pem"
    built.buyer.key.save(key_file)
    connection = ["--address", built.market.coordinator.address, "--key", str(key_file)]

    def flop(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    (listed,) = flop("dispute", "list", "--json", *connection).splitlines()
    assert json.loads(listed)["dispute_id"] == dispute_id
    assert json.loads(listed)["roles"] == ["buyer"]
    file = folder / "x.dispute"
    flop("dispute", "fetch", dispute_id[:12], "-o", str(file), *connection)
    assert "producer-wrong (DISPUTE_WRONG_VALUE)" in flop("dispute", "replay", str(file))
    for shown in (
        flop("dispute", "show", str(file)),
        flop("dispute", "show", dispute_id, *connection),
    ):
        for words in ("list of operations", "what follows", "DOT", "recomputed", "segment 0"):
            assert words in shown


def test_silence_loses_after_the_deadline(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        honest = await built.worker("honest", built.honest)
        (row,) = await built.committed(honest)
        silent = await built.worker("silent", built.honest)
        claim = await built.claim(row, silent.key, lied("wrong-op", STEPS))
        ended = await built.ended(await built.dispute(row, claim, silent))
        assert (ended.outcome, ended.reason) == (Outcome.AUDITOR_WRONG, Reason.SILENT)
        assert (await built.explained(ended.dispute_id)).verdict.reason is Reason.SILENT

    play(tmp_path, story, parameters=QUICK)
