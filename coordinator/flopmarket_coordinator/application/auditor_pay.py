"""What outside auditors are paid: out of the account of audits, then out of fees.

Money is promised before an audit is handed out and reserved by pending transfers, so that it cannot
be promised twice. One promise an audit lease.
"""

from __future__ import annotations

from flopmarket.errors import Conflict
from flopmarket.market.money import Nano, check_price
from flopmarket_coordinator.application.context import UseCases
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.ledger import AUDIT, FEE
from flopmarket_coordinator.core.penalties import AuditPayState
from flopmarket_coordinator.store import ledger, penalties
from flopmarket_coordinator.store.engine import Transaction


class AuditorPayUseCases(UseCases):
    """Auditors' pay. Nothing here is called from outside the application."""

    def can_pay_auditor(self, tx: Transaction, bound_nano: Nano) -> bool:
        """Whether an audit that may cost so much can be given to somebody outside."""
        return check_price(bound_nano) <= ledger.free(tx, AUDIT) + ledger.free(tx, FEE)

    def _reserve_audit_pay(
        self, tx: Transaction, lease_id: str, account_id: str, bound_nano: Nano
    ) -> bool:
        """Promise an auditor's pay; False, and nothing is reserved, when it is not there."""
        if bound_nano == 0 or not self.can_pay_auditor(tx, bound_nano):
            return False
        from_audit = min(bound_nano, ledger.free(tx, AUDIT))
        from_fee = bound_nano - from_audit
        pending = escrow.reserve_audit_pay(lease_id, account_id, from_audit, from_fee)
        ledger.execute_all(tx, pending)
        penalties.reserve_pay(tx, lease_id, account_id, from_audit, from_fee)
        return True

    def _pay_auditor(self, tx: Transaction, lease_id: str, amount_nano: Nano) -> None:
        """Pay the auditor of a lease; the rest of what was promised is free again.

        :class:`Conflict` ``AUDIT_PAY`` when nothing, or less, is promised for it now.
        """
        promised = penalties.audit_pay(tx, lease_id)
        bound = 0 if promised is None else promised.from_audit_nano + promised.from_fee_nano
        if promised is None or promised.state is not AuditPayState.RESERVED or amount_nano > bound:
            raise Conflict(
                f"audit lease {lease_id} has {bound} nano-units promised, not {amount_nano}",
                code="AUDIT_PAY",
            )
        self._close(tx, promised, check_price(amount_nano))

    def _free_audit_pay(self, tx: Transaction, lease_id: str) -> None:
        """An auditor is not paid; a lease without an open promise is left alone."""
        promised = penalties.audit_pay(tx, lease_id)
        if promised is not None and promised.state is AuditPayState.RESERVED:
            self._close(tx, promised, 0)

    def _close(self, tx: Transaction, promised: penalties.AuditPay, amount_nano: Nano) -> None:
        reserved = escrow.reserve_audit_pay(
            promised.lease_id,
            promised.account_id,
            promised.from_audit_nano,
            promised.from_fee_nano,
        )
        ledger.execute_all(tx, escrow.pay_auditor(reserved, amount_nano))
        state = AuditPayState.PAID if amount_nano else AuditPayState.FREED
        penalties.close_pay(tx, promised.lease_id, state, amount_nano)
