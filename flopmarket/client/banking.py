"""Money through the client: balances, statements and their proofs, paying in and out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flopmarket.client import messages
from flopmarket.client.config import key_file
from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.heads import StoredHeads
from flopmarket.client.money import Amount, Money, nano_of
from flopmarket.client.results import Account, Deposited, Transfer
from flopmarket.client.results_money import CheckedLedger, Withdrawal
from flopmarket.client.session import Identity
from flopmarket.errors import Conflict, FlopmarketError
from flopmarket.limits import CLIENT_SESSION_LIFETIME_US
from flopmarket.trust import documents
from flopmarket.trust.documents import CoinGrant, Deposit, DepositTarget, WithdrawalDecision
from flopmarket.trust.encoding import Document, decode
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.ledger_log import LedgerBatch, LedgerTransfer
from flopmarket.trust.merkle import MerkleProof
from flopmarket.trust.statement import (
    BalanceSum,
    LedgerRewritten,
    Statement,
    StatementBatch,
    StatementTransfer,
    open_head,
    verify_statement,
)
from flopmarket.v1 import ledger_pb2
from flopmarket.wire import envelope_from_proto

if TYPE_CHECKING:
    from flopmarket.client.session import Session
    from flopmarket.v1 import common_pb2
    from flopmarket.v1.ledger_pb2_grpc import LedgerServiceStub

OperatorKey = KeyPair | Path | str
_ATTEMPTS = 5  # while money moves, balances and statement are of different moments


class Banking:
    """The part of a client that looks at money and moves it."""

    _session: Session
    _ledger: LedgerServiceStub

    def account(self) -> Account:
        """Balances of our account."""
        answer = self._session.call(self._ledger.GetAccount, ledger_pb2.GetAccountRequest())
        return messages.account_from_proto(answer, self._unit)

    def transfers(self, since_us: int = 0) -> Iterator[Transfer]:
        """The statement of our account, oldest first; from an instant on, if one is given."""
        request = ledger_pb2.ListTransfersRequest(since_us=since_us)
        for page in self._session.pages(self._ledger.ListTransfers, request, "transfers"):
            for transfer in page.transfers:
                yield messages.transfer_from_proto(transfer, self._unit)

    # --- in and out ---------------------------------------------------------------------------

    def deposit(
        self,
        operator_key: OperatorKey,
        amount: Amount,
        *,
        account_id: str = "",
        reference: str = "",
        target: DepositTarget = DepositTarget.AVAILABLE,
        request_id: str | None = None,
        currency: str = "",
    ) -> Deposited:
        """Record money that arrived for an account (ours unless named), as the operator.

        The operator's signature is the authority; no session is needed. The same ``request_id``
        changes nothing the second time. ``currency`` is what the caller believes the amount is in:
        another one than the coordinator's is refused (``CURRENCY_MISMATCH``).
        """
        document = Deposit(
            account_id=account_id or self._session.identity.account_id,
            target=target,
            amount_nano=nano_of(amount),
            currency=self._agreed(currency),
            reference=reference,
            request_id=request_id or self._new_request(),
        )
        answer = self._session.call(
            self._ledger.Deposit,
            ledger_pb2.DepositRequest(deposit=self._by_operator(document, operator_key)),
            authenticated=False,
        )
        return messages.deposited_from_proto(answer, self._unit)

    def grant_coins(
        self,
        operator_key: OperatorKey,
        amount: Amount,
        *,
        account_id: str = "",
        reference: str = "",
        target: DepositTarget = DepositTarget.AVAILABLE,
        request_id: str | None = None,
    ) -> Deposited:
        """Give an account coins of the house, as the operator of a flopcoin market."""
        document = CoinGrant(
            account_id=account_id or self._session.identity.account_id,
            target=target,
            amount_nano=nano_of(amount),
            reference=reference,
            request_id=request_id or self._new_request(),
        )
        answer = self._session.call(
            self._ledger.GrantCoins,
            ledger_pb2.GrantCoinsRequest(grant=self._by_operator(document, operator_key)),
            authenticated=False,
        )
        return Deposited(clean_text(answer.transfer_id), Money(answer.available.nano, self._unit))

    def withdraw(
        self,
        amount: Amount,
        destination: str,
        *,
        request_id: str | None = None,
        currency: str = "",
        bond: bool = False,
    ) -> Withdrawal:
        """Ask for money of ours to be paid out; it is reserved until the operator decides.

        The same ``request_id`` gives the first answer. ``bond``: out of the bond, which the
        coordinator lets go when nothing of ours is at stake any more (Conflict ``BOND_AT_STAKE``).
        """
        kind = documents.BondWithdrawal if bond else documents.Withdrawal
        document = kind(
            account_id=self._session.identity.account_id,
            amount_nano=nano_of(amount),
            currency=self._agreed(currency),
            destination=destination,
            request_id=request_id or self._new_request(),
        )
        envelope = self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US)
        answer = self._session.call(
            self._ledger.Withdraw, ledger_pb2.WithdrawRequest(withdrawal=envelope)
        )
        return self._withdrawal(answer.withdrawal)

    def withdrawals(
        self, *, pending_only: bool = False, operator_key: OperatorKey | None = None
    ) -> Iterator[Withdrawal]:
        """Our withdrawals, oldest first; everybody's when an operator asks."""
        session = self._session
        if operator_key is not None:
            session = session.as_other(Identity(_pair(operator_key), "", KeyRole.OPERATOR))
        request = ledger_pb2.ListWithdrawalsRequest(pending_only=pending_only)
        for page in session.pages(self._ledger.ListWithdrawals, request, "withdrawals"):
            for item in page.withdrawals:
                yield self._withdrawal(item)

    def decide_withdrawal(
        self, operator_key: OperatorKey, withdrawal_id: str, *, paid: bool, reference: str
    ) -> Withdrawal:
        """Say, as the operator, that a withdrawal was paid out, or will not be."""
        document = WithdrawalDecision(withdrawal_id, paid, reference)
        answer = self._session.call(
            self._ledger.DecideWithdrawal,
            ledger_pb2.DecideWithdrawalRequest(decision=self._by_operator(document, operator_key)),
            authenticated=False,
        )
        return self._withdrawal(answer.withdrawal)

    # --- proofs -------------------------------------------------------------------------------

    def statement(self, since_batches: int = 0) -> Statement:
        """Every transfer of our account with its proof against a fresh head. Not verified yet."""
        answer = self._session.call(
            self._ledger.GetLedgerHead,
            ledger_pb2.GetLedgerHeadRequest(since_batches=since_batches),
            authenticated=False,
        )
        key = self._session.coordinator().public_key
        head = envelope_from_proto(answer.head)
        count = open_head(head, key).batch_count
        transfers: list[StatementTransfer] = []
        batches: dict[int, StatementBatch] = {}
        request = ledger_pb2.ProveTransfersRequest(batch_count=count)
        what = "transfers with proofs"
        for page in self._session.pages(self._ledger.ProveTransfers, request, what):
            transfers += [
                StatementTransfer(
                    decode(LedgerTransfer, item.transfer), item.batch_number, _path(item.proof)
                )
                for item in page.transfers
            ]
            for found in page.batches:
                batch = decode(LedgerBatch, found.batch)
                batches[batch.number] = StatementBatch(batch, _path(found.proof))
        return Statement(
            self._session.identity.account_id,
            key,
            head,
            since_batches,
            tuple(answer.consistency),
            tuple(transfers),
            batches,
        )

    def verify_ledger(self, heads: StoredHeads | None = None) -> CheckedLedger:
        """Download our statement, check it against the head kept last, and keep the new one.

        Raises LedgerRewritten (LEDGER_REWRITTEN) when the coordinator's books contradict an older
        head, and AnswerRefused STATEMENT_INCOMPLETE when the transfers it showed do not add up to
        the balances it states.
        """
        key: PublicKey = self._session.coordinator().public_key
        kept = heads or StoredHeads(key)
        older = kept.last()
        for _ in range(_ATTEMPTS):
            before = self.account()
            statement = self._statement_since(older.batch_count if older else 0)
            verified = verify_statement(statement, key, older)
            if self.account() == before:
                break
        else:
            raise Conflict(
                "money of this account moves all the time", code="ACCOUNT_BUSY", retryable=True
            )
        for name, stated in (
            ("available", BalanceSum(before.available.nano + before.reserved.nano,
                                     before.reserved.nano)),
            ("held", BalanceSum(before.held.nano)),
            ("bond", BalanceSum(before.bond.nano)),
        ):  # fmt: skip
            derived = verified.sums.get(name, BalanceSum())
            if derived != stated:
                raise AnswerRefused(
                    f"{name}: the coordinator states {stated}, its transfers add up to {derived}",
                    code="STATEMENT_INCOMPLETE",
                    hint="keep the statement: it is signed",
                )
        if older is None or verified.head.batch_count > older.batch_count:
            kept.keep(statement.head)
        return CheckedLedger(statement, verified, older, kept.path)

    def _statement_since(self, since_batches: int) -> Statement:
        try:
            return self.statement(since_batches)
        except FlopmarketError as error:
            if error.code == "LEDGER_HEAD_UNKNOWN":
                raise LedgerRewritten(
                    f"the coordinator signed a head of {since_batches} batches and now says it "
                    f"has fewer: {error.message}"
                ) from error
            raise

    # --- helpers ------------------------------------------------------------------------------

    @property
    def _unit(self) -> str:
        return self._session.coordinator().currency

    def _agreed(self, currency: str) -> str:
        """The coordinator's currency, if the caller means the same."""
        if currency and currency != self._unit:
            raise Conflict(
                f"this market counts in {self._unit}, not in {currency}", code="CURRENCY_MISMATCH"
            )
        return self._unit

    def _by_operator(self, document: Document, key: OperatorKey) -> common_pb2.Envelope:
        return self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US, key=_pair(key))

    def _new_request(self) -> str:
        return str(uuid.UUID(bytes=self._session.ports.random_bytes(16), version=4))

    def _withdrawal(self, message: ledger_pb2.Withdrawal) -> Withdrawal:
        return Withdrawal(
            clean_text(message.withdrawal_id),
            clean_text(message.account_id),
            Money(message.amount.nano, self._unit),
            clean_text(message.destination),
            clean_text(message.state),
            clean_text(message.reference),
            message.created_at_us,
            message.expires_at_us,
            message.decided_at_us,
        )


def _pair(key: OperatorKey) -> KeyPair:
    return key if isinstance(key, KeyPair) else KeyPair.load(key_file(key))


def _path(message: ledger_pb2.InclusionProof) -> MerkleProof:
    return MerkleProof(message.leaf_index, message.leaf_count, tuple(message.siblings))
