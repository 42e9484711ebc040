"""When a bond may leave: nothing that its account did can turn out wrong any more."""

from __future__ import annotations

from flopmarket.errors import Conflict
from flopmarket_coordinator.core.ledger import Balance, account_of
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import held_pay, ledger, work
from flopmarket_coordinator.store.engine import Transaction


def check_bond_free(tx: Transaction, account_id: str, parameters: Parameters) -> None:
    """:class:`Conflict` ``BOND_AT_STAKE`` that says what keeps an account's bond.

    A live lease, its own or of an audit; pay that is held; a segment that somebody is still to look
    at; a delivery within the cooling time.
    """
    leases = work.count_live_leases_of_account(tx, account_id)
    held, _ = ledger.balance(tx, account_of(account_id, Balance.HELD))
    checks = held_pay.open_checks(tx, account_id)
    delivered_us = held_pay.last_delivery_us(tx, account_id)
    cooled_us = delivered_us + parameters.bond_cooling_us
    if leases:
        why, hint = f"{leases} leases run", "stop the agents: flop worker down"
    elif held:
        why, hint = "pay is held", "wait until it is released"
    elif checks:
        why, hint = f"{checks} segments are still to be looked at", "wait for their audits"
    elif delivered_us and tx.now_us < cooled_us:
        days = -(-(cooled_us - tx.now_us) // (86_400 * SECOND_US))
        why, hint = "the last delivery is recent", f"ask again in {days} days"
    else:
        return
    raise Conflict(f"the bond is at stake: {why}", code="BOND_AT_STAKE", hint=hint)
