"""The price of steps: the one function behind quote, lease, invoice and settlement.

Terms are frozen in a lease: what the owner asks for an hour, and the predicted time of one step on
that device. What is billed is work done times these terms, never seconds that anybody reports, and
on top of it the surcharge of the level of verification, a share of each segment's price.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.money import MoneyError, Nano, check_price, part_of_nano, round_up_nano

PICOSECONDS_PER_HOUR = 3_600 * 10**12
PARTS_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What a lease is paid by: nano-units per hour, and predicted picoseconds per step.

    Both are above zero, so work never costs nothing; :class:`MoneyError` otherwise.
    """

    ask_nano_per_hour: Nano
    step_picoseconds: int

    def __post_init__(self) -> None:
        if check_price(self.ask_nano_per_hour, "ask") == 0 or self.step_picoseconds <= 0:
            raise MoneyError(
                "an ask and a predicted step time are above zero", code="PRICE_TERMS_ZERO"
            )
        if self.step_picoseconds >= 2**63:
            raise MoneyError("a step longer than 106 days has no price", code="PRICE_STEP_TOO_LONG")


@dataclass(frozen=True, slots=True)
class Split:
    """How one price is divided: ``worker_nano + fee_nano`` is the price."""

    worker_nano: Nano
    fee_nano: Nano


def price(terms: PriceTerms, steps: int) -> Nano:
    """What one segment of ``steps`` steps costs, rounded up once."""
    if steps < 1:
        raise MoneyError(f"{steps} steps have no price", code="PRICE_NO_STEPS")
    return round_up_nano(
        terms.ask_nano_per_hour * terms.step_picoseconds * steps, PICOSECONDS_PER_HOUR
    )


def surcharge(price_nano: Nano, surcharge_ppm: int) -> Nano:
    """What a level of verification adds to the price of one segment, rounded up once."""
    return part_of_nano(price_nano, surcharge_ppm, PARTS_PER_MILLION, "surcharge")


def bill(price_nano: Nano, surcharge_ppm: int) -> Nano:
    """What the buyer is billed for one segment: its price and the surcharge on it."""
    return check_price(price_nano + surcharge(price_nano, surcharge_ppm), "bill")


def most_price(bill_nano: Nano, surcharge_ppm: int) -> Nano:
    """The highest price whose :func:`bill` is not above an amount."""
    return bill_nano * PARTS_PER_MILLION // (PARTS_PER_MILLION + surcharge_ppm)


def most_work(bill_nano: Nano, steps: int, surcharge_ppm: int) -> Nano:
    """Of what may be billed for ``steps`` steps, what may be spent on their prices however they
    are split: all of it without a surcharge."""
    return steps * most_price(bill_nano // steps, surcharge_ppm) if surcharge_ppm else bill_nano


def price_of_segments(
    terms: PriceTerms, steps: int, segment_steps: int, surcharge_ppm: int = 0
) -> Nano:
    """Sum of the bills for the segments of a run in which none ends early."""
    full, rest = divmod(steps, segment_steps)
    total = full * bill(price(terms, segment_steps), surcharge_ppm) if full else 0
    return check_price(total + (bill(price(terms, rest), surcharge_ppm) if rest else 0))


def price_bound(terms: PriceTerms, steps: int, surcharge_ppm: int = 0) -> Nano:
    """The most that ``steps`` steps can be billed however they are split into segments.

    Rounding up is subadditive, so the worst split is one segment a step.
    """
    return check_price(steps * bill(price(terms, 1), surcharge_ppm), "price bound") if steps else 0


def split_fee(price_nano: Nano, fee_ppm: int) -> Split:
    """The platform's part, taken out of the price and rounded in the worker's favour."""
    worker = part_of_nano(price_nano, PARTS_PER_MILLION - fee_ppm, PARTS_PER_MILLION, "pay")
    return Split(worker, price_nano - worker)
