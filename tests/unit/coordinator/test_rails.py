"""One contract for every payment rail, and what only one of them can get wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.trust.documents import Deposit, DepositTarget, WithdrawalDecision
from flopmarket.trust.envelope import Envelope, open_envelope, seal
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.artifacts import ArtifactStore
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.payments import (
    MoneyArrived,
    Notice,
    PaymentRail,
    PayoutDecided,
    RailMessage,
)
from flopmarket_coordinator.payments_http import PATH, serve_payments
from flopmarket_coordinator.rails import (
    SIGNATURE_HEADER,
    OperatorRail,
    WebhookRail,
    answer_webhook,
)
from flopmarket_coordinator.tick import Tick
from tests.unit.coordinator.world import World

NOW_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
OPERATOR = KeyPair.from_seed(b"o" * 32)
SECRET = b"s" * 32
ARRIVED = MoneyArrived("", "r1", "acc", DepositTarget.AVAILABLE, 12_500_000_000, "USD", "wire 7")
PAID = PayoutDecided("", "w1", True, "wire 8", b"")


class Sender(Protocol):
    """Whoever is at the other end of a rail."""

    def rail(self, now_us: int = NOW_US) -> PaymentRail: ...

    def send(self, notice: Notice, *, at_us: int = NOW_US) -> RailMessage: ...

    def damage(self, message: RailMessage) -> RailMessage:
        """Another amount, under the signature that was made."""
        ...


@dataclass
class Operator:
    key: KeyPair = OPERATOR

    def rail(self, now_us: int = NOW_US) -> PaymentRail:
        def open_signed(envelope: Envelope, body_type: type[Any]) -> tuple[Any, str]:
            opened = open_envelope(
                envelope, body_type, keys={OPERATOR.key_id: OPERATOR.public}, audience="c",
                now_us=now_us, replay=None,
            )  # fmt: skip
            return opened.body, opened.key_id

        return OperatorRail(open_signed)

    def send(self, notice: Notice, *, at_us: int = NOW_US) -> RailMessage:
        if isinstance(notice, PayoutDecided):
            body: Any = WithdrawalDecision(notice.withdrawal_id, notice.paid, notice.reference)
        else:
            body = Deposit(
                notice.account_id, notice.target, notice.amount_nano, notice.currency,
                notice.reference, notice.request_id,
            )  # fmt: skip
        sealed = seal(
            body, self.key, audience="c", nonce=bytes(16), issued_at_us=at_us,
            expires_at_us=at_us + 300 * SECOND_US,
        )  # fmt: skip
        return RailMessage(sealed.to_bytes())

    def damage(self, message: RailMessage) -> RailMessage:
        amount = ARRIVED.amount_nano.to_bytes(8, "big")
        return RailMessage(message.body.replace(amount, (9 * 10**18).to_bytes(8, "big")))


@dataclass
class Provider:
    secret: bytes = SECRET

    def rail(self, now_us: int = NOW_US) -> PaymentRail:
        return WebhookRail("bank", SECRET)

    def send(self, notice: Notice, *, at_us: int = NOW_US) -> RailMessage:
        if isinstance(notice, PayoutDecided):
            value: dict[str, Any] = {
                "kind": "payout",
                "withdrawal_id": notice.withdrawal_id,
                "paid": notice.paid,
                "reference": notice.reference,
            }
        else:
            value = {
                "kind": "deposit",
                "request_id": notice.request_id,
                "account_id": notice.account_id,
                "amount": "12.5",
                "currency": notice.currency,
                "reference": notice.reference,
            }
        return self.signed(json.dumps(value).encode(), at_us)

    def signed(self, body: bytes, at_us: int = NOW_US) -> RailMessage:
        header = WebhookRail("bank", self.secret).sign(body, at_us)
        return RailMessage(body, {SIGNATURE_HEADER: header})

    def damage(self, message: RailMessage) -> RailMessage:
        return RailMessage(message.body.replace(b"12.5", b"92.5"), message.headers)


SENDERS: list[Callable[..., Sender]] = [Operator, Provider]


@pytest.fixture(params=SENDERS, ids=["operator", "webhook"])
def sender(request: pytest.FixtureRequest) -> Sender:
    made: Sender = request.param()
    return made


# --- the contract ---------------------------------------------------------------------------------


def test_a_payment_is_heard_as_it_was_sent(sender: Sender) -> None:
    heard = sender.rail().notice(sender.send(ARRIVED), NOW_US)
    assert isinstance(heard, MoneyArrived) and heard.origin
    fields = ("request_id", "account_id", "target", "amount_nano", "currency", "reference")
    assert all(getattr(heard, name) == getattr(ARRIVED, name) for name in fields)


def test_a_payout_is_heard_with_its_evidence(sender: Sender) -> None:
    message = sender.send(PAID)
    heard = sender.rail().notice(message, NOW_US)
    assert isinstance(heard, PayoutDecided) and heard.evidence == message.body
    assert (heard.withdrawal_id, heard.paid, heard.reference) == ("w1", True, "wire 8")


def test_hearing_it_again_names_the_same_payment(sender: Sender) -> None:
    """So that it moves money once: the transfer's id comes from origin and request id."""
    rail, message = sender.rail(), sender.send(ARRIVED)
    later = sender.send(ARRIVED, at_us=NOW_US + SECOND_US)
    assert rail.notice(message, NOW_US) == rail.notice(message, NOW_US + SECOND_US)
    assert rail.notice(message, NOW_US) == rail.notice(later, NOW_US)


