"""Use cases of benchmark challenges that end: what an outcome does to an offer and its device.

A refused challenge takes the proof away. One that was answered *wrongly* is a strike as well, and
too many of them are a quarantine; one that was passed lifts it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from flopmarket.trust.audit_policy import Consequence, after_wrong_benchmark
from flopmarket.trust.benchmark import (
    REMEDIES,
    WRONG_ANSWERS,
    BenchmarkReason,
    BenchmarkReport,
    Rates,
)
from flopmarket.trust.benchmark_schedule import sharing
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.envelope import payload_type_of, sign_payload
from flopmarket_coordinator.application.benchmarking import BenchmarkingUseCases, stated_figures
from flopmarket_coordinator.application.penalising import PenalisingUseCases
from flopmarket_coordinator.application.types_benchmark import (
    REMEDY_OF_VOID,
    ChallengeVerdict,
    VoidReason,
)
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.proving import (
    Standing,
    accepted,
    identity_of,
    next_moment_us,
    quarantined,
    refused,
    renewed,
    void,
)
from flopmarket_coordinator.store import benchmarks, penalties, prediction, work
from flopmarket_coordinator.store.benchmarks import ChallengeRow
from flopmarket_coordinator.store.engine import Transaction


class ChallengeEndUseCases(PenalisingUseCases, BenchmarkingUseCases):
    """Outcomes of challenges. Called by the challenger's loop."""

    def challenge_ended(
        self,
        tx: Transaction,
        challenge_id: str,
        outcome: BenchmarkReport | VoidReason,
        detail: str = "",
    ) -> ChallengeVerdict | None:
        """A challenge came to an end: what its device is worth now. None when it had ended."""
        row = benchmarks.challenge(tx, challenge_id)
        offer = None if row is None else work.offer(tx, row.offer_id)
        if row is None or offer is None or row.ended_at_us:
            return None
        terms = decode(OfferTerms, offer.terms)
        before = renewed(benchmarks.standing(tx, row.offer_id), identity_of(terms))
        report = b""
        if isinstance(outcome, VoidReason):
            reason, remedy, rate = outcome.value, REMEDY_OF_VOID, 0
            after = void(before, reason, detail, tx.now_us)
        else:
            reason, detail = outcome.reason.value, outcome.detail
            remedy = REMEDIES[outcome.reason]
            rate = outcome.dot_flops_per_second
            report = self._signed(outcome)
            after = self._judged(tx, row, before, outcome, report)
            after = self._after_quarantine(tx, row, offer.device_key_id, after)
        ended: dict[str, str | int] = {
            "reason": reason,
            "detail": detail[:256],
            "flops_per_second": rate,
        }
        benchmarks.put_standing(tx, row.offer_id, after)
        benchmarks.end_challenge(tx, row, ended)
        self._restate(tx, row.offer_id, terms, before, after)
        if row.joint:
            self._look_at_group(tx, row.group_id)
        if not isinstance(outcome, VoidReason) and outcome.reason in WRONG_ANSWERS:
            self._answered_wrongly(tx, offer.device_key_id, reason, detail)
        return ChallengeVerdict(
            challenge_id, offer.device_key_id, offer.device_id, reason, detail, remedy, report
        )

    def void_open_challenges(self, tx: Transaction) -> int:
        """A process that just started knows of no challenge: those that were open show nothing,
        and are no failure of their devices."""
        rows = benchmarks.open_challenges(tx)
        for row in rows:
            before = benchmarks.standing(tx, row.offer_id)
            self.challenge_ended(tx, row.challenge_id, VoidReason.RESTARTED)
            after = before or benchmarks.standing(tx, row.offer_id)
            assert after is not None, "it was written a moment ago"
            after = replace(after, failures=before.failures if before else 0)
            benchmarks.put_standing(tx, row.offer_id, replace(after, next_try_us=tx.now_us))
        return len(rows)

    # --- inside -------------------------------------------------------------------------------

    def _answered_wrongly(self, tx: Transaction, key_id: str, reason: str, detail: str) -> None:
        """A wrong answer counts against the device; one too many puts it in quarantine.

        It never costs the stake: no work was billed by it.
        """
        unit, earlier = self._record(tx, key_id, 2**62, StrikeKind.BENCHMARK_WRONG)
        self._strike(tx, key_id, StrikeKind.BENCHMARK_WRONG, reason)
        rules = self._parameters.audit_rules
        if after_wrong_benchmark(rules, unit, earlier) is not Consequence.QUARANTINE:
            return
        code = "BENCHMARK_WRONG"
        work.end_streak(tx, self._device_keys(tx, key_id))
        self._quarantine(tx, key_id, code, f"{code}: {reason} {detail}".rstrip())

    def _after_quarantine(
        self, tx: Transaction, row: ChallengeRow, key_id: str, after: Standing
    ) -> Standing:
        """Passing a challenge that was asked after a quarantine ends it; an earlier one counts for
        nothing."""
        if after.proof is None:
            return after
        for each in self._device_keys(tx, key_id):
            found = penalties.in_quarantine(tx, each)
            if found is None:
                continue
            if row.asked_at_us < found.until_us:
                return quarantined(after, found.reason, found.until_us)
            penalties.lift(tx, each)
        return after

    def _judged(
        self,
        tx: Transaction,
        row: ChallengeRow,
        before: Standing,
        outcome: BenchmarkReport,
        report: bytes,
    ) -> Standing:
        if outcome.reason is not BenchmarkReason.ACCEPTED:
            return refused(before, outcome.reason, outcome.detail, tx.now_us)
        others = [
            item.offer_id
            for item in (benchmarks.challenges_of_group(tx, row.group_id) if row.joint else ())
        ]
        name = min(others, default=row.offer_id)
        found = Rates(
            outcome.dot_flops_per_second,
            outcome.bandwidth_bytes_per_second,
            outcome.proven_memory_bytes,
        )
        return accepted(
            before,
            found,
            joint_with=others,
            report=report,
            now_us=tx.now_us,
            next_try_us=next_moment_us(self._moments_secret(), name, tx.now_us),
        )

    def _restate(
        self, tx: Transaction, offer_id: str, terms: OfferTerms, before: Standing, after: Standing
    ) -> None:
        """The same slowness must not count as a lower rate and as a correction of deliveries."""
        advertised = stated_figures(terms)
        stated = advertised.dot_flops_per_second if advertised else 0
        was = min(stated, before.worth_flops_per_second or stated)
        now = min(stated, after.worth_flops_per_second or stated)
        if was and now and was != now:
            prediction.restate(tx, offer_id, was, now)

    def _look_at_group(self, tx: Transaction, group_id: str) -> None:
        """Once all challenges of a moment have ended: whether their devices are one card."""
        rows = benchmarks.challenges_of_group(tx, group_id)
        if any(not row.ended_at_us for row in rows):
            return
        known = {row.offer_id: benchmarks.standing(tx, row.offer_id) for row in rows}
        alone = {name: item.flops_per_second for name, item in known.items() if item is not None}
        if len(alone) < len(rows) or not all(alone.values()):
            return  # a device that was never challenged alone tells nothing of sharing
        verdict = sharing(alone, {row.offer_id: row.flops_per_second for row in rows})
        for name, item in known.items():
            if item is not None:
                benchmarks.put_standing(tx, name, replace(item, sharing=verdict.value))

    def _signed(self, report: BenchmarkReport) -> bytes:
        return sign_payload(payload_type_of(BenchmarkReport), encode(report), self._key).to_json()

    def _moments_secret(self) -> bytes:
        # Ed25519 signatures are deterministic: a secret of this key, the same after a restart.
        return hashlib.sha256(self._key.sign(b"flopmarket benchmark moments")).digest()
