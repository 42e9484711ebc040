"""Which committed segments are recomputed, and by whom: terms with a lease, a draw with a commit.

The rules are :mod:`flopmarket.trust.challenge`; this is where the coordinator keeps its side of
them. Chains are derived again whenever they are needed, from one secret that never leaves this
process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.limits import (
    MAX_AUDIT_CANDIDATES,
    MAX_AUDIT_PANEL,
    MAX_AUDIT_ROUNDS,
)
from flopmarket.market.money import Nano
from flopmarket.market.price import PARTS_PER_MILLION, PriceTerms, price
from flopmarket.trust.audit_policy import (
    AuditRules,
    may_audit,
    rate_ppm,
    steps_detection_ppm,
)
from flopmarket.trust.challenge import (
    NO_CHAIN,
    AuditorList,
    ChallengeRecord,
    ChallengeTerms,
    Purpose,
    auditors,
    draw,
    is_drawn,
    jitter_us,
)
from flopmarket.trust.envelope import seal, unverified_body
from flopmarket.trust.modes import Mode
from flopmarket.trust.step_odds import priced_level, steps_surcharge_ppm
from flopmarket_coordinator.application.class_panels import ClassPanelUseCases
from flopmarket_coordinator.application.predicting import job_work
from flopmarket_coordinator.application.step_rules import looked_at_steps
from flopmarket_coordinator.core.ledger import Balance, account_of
from flopmarket_coordinator.store import audits, challenges, ledger, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import ChallengeRow, JobRow, LeaseRow, SegmentRow

TERMS_LIFETIME_US = 10 * 365 * 24 * 3_600 * 1_000_000  # evidence, not a request
PANEL_US = 600 * 1_000_000
"""How long the same part of all auditors is drawn from, where there are more than a panel."""


@dataclass(frozen=True, slots=True)
class ChallengeOpening:
    """What a lease publishes before its first commitment, and the lists that it names."""

    terms: ChallengeTerms
    envelope: bytes
    candidates: AuditorList
    house: AuditorList


@dataclass(frozen=True, slots=True)
class Draw:
    """What a commitment's revealed value decides. ``order`` is empty when nothing was drawn;
    ``x`` decides what else is to be drawn about it."""

    index: int
    value: bytes
    rate_ppm: int
    audited: bool
    x: bytes
    order: tuple[str, ...]
    jitter_us: int
    right_verdicts: int
    detection_ppm: int = PARTS_PER_MILLION
    """Chance that an audit of the lease sees one wrong step."""

    def record(self, commitment_digest: bytes, price_nano: Nano) -> ChallengeRecord:
        """What is published of it."""
        return ChallengeRecord(
            self.index,
            commitment_digest,
            price_nano,
            self.right_verdicts,
            self.value,
            self.rate_ppm,
            self.audited,
            self.order,
        )


@dataclass(frozen=True, slots=True)
class _Device:
    profile: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class _Panelist:
    key_id: str
    account_id: str
    bond_nano: Nano
    device: _Device


class SamplingUseCases(ClassPanelUseCases):
    """Decisions about audits. Nothing here is called from outside the application."""

    _panel: tuple[Transaction, tuple[_Panelist, ...]] | None = None
    _panelists: Mapping[tuple[str, int], _Device] = MappingProxyType({})

    def _challenge(
        self, tx: Transaction, job: JobRow, lease: Mapping[str, Any]
    ) -> ChallengeOpening:
        """The terms under which segments of a new lease are drawn, signed, and kept with it.

        ``lease`` are the columns of its row, which is written.
        """
        lease_id, account = lease["lease_id"], lease["account_id"]
        values = lease["step_count"]
        bond, _ = ledger.balance(tx, account_of(account, Balance.BOND))
        held, _ = ledger.balance(tx, account_of(account, Balance.HELD))
        offer = work.offer(tx, lease["offer_id"])
        assert offer is not None, "the lease names it"
        a_step = PriceTerms(lease["ask_nano_per_hour"], lease["step_picoseconds"])
        unit = price(a_step, min(job.segment_steps, values))
        stake = bond + held
        if job.mode == Mode.TOLERANCE:
            candidates, house = AuditorList(()), AuditorList((self._key.key_id,))
            audit_steps, detection_ppm = self._audit_steps(job, others=False)
            # What no rounding is proved to exclude costs its maker the unit and nothing else. The
            # least unit is one step, so that what is stopped early is looked at as well.
            stake = min(stake, price(a_step, 1))
        elif job.mode == Mode.CLASS:
            audit_steps, lot = 0, self._chains.panel_lot(tx.now_us // PANEL_US)
            candidates, house, detection_ppm = self._class_lists(tx, job, account, unit, lot)
        else:
            candidates = self._candidates(tx, job, account, unit)
            house = self._house(tx, job, account, others=bool(candidates.keys))
            others = bool(candidates.keys) or house.keys != (self._key.key_id,)
            audit_steps, detection_ppm = self._audit_steps(job, others=others)
        steps_anchor = NO_CHAIN
        if audit_steps:
            steps_anchor = self._chains.get(lease_id, Purpose.STEPS, values).anchor
        terms = ChallengeTerms(
            lease_id=lease_id,
            device_key_id=lease["device_key_id"],
            anchor=self._chains.get(lease_id, Purpose.AUDIT, values).anchor,
            cross_anchor=self._chains.get(lease_id, Purpose.CROSS, values).anchor,
            values=values,
            rules=challenges.put_document(tx, self._parameters.audit_rules),
            level=job.level,
            streak=offer.streak,
            stake_nano=stake,
            candidates=challenges.put_document(tx, candidates),
            house=challenges.put_document(tx, house),
            steps_anchor=steps_anchor,
            audit_steps=audit_steps,
            detection_ppm=detection_ppm,
        )
        envelope = seal(
            terms,
            self._key,
            audience=self._key.key_id,
            nonce=self._entropy(16),
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + TERMS_LIFETIME_US,
        ).to_bytes()
        challenges.add(tx, terms, envelope)
        return ChallengeOpening(terms, envelope, candidates, house)

    def _draw(
        self, tx: Transaction, lease: LeaseRow, commitment_digest: bytes, price_nano: Nano
    ) -> Draw:
        """What the next commitment of a lease comes to. Reads only; the same every time.

        Leases of older versions have no terms: everything of theirs is the house's.
        """
        index = lease.next_segment - lease.first_segment + 1
        row = challenges.get(tx, lease.lease_id)
        if row is None:
            own = (self._key.key_id,)
            return Draw(index, b"", PARTS_PER_MILLION, True, commitment_digest, own, 0, 0)
        terms = terms_of(row)
        rules = self._documents.get(tx, AuditRules, row.rules)
        value = self._chains.get(lease.lease_id, Purpose.AUDIT, terms.values).value(index)
        streak = terms.streak + row.right_verdicts
        rate = rate_ppm(
            rules, terms.level, streak, price_nano, terms.stake_nano, terms.detection_ppm
        )
        x = draw(Purpose.AUDIT, value, commitment_digest)
        audited = is_drawn(x, rate)
        order: tuple[str, ...] = ()
        if audited:
            candidates = self._documents.get(tx, AuditorList, row.candidates).keys
            house = self._documents.get(tx, AuditorList, row.house).keys
            order = tuple(islice(auditors(x, rules, candidates, house), MAX_AUDIT_ROUNDS))
        delay = jitter_us(x, self._parameters.audit_waits.jitter_us)
        seen = terms.detection_ppm
        return Draw(index, value, rate, audited, x, order, delay, row.right_verdicts, seen)

    def _note_right(self, tx: Transaction, row: SegmentRow) -> None:
        """A right verdict was recorded for a segment: streaks of the lease's later draws grow."""
        challenges.count_right(tx, row.segment_id, row.lease_id)

    def _candidates(
        self, tx: Transaction, job: JobRow, account: str, unit_nano: Nano
    ) -> AuditorList:
        """Devices of others that may audit segments of this price and can run this job."""
        rules = self._parameters.audit_rules
        apart = {account, job.buyer, *audits.house_accounts(tx)}
        keys = {
            member.key_id: None
            for member in self._auditors(tx)
            if member.account_id not in apart
            and may_audit(rules, rules.onboarding_streak, member.bond_nano, unit_nano)
            and _can_run(member.device, job)
        }
        return AuditorList(tuple(keys))

    def _house(self, tx: Transaction, job: JobRow, account: str, *, others: bool) -> AuditorList:
        """The operator's own devices, and the coordinator itself unless a recomputation is beyond
        its budget and there is somebody else."""
        own = audits.house_keys(tx, without=(account, job.buyer))
        keys = dict.fromkeys(own[: MAX_AUDIT_CANDIDATES - 1])
        flops = sum(job_work(job).step.flops.values()) * min(job.segment_steps, job.steps)
        if flops <= self._parameters.max_house_flops or not (keys or others):
            keys[self._key.key_id] = None
        return AuditorList(tuple(keys))

    def _audit_steps(self, job: JobRow, *, others: bool) -> tuple[int, int]:
        """How many steps of a segment of this job the house draws where it is to look, 0 where it
        recomputes it whole, and the chance in ppm that an audit sees one wrong step.

        Where there are ``others`` who recompute it whole, the house is asked when none of them can.
        """
        rules, most_flops = self._parameters.audit_rules, self._parameters.max_house_flops
        steps = min(job.segment_steps, job.steps)
        flops = sum(job_work(job).step.flops.values()) * steps
        if job.mode == Mode.EXACT and flops <= most_flops:
            return 0, PARTS_PER_MILLION
        facts = self._programs.of_artifact(job.program_artifact)
        drawn = looked_at_steps(rules, facts, job.mode, steps, most_flops)
        whole = others or not drawn
        return drawn, PARTS_PER_MILLION if whole else steps_detection_ppm(drawn, steps)

    def _surcharge_ppm(self, job: JobRow, detection_ppm: int) -> int:
        """What the job's level adds to the price of a segment that audits see so much of: no more
        than was agreed, and less where only steps are looked at."""
        if job.mode == Mode.CLASS or (
            job.mode == Mode.EXACT and detection_ppm == PARTS_PER_MILLION
        ):
            return job.surcharge_ppm
        rules, fee_ppm = self._parameters.audit_rules, self._parameters.fee_ppm
        level = priced_level(Mode(job.mode), job.level)
        share = steps_surcharge_ppm(rules, level, fee_ppm, detection_ppm)
        return min(job.surcharge_ppm, share)

    def _auditors(self, tx: Transaction) -> tuple[_Panelist, ...]:
        """Devices that audits are drawn from now, read once a transaction."""
        if self._panel is None or self._panel[0] is not tx:
            lot = self._chains.panel_lot(tx.now_us // PANEL_US)
            least = self._parameters.audit_rules.onboarding_streak
            found = challenges.auditors(tx, lot, least, MAX_AUDIT_PANEL)
            known = self._panelists
            devices = {
                (row.offer_id, row.updated_at_us): known.get((row.offer_id, row.updated_at_us))
                or self._device(row.offer_id)
                for row in found
            }
            self._panelists = {name: device for name, device in devices.items() if device}
            panel = tuple(
                _Panelist(row.device_key_id, row.account_id, row.bond_nano, device)
                for row in found
                if (device := devices[row.offer_id, row.updated_at_us]) is not None
            )
            self._panel = (tx, panel)
        return self._panel[1]

    def _device(self, offer_id: str) -> _Device | None:
        listing = self._book.listing(offer_id)
        if listing is None:
            return None
        return _Device(listing.offer.profile, listing.offer.memory_bytes)


def drawn_text(draw: Draw) -> str:
    """A draw in the words of a story."""
    percent = f"{draw.rate_ppm // 10_000}.{draw.rate_ppm % 10_000:04d}".rstrip("0").rstrip(".")
    return f"{'drawn' if draw.audited else 'not drawn'} for an audit at {percent} %"


def terms_of(row: ChallengeRow) -> ChallengeTerms:
    """The terms of a lease, which this coordinator signed itself."""
    return unverified_body(row.envelope, ChallengeTerms)


def _can_run(device: _Device, job: JobRow) -> bool:
    return device.profile == PROFILE and device.memory_bytes >= job.peak_memory_bytes
