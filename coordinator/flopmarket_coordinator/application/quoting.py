"""Use cases of prices before work: the firm quote, and what a submitted order holds.

A quote looks at the cheapest offers that fit, ``QUOTED_OFFERS`` of them; its ceiling is the worst
split on the dearest of these. Matching never takes an offer whose worst split passes the money
that is left, so the ceiling bounds every invoice, and one absurd ask inflates none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import InvalidInput, NotFound, QuotaExceeded, Unavailable
from flopmarket.jobs.spec import NO_CLASS, JobSpec, Mode, check_mode
from flopmarket.limits import (
    MAX_JOB_STEPS,
    MAX_ORDERS_AHEAD,
    MAX_QUOTED_CLASSES,
    MAX_SEGMENT_STEPS,
    QUOTED_OFFERS,
)
from flopmarket.market.calibrate import AUDIT, LATE
from flopmarket.market.money import Nano
from flopmarket.market.offer import Offer
from flopmarket.market.order import (
    NO_CAP,
    Constraints,
    OrderType,
    check_order_fits_program,
    order_ceiling_nano,
    step_time_cap,
)
from flopmarket.market.quote import (
    Quote,
    QuotedClass,
    QuotedJob,
    Standing,
    build_quote,
    quote_class,
)
from flopmarket.market.reasons import Reason, remedies, tell
from flopmarket.market.work import NO_PROMISES, JobWork, Promise
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.class_odds import at_worst, class_surcharge_ppm, worth_ppm
from flopmarket.trust.step_odds import priced_level
from flopmarket_coordinator.application.assuring import AssuringUseCases
from flopmarket_coordinator.application.context import ProgramFacts
from flopmarket_coordinator.application.tolerance_rules import check_tolerance
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.core.matching import Demand, fits
from flopmarket_coordinator.store import prediction, work
from flopmarket_coordinator.store.engine import Transaction


class QuotingUseCases(AssuringUseCases):
    """Quotes, and the ceilings of orders."""

    def quote(self, tx: Transaction, request: QuoteRequest, account_id: str | None) -> Quote:
        """The firm ceiling of a job on the offers of this moment. No money moves."""
        if not 0 < request.steps <= MAX_JOB_STEPS:
            raise InvalidInput(f"a job has 1 to {MAX_JOB_STEPS} steps", code="JOB_STEPS")
        if not 0 < request.segment_steps <= MAX_SEGMENT_STEPS:
            raise InvalidInput(
                f"a segment has 1 to {MAX_SEGMENT_STEPS} steps", code="JOB_SEGMENT_STEPS"
            )
        if request.deadline_us and request.deadline_us <= tx.now_us:
            raise InvalidInput("the deadline has passed", code="JOB_DEADLINE")
        if request.program:
            facts = self._programs.of_bytes(request.program)
        elif account_id and work.may_read(tx, request.program_artifact, account_id):
            facts = self._programs.of_artifact(request.program_artifact)
        else:
            raise no_artifact("program", request.program_artifact)
        mode = mode_of(request.mode, request.device_class, request.segment_steps)
        demand = demand_of(
            account_id or "",
            facts,
            facts.job_work(request.steps, request.input_bytes, mode),
            request.order.constraints,
            mode,
            request.device_class,
        )
        check_order_fits_program(request.order, demand.work.step)
        cap = _time_cap(tx, facts, request.steps, request.segment_steps, request.deadline_us)
        level = level_of(request.verification)
        if mode is Mode.TOLERANCE:
            check_tolerance(facts.values, level)
        if mode is not Mode.CLASS:
            return self._quote(tx, demand, facts, request.segment_steps, level, cap)
        job = _quoted_job(demand, facts, request.segment_steps)
        classes = self._quote_classes(tx, demand, job, level, cap)
        if not demand.device_class:
            chosen = next((item.device_class for item in classes if item.other_accounts), "")
            demand = replace(demand, device_class=chosen)
        found = self._quote(tx, demand, facts, request.segment_steps, level, cap)
        return replace(found, classes=classes)

    def _quote_classes(
        self, tx: Transaction, demand: Demand, job: QuotedJob, level: Level, most_picoseconds: int
    ) -> tuple[QuotedClass, ...]:
        """What the job would cost in each class of devices that has an offer for it, cheapest
        first; of the largest classes."""
        rules, fee_ppm = self._parameters.audit_rules, self._parameters.fee_ppm
        sizes = self._book.classes(demand.buyer, MAX_QUOTED_CLASSES)
        found: list[QuotedClass] = []
        for device_class, size in sizes.items():
            best = self._best_offers(
                tx,
                replace(demand, device_class=device_class),
                demand.work.steps,
                QUOTED_OFFERS,
                most_picoseconds,
                alone_too=True,
            )
            offers = [ranked.offer for ranked in best]
            others, house = self._judges(tx, device_class, demand.buyer)
            worth = worth_ppm(rules, others, house=house)
            extra_ppm = class_surcharge_ppm(rules, level, fee_ppm, worth)
            odds_ppm = at_worst(rules, others, house=house)
            quoted = quote_class(device_class, size, offers, job, extra_ppm, odds_ppm)
            if quoted is not None:
                found.append(quoted)
        return tuple(sorted(found, key=lambda item: (item.expected_nano, item.device_class)))

    def _quote(
        self,
        tx: Transaction,
        demand: Demand,
        facts: ProgramFacts,
        segment_steps: int,
        level: Level,
        most_picoseconds: int = NO_CAP,
    ) -> Quote:
        steps = demand.work.steps
        best = self._best_offers(tx, demand, steps, QUOTED_OFFERS, most_picoseconds)
        ineligible = self._reason_counts(tx, demand, steps, most_picoseconds)
        offer_ids = [ranked.offer.offer_id for ranked in best]
        busy = prediction.busy_picoseconds(tx, offer_ids)
        standing = Standing(
            offers=[(ranked.offer, busy.get(ranked.offer.offer_id, 0)) for ranked in best],
            eligible=max(len(best), self._book.offer_count - sum(ineligible.values())),
            ineligible=ineligible,
            orders_ahead=self._orders_ahead([ranked.offer for ranked in best], busy),
            late_ppm=prediction.ratios(tx, offer_ids, LATE),
            audit_ppm=prediction.ratios(tx, [prediction.HOUSE], AUDIT),
        )
        job, worth = _quoted_job(demand, facts, segment_steps), self._audit_worth(tx, demand)
        by_steps = self._look(tx, demand, facts, min(segment_steps, steps))
        found = build_quote(
            quote_id=self._new_id(),
            as_of_us=tx.now_us,
            expires_at_us=tx.now_us + self._parameters.quote_ttl_us,
            job=job,
            standing=standing,
            fee_ppm=self._parameters.fee_ppm,
            level=level.value,
            assurances=[
                self._assurance(demand.mode, item, job.segments, worth, by_steps)
                for item in Level
                if demand.mode is not Mode.TOLERANCE or item is not Level.DUAL  # nothing is equal
            ],
            storage_retention_us=self._parameters.artifact_retention_us,
        )
        return replace(found, mode=demand.mode, device_class=demand.device_class, by_steps=by_steps)

    def _orders_ahead(self, offers: Sequence[Offer], busy: Mapping[str, int]) -> int:
        """Open orders that will want one of these offers first; none while one of them is idle.

        Of the oldest ``MAX_ORDERS_AHEAD``: a queue as long as that says enough.
        """
        if any(offer.offer_id not in busy for offer in offers):
            return 0
        oldest = sorted(self._book.orders(), key=lambda order: order.number)[:MAX_ORDERS_AHEAD]
        return sum(
            1
            for order in oldest
            if any(not isinstance(fits(order.demand, offer), Reason) for offer in offers)
        )

    def _ceiling(
        self, tx: Transaction, spec: JobSpec, facts: ProgramFacts, demand: Demand
    ) -> tuple[Nano, int, Mapping[str, Promise]]:
        """What to hold for a job, the money its order may come to at most; the share that its level
        of verification adds to every price; and the factors that its quoted offers are held to
        until it ends.

        A limit order holds its limit price times its work, or the buyer's budget if that is lower,
        and waits; nothing was quoted to it. A market order holds the quote's ceiling or the budget,
        and is refused when no offer fits now.
        """
        check_order_fits_program(spec.order, demand.work.step)
        rules, fee_ppm = self._parameters.audit_rules, self._parameters.fee_ppm
        worth = self._audit_worth(tx, demand)
        level = priced_level(demand.mode, spec.verification)
        extra_ppm = class_surcharge_ppm(rules, level, fee_ppm, worth)
        no_money = QuotaExceeded("a price limit is above zero", code="BUDGET_BELOW_QUOTE")
        if spec.order.kind is OrderType.LIMIT:
            if spec.max_price_nano == 0:
                raise no_money
            ceiling = order_ceiling_nano(
                spec.order.constraints,
                demand.work.step,
                spec.steps,
                spec.max_price_nano,
                extra_ppm,
            )
            return ceiling, extra_ppm, NO_PROMISES
        cap = _time_cap(tx, facts, spec.steps, spec.segment_steps, spec.deadline_us)
        quote = self._quote(tx, demand, facts, spec.segment_steps, spec.verification, cap)
        if not quote.offers:  # said first: a buyer without a quote signs a limit of zero
            raise _refusal(facts, quote.ineligible)
        if spec.max_price_nano == 0:
            raise no_money
        if spec.max_price_nano < quote.least_ceiling_nano:
            raise QuotaExceeded(
                f"the price limit is {spec.max_price_nano} nano-units, the cheapest eligible "
                f"offer may cost {quote.least_ceiling_nano}",
                code="BUDGET_BELOW_QUOTE",
                hint="raise the limit, or wait for cheaper offers with --wait",
                details={
                    "max_price_nano": str(spec.max_price_nano),
                    "least_ceiling_nano": str(quote.least_ceiling_nano),
                },
            )
        promised = {
            item.offer_id: Promise(item.forecast.factor_ppm, item.forecast.setup_factor_ppm)
            for item in quote.offers
        }
        return min(spec.max_price_nano, quote.ceiling_nano), extra_ppm, promised


def level_of(text: str) -> Level:
    """The level of this name; InvalidInput ``VERIFICATION_UNKNOWN`` otherwise."""
    if text not in list(Level):
        raise InvalidInput(
            f"{text[:40]!r} is no level of verification",
            code="VERIFICATION_UNKNOWN",
            hint=f"one of: {', '.join(Level)}",
        )
    return Level(text)


def mode_of(text: str, device_class: str, segment_steps: int) -> Mode:
    """The mode of this name, for a job that may still be bound to a class (hex) or to none.

    InvalidInput MODE_UNKNOWN, JOB_CLASS or JOB_SEGMENT_STEPS otherwise.
    """
    if text not in list(Mode):
        raise InvalidInput(
            f"{text[:40]!r} is no mode", code="MODE_UNKNOWN", hint=f"one of: {', '.join(Mode)}"
        )
    mode = Mode(text)
    if mode is Mode.CLASS and not device_class:
        return mode
    check_mode(mode, bytes.fromhex(device_class) or NO_CLASS, segment_steps)
    return mode


def demand_of(
    buyer: str,
    facts: ProgramFacts,
    job_work: JobWork,
    constraints: Constraints,
    mode: Mode,
    device_class: str,
) -> Demand:
    """What a program and its order ask of a device; ``device_class`` as in :class:`Demand`."""
    return Demand(
        buyer, PROFILE, facts.peak_memory_bytes, job_work, constraints, mode, device_class
    )


def _quoted_job(demand: Demand, facts: ProgramFacts, segment_steps: int) -> QuotedJob:
    return QuotedJob(
        work=demand.work,
        segment_steps=segment_steps,
        peak_memory_bytes=demand.peak_memory_bytes,
        output_bytes_per_step=facts.output_bytes,
        state_bytes=facts.state_bytes,
        independent=facts.stateless,
    )


def no_artifact(what: str, digest: str) -> NotFound:
    """The error for an artifact that the caller cannot use."""
    return NotFound(
        f"the {what} artifact {digest[:80] or '(none)'} is not here, or not yours",
        code="ARTIFACT_MISSING",
        hint="upload it first",
        details={"artifact": what, "digest": digest[:80]},
    )


def _time_cap(
    tx: Transaction, facts: ProgramFacts, steps: int, segment_steps: int, deadline_us: int
) -> int:
    """The longest step, in picoseconds, with which one device ends its part before the deadline.

    A chain is one device's part from here to its end; of independent segments one is.
    """
    if not deadline_us:
        return NO_CAP
    part = min(steps, segment_steps) if facts.stateless else steps
    return min(NO_CAP, step_time_cap(part, tx.now_us, deadline_us))


def _refusal(facts: ProgramFacts, ineligible: Mapping[str, int]) -> InvalidInput | Unavailable:
    """Why a market order cannot run now, with counts and what can be done about it."""
    counts = {Reason(code): count for code, count in ineligible.items()} or {Reason.NO_OFFERS: 1}
    listed = ",".join(f"{code}={count}" for code, count in sorted(counts.items()))
    if set(counts) == {Reason.MEMORY}:
        return InvalidInput(
            f"the program needs {facts.peak_memory_bytes} bytes, more than any of "
            f"{counts[Reason.MEMORY]} offers has",
            code="PROGRAM_TOO_LARGE",
            hint=remedies(counts),
            details={"peak_memory_bytes": str(facts.peak_memory_bytes), "reasons": listed},
        )
    return Unavailable(
        f"no offer fits this order now: {tell(counts)}",
        code="NO_FITTING_OFFER",
        retryable=False,
        hint=f"rest it in the book with --wait; {remedies(counts)}",
        details={"reasons": listed},
    )
