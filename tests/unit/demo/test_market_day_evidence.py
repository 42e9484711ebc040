"""Claims about orders and trades, from receipts made by hand: what is wrong is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from flopmarket.client.money import Money
from flopmarket.client.results import JobEvent, JobInfo, JobState
from flopmarket.client.results_prices import Offer, TradeInfo
from flopmarket.demo import market_day_claims as evidence
from flopmarket.demo.claims import Claims
from flopmarket.demo.market_day_claims import Bought
from flopmarket.demo.market_day_jobs import Jobs
from flopmarket.demo.market_day_plan import Planned, Work
from flopmarket.demo.market_day_trading import Purchase
from flopmarket.engine import nn
from flopmarket.jobs.job import InferenceJob
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import JobSpec, class_hex
from flopmarket.market.headline import unit_price_nano
from flopmarket.market.order import Constraints, OrderTerms, OrderType
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.receipt import (
    HOUSE,
    AuditOutcome,
    Outcome,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
)

DEVICE = "ab" * 32
PRICE = 700
STEPS = 2
OFFER = Offer(
    f"{DEVICE[:16]}-{'cd' * 8}", "owner", "cd" * 32, "card", "driver", "FX1", 8 << 30,
    {"dot-f32": 10**9, "elementwise-f32": 10**9}, 10**9, 1, Money(1), 1_000, "declared", Money(0),
    "idle", 1.0, 1.0, 0, 0, "eu-de", 0.0, (), (), 0.0, 0,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    job: PreparedJob
    jobs: Jobs


@pytest.fixture(scope="module")
def stage() -> Stage:
    model = nn.Sequential(nn.Linear(4, 3))
    model.load_state_dict(model.init(5))
    job = InferenceJob(model, np.ones((4, 4), np.float32), batch=2, segment_steps=2).prepare()
    local = run_local(job, "reference")
    return Stage(job, Jobs({Work.SHORT_BATCH: job}, {job.program.digest: local}))


def buy(
    stage: Stage,
    name: int,
    *,
    created: int = 10,
    leased: int | None = 50,
    ended: int = 90,
    asked: Constraints | None = None,
    kind: OrderType = OrderType.LIMIT,
) -> Bought:
    """One job that was leased, computed rightly and paid; never leased where ``leased`` is None."""
    local = stage.jobs.local[stage.job.program.digest]
    order = OrderTerms(kind, asked or Constraints())
    spec = stage.job.spec(
        buyer="buyer", max_price_nano=1_000, deadline_us=100, nonce=bytes([name]) * 16, order=order
    )
    segment = ReceiptSegment(
        0, 0, STEPS, DEVICE, "cd" * 32, local.state_root, local.state_root,
        local.segments[0].outputs_root, bytes([name]) * 32, AuditOutcome.CONFIRMED, HOUSE,
        bytes(32), b"", PRICE, 0,
    )  # fmt: skip
    receipt = build_receipt(
        job_id=bytes([name]) * 32,
        job_spec=encode(spec),
        buyer_account_id="buyer",
        program_digest=spec.program_digest,
        profile=spec.profile,
        mode=spec.mode,
        device_class=class_hex(spec),
        verification=spec.verification,
        data_root=spec.data_root,
        seed=0,
        steps=STEPS,
        outcome=Outcome.CANCELLED if leased is None else Outcome.COMPLETED,
        initial_state_root=local.state_root,
        devices=[] if leased is None else [ReceiptDevice(DEVICE, "cd" * 32, "card", "driver")],
        segments=[] if leased is None else [segment],
        currency="USD",
        ceiling_nano=1_000,
        fee_nano=0 if leased is None else 21,
        coordinator_key=KeyPair.from_seed(b"k" * 32).public,
        submitted_at_us=created,
        ended_at_us=ended,
    )
    info = JobInfo(
        f"{name:02x}" * 32, "", JobState.CANCELLED if leased is None else JobState.SUCCEEDED,
        "inference", created, ended, STEPS, STEPS, STEPS, 2, Money(1_000),
        Money(receipt.invoice_nano), "", (), "", b"", "",
    )  # fmt: skip
    text = f"steps 0 to 2 to card [{DEVICE[:8]}], fence 1"
    events = () if leased is None else (JobEvent(1, leased, "leased", text, None, 0, {}),)
    planned = Planned(1.0, "buyer", Work.SHORT_BATCH)
    purchase = Purchase(planned, info.job_id, Money(1_000))
    return Bought(purchase, info, decode(JobSpec, receipt.job_spec), receipt, events)


def verdicts(check: Callable[[Claims], None]) -> dict[str, bool]:
    claims = Claims()
    check(claims)
    return {row.text.partition(":")[0]: row.holds for row in claims.rows}


def orders(*found: Bought, offer: Offer = OFFER) -> dict[str, bool]:
    return verdicts(lambda c: evidence.check_orders(c, found, {offer.offer_id: offer}))


LEASES = "no lease violates a constraint (owner, region, memory, FLOPS/W)"
TURN = "equal limits are served in the order in which they came"


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (Constraints(allowed_regions=("eu",)), replace(OFFER, region="us-tx")),
        (Constraints(denied_regions=("us-tx",)), replace(OFFER, region="us-tx")),
        (Constraints(denied_owners=("other",)), replace(OFFER, account_id="other")),
        (Constraints(min_memory_bytes=8 << 30), replace(OFFER, memory_bytes=4 << 30)),
        (
            Constraints(work_class="dot-f32", min_flops_per_watt=10**9),
            replace(OFFER, milliwatts=1_001),
        ),
        (
            Constraints(work_class="dot-f32", min_flops_per_watt=10**9),
            replace(OFFER, milliwatts=0),
        ),
    ],
)
def test_a_lease_that_violates_a_constraint_is_seen(
    stage: Stage, asked: Constraints, wrong: Offer
) -> None:
    found = buy(stage, 1, asked=asked)
    assert orders(found)[LEASES]
    assert not orders(found, offer=wrong)[LEASES]


def test_a_lease_of_a_device_that_nobody_saw_is_no_evidence(stage: Stage) -> None:
    found = buy(stage, 1, asked=Constraints(allowed_regions=("eu",)))
    assert not orders(found, offer=replace(OFFER, offer_id="00" * 8 + "-x"))[LEASES]


def test_an_overtaken_order_is_seen(stage: Stage) -> None:
    older, newer = buy(stage, 1, created=10), buy(stage, 2, created=20, leased=60)
    assert orders(older, newer)[TURN]
    assert orders(newer, older)[TURN]
    assert not orders(older, buy(stage, 3, created=20, leased=40))[TURN]
    assert not orders(buy(stage, 4, leased=None, ended=99), newer)[TURN], "never served"


def test_orders_that_did_not_rest_together_say_nothing_of_turns(stage: Stage) -> None:
    older = buy(stage, 1, created=10, leased=15)
    assert not orders(older, buy(stage, 2, created=20))[TURN], "one was served before the other"
    left = buy(stage, 3, created=10, leased=None, ended=40)
    assert not orders(left, buy(stage, 2, created=20))[TURN], "one had left the book"
    other = Constraints(allowed_regions=("eu",))
    assert not orders(buy(stage, 4), buy(stage, 5, created=20, asked=other))[TURN]


def trade_of(stage: Stage, found: Bought) -> TradeInfo:
    work_class = "dot-f32"
    flops = stage.job.program.cost.flops[work_class] * STEPS
    return TradeInfo(
        1, 95, work_class, Money(unit_price_nano(PRICE, flops)), flops, 0.0, Money(PRICE), 0.0,
        "declared", OFFER.offer_id, "card", found.receipt.segments[0].commitment_digest,
    )  # fmt: skip


def test_a_trade_is_derived_from_a_receipt_and_any_other_is_seen(stage: Stage) -> None:
    flops = stage.job.program.cost.flops["dot-f32"] * STEPS
    limit = unit_price_nano(PRICE, flops)
    asked = Constraints(work_class="dot-f32", max_unit_price_nano=limit)
    found = buy(stage, 1, asked=asked)
    right = trade_of(stage, found)

    def held(*trades: TradeInfo, of: Bought = found) -> dict[str, bool]:
        offers = {OFFER.offer_id: OFFER}
        return verdicts(lambda c: evidence.check_trades(c, [of], trades, offers, stage.jobs))

    assert all(held(right).values())
    for wrong in (
        replace(right, price=Money(PRICE + 1)),
        replace(right, flops=right.flops + 1),
        replace(right, per_pflop=Money(right.per_pflop.nano - 1)),
        replace(right, work_class="elementwise-f32"),
        replace(right, commitment_digest=bytes(32)),
        replace(right, offer_id="nobody"),
    ):
        assert not held(wrong)["every trade derives from a receipt"]
    numbered = "every paid segment is one trade, numbered without a gap"
    assert not held()[numbered]
    assert not held(right, right)[numbered]
    assert not held(replace(right, number=2))[numbered]
    over = buy(stage, 1, asked=replace(asked, max_unit_price_nano=limit - 1))
    assert not held(right, of=over)["no segment costs more than its order's limit"]


def test_ends_invoices_and_digests_are_compared(stage: Stage) -> None:
    good = buy(stage, 1)

    def held(found: Bought, closed: bool = True) -> dict[str, bool]:
        return verdicts(lambda c: evidence.check_jobs(c, [found], stage.jobs, closed))

    assert all(held(good).values())
    assert not all(held(good, closed=False).values())
    cheap = replace(good.purchase, ceiling=Money(PRICE - 1))
    assert not held(replace(good, purchase=cheap))["every invoice is at most its quote"]
    other = replace(good.receipt.segments[0], outputs_root=bytes(32))
    forged = replace(good, receipt=replace(good.receipt, segments=(other,)))
    assert not held(forged)["every result has the digest of a run on this machine"]
    failed = replace(good, info=replace(good.info, state=JobState.FAILED, reason="BROKEN"))
    assert not held(failed)["no job failed but by its deadline"]
