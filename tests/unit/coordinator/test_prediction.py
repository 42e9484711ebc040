"""What workers deliver corrects what is predicted: learned when paid, bounded by our own clock."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import sqlalchemy as sa

from flopmarket.limits import MAX_CALIBRATED_PROGRAMS
from flopmarket.market.calibrate import (
    MOST_PPM,
    ONE_PPM,
    PROGRAM,
    PROMISED,
    Factors,
    learn,
    setup_families,
    step_families,
)
from flopmarket.market.order import MARKET_ORDER
from flopmarket.market.quote import Quote
from flopmarket.trust.receipt import verify_receipt
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.application.types_working import Hello, LeaseOffered, TimeReport
from flopmarket_coordinator.core.changes import CalibrationChanged
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.store import prediction, schema, work
from flopmarket_coordinator.store.records import LeaseRow
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import program

STEPS = 12
SEGMENT = 3
INPUT_BYTES = len(b"initial state") + len(b"data")


def quoted(world: World, buyer: Buyer) -> Quote:
    request = QuoteRequest(program().to_bytes(), "", STEPS, SEGMENT)
    return world.see(world.application.quote, request, buyer.account)


def offer_id(worker: Worker) -> str:
    return f"{worker.key.key_id[:16]}-{worker.device_id[:16]}"


def factors(world: World, worker: Worker) -> Factors:
    return world.see(prediction.factors_of, offer_id(worker))


def step_factor(world: World, worker: Worker) -> int:
    """The factor that the next lease of the test's program would get, as the book has it."""
    listing = world.application.keeper.book.listing(offer_id(worker))
    assert listing is not None
    facts = world.application._programs.of_bytes(program().to_bytes())
    return listing.offer.predict(facts.job_work(STEPS, 0)).factor_ppm


def lease_row(world: World, lease: LeaseOffered) -> LeaseRow:
    row = world.see(work.lease, lease.lease_id)
    assert row is not None
    return row