def test_a_changed_message_is_refused(sender: Sender) -> None:
    message = sender.send(ARRIVED)
    damaged = sender.damage(message)
    assert damaged.body != message.body
    with pytest.raises(FlopmarketError):
        sender.rail().notice(damaged, NOW_US)


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_old_message_and_one_of_the_future_are_refused(sender: Sender, hours: int) -> None:
    at_us = NOW_US + hours * 3_600 * SECOND_US
    with pytest.raises(FlopmarketError):
        sender.rail().notice(sender.send(ARRIVED, at_us=at_us), NOW_US)


@pytest.mark.parametrize("stranger", [Operator(KeyPair.from_seed(b"x" * 32)), Provider(b"x" * 32)])
def test_a_message_of_somebody_else_is_refused(stranger: Sender) -> None:
    with pytest.raises(FlopmarketError) as error:
        stranger.rail().notice(stranger.send(ARRIVED), NOW_US)
    assert error.value.exit_code == 3


def test_garbage_is_refused(sender: Sender) -> None:
    for body in (b"", b"{}", b"\x00" * 100, b"[" * 20_000):
        with pytest.raises(FlopmarketError):
            sender.rail().notice(RailMessage(body), NOW_US)


# --- the webhook ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b'{"kind": "refund"}',
        b'{"kind": "deposit", "request_id": "r", "account_id": "a", "amount": -1}',
        b'{"kind": "deposit", "request_id": "r", "account_id": "a", "amount": "-1",'
        b' "currency": "USD", "reference": "x"}',
        b'{"kind": "deposit", "request_id": "r", "account_id": "a", "amount": "0",'
        b' "currency": "USD", "reference": "x"}',
        b'{"kind": "deposit", "request_id": "r", "account_id": "a", "amount": "1e9",'
        b' "currency": "USD", "reference": "x"}',
        b'{"kind": "deposit", "request_id": "r", "account_id": "a", "amount": "9999999999",'
        b' "currency": "USD", "reference": "x"}',
        b'{"kind": "deposit", "request_id": "", "account_id": "a", "amount": "1",'
        b' "currency": "USD", "reference": "x"}',
        b'{"kind": "payout", "withdrawal_id": "w", "paid": "yes", "reference": "x"}',
        b'{"kind": "payout", "withdrawal_id": "w", "paid": true, "reference": "\\ud800"}',
        b'{"kind": "payout", "withdrawal_id": "w\\u0000", "paid": true, "reference": "x"}',
    ],
)
def test_a_signed_body_that_says_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        Provider().rail().notice(Provider().signed(body), NOW_US)


