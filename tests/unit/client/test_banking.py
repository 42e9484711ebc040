"""What a client believes of a coordinator that shows it its money, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flopmarket.client.banking import Banking
from flopmarket.client.failures import AnswerRefused
from flopmarket.client.heads import StoredHeads
from flopmarket.client.session import Answer, Identity, Session
from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.statement import LedgerRewritten
from flopmarket.v1 import ledger_pb2
from flopmarket.wire import envelope_to_proto
from flopmarket_coordinator.application.money import ProvedPage
from flopmarket_coordinator.rpc import convert_money
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer


class Service:
    """LedgerService of a world, without a wire; a test may twist what it shows."""

    def __init__(self, buyer: Buyer) -> None:
        self.world, self.session = buyer.world, buyer.session
        self.twist: Callable[[ProvedPage], ProvedPage] = lambda page: page
        self.between: Callable[[], None] = lambda: None

    def GetAccount(self, request: Any) -> Any:
        found = self.world.see(self.world.application.balances, self.session)
        return convert_money.account(found)

    def GetLedgerHead(self, request: Any) -> Any:
        head = self.world.see(self.world.application.ledger_head, request.since_batches)
        return ledger_pb2.GetLedgerHeadResponse(
            head=envelope_to_proto(head.envelope), consistency=head.consistency
        )

    def ProveTransfers(self, request: Any) -> Any:
        self.between()
        page = self.world.see(
            self.world.application.prove_transfers,
            self.session,
            request.batch_count,
            2,
            request.page_token,
        )
        return convert_money.proved(self.twist(page))


class Direct(Session):
    """Calls of the bank's service, without a channel."""

    def __init__(self, buyer: Buyer) -> None:
        self._identity = Identity(buyer.key, buyer.account, KeyRole.OWNER)
        self._info: Any = SimpleNamespace(public_key=buyer.world.key.public, currency="USD")

    def coordinator(self) -> Any:
        return self._info

    def call(self, method: Callable[..., Answer], request: object, **_: object) -> Answer:
        return method(request)


class Bank(Banking):
    """A client with nothing but money calls."""

    def __init__(self, buyer: Buyer, folder: Path) -> None:
        world = buyer.world
        self.service = Service(buyer)
        self._ledger = self.service  # type: ignore[assignment]
        self._session = Direct(buyer)
        self.heads = StoredHeads(world.key.public, folder / "heads")


@pytest.fixture
def bank(tmp_path: Path):  # type: ignore[no-untyped-def]
    world = World(tmp_path)
    buyer = world.buyer()
    for at in range(4):
        world.deposit(buyer.account, 10 + at, f"more {at}")
    yield Bank(buyer, tmp_path)
    world.close()


def test_the_whole_statement_is_checked_and_the_head_kept(bank: Bank) -> None:
    checked = bank.verify_ledger(bank.heads)
    assert len(checked.verified.transfers) == 5 and checked.older is None
    assert bank.heads.last() == checked.verified.head
    again = bank.verify_ledger(bank.heads)
    assert again.older == checked.verified.head
    assert len(bank.heads.all()) == 1  # nothing happened in between


def test_a_transfer_that_is_left_out_does_not_add_up(bank: Bank) -> None:
    bank.service.twist = lambda page: replace(page, transfers=page.transfers[1:])
    with pytest.raises(AnswerRefused) as error:
        bank.verify_ledger(bank.heads)
    assert error.value.code == "STATEMENT_INCOMPLETE" and bank.heads.last() is None


def test_a_transfer_that_was_never_recorded_has_no_proof(bank: Bank) -> None:
    def richer(page: ProvedPage) -> ProvedPage:
        first = page.transfers[0]
        more = replace(first.transfer, amount_nano=first.transfer.amount_nano + 1)
        return replace(page, transfers=(replace(first, transfer=more), *page.transfers[1:]))

    bank.service.twist = richer
    with pytest.raises(MerkleError):
        bank.verify_ledger(bank.heads)


def test_a_batch_that_is_left_out_is_missed(bank: Bank) -> None:
    bank.service.twist = lambda page: replace(page, batches=())
    with pytest.raises(InvalidInput):
        bank.verify_ledger(bank.heads)


def test_money_that_moves_meanwhile_is_asked_about_again(bank: Bank) -> None:
    world, calls = bank.service.world, []

    def deposit_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            world.deposit(bank.service.session.account_id, 1, "in between")

    bank.service.between = deposit_once
    assert len(bank.verify_ledger(bank.heads).verified.transfers) == 6

    def always() -> None:
        calls.append(1)
        world.deposit(bank.service.session.account_id, 1, f"again {len(calls)}")

    bank.service.between = always
    with pytest.raises(Conflict) as error:
        bank.verify_ledger(bank.heads)
    assert error.value.code == "ACCOUNT_BUSY" and error.value.retryable


def test_a_forgotten_past_is_a_rewritten_one(bank: Bank, tmp_path: Path) -> None:
    bank.verify_ledger(bank.heads)
    (tmp_path / "second").mkdir()
    young = World(tmp_path / "second")  # the same key, with a new and shorter history
    buyer = young.buyer()
    other = Bank(buyer, tmp_path)
    with pytest.raises(LedgerRewritten):
        other.verify_ledger(bank.heads)
    young.close()


def test_a_damaged_memory_is_said_so(bank: Bank) -> None:
    bank.verify_ledger(bank.heads)
    bank.heads.path.write_text(bank.heads.path.read_text().replace('"payload"', '"paload"'))
    with pytest.raises(FlopmarketError) as error:
        bank.verify_ledger(bank.heads)
    assert error.value.code == "HEADS_UNREADABLE"
