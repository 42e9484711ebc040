"""Which committed segments are recomputed."""

from __future__ import annotations

from flopmarket.errors import FlopmarketError
from flopmarket.market.money import Nano
from flopmarket_coordinator.application.settling import SettlingUseCases
from flopmarket_coordinator.core.ledger import Balance, account_of
from flopmarket_coordinator.core.reputation import DeviceHistory, Stake
from flopmarket_coordinator.core.verification import AuditDecision
from flopmarket_coordinator.store import ledger, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import LeaseRow


class SamplingUseCases(SettlingUseCases):
    """Decisions about audits. Nothing here is called from outside the application."""

    def _audit_decision(self, tx: Transaction, lease: LeaseRow, cost: Nano) -> AuditDecision:
        """Ask the policy. Settlement demands a verdict, so a policy that samples is refused."""
        offer = work.offer(tx, lease.offer_id)
        assert offer is not None, f"offer {lease.offer_id} has lease {lease.lease_id}"
        history = DeviceHistory(offer.verified_segments, offer.rejected_segments, offer.streak)
        bond, _ = ledger.balance(tx, account_of(lease.account_id, Balance.BOND))
        held, _ = ledger.balance(tx, account_of(lease.account_id, Balance.HELD))
        decision = self._policy.decide(history, Stake(bond, held), cost)
        if not decision.audited:
            raise FlopmarketError(
                "this coordinator settles audited segments only", code="AUDIT_POLICY_UNSUPPORTED"
            )
        return decision
