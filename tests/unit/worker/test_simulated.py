"""Compressed clocks, drawn owners, and many cards on one engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from flopmarket.engine import nn
from flopmarket.errors import InvalidInput
from flopmarket.jobs.host import JobRefused, SegmentDone
from flopmarket.jobs.job import InferenceJob
from flopmarket.jobs.prepared import run_local
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.trust.encoding import encode
from flopmarket_worker.compressed_clock import CompressedClock, parse_clock
from flopmarket_worker.offers import Calibration
from flopmarket_worker.simulated_cards import FASTEST_SHARE_PERCENT, SimulatedOwner, draw
from flopmarket_worker.simulated_engine import SharedEngine
from flopmarket_worker.week import ALL_HOURS, Hour

START = 1_700_000_000_000_000


def test_a_compressed_day_goes_through_all_hours_and_on_to_the_next_day() -> None:
    clock = CompressedClock(START, 250)
    assert clock.hour(START - 1) == clock.hour(START) == Hour(0, 0)
    assert clock.hour(START + 249_999) == Hour(0, 0)
    assert clock.hour(START + 23 * 250_000) == Hour(0, 23)
    assert clock.hour(START + 24 * 250_000) == Hour(1, 0)
    assert clock.hour(START + 7 * 24 * 250_000) == Hour(0, 0)


def test_a_clock_is_written_as_it_is_read() -> None:
    assert parse_clock(str(CompressedClock(START, 5_000))) == CompressedClock(START, 5_000)


@pytest.mark.parametrize("text", ["", "1", "1/", "/5000", "1/99", "-1/5000", "1/5000/2", "1/5e3"])
def test_what_is_no_clock_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no clock"):
        parse_clock(text)


def test_owners_follow_from_the_seed_and_differ() -> None:
    def told(owners: tuple[SimulatedOwner, ...]) -> list[object]:
        return [(o.name, o.kind, o.terms.ask_nano_per_hour, o.terms.schedule) for o in owners]

    owners = draw(40, 7)
    assert told(owners) == told(draw(40, 7)) != told(draw(40, 8))
    assert told(draw(10, 7)) == told(owners[:10])
    assert len({owner.name for owner in owners}) == 40
    assert len({owner.terms.region for owner in owners}) > 3
    assert len({owner.kind.name for owner in owners}) > 5
    assert len({owner.card(1, "x").device_id for owner in owners}) == 40


def test_every_owner_has_an_ask_in_every_hour_and_some_ask_differently_at_night() -> None:
    owners = draw(40, 7)
    asks = [
        {owner.terms.formula.nano_per_hour(at, owner.terms.power.read().milliwatts)
         for at in ALL_HOURS}
        for owner in owners if owner.terms.formula is not None
    ]  # fmt: skip
    assert len(asks) == len(owners)
    assert sum(len(each) > 1 for each in asks) > 10
    open_hours = [sum(owner.terms.schedule.is_open(at) for at in ALL_HOURS) for owner in owners]
    assert min(open_hours) > 0
    assert min(open_hours) < max(open_hours) == len(ALL_HOURS)


def test_a_card_is_slower_than_the_engine_by_its_share_and_says_that_it_is_simulated() -> None:
    engine = Calibration(bytes(32), {"dot-f32": 10**10, "f64": 10**9}, 10**10, 100, 1_000, 5)
    for owner in draw(40, 7):
        card, share = owner.calibration(engine), owner.share_percent
        assert 0 < share <= FASTEST_SHARE_PERCENT
        assert card.flops_per_second["dot-f32"] == 10**8 * share
        assert card.launch_nanoseconds >= engine.launch_nanoseconds
        assert "(simulated)" in owner.card(1 << 30, "PoCL").name
        assert owner.card(1 << 30, "PoCL").max_allocation_bytes == 1 << 30


def test_cards_that_take_turns_compute_the_bits_of_a_run_of_their_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    images = np.random.default_rng(1).random((8, 4), np.float32)
    model.load_state_dict(model.init(5))
    job = InferenceJob(model, images, batch=2, segment_steps=2).prepare()
    wanted = run_local(job, "reference")
    spec = job.spec(buyer="local", max_price_nano=0, deadline_us=0, nonce=bytes(16))
    files = job.artifacts()
    for name, file in (("program", PROGRAM_FILE), ("frozen", FROZEN_FILE), ("data", DATA_FILE)):
        (tmp_path / file).write_bytes(files[name])

    async def segment(shared: SharedEngine, first_step: int) -> SegmentDone:
        card = await shared.card(50)
        await card.open(tmp_path, encode(spec))
        await card.load_state(None, first_step)
        outputs = tmp_path / f"outputs-{first_step}"
        events = [e async for e in card.run(first_step, 2, outputs_path=outputs, state_path=None)]
        await card.close_job()
        done = events[-1]
        assert isinstance(done, SegmentDone)
        return done

    async def both() -> list[SegmentDone]:
        shared = SharedEngine("reference", None)
        try:
            return list(await asyncio.gather(segment(shared, 0), segment(shared, 2)))
        finally:
            shared.close()

    found = asyncio.run(both())
    assert [done.outputs_root for done in found] == [s.outputs_root for s in wanted.segments]
    assert all(done.steps_done == 2 and done.run_us > 0 for done in found)


def test_a_failure_of_the_shared_engine_is_sorted_as_an_engine_process_sorts_it() -> None:
    async def attempt() -> None:
        shared = SharedEngine("reference", None)
        try:
            card = await shared.card(50)
            with pytest.raises(JobRefused) as refused:
                await card.admission()
            assert refused.value.code == "ENGINE_COMMAND"
        finally:
            shared.close()

    asyncio.run(attempt())
