"""Use cases of questions: why does this job wait, why is this device idle.

Every answer is made of :data:`flopmarket.market.reasons.REASONS`, from the same functions that
match: nothing is guessed afterwards. They look at the whole book and are asked by people, not by
loops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flopmarket.errors import Forbidden, NotFound
from flopmarket.limits import MAX_EXPLAINED_OFFERS
from flopmarket.market.headline import headline_class, program_class, unit_price_nano
from flopmarket.market.money import MAX_NANO, Nano
from flopmarket.market.offer import Offer
from flopmarket.market.order import NO_CAP
from flopmarket.market.price import price
from flopmarket.market.reasons import REASONS, Reason, ranked
from flopmarket.trust.reason_codes import finding
from flopmarket_coordinator.application.benchmarking import BenchmarkingUseCases
from flopmarket_coordinator.application.dispatching import DispatchingUseCases
from flopmarket_coordinator.application.looking import LookingUseCases
from flopmarket_coordinator.application.offers import to_offer
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_orders import JobExplanation, OfferExplanation, Why
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, SegmentState
from flopmarket_coordinator.core.matching import OpenWork, leasable
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import identity, penalties, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, OfferRow


class ExplainingUseCases(DispatchingUseCases, LookingUseCases, BenchmarkingUseCases):
    """Reasons, for buyers about their jobs and for owners about their devices."""

    def explain_job(self, tx: Transaction, session: Session, job_id: str) -> JobExplanation:
        """Why a job of the caller waits, or what it does."""
        job = self._own_job(tx, session, job_id)
        known = JobExplanation(tx.now_us, job.job_id, job.state, "")
        if job.state in FINAL_JOB_STATES:
            why = f" ({job.reason})" if job.reason else ""
            return replace(
                known,
                summary=f"the job has ended: {job.state}{why}",
                reasons=_findings(segments.count_reasons(tx, job.job_id)),
            )
        waiting = self._waiting_for(tx, job)
        orders = self._open_works(tx)
        mine = next((item for item in orders if item.job_id == job_id), None)
        leases = len(work.live_leases_of_job(tx, job_id))
        runs = leases > 0 and not job.stateless  # a chain has one; the book hears of it next round
        if job.ending or mine is None or runs:
            left = job.steps - segments.progress(tx, job_id).steps_committed
            summary = _running(job, leases, left)
            told = _for_buyer(waiting) + _findings(segments.count_reasons(tx, job.job_id))
            return replace(known, summary=summary, reasons=told)
        counts, fitting = self._work_reasons(tx, mine)
        ahead = next(at for at, item in enumerate(orders) if item is mine)
        reasons = dict(counts)
        if not counts and not fitting:
            reasons[Reason.NO_OFFERS] = 1
        if fitting and ahead:
            reasons[Reason.PRICE_RANK] = ahead
        explained = self._with_prices(tx, known, mine)
        return replace(
            explained,
            summary=self._waits(explained, fitting, ahead),
            reasons=(
                _for_buyer(reasons)
                + _for_buyer(waiting)
                + _findings(segments.count_reasons(tx, job.job_id))
            ),
            offers=sum(counts.values()) + fitting,
            fitting=fitting,
            ahead=ahead,
        )

    def explain_offers(
        self, tx: Transaction, session: Session, offer_id: str = ""
    ) -> tuple[OfferExplanation, ...]:
        """Why devices of the caller's account are idle; one of them, or all."""
        if not session.account_id:
            raise Forbidden("an operator has no devices", code="NOT_AN_OWNER")
        rows = work.offers_of_account(tx, session.account_id, MAX_EXPLAINED_OFFERS)
        if offer_id:
            rows = [row for row in rows if row.offer_id == offer_id]
            if not rows:
                raise NotFound(f"there is no offer {offer_id[:80]} of yours", code="OFFER_UNKNOWN")
        orders = self._open_works(tx)
        return tuple(self._explain_offer(tx, row, orders) for row in rows)

    # --- jobs ---------------------------------------------------------------------------------

    def _waiting_for(self, tx: Transaction, job: JobRow) -> Mapping[Reason, int]:
        """What computed segments wait for."""
        states = Counter(row.state for row in segments.live(tx, job.job_id))
        found = {
            Reason.WAITING_AUDIT: states[SegmentState.COMMITTED],
            Reason.WAITING_DURABLE: states[SegmentState.VERIFIED],
        }
        return {reason: count for reason, count in found.items() if count}

    def _with_prices(
        self, tx: Transaction, known: JobExplanation, mine: OpenWork
    ) -> JobExplanation:
        """The order's limit beside the cheapest ask that fits but for its price."""
        asked, step = mine.demand.constraints, mine.demand.work.step
        priceless = replace(
            asked,
            max_unit_price_nano=0,
            work_class=asked.work_class * bool(asked.min_flops_per_watt),
        )
        demand = replace(mine.demand, constraints=priceless)
        best = self._best_offers(tx, demand, mine.money_steps, 1, NO_CAP)
        work_class = asked.work_class or (
            headline_class(step, best[0].offer.rates) if best else program_class(step)
        )
        operations = step.flops.get(work_class, 0)
        if not operations:
            return replace(known, work_class=work_class)
        money = _unit_price(mine.money_nano, operations * mine.money_steps)
        limits = [asked.max_unit_price_nano or None, money]
        return replace(
            known,
            work_class=work_class,
            limit_nano=min((limit for limit in limits if limit is not None), default=None),
            best_ask_nano=_unit_price(price(best[0].terms, 1), operations) if best else None,
        )

    def _waits(self, known: JobExplanation, fitting: int, ahead: int) -> str:
        place = f"{_many(ahead, 'order')} before this one" if ahead else "it is the next to choose"
        if fitting:
            return f"the job waits: {place}, {_many(fitting, 'offer')} could take it now"
        if known.limit_nano is not None and known.best_ask_nano is not None:
            compared = (
                f"cheapest fitting ask is {self._money(known.best_ask_nano)}/PFLOP of "
                f"{known.work_class}, your limit is {self._money(known.limit_nano)}"
            )
            if known.best_ask_nano > known.limit_nano:
                return f"the job waits for a lower price: {compared}"
            return f"the job waits for an offer that is free: {compared}"
        return "the job waits: no offer fits it now"

    # --- offers -------------------------------------------------------------------------------

    def _explain_offer(
        self, tx: Transaction, row: OfferRow, orders: Sequence[OpenWork]
    ) -> OfferExplanation:
        name = to_offer(row).device_name if row.listed else row.device_id[:16]
        known = OfferExplanation(
            row.offer_id, name, "idle", "", proof=self._proof_text(tx, row.offer_id)
        )
        key = identity.key(tx, row.device_key_id)
        if key is None or key.revoked:
            said = f"the device is banned: {key.banned_reason if key else 'its key is unknown'}"
            return _blocked(known, "banned", Reason.BANNED, said)
        lineage = identity.same_lineage(tx, row.device_key_id)
        quarantine = penalties.any_in_quarantine(tx, lineage)
        if quarantine is not None:
            left = quarantine.until_us - tx.now_us
            how_long = "until it has passed a benchmark challenge"
            if left > 0:
                how_long = f"{left // (60 * SECOND_US)} more minutes"
            said = f"the device is in quarantine, {how_long}: {quarantine.reason}"
            return _blocked(known, "quarantined", Reason.QUARANTINED, said)
        if not row.listed:
            gone = row.device_key_id not in self._present(tx)
            reason = Reason.OFFLINE if gone else Reason.OFFER_REFUSED
            state = "offline" if gone else "withdrawn"
            return _blocked(known, state, reason, REASONS[reason].for_owners)
        candidate = self._candidate(tx, row.offer_id)
        if candidate is None or not candidate.online:
            return _blocked(known, "offline", Reason.OFFLINE, REASONS[Reason.OFFLINE].for_owners)
        if candidate.busy:
            return _blocked(known, "busy", Reason.BUSY, REASONS[Reason.BUSY].for_owners)
        offer = candidate.offer
        reasons: Counter[Reason] = Counter()
        fitting = 0
        for item in orders:
            found = leasable(item, candidate, tx.now_us)
            if isinstance(found, Reason):
                reasons[found] += 1
            else:
                fitting += 1
        cheaper = self._cheaper_idle(tx, offer)
        if not orders:
            reasons[Reason.NO_OPEN_ORDERS] = 1
        elif fitting and any(cheaper.values()):
            reasons[Reason.PRICE_RANK] = max(cheaper.values())
        return replace(
            known,
            summary=_idle(offer, len(orders), fitting, cheaper),
            reasons=_for_owner(reasons),
        )

    def _present(self, tx: Transaction) -> set[str]:
        return work.present_workers(tx, tx.now_us - self._parameters.presence_ttl_us)


