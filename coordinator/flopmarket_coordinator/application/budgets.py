"""Use cases of spending limits: the account's month, and what its CI keys are granted.

:meth:`BudgetUseCases._reserve_budget` is the one place where a job is held against the limits; it
runs in the transaction that submits the job, so two jobs cannot share the last of a budget.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flopmarket.errors import Conflict, Forbidden
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_CI_KEYS_PER_ACCOUNT
from flopmarket.trust.documents import BudgetChange, DeviceGrant
from flopmarket.trust.envelope import Envelope, Opened
from flopmarket.trust.grants import check_job_within
from flopmarket.trust.keys import KeyRole, PublicKey
from flopmarket_coordinator.application.context import SignedBy, UseCases
from flopmarket_coordinator.application.types_accounts import BudgetReport, KeyBudget, Session
from flopmarket_coordinator.core.spending import Budget, check_room
from flopmarket_coordinator.store import buyers
from flopmarket_coordinator.store.engine import Transaction


class BudgetUseCases(UseCases):
    """Limits, what counts against them, and who may set them."""

    def budget(self, tx: Transaction, session: Session) -> BudgetReport:
        """The caller's limits. A CI key sees the account's month and itself."""
        start_us, end_us = month_bounds_us(tx.now_us)
        rows = buyers.ci_keys(tx, session.account_id, MAX_CI_KEYS_PER_ACCOUNT)
        if session.role is not KeyRole.OWNER:
            rows = [row for row in rows if row.key_id == session.key_id]
        keys: list[KeyBudget] = []
        for row in rows:
            grant = buyers.grant(tx, row.key_id)
            cap, monthly, expires = (
                (grant.cap_nano, grant.monthly_nano, grant.expires_at_us) if grant else (0, 0, 0)
            )
            keys.append(
                KeyBudget(
                    row.key_id,
                    row.label,
                    Budget(cap, buyers.used_by_key(tx, row.key_id)),
                    Budget(monthly, buyers.used_by_key(tx, row.key_id, start_us, end_us)),
                    expires,
                    row.revoked,
                )
            )
        return BudgetReport(tx.now_us, start_us, self._month(tx, session.account_id), tuple(keys))

    def set_budget(self, tx: Transaction, change: Envelope) -> Budget:
        """The owner's limit of a month. An older signature does not replace a newer one."""
        opened, signed_by = self._open(tx, change, BudgetChange)
        body = opened.body
        if body.account_id != signed_by.account_id:
            raise Forbidden(
                "a budget is set for the signer's own account", code="BUDGET_OTHER_ACCOUNT"
            )
        signed_at_us = opened.header.issued_at_us
        if signed_at_us < buyers.budget_signed_at_us(tx, body.account_id):
            raise Conflict("a later budget was set already", code="BUDGET_REPLACED")
        buyers.set_monthly_limit(
            tx, body.account_id, body.monthly_nano, change.to_bytes(), signed_at_us
        )
        return self._month(tx, body.account_id)

    def _month(self, tx: Transaction, account_id: str) -> Budget:
        start_us, end_us = month_bounds_us(tx.now_us)
        return Budget(
            buyers.monthly_limit(tx, account_id),
            buyers.used_by_account(tx, account_id, start_us, end_us),
        )

    def _grant_ci(self, tx: Transaction, envelope: Envelope, opened: Opened[DeviceGrant]) -> None:
        """Keep the grant of a registered CI key, unless a later one is known."""
        body, signed_at_us = opened.body, opened.header.issued_at_us
        key_id = PublicKey(body.device_key).key_id
        known = buyers.grant(tx, key_id)
        raw = envelope.to_bytes()
        if known is not None and known.envelope == raw:
            return
        if known is not None and signed_at_us <= known.signed_at_us:
            raise Conflict(
                f"key {key_id} has a later grant already",
                code="GRANT_REPLACED",
                hint="sign the grant again",
            )
        if body.expires_at_us <= tx.now_us:
            raise Conflict("the grant has ended already", code="GRANT_EXPIRED")
        if known is None:
            count = len(buyers.ci_keys(tx, body.account_id, MAX_CI_KEYS_PER_ACCOUNT + 1))
            if count > MAX_CI_KEYS_PER_ACCOUNT:
                raise Conflict(
                    f"an account has at most {MAX_CI_KEYS_PER_ACCOUNT} CI keys",
                    code="TOO_MANY_KEYS",
                )
        buyers.set_label(tx, key_id, body.label)
        buyers.add_grant(
            tx,
            key_id,
            cap_nano=body.cap_nano,
            monthly_nano=body.monthly_nano,
            expires_at_us=body.expires_at_us,
            envelope=raw,
            signed_at_us=signed_at_us,
        )

    def _reserve_budget(
        self, tx: Transaction, signed_by: SignedBy, spec: JobSpec, ceiling_nano: int
    ) -> int:
        """Refuse a job that passes a limit; the number of the CI key's grant, 0 for an owner.

        Raises QuotaExceeded (BUDGET_MONTH, KEY_CAP, KEY_MONTH) or SignerNotAllowed (GRANT_*).
        """
        start_us, end_us = month_bounds_us(tx.now_us)
        currency = self._parameters.currency
        check_room(
            self._month(tx, signed_by.account_id),
            ceiling_nano,
            what="the account's budget of this month",
            code="BUDGET_MONTH",
            hint="a lower --max-price may fit; the owner raises it with `flop budget set`",
            currency=currency,
        )
        if signed_by.role is not KeyRole.CI:
            return 0
        grant = buyers.grant(tx, signed_by.key_id)
        if grant is None:
            raise Forbidden(f"CI key {signed_by.key_id} has no grant", code="GRANT_MISSING")
        check_job_within(
            grant,
            max_price_nano=spec.max_price_nano,
            deadline_us=spec.deadline_us,
            now_us=tx.now_us,
        )
        hint = "a lower --max-price may fit; the owner raises it with `flop key grant`"
        check_room(
            Budget(grant.cap_nano, buyers.used_by_key(tx, signed_by.key_id)),
            ceiling_nano,
            what="this key's cap",
            code="KEY_CAP",
            hint=hint,
            currency=currency,
        )
        used = buyers.used_by_key(tx, signed_by.key_id, start_us, end_us)
        check_room(
            Budget(grant.monthly_nano, used),
            ceiling_nano,
            what="this key's budget of this month",
            code="KEY_MONTH",
            hint=hint,
            currency=currency,
        )
        return grant.number


def month_bounds_us(now_us: int) -> tuple[int, int]:
    """First instant of the calendar month (UTC) of ``now_us``, and of the next one."""
    now = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    after = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * 1_000_000, int(after.timestamp()) * 1_000_000
