"""The outbox of webhooks: what gets in with which change, what happens to failed messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from flopmarket.errors import FlopmarketError
from flopmarket.limits import (
    KEPT_DELIVERIES,
    MAX_PENDING_DELIVERIES,
    MAX_WEBHOOK_ATTEMPTS,
    MAX_WEBHOOK_FAILURES,
    MAX_WEBHOOKS_PER_ACCOUNT,
)
from flopmarket_coordinator.application.types_accounts import DueDelivery, WebhookView
from flopmarket_coordinator.core.webhooks import SUBSCRIBABLE, DeliveryState, retry_pause_us
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import engine, schema
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import DOLLAR

URL = "https://example.org/hook"


def add(world: World, buyer: Buyer, url: str = URL, *events: str) -> WebhookView:
    return world.do(world.application.add_webhook, buyer.session, url, events)


def due(world: World, *busy: str) -> tuple[DueDelivery, ...]:
    return world.see(world.application.due_deliveries, busy, 16)


def done(world: World, delivery: DueDelivery, error: str = "") -> None:
    world.do(world.application.delivery_done, delivery.message_id, error)


def look(world: World, buyer: Buyer) -> WebhookView:
    (view,) = world.see(world.application.list_webhooks, buyer.session)
    return view


def refusal(world: World, run: Any, *arguments: Any) -> str:
    with pytest.raises(FlopmarketError) as caught:
        world.do(run, *arguments)
    return caught.value.code


def test_news_of_a_job_wait_in_the_outbox(world: World) -> None:
    buyer = world.buyer()
    view = add(world, buyer)
    assert view.events == SUBSCRIBABLE and view.enabled
    job = buyer.submit()
    (queued,) = due(world)
    body = json.loads(queued.body)
    assert (queued.url, queued.webhook_id) == (URL, view.webhook_id)
    assert queued.message_id.startswith("msg_")
    assert body["type"] == "job.queued"
    assert body["timestamp_us"] == world.now_us
    assert body["data"]["job_id"] == job.job_id
    assert (body["data"]["state"], body["data"]["billed_nano"]) == ("queued", 0)
    buyer.cancel(job.job_id)
    assert [item.message_id for item in due(world)] == [queued.message_id]  # one at a time
    done(world, queued)
    (cancelled,) = due(world)
    assert json.loads(cancelled.body)["type"] == "job.cancelled"
    assert json.loads(cancelled.body)["data"]["state"] == "cancelled"
    done(world, cancelled)
    assert due(world) == ()
    assert look(world, buyer).delivered_at_us == world.now_us


def test_a_failed_command_announces_nothing(world: World) -> None:
    buyer = world.buyer(money=0)
    add(world, buyer)
    with pytest.raises(FlopmarketError):
        buyer.submit()
    assert due(world) == ()


def test_only_who_asked_is_told(world: World) -> None:
    buyer, other = world.buyer(), world.buyer("other")
    add(world, buyer, URL, "job.failed", "job.succeeded")
    add(world, other)
    buyer.submit()
    assert due(world) == ()


def test_the_end_of_a_job_that_succeeded(world: World) -> None:
    buyer = world.buyer()
    add(world, buyer, URL, "job.succeeded")
    job = buyer.submit()
    worker = world.worker("ann")
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    (message,) = due(world)
    data = json.loads(message.body)["data"]
    assert data["state"] == "succeeded"
    assert data["billed_nano"] == buyer.job(job.job_id).billed_nano > 0


def test_a_failed_message_comes_again_later_and_later(world: World) -> None:
    buyer = world.buyer()
    add(world, buyer)
    buyer.submit()
    (first,) = due(world)
    assert due(world, first.webhook_id) == ()  # it is being sent
    pauses = []
    for attempt in range(1, MAX_WEBHOOK_ATTEMPTS):
        (again,) = due(world)
        assert (again.message_id, again.body) == (first.message_id, first.body)
        done(world, again, "the receiver answered 500")
        assert due(world) == ()
        pauses.append(retry_pause_us(attempt))
        world.now_us += pauses[-1] - 1
        assert due(world) == ()
        world.now_us += 1
    assert pauses == sorted(pauses) and pauses[0] == 5 * SECOND_US
    (last,) = due(world)
    done(world, last, "the receiver answered 500")
    world.now_us += 10**15
    assert due(world) == ()
    view = look(world, buyer)
    assert (view.failures, view.last_error) == (MAX_WEBHOOK_ATTEMPTS, "the receiver answered 500")
    assert view.enabled


def test_too_many_failures_in_a_row_disable_it_and_a_test_enables_it_again(world: World) -> None:
    buyer = world.buyer()
    view = add(world, buyer)
    for number in range(MAX_WEBHOOK_FAILURES):
        assert look(world, buyer).enabled
        buyer.submit(f"job {number}", max_price_nano=DOLLAR)
        message = due(world)[0]
        done(world, message, "TimeoutError")
        world.now_us += retry_pause_us(1) - 1
    disabled = look(world, buyer)
    assert not disabled.enabled
    assert "20 attempts in a row failed" in disabled.disabled_reason
    world.now_us += 10**12
    assert due(world) == ()
    buyer.submit("after", max_price_nano=DOLLAR)
    assert look(world, buyer).pending == disabled.pending  # nothing new is kept for it
    world.do(world.application.test_webhook, buyer.session, view.webhook_id)
    (test,) = due(world)
    assert json.loads(test.body)["type"] == "webhook.test"
    done(world, test)
    healthy = look(world, buyer)
    assert healthy.enabled and healthy.failures == 0 and healthy.disabled_reason == ""
    assert due(world)  # what waited goes out now


def test_a_failed_test_is_not_repeated(world: World) -> None:
    buyer = world.buyer()
    view = add(world, buyer)
    message_id = world.do(world.application.test_webhook, buyer.session, view.webhook_id)
    (test,) = due(world)
    done(world, test, "ConnectError")
    _, outcome = world.see(
        world.application.webhook_outcome, buyer.session, view.webhook_id, message_id
    )
    assert (outcome.state, outcome.error) == (DeliveryState.GIVEN_UP, "ConnectError")
    world.now_us += 10**12
    assert due(world) == ()


def test_an_outcome_that_is_reported_twice_counts_once(world: World) -> None:
    buyer = world.buyer()
    add(world, buyer)
    buyer.submit()
    (message,) = due(world)
    done(world, message)
    done(world, message, "late failure")
    assert look(world, buyer).failures == 0


def test_the_queue_is_bounded(world: World) -> None:
    buyer = world.buyer()
    view = add(world, buyer)
    row = {
        "webhook_id": view.webhook_id,
        "event": "job.queued",
        "body": "{}",
        "state": "pending",
        "attempts": 0,
        "due_at_us": world.now_us,
        "last_error": "",
        "created_at_us": world.now_us,
        "ended_at_us": 0,
    }
    with engine.write(world.store, world.now_us) as tx:
        tx.connection.execute(
            sa.insert(schema.webhook_delivery),
            [row | {"message_id": f"msg_{n}"} for n in range(MAX_PENDING_DELIVERIES)],
        )
    buyer.submit()
    full = look(world, buyer)
    assert full.pending == MAX_PENDING_DELIVERIES
    assert not full.enabled and "messages were waiting" in full.disabled_reason
    assert refusal(world, world.application.test_webhook, buyer.session, view.webhook_id) == (
        "WEBHOOK_QUEUE_FULL"
    )


def test_old_outcomes_are_forgotten(world: World) -> None:
    buyer = world.buyer()
    view = add(world, buyer)
    for _ in range(KEPT_DELIVERIES + 3):
        world.do(world.application.test_webhook, buyer.session, view.webhook_id)
        (test,) = due(world)
        done(world, test)
    with engine.read(world.store, world.now_us) as tx:
        kept = tx.connection.execute(
            sa.select(sa.func.count()).select_from(schema.webhook_delivery)
        ).scalar_one()
    assert kept == KEPT_DELIVERIES


def test_webhooks_belong_to_their_account(world: World) -> None:
    buyer, other = world.buyer(), world.buyer("other")
    view = add(world, buyer)
    application = world.application
    assert refusal(world, application.remove_webhook, other.session, view.webhook_id) == (
        "WEBHOOK_UNKNOWN"
    )
    assert refusal(world, application.test_webhook, other.session, view.webhook_id) == (
        "WEBHOOK_UNKNOWN"
    )
    changed = add(world, buyer, URL, "job.failed")
    assert (changed.webhook_id, changed.events) == (view.webhook_id, ("job.failed",))
    buyer.submit()
    world.do(application.remove_webhook, buyer.session, view.webhook_id)
    assert world.see(application.list_webhooks, buyer.session) == ()
    assert due(world) == ()


def test_what_cannot_be_a_webhook(world: World) -> None:
    buyer = world.buyer()
    run, session = world.application.add_webhook, buyer.session
    assert refusal(world, run, session, "http://example.org/", ()) == "WEBHOOK_URL"
    assert refusal(world, run, session, "https://127.0.0.1/", ()) == "WEBHOOK_ADDRESS"
    assert refusal(world, run, session, URL, ("job.paid",)) == "WEBHOOK_EVENT_UNKNOWN"
    assert refusal(world, run, session, URL, ("webhook.test",)) == "WEBHOOK_EVENT_UNKNOWN"
    for number in range(MAX_WEBHOOKS_PER_ACCOUNT):
        add(world, buyer, f"{URL}/{number}")
    assert refusal(world, run, session, URL, ()) == "TOO_MANY_WEBHOOKS"
