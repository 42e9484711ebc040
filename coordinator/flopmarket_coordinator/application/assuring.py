"""What quotes promise of audits: how surely a wrong segment is seen, and who could look at it."""

from __future__ import annotations

from flopmarket.limits import MAX_AUDIT_PANEL
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.market.quote import Assurance, StepLook
from flopmarket.trust.audit_policy import (
    AuditRules,
    Level,
    detection_ppm,
    steps_detection_ppm,
    surcharge_ppm,
)
from flopmarket.trust.class_odds import class_surcharge_ppm, class_terms, worth_ppm
from flopmarket.trust.modes import Mode
from flopmarket.trust.step_odds import priced_level, steps_surcharge_ppm, steps_terms
from flopmarket_coordinator.application.context import ProgramFacts
from flopmarket_coordinator.application.offers import OfferUseCases
from flopmarket_coordinator.application.step_rules import looked_at_steps
from flopmarket_coordinator.core.matching import Demand
from flopmarket_coordinator.store import audits, challenges
from flopmarket_coordinator.store.engine import Transaction


class AssuringUseCases(OfferUseCases):
    """Assurances of quotes. Nothing here is called from outside the application."""

    def _audit_worth(self, tx: Transaction, demand: Demand) -> int:
        """What an audit of such a job is worth beside one that a referee decides, in ppm: less in a
        class, by how many accounts it has now."""
        if demand.mode is not Mode.CLASS or not demand.device_class:
            return PARTS_PER_MILLION
        others, house = self._judges(tx, demand.device_class, demand.buyer)
        return worth_ppm(self._parameters.audit_rules, others, house=house)

    def _judges(self, tx: Transaction, device_class: str, buyer: str) -> tuple[int, bool]:
        """How many accounts of a class there are besides a worker's and the buyer's, and whether
        the house is among all of them."""
        accounts = self._book.class_accounts(device_class) - {buyer}
        house = not accounts.isdisjoint(audits.house_accounts(tx))
        return max(len(accounts) - 1, 0), house

    def _assurance(
        self, mode: Mode, level: Level, segments: int, worth: int, by_steps: StepLook | None
    ) -> Assurance:
        """What a level promises of this job and what it adds, whoever runs it."""
        rules, fee_ppm = self._parameters.audit_rules, self._parameters.fee_ppm
        if by_steps is not None:
            return _assurance_of_steps(rules, mode, level, fee_ppm, segments, by_steps)
        audited = class_terms(rules, level, fee_ppm, worth).audited_ppm
        return Assurance(
            level=level.value,
            audited_ppm=audited,
            surcharge_ppm=class_surcharge_ppm(rules, level, fee_ppm, worth),
            detected_one_ppm=detection_ppm(rules, audited, 1),
            detected_ten_ppm=detection_ppm(rules, audited, min(10, segments)),
            detected_all_ppm=detection_ppm(rules, audited, segments),
        )

    def _look(
        self, tx: Transaction, demand: Demand, facts: ProgramFacts, steps: int
    ) -> StepLook | None:
        """How the house looks at a segment of so many steps, where it does not recompute it
        whole."""
        rules, most_flops = self._parameters.audit_rules, self._parameters.max_house_flops
        drawn = looked_at_steps(rules, facts, demand.mode, steps, most_flops)
        if not drawn:
            return None
        others = demand.mode is Mode.EXACT and self._others_could(tx, demand)
        return StepLook(drawn, steps, others)

    def _others_could(self, tx: Transaction, demand: Demand) -> bool:
        """Whether an auditor of another account than a worker's and the buyer's, or a worker of the
        house, is there that could recompute such a job. Their bonds are looked at with a lease."""
        if audits.house_keys(tx, without=(demand.buyer,)):
            return True
        streak = self._parameters.audit_rules.onboarding_streak
        accounts = {
            row.account_id
            for row in challenges.auditors(tx, 0, streak, MAX_AUDIT_PANEL)
            if (listing := self._book.listing(row.offer_id)) is not None
            and listing.offer.memory_bytes >= demand.peak_memory_bytes
        }
        return len(accounts - {demand.buyer}) > 1


def _assurance_of_steps(
    rules: AuditRules, mode: Mode, level: Level, fee_ppm: int, segments: int, look: StepLook
) -> Assurance:
    """The least that holds where only drawn steps may be looked at. Who recomputes whole segments
    is paid for that, so the ceiling has it in any case."""
    chance = steps_detection_ppm(look.drawn, look.steps)
    audited, priced = PARTS_PER_MILLION, priced_level(mode, level)
    if mode is not Mode.TOLERANCE:
        audited = steps_terms(rules, level, fee_ppm, chance).audited_ppm
    seen = audited * chance // PARTS_PER_MILLION
    likely = None if look.others else steps_surcharge_ppm(rules, priced, fee_ppm, chance)
    return Assurance(
        level=level.value,
        audited_ppm=audited,
        surcharge_ppm=surcharge_ppm(rules, priced, fee_ppm),
        detected_one_ppm=detection_ppm(rules, seen, 1),
        detected_ten_ppm=detection_ppm(rules, seen, min(10, segments)),
        detected_all_ppm=detection_ppm(rules, seen, segments),
        likely_surcharge_ppm=likely,
    )
