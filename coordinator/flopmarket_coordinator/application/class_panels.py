"""Who may audit a class job: devices of its class alone, the house's own among them."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.engine.exact import PROFILE
from flopmarket.limits import MAX_AUDIT_CANDIDATES, MAX_AUDIT_PANEL
from flopmarket.market.money import Nano
from flopmarket.trust.arbitration import EQUAL_ANSWERS
from flopmarket.trust.audit_policy import may_audit
from flopmarket.trust.challenge import AuditorList
from flopmarket.trust.class_odds import worth_ppm
from flopmarket_coordinator.application.settling import SettlingUseCases
from flopmarket_coordinator.store import audits, challenges, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import AuditorRow, JobRow


class ClassPanelUseCases(SettlingUseCases):
    """Lists of a class. Nothing here is called from outside the application."""

    def _class_lists(
        self, tx: Transaction, job: JobRow, account: str, unit_nano: Nano, lot: int
    ) -> tuple[AuditorList, AuditorList, int]:
        """Candidates, the house's own devices, and what an audit among them is worth in ppm.

        Devices with a standing alone, if they are of enough accounts to decide a difference. In a
        young class nobody has one, and nobody outside can vouch for anybody: then everybody of the
        class is a candidate, and everything is audited while they are few.
        """
        rules = self._parameters.audit_rules
        apart = {account, job.buyer, *audits.house_accounts(tx)}
        found: list[AuditorRow] = []
        for streak in (rules.onboarding_streak, 0):
            listed = challenges.auditors(tx, lot, streak, MAX_AUDIT_PANEL, job.device_class)
            found = [
                row
                for row in listed
                if row.account_id not in apart
                and self._fits_class(row.offer_id, job)
                and (not streak or may_audit(rules, streak, row.bond_nano, unit_nano))
            ]
            if len({row.account_id for row in found}) >= EQUAL_ANSWERS:
                break
        house = self._house_of_class(tx, job, without=(account, job.buyer))
        others = len({row.account_id for row in found})
        return (
            AuditorList(tuple(dict.fromkeys(row.device_key_id for row in found))),
            AuditorList(house),
            worth_ppm(rules, others + bool(house), house=bool(house)),
        )

    def _house_of_class(
        self, tx: Transaction, job: JobRow, without: Iterable[str]
    ) -> tuple[str, ...]:
        """The operator's devices of the class. The coordinator's own engine is of none."""
        keys = [
            key_id
            for key_id in audits.house_keys(tx, without=tuple(without))
            if any(
                offer.device_class == job.device_class and self._fits_class(offer.offer_id, job)
                for offer in work.listed_offers(tx, key_id)
            )
        ]
        return tuple(keys[:MAX_AUDIT_CANDIDATES])

    def _fits_class(self, offer_id: str, job: JobRow) -> bool:
        listing = self._book.listing(offer_id)
        return (
            listing is not None
            and listing.offer.profile == PROFILE
            and listing.offer.memory_bytes >= job.peak_memory_bytes
        )
