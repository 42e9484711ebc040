"""LedgerService: balances, statements, deposits."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.v1 import ledger_pb2, ledger_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert
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
        return ledger_pb2.GetAccountResponse(
            account_id=balances.account_id,
            display_name=balances.display_name,
            available=convert.money(balances.available_nano),
            reserved=convert.money(balances.reserved_nano),
            held=convert.money(balances.held_nano),
            bond=convert.money(balances.bond_nano),
        )

    async def ListTransfers(
        self, request: ledger_pb2.ListTransfersRequest, context: Any
    ) -> ledger_pb2.ListTransfersResponse:
        session, application = caller(), self._backend.application
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        page = await self._backend.query(lambda tx: application.transfers(tx, session, size, token))
        return ledger_pb2.ListTransfersResponse(
            transfers=[convert.transfer(transfer) for transfer in page.transfers],
            next_page_token=page.next_page_token,
        )

    async def Deposit(
        self, request: ledger_pb2.DepositRequest, context: Any
    ) -> ledger_pb2.DepositResponse:
        deposit = envelope_from_proto(request.deposit)
        application = self._backend.application
        result = await self._backend.command(lambda tx: application.deposit(tx, deposit))
        return ledger_pb2.DepositResponse(
            transfer_id=result.transfer_id, available=convert.money(result.available_nano)
        )