def _blocked(known: OfferExplanation, state: str, reason: Reason, summary: str) -> OfferExplanation:
    return replace(known, state=state, summary=summary, reasons=_for_owner({reason: 1}))


def _unit_price(price_nano: Nano, operations: int) -> Nano | None:
    """Of a PFLOP; None where there is so little work in the price that the figure says nothing."""
    found = unit_price_nano(price_nano, operations)
    return found if found < MAX_NANO else None


def _many(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _running(job: JobRow, leases: int, steps_left: int) -> str:
    if job.ending:
        return f"the job is ending ({job.ending}): what was computed is audited first"
    if leases:
        return f"the job runs on {_many(leases, 'device')}"
    if steps_left:
        return "the job enters the book with the next round of matching"
    return "all steps are computed; the job waits for its audits"


def _idle(offer: Offer, orders: int, fitting: int, cheaper: Mapping[str, int]) -> str:
    ranks = ", ".join(f"{count} in {name}" for name, count in cheaper.items() if count)
    rank = f"cheaper idle offers: {ranks}" if ranks else "no idle offer is cheaper"
    if not orders:
        return f"the device is idle: no order waits; {rank}"
    if not fitting:
        return f"the device is idle: none of {orders} waiting orders fits it; {rank}"
    return f"the device is idle: {fitting} of {orders} waiting orders fit it; {rank}"


def _for_buyer(counts: Mapping[Reason, int]) -> tuple[Why, ...]:
    return tuple(
        Why(reason, REASONS[reason].for_buyers, REASONS[reason].remedy, count)
        for reason, count in ranked(counts)
    )


def _findings(counts: Mapping[str, int]) -> tuple[Why, ...]:
    """What became of segments that count for nothing, or for less."""
    return tuple(
        Why(code, found.seen, found.for_buyers, count)
        for code, count in sorted(counts.items())
        for found in (finding(code),)
    )


def _for_owner(counts: Mapping[Reason, int]) -> tuple[Why, ...]:
    return tuple(
        Why(
            reason,
            REASONS[reason].for_owners,
            REASONS[reason].owner_remedy or REASONS[reason].remedy,
            count,
        )
        for reason, count in ranked(counts)
    )