@pytest.mark.parametrize("header", ["", "v1=00", "t=x,v1=00", "t=1700000000", "t=1700000000,v1=é"])
def test_headers_that_sign_nothing_are_refused(header: str) -> None:
    message = Provider().send(ARRIVED)
    with pytest.raises(FlopmarketError) as error:
        Provider().rail().notice(RailMessage(message.body, {SIGNATURE_HEADER: header}), NOW_US)
    assert error.value.exit_code == 3


def test_a_short_secret_and_a_long_body_are_refused() -> None:
    with pytest.raises(InvalidInput):
        WebhookRail("bank", b"short")
    with pytest.raises(InvalidInput):
        Provider().rail().notice(Provider().signed(b"x" * 20_000), NOW_US)


def test_answers_tell_the_provider_whether_to_try_again() -> None:
    message = Provider().send(ARRIVED)
    headers = {"Flopmarket-Signature": message.headers[SIGNATURE_HEADER]}

    async def fine(notice: Notice) -> str:
        return "t1"

    async def busy(notice: Notice) -> str:
        raise Conflict("no", code="REQUEST_ID_REUSED")

    def answer(apply: Any, body: bytes = message.body) -> tuple[int, Any]:
        found = asyncio.run(answer_webhook(Provider().rail(), apply, headers, body, NOW_US))
        return found.status, json.loads(found.body)

    assert answer(fine) == (200, {"transfer_id": "t1"})
    assert answer(busy) == (409, {"code": "REQUEST_ID_REUSED", "message": "no"})
    assert answer(fine, b"{}")[0] == 401


def test_payments_reach_a_running_coordinator(world: World) -> None:
    """Over HTTP, through the tick, into the ledger; sent twice, counted once."""
    buyer = world.buyer(money=0)
    provider = Provider()
    body = json.dumps(
        {"kind": "deposit", "request_id": "p1", "account_id": buyer.account, "amount": "2.5",
         "currency": "USD", "reference": "card 4242"}
    ).encode()  # fmt: skip

    def post(
        port: int, body: bytes, path: str = PATH, sign: bool = True, length: str = ""
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        message = provider.signed(body, world.now_us)
        headers = dict(message.headers) if sign else {}
        if length:
            headers["content-length"] = length
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    async def scenario() -> list[tuple[int, Any]]:
        tick = Tick(world.store, lambda: world.now_us)
        await tick.start()
        artifacts: ArtifactStore = None  # type: ignore[assignment]  # no payment touches them
        backend = Backend(world.application, tick, artifacts, lambda: world.now_us)
        loop = asyncio.get_running_loop()
        port, stop = serve_payments("127.0.0.1", 0, provider.rail(), backend, loop)
        unknown = body.replace(buyer.account.encode(), b"nobody")
        try:
            return [
                await asyncio.to_thread(post, port, body),
                await asyncio.to_thread(post, port, body),
                await asyncio.to_thread(post, port, body, PATH, False),
                await asyncio.to_thread(post, port, unknown),
                await asyncio.to_thread(post, port, body, "/elsewhere"),
                await asyncio.to_thread(post, port, b"x" * 20_000),
                # Digits to Python's str, and no length: a handler that tried int() would break off.
                await asyncio.to_thread(post, port, b"", PATH, False, "\u00b2"),
                await asyncio.to_thread(post, port, b"", PATH, False, "9" * 5_000),
            ]
        finally:
            await asyncio.to_thread(stop)
            await tick.stop()

    first, again, unsigned, unknown, elsewhere, huge, raised, long = asyncio.run(scenario())
    assert raised[0] == long[0] == 411
    assert first == again and first[0] == 200
    assert unsigned[0] == 401 and unknown[0] == 404 and elsewhere[0] == 404 and huge[0] == 413
    assert buyer.available == 2_500_000_000