def deliver(
    world: World, worker: Worker, lease: LeaseOffered, slowness: int, *, passed: int | None = None
) -> None:
    """Run a lease whose segments take ``slowness`` times the roofline, by the worker's report and,
    unless ``passed`` says otherwise, by the clock."""
    segment_us = lease_row(world, lease).roofline_picoseconds * SEGMENT // 10**6
    worker.accept(lease)
    for _ in range(lease.step_count // SEGMENT):
        world.now_us += segment_us * (slowness if passed is None else passed)
        commit = worker.commitment(lease, SEGMENT)
        assert worker.send(replace(commit, times=TimeReport(segment_us * slowness))).accepted
    world.audit_all()


def test_a_slow_device_becomes_dearer_and_its_running_lease_keeps_its_terms(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    before = quoted(world, buyer)
    job = buyer.submit()
    (lease,) = world.offers()
    deliver(world, worker, lease, 4)
    billed = buyer.job(job.job_id).billed_nano
    assert billed == before.expected_nano  # frozen, whatever was learned meanwhile
    assert step_factor(world, worker) == 4 * ONE_PPM
    after = quoted(world, buyer)
    assert after.offers[0].forecast.factor_ppm == 4 * ONE_PPM
    assert 3 * before.expected_nano < after.expected_nano <= 4 * before.expected_nano
    world.check()


def test_a_fast_report_lowers_the_devices_own_price(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    before = quoted(world, buyer)
    buyer.submit()
    (lease,) = world.offers()
    segment_us = lease_row(world, lease).roofline_picoseconds * SEGMENT // 10**6
    worker.accept(lease)
    for _ in range(lease.step_count // SEGMENT):
        world.now_us += segment_us
        commit = worker.commitment(lease, SEGMENT)
        worker.send(replace(commit, times=TimeReport(max(1, segment_us // 2))))
    world.audit_all()
    assert step_factor(world, worker) < ONE_PPM
    assert quoted(world, buyer).expected_nano < before.expected_nano


def test_a_report_beyond_the_coordinators_clock_is_not_believed(world: World) -> None:
    """Claims of an hour, made in the time that the work should take, teach nothing."""
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    (lease,) = world.offers()
    deliver(world, worker, lease, 1_000_000, passed=1)
    assert step_factor(world, worker) <= ONE_PPM


def test_what_one_device_delivers_moves_no_other(world: World) -> None:
    buyer, ann = world.buyer(), world.worker("ann", ask=1)
    bob = world.worker("bob", ask=2)
    buyer.submit()
    (lease,) = world.offers()
    assert lease.device_id == ann.device_id
    deliver(world, ann, lease, 10**9)
    assert step_factor(world, ann) == MOST_PPM  # bounded, however absurd
    assert step_factor(world, bob) == ONE_PPM
    assert factors(world, bob) == Factors()


def test_a_worker_that_reports_nothing_teaches_nothing(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    (lease,) = world.offers()
    world.now_us += 10**9
    worker.run(lease)
    world.audit_all()
    assert factors(world, worker) == Factors()
    assert world.see(world.application.accuracy).overall.segments == 0


def test_unverified_work_teaches_nothing(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    worker.lie = lambda step: bytes(32)
    buyer.submit()
    (lease,) = world.offers()
    worker.accept(lease)
    world.now_us += 10**9
    worker.send(replace(worker.commitment(lease, SEGMENT), times=TimeReport(10**9)))
    world.audit_all()
    assert factors(world, worker) == Factors()


def test_accuracy_tells_errors_before_and_after_calibration(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    for name in ("first", "second"):
        buyer.submit(name)
        (lease,) = world.offers()
        deliver(world, worker, lease, 4)
    report = world.see(world.application.accuracy)
    assert report.as_of_us == world.now_us
    assert report.overall.segments == 2 * STEPS // SEGMENT
    assert report.overall.uncalibrated_error_p50_ppm == pytest.approx(750_000, abs=40_000)
    by_device = [row for row in report.rows if row.offer_id]
    assert [row.offer_id for row in by_device] == [offer_id(worker)]
    # The first lease was predicted by the benchmark alone, the second by what the first delivered.
    assert report.overall.error_p50_ppm < 10_000 < report.overall.error_p90_ppm
    of_class = world.see(world.application.accuracy, by_device[0].work_class, offer_id(worker))
    assert of_class.overall.segments == report.overall.segments
    assert world.see(world.application.accuracy, "f64").overall.segments == 0


def test_the_setup_comes_with_the_first_segment_and_is_part_of_the_price(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    terms = replace(worker.terms(), build_milliseconds=100, download_bytes_per_second=1_000)
    worker.terms = lambda: terms  # type: ignore[method-assign]
    worker.hello()
    quote = quoted(world, buyer)
    assert quote.kernel_builds > 0 and quote.build_seconds == quote.kernel_builds / 10
    assert quote.transfer_seconds == pytest.approx(quote.transfer_bytes / 1_000)
    assert quote.transfer_nano + quote.build_nano <= quote.expected_nano
    job = buyer.submit()
    (lease,) = world.offers()
    setup_us = round((quote.transfer_seconds + quote.build_seconds) * 1e6)
    world.now_us += 2 * setup_us
    worker.accept(lease)
    for _ in range(STEPS // SEGMENT):
        world.now_us += 1_000
        commit = worker.commitment(lease, SEGMENT)
        worker.send(replace(commit, times=TimeReport(1_000, 2 * setup_us, 0)))
    world.audit_all()
    assert buyer.job(job.job_id).billed_nano >= quote.expected_nano
    with world.store.connect() as connection:
        rows = connection.execute(
            sa.select(schema.delivery).order_by(schema.delivery.c.segment_id)
        ).mappings()
        measured = [row["setup_measured_us"] for row in rows]
    assert measured == [2 * setup_us, 0, 0, 0]


def test_a_quote_that_waits_for_a_busy_device_says_so(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    idle = quoted(world, buyer)
    assert idle.wait_seconds_p95 == 0 and idle.spread_segments == 0
    buyer.submit()
    (lease,) = world.offers()
    worker.accept(lease)
    busy = quoted(world, buyer)
    assert busy.wait_seconds_p50 > 0
    assert busy.finish_seconds_p50 == pytest.approx(idle.finish_seconds_p50 + busy.wait_seconds_p50)
    assert busy.offers[0].busy_seconds > 0


def test_what_is_remembered_of_a_device_is_bounded(world: World) -> None:
    worker = world.worker("ann")
    scope = offer_id(worker)
    for number in range(MAX_CALIBRATED_PROGRAMS + 10):
        world.now_us += 1
        families = step_families(f"{number:064x}", "dot-f32", 10**9)
        known = world.see(prediction.running, scope, families)
        world.do(prediction.remember, scope, learn(known, families, 2, 1))
    kept = world.see(prediction.factors_of, scope).ppm_by_family
    programs = sorted(family for family in kept if family.startswith(PROGRAM))
    assert len(programs) == MAX_CALIBRATED_PROGRAMS
    assert programs[0] == f"{PROGRAM}{10:064x}"  # the oldest were forgotten


def test_a_market_order_holds_what_its_quote_said(world: World) -> None:
    """Quote, hold and invoice are one function, setup and calibration included."""
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit("teaches")
    (lease,) = world.offers()
    deliver(world, worker, lease, 3)
    request = QuoteRequest(program().to_bytes(), "", STEPS, SEGMENT, input_bytes=INPUT_BYTES)
    quote = world.see(world.application.quote, request, buyer.account)
    job = buyer.submit("second", order=MARKET_ORDER)
    assert job.ceiling_nano == quote.ceiling_nano
    (lease,) = world.offers()
    deliver(world, worker, lease, 7)
    assert buyer.job(job.job_id).billed_nano == quote.expected_nano <= quote.ceiling_nano
    world.check()


def test_a_job_ends_at_the_prices_it_was_quoted_whatever_its_own_segments_teach(
    world: World,
) -> None:
    """Its device turns out forty times slower and gives it back after every segment: the ceiling
    was held for the quote, so the rest of the job is leased at the quote's price."""
    buyer, worker = world.buyer(), world.worker("ann")
    quote = quoted(world, buyer)
    job = buyer.submit(order=MARKET_ORDER)
    for _ in range(STEPS // SEGMENT):
        (lease,) = world.offers()
        assert lease.price == quote.offers[0].terms
        segment_us = lease_row(world, lease).roofline_picoseconds * SEGMENT // 10**6
        worker.accept(lease)
        world.now_us += 40 * segment_us
        commit = worker.commitment(lease, SEGMENT)
        assert worker.send(replace(commit, times=TimeReport(40 * segment_us))).accepted
        world.audit_all()
        if buyer.job(job.job_id).state is JobState.RUNNING:
            worker.release(lease)
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    assert buyer.job(job.job_id).billed_nano <= quote.ceiling_nano == job.ceiling_nano
    # The next job is quoted what was learned, and what a lease expected is the truth all along.
    assert step_factor(world, worker) == MOST_PPM
    after = quoted(world, buyer)
    assert after.expected_nano > 30 * quote.expected_nano
    assert PROMISED not in factors(world, worker).ppm_by_family
    world.check()


def test_an_open_promise_keeps_the_books_bound_below_it(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    first = buyer.submit("first", order=MARKET_ORDER)
    (lease,) = world.offers()
    row = lease_row(world, lease)
    for name in 2 * ("one", "two", "three", "four", program().digest.hex()):
        families = step_families(name, row.work_class, row.roofline_picoseconds)
        known = world.see(prediction.running, offer_id(worker), families)
        world.do(prediction.remember, offer_id(worker), learn(known, families, 4, 1))
    worker.accept(lease)
    world.now_us += 10**6
    commit = worker.commitment(lease, SEGMENT)
    worker.send(replace(commit, times=TimeReport(4 * row.roofline_picoseconds * SEGMENT // 10**6)))
    world.audit_all()
    assert step_factor(world, worker) > 3 * ONE_PPM
    assert factors(world, worker).least_ppm == ONE_PPM  # what the first job was promised
    worker.release(lease)
    live = world.application.keeper.book.listings()
    world.restart()
    assert world.application.keeper.book.listings() == live  # rebuilt from the store, the same
    buyer.cancel(first.job_id)
    assert factors(world, worker).least_ppm > 3 * ONE_PPM


@pytest.mark.parametrize("seed", range(4))
def test_quote_book_lease_invoice_and_receipt_are_one_price(world: World, seed: int) -> None:
    """Devices of any speed, ask, link and history; a job cut into segments of any length."""
    random = Random(seed)
    buyer, workers = world.buyer(), [world.worker(name) for name in ("ann", "bob", "cid")]
    for worker in workers:
        terms = replace(
            worker.terms(),
            ask_nano_per_hour=random.randint(1, 10**9),
            launch_nanoseconds=random.randint(0, 10**6),
            step_nanoseconds=random.randint(0, 10**6),
            build_milliseconds=random.randint(0, 500),
            download_bytes_per_second=random.randint(0, 10**6),
        )
        offered = world.sign(terms, worker.key)
        world.do(world.application.worker_hello, worker.session, Hello("1.0", (offered,), ()))
        scope, program_id = offer_id(worker), program().digest.hex()
        for families in (step_families(program_id, "dot-f32", 1), setup_families(program_id)):
            taught = learn({}, families, random.randint(1, 400), 100)
            world.do(prediction.remember, scope, taught)
        world.do(lambda tx, scope=scope: tx.note(CalibrationChanged(scope)))
    segment = random.randint(1, STEPS)
    request = QuoteRequest(program().to_bytes(), "", STEPS, segment, input_bytes=INPUT_BYTES)
    quote = world.see(world.application.quote, request, buyer.account)
    best = quote.offers[0]
    job = buyer.submit(segment_steps=segment, order=MARKET_ORDER)
    assert job.ceiling_nano == quote.ceiling_nano
    (lease,) = world.offers()
    assert lease.price == best.terms
    (worker,) = (item for item in workers if item.device_id == lease.device_id)
    assert offer_id(worker) == best.offer_id
    worker.run(lease, segment)
    world.audit_all()
    receipt = verify_receipt(
        world.see(world.application.get_receipt, buyer.session, job.job_id), world.key.public
    ).receipt
    assert quote.expected_nano == buyer.job(job.job_id).billed_nano == receipt.invoice_nano
    assert sum(item.price_nano for item in receipt.segments) == receipt.invoice_nano
