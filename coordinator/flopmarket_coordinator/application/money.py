"""Use cases of money: balances, statements and their proofs, deposits, withdrawals, grants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound, QuotaExceeded
from flopmarket.limits import (
    MAX_OPEN_WITHDRAWALS,
    MAX_OVERDUE_PER_ROUND,
    MAX_PROVED_TRANSFERS,
)
from flopmarket.market.money import FLOPCOIN
from flopmarket.trust.documents import (
    BondWithdrawal,
    CoinGrant,
    DepositTarget,
    LedgerHead,
    Withdrawal,
)
from flopmarket.trust.envelope import Envelope, payload_type_of, seal
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.ledger_log import LedgerTransfer
from flopmarket.trust.merkle import MerkleProof
from flopmarket_coordinator.application.bonds import check_bond_free
from flopmarket_coordinator.application.context import UseCases, page_size
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_money import (
    Balances,
    DepositResult,
    TransferPage,
    TransferView,
)
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    Balance,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    owner_of,
)
from flopmarket_coordinator.core.payments import (
    MoneyArrived,
    Notice,
    PayoutDecided,
    RailMessage,
    WithdrawalState,
)
from flopmarket_coordinator.rails import OperatorRail
from flopmarket_coordinator.store import decisions, identity, keys, ledger, ledger_log, withdrawals
from flopmarket_coordinator.store.decisions import DecisionKind
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.ledger_log import ProvedBatch
from flopmarket_coordinator.store.withdrawals import WithdrawalRow

HEAD_LIFETIME_US = 10 * 365 * 24 * 3_600 * 1_000_000  # evidence, not a request
HEAD_INTERVAL_US = 60 * 1_000_000
"""A signed head is kept this often while the ledger grows; the checker compares them all."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The newest head, signed, and what joins it to the older one that was asked about."""

    envelope: Envelope
    consistency: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ProvedTransfer:
    """A transfer of a statement and its path to its batch's root."""

    transfer: LedgerTransfer
    batch_number: int
    proof: MerkleProof


