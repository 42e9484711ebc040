"""LedgerService: balances, statements and their proofs, deposits, withdrawals, grants."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.v1 import ledger_pb2, ledger_pb2_grpc
from flopmarket.wire import envelope_from_proto, envelope_to_proto
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert, convert_money
from flopmarket_coordinator.rpc.interceptors import caller


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetAccount(
        self, request: ledger_pb2.GetAccountRequest, context: Any
    ) -> ledger_pb2.GetAccountResponse:
        session, application = caller(), self._backend.application
        balances = await self._backend.query(lambda tx: application.balances(tx, session))
        return convert_money.account(balances)

    async def ListTransfers(
        self, request: ledger_pb2.ListTransfersRequest, context: Any
    ) -> ledger_pb2.ListTransfersResponse:
        session, application = caller(), self._backend.application
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        since_us = _from_zero(request.since_us, "since_us")
        page = await self._backend.query(
            lambda tx: application.transfers(tx, session, size, token, since_us)
        )
        return ledger_pb2.ListTransfersResponse(
            transfers=[convert.transfer(transfer) for transfer in page.transfers],
            next_page_token=page.next_page_token,
        )

    async def GetLedgerHead(
        self, request: ledger_pb2.GetLedgerHeadRequest, context: Any
    ) -> ledger_pb2.GetLedgerHeadResponse:
        application, since = self._backend.application, request.since_batches
        head = await self._backend.query(lambda tx: application.ledger_head(tx, since))
        return ledger_pb2.GetLedgerHeadResponse(
            head=envelope_to_proto(head.envelope), consistency=head.consistency
        )

    async def ProveTransfers(
        self, request: ledger_pb2.ProveTransfersRequest, context: Any
    ) -> ledger_pb2.ProveTransfersResponse:
        session, application = caller(), self._backend.application
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        count = request.batch_count
        page = await self._backend.query(
            lambda tx: application.prove_transfers(tx, session, count, size, token)
        )
        return convert_money.proved(page)

    async def Deposit(
        self, request: ledger_pb2.DepositRequest, context: Any
    ) -> ledger_pb2.DepositResponse:
        deposit = envelope_from_proto(request.deposit)
        application = self._backend.application
        result = await self._backend.command(lambda tx: application.deposit(tx, deposit))
        return ledger_pb2.DepositResponse(
            transfer_id=result.transfer_id, available=convert.money(result.available_nano)
        )

    async def GrantCoins(
        self, request: ledger_pb2.GrantCoinsRequest, context: Any
    ) -> ledger_pb2.GrantCoinsResponse:
        grant = envelope_from_proto(request.grant)
        application = self._backend.application
        result = await self._backend.command(lambda tx: application.grant_coins(tx, grant))
        return ledger_pb2.GrantCoinsResponse(
            transfer_id=result.transfer_id, available=convert.money(result.available_nano)
        )

    async def Withdraw(
        self, request: ledger_pb2.WithdrawRequest, context: Any
    ) -> ledger_pb2.WithdrawResponse:
        withdrawal = envelope_from_proto(request.withdrawal)
        application = self._backend.application
        row = await self._backend.command(lambda tx: application.withdraw(tx, withdrawal))
        return ledger_pb2.WithdrawResponse(withdrawal=convert_money.withdrawal(row))

    async def DecideWithdrawal(
        self, request: ledger_pb2.DecideWithdrawalRequest, context: Any
    ) -> ledger_pb2.DecideWithdrawalResponse:
        decision = envelope_from_proto(request.decision)
        application = self._backend.application
        row = await self._backend.command(lambda tx: application.decide_withdrawal(tx, decision))
        return ledger_pb2.DecideWithdrawalResponse(withdrawal=convert_money.withdrawal(row))

    async def ListWithdrawals(
        self, request: ledger_pb2.ListWithdrawalsRequest, context: Any
    ) -> ledger_pb2.ListWithdrawalsResponse:
        session, application = caller(), self._backend.application
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        pending_only = request.pending_only
        page = await self._backend.query(
            lambda tx: application.list_withdrawals(
                tx, session, size, token, pending_only=pending_only
            )
        )
        return ledger_pb2.ListWithdrawalsResponse(
            withdrawals=[convert_money.withdrawal(row) for row in page.withdrawals],
            next_page_token=page.next_page_token,
        )


def _from_zero(value: int, name: str) -> int:
    if value < 0:
        raise InvalidInput(f"{name} = {value} is negative", code="TIME_INVALID")
    return value