@dataclass(frozen=True, slots=True)
class ProvedPage:
    """Transfers of an account, oldest first, and the batches they are in, once each."""

    transfers: tuple[ProvedTransfer, ...]
    batches: tuple[ProvedBatch, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class WithdrawalPage:
    """Requests to pay out, oldest first."""

    withdrawals: tuple[WithdrawalRow, ...]
    next_page_token: str


class MoneyUseCases(UseCases):
    """Money of accounts, and across the border of the market."""

    # --- looking ------------------------------------------------------------------------------

    def balances(self, tx: Transaction, session: Session) -> Balances:
        """Money of the caller's account."""
        name = identity.display_name(tx, session.account_id)
        if name is None:
            raise NotFound("this key has no account", code="ACCOUNT_UNKNOWN")
        main = ledger.state(tx, account_of(session.account_id, Balance.AVAILABLE))
        held, _ = ledger.balance(tx, account_of(session.account_id, Balance.HELD))
        bond, _ = ledger.balance(tx, account_of(session.account_id, Balance.BOND))
        return Balances(
            session.account_id,
            name,
            main.balance_nano - main.reserved_nano,
            main.reserved_nano,
            held,
            bond,
            main.overdraft_nano or 0,
        )

    def transfers(
        self,
        tx: Transaction,
        session: Session,
        asked_size: int,
        page_token: str,
        since_us: int = 0,
    ) -> TransferPage:
        """The caller's statement, oldest first."""
        query = f"transfers/{session.account_id}/{since_us}"
        size = page_size(asked_size)
        after = self._page_position(query, page_token) or 0
        rows = ledger.statement(tx, session.account_id, after, size + 1, since_us)
        views: list[TransferView] = []
        for row in rows[:size]:
            transfer = Transfer.of_row(row)
            for account, sign in ((transfer.debit, -1), (transfer.credit, 1)):
                owner, balance = owner_of(account)
                if owner != session.account_id:
                    continue
                moved = transfer.kind in (TransferKind.DIRECT, TransferKind.POST)
                views.append(
                    TransferView(
                        transfer.transfer_id,
                        row["created_at_us"],
                        transfer.kind.value,
                        balance,
                        sign * transfer.amount_nano if moved else 0,
                        transfer.amount_nano,
                        transfer.purpose.value,
                        transfer.job_id,
                        transfer.reference,
                    )
                )
        more = len(rows) > size
        return TransferPage(
            tuple(views), self._page_token(query, rows[size - 1]["number"]) if more else ""
        )

    # --- proofs -------------------------------------------------------------------------------

    def ledger_head(self, tx: Transaction, since_batches: int) -> SignedHead:
        """The head of the ledger now, and the proof that it continues an older one.

        Needs no key. :class:`Conflict` ``LEDGER_HEAD_UNKNOWN`` when there are fewer batches.
        """
        position = ledger_log.position(tx)
        if not 0 <= since_batches <= position.batch_count:
            raise Conflict(
                f"this ledger has {position.batch_count} batches, not {since_batches}",
                code="LEDGER_HEAD_UNKNOWN",
            )
        consistency = ledger_log.consistency(tx, since_batches, position.batch_count)
        return SignedHead(self._sign_head(tx), consistency)

    def prove_transfers(
        self, tx: Transaction, session: Session, batch_count: int, asked_size: int, page_token: str
    ) -> ProvedPage:
        """The caller's transfers in the first ``batch_count`` batches, each with its proof."""
        if not 0 <= batch_count <= ledger_log.position(tx).batch_count:
            raise Conflict(f"there are no {batch_count} batches", code="LEDGER_HEAD_UNKNOWN")
        query = f"proofs/{session.account_id}/{batch_count}"
        size = min(page_size(asked_size), MAX_PROVED_TRANSFERS)
        after = self._page_position(query, page_token) or 0
        rows = ledger.statement(tx, session.account_id, after, size + 1)
        shown = {row["number"]: _as_hashed(dict(row)) for row in rows[:size]}
        batches = ledger_log.prove(tx, list(shown), batch_count)
        proved = [
            ProvedTransfer(
                shown[number], item.batch.number, item.tree.proof(number - item.first_transfer)
            )
            for item in batches
            for number in range(item.first_transfer, item.batch.last_transfer + 1)
            if number in shown
        ]
        more = len(rows) > size and len(proved) == len(shown)
        return ProvedPage(
            tuple(proved),
            tuple(batches),
            self._page_token(query, rows[size - 1]["number"]) if more else "",
        )

    def tend_ledger(self, tx: Transaction) -> int:
        """Free what is reserved past its time, and keep a signed head; how many were freed."""
        late = ledger.overdue(tx, MAX_OVERDUE_PER_ROUND)
        for pending in late:
            ledger.execute(tx, escrow.close_pending(pending, paid=False, reference="expired"))
            if pending.purpose is Purpose.WITHDRAWAL:
                withdrawals.decide(
                    tx, pending.transfer_id, WithdrawalState.EXPIRED, "expired", None
                )
        position = ledger_log.position(tx)
        kept, kept_at_us = ledger_log.last_head(tx) or (0, 0)
        if position.batch_count > kept and abs(tx.now_us - kept_at_us) >= HEAD_INTERVAL_US:
            ledger_log.add_head(tx, position.batch_count, self._sign_head(tx).to_bytes())
        return len(late)

    # --- across the border --------------------------------------------------------------------

    def deposit(self, tx: Transaction, deposit: Envelope) -> DepositResult:
        """Money from outside, on the word of the operator; a repeated request id moves nothing."""
        return self.payment(tx, self._operator_notice(tx, deposit))

    def payment(self, tx: Transaction, notice: Notice) -> DepositResult:
        """Apply what a payment rail vouches for; hearing of it again changes nothing."""
        if isinstance(notice, PayoutDecided):
            return self._decide(tx, notice)
        return self._arrived(tx, notice)

    def withdraw(self, tx: Transaction, withdrawal: Envelope) -> WithdrawalRow:
        """Reserve what an owner wants paid out; the same request again: the first answer.

        A bond only when nothing of its account can turn out wrong any more: :class:`Conflict`
        ``BOND_AT_STAKE``.
        """
        of_bond = withdrawal.payload_type == payload_type_of(BondWithdrawal)
        kind: type[Withdrawal | BondWithdrawal] = BondWithdrawal if of_bond else Withdrawal
        opened, signed_by = self._open(tx, withdrawal, kind)
        body = opened.body
        if body.account_id != signed_by.account_id:
            raise Forbidden("a withdrawal is from the signer's own account", code="NOT_THE_OWNER")
        self._check_external(body.currency)
        if not body.request_id:
            raise InvalidInput("a withdrawal has a request id", code="REQUEST_ID")
        pending = escrow.open_withdrawal(
            body.account_id,
            body.request_id,
            body.amount_nano,
            body.destination,
            tx.now_us + self._parameters.withdrawal_ttl_us,
            Balance.BOND if of_bond else Balance.AVAILABLE,
        )
        known = withdrawals.get(tx, pending.transfer_id)
        if known is not None:
            if (known.amount_nano, known.destination) != (body.amount_nano, body.destination):
                raise _request_reused(body.request_id, "withdrawal")
            return known
        _check_not_frozen(tx, body.account_id)
        if of_bond:
            check_bond_free(tx, body.account_id, self._parameters)
        if withdrawals.count_pending(tx, body.account_id) >= MAX_OPEN_WITHDRAWALS:
            raise QuotaExceeded(
                f"{MAX_OPEN_WITHDRAWALS} withdrawals are open", code="TOO_MANY_WITHDRAWALS"
            )
        ledger.execute(tx, pending)
        row = WithdrawalRow(
            pending.transfer_id,
            body.account_id,
            body.amount_nano,
            body.destination,
            WithdrawalState.PENDING,
            "",
            tx.now_us,
            pending.expires_at_us,
            0,
        )
        withdrawals.add(tx, row, withdrawal.to_bytes())
        return row

    def decide_withdrawal(self, tx: Transaction, decision: Envelope) -> WithdrawalRow:
        """The operator paid a withdrawal out, or refuses to; the same again changes nothing."""
        notice = self._operator_notice(tx, decision)
        assert isinstance(notice, PayoutDecided), "only a decision has this type"
        asked = withdrawals.get(tx, notice.withdrawal_id)
        if notice.paid and asked is not None and asked.state is WithdrawalState.PENDING:
            _check_not_frozen(tx, asked.account_id)
        self.payment(tx, notice)
        row = withdrawals.get(tx, notice.withdrawal_id)
        assert row is not None, "it was decided a moment ago"
        return row

    def list_withdrawals(
        self,
        tx: Transaction,
        session: Session,
        asked_size: int,
        page_token: str,
        *,
        pending_only: bool,
    ) -> WithdrawalPage:
        """The caller's withdrawals; everybody's for an operator."""
        account_id = None if session.role is KeyRole.OPERATOR else session.account_id
        query = f"withdrawals/{session.account_id}/{session.role}/{pending_only}"
        size = page_size(asked_size)
        position = self._page_position(query, page_token)
        after = (position[0], position[1]) if position else None
        rows = withdrawals.page(
            tx, account_id, pending_only=pending_only, after=after, limit=size + 1
        )
        more = len(rows) > size
        last = rows[size - 1] if more else None
        return WithdrawalPage(
            tuple(rows[:size]),
            self._page_token(query, [last.created_at_us, last.withdrawal_id]) if last else "",
        )

    def grant_coins(self, tx: Transaction, grant: Envelope) -> DepositResult:
        """Coins of the house for an account, where the currency is flopcoin."""
        opened, signed_by = self._open(tx, grant, CoinGrant)
        body = opened.body
        if self._parameters.currency != FLOPCOIN:
            raise Conflict(
                f"coins are granted in flopcoin markets; this one counts in "
                f"{self._parameters.currency}",
                code="CURRENCY_NOT_FLOPCOIN",
            )
        transfer = escrow.grant(
            signed_by.key_id,
            body.request_id,
            body.account_id,
            _balance_of(body.target),
            body.amount_nano,
            body.reference,
        )
        transfer = _to_its_target(transfer, body.target)
        return self._credit(
            tx, transfer, body.account_id, signed_by.key_id, DecisionKind.COIN_GRANT
        )

    # --- helpers ------------------------------------------------------------------------------

    def _operator_notice(self, tx: Transaction, envelope: Envelope) -> Notice:
        def open_signed(inner: Envelope, body_type: type[Any]) -> tuple[Any, str]:
            opened, signed_by = self._open(tx, inner, body_type)
            return opened.body, signed_by.key_id

        return OperatorRail(open_signed).notice(RailMessage(envelope.to_bytes()), tx.now_us)

    def _arrived(self, tx: Transaction, notice: MoneyArrived) -> DepositResult:
        self._check_external(notice.currency)
        if not notice.request_id:
            raise InvalidInput("a deposit has a request id", code="REQUEST_ID")
        transfer = escrow.deposit(
            notice.origin,
            notice.request_id,
            notice.account_id,
            _balance_of(notice.target),
            notice.amount_nano,
            notice.reference,
        )
        transfer = _to_its_target(transfer, notice.target)
        return self._credit(tx, transfer, notice.account_id, notice.origin, DecisionKind.DEPOSIT)

    def _credit(
        self, tx: Transaction, transfer: Transfer, account_id: str, origin: str, kind: DecisionKind
    ) -> DepositResult:
        """Record a transfer from outside and its line in the trail."""
        if identity.display_name(tx, account_id) is None:
            raise NotFound(f"there is no account {account_id[:80]}", code="ACCOUNT_UNKNOWN")
        new = ledger.find(tx, transfer.transfer_id) is None
        try:
            ledger.execute(tx, transfer)
        except LedgerConflict as error:
            if error.code != "TRANSFER_ID_REUSED":
                raise
            raise _request_reused(transfer.transfer_id, kind) from error
        if new:
            decisions.record(
                tx,
                kind,
                account_id,
                actor=origin,
                cause=transfer.transfer_id,
                reason=transfer.reference,
                detail=self._money(transfer.amount_nano),
            )
        balance, reserved = ledger.balance(tx, transfer.credit)
        return DepositResult(transfer.transfer_id, balance - reserved)

    def _decide(self, tx: Transaction, notice: PayoutDecided) -> DepositResult:
        row = withdrawals.get(tx, notice.withdrawal_id)
        pending = ledger.find(tx, notice.withdrawal_id)
        if row is None or pending is None:
            raise NotFound(
                f"there is no withdrawal {notice.withdrawal_id[:80]}", code="WITHDRAWAL_UNKNOWN"
            )
        target = WithdrawalState.PAID if notice.paid else WithdrawalState.REJECTED
        closing = escrow.close_pending(pending, paid=notice.paid, reference=notice.reference)
        if row.state is WithdrawalState.PENDING:
            if notice.paid and pending.debit == account_of(row.account_id, Balance.BOND):
                check_bond_free(tx, row.account_id, self._parameters)
            ledger.execute(tx, closing)
            withdrawals.decide(tx, row.withdrawal_id, target, notice.reference, notice.evidence)
            decisions.record(
                tx,
                DecisionKind.WITHDRAWAL,
                row.account_id,
                actor=notice.origin,
                cause=row.withdrawal_id,
                reason=notice.reference,
                detail=f"{target}: {self._money(row.amount_nano)} to {row.destination}",
            )
        elif (row.state, row.reference) != (target, notice.reference):
            raise Conflict(
                f"withdrawal {row.withdrawal_id} is {row.state} ({row.reference})",
                code="WITHDRAWAL_DECIDED",
            )
        balance, reserved = ledger.balance(tx, pending.debit)
        return DepositResult(closing.transfer_id, balance - reserved)

    def _check_external(self, currency: str) -> None:
        """Money crosses the border in the coordinator's own currency, and never as flopcoin."""
        own = self._parameters.currency
        if own == FLOPCOIN:
            raise Conflict(
                "flopcoin is earned here; it is neither paid in nor paid out",
                code="CURRENCY_INTERNAL",
                hint="an operator may grant coins: flop account grant",
            )
        if currency != own:
            raise Conflict(
                f"this market counts in {own}, not in {currency[:16]}",
                code="CURRENCY_MISMATCH",
                details={"currency": own},
            )

    def _sign_head(self, tx: Transaction) -> Envelope:
        position = ledger_log.position(tx)
        head = LedgerHead(
            batch_count=position.batch_count,
            transfer_count=position.transfer_count,
            root=ledger_log.root(tx, position.batch_count),
            currency=self._parameters.currency,
            as_of_us=tx.now_us,
        )
        return seal(
            head,
            self._key,
            audience=self._key.key_id,
            nonce=self._entropy(16),
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + HEAD_LIFETIME_US,
        )


def _as_hashed(row: dict[str, object]) -> LedgerTransfer:
    values = row | {"pending_id": row["pending_id"] or ""}
    return LedgerTransfer(**values)  # type: ignore[arg-type]  # a row has these columns


def _request_reused(request_id: str, word: str) -> Conflict:
    return Conflict(f"request id {request_id[:80]!r} made another {word}", code="REQUEST_ID_REUSED")


def _check_not_frozen(tx: Transaction, account_id: str) -> None:
    """Money stays where it is while it is not certain who owns the account."""
    until_us = keys.frozen_until_us(tx, account_id)
    if until_us > tx.now_us or keys.recovery(tx, account_id) is not None:
        raise Conflict(
            "withdrawals of this account are frozen: its owner key is changing or has changed",
            code="ACCOUNT_FROZEN",
            hint="flop key list says until when",
            details={"frozen_until_us": str(until_us)},
        )


def _balance_of(target: DepositTarget) -> Balance:
    return Balance.BOND if target is DepositTarget.BOND else Balance.AVAILABLE


def _to_its_target(transfer: Transfer, target: DepositTarget) -> Transfer:
    """Money for audits is the platform's from the first moment."""
    return replace(transfer, credit=AUDIT) if target is DepositTarget.AUDITS else transfer
