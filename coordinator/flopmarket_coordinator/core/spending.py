"""Limits of spending: what counts against them, and when a job passes one.

A job counts with what it has billed and what it still holds, in the calendar month (UTC) in which
it was submitted; so a limit is hard, and an unused rest is free again when the job ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import QuotaExceeded
from flopmarket.market.money import Nano, format_amount
from flopmarket.trust.documents import NO_LIMIT_NANO


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit, :data:`NO_LIMIT_NANO` for none, and what counts against it, in nano-units."""

    limit_nano: Nano
    used_nano: Nano

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit_nano != NO_LIMIT_NANO


def check_room(
    budget: Budget, needed_nano: Nano, *, what: str, code: str, hint: str, currency: str
) -> None:
    """:class:`QuotaExceeded` unless ``needed_nano`` more stays within the limit."""
    if not budget.limited or budget.used_nano + needed_nano <= budget.limit_nano:
        return
    left = max(0, budget.limit_nano - budget.used_nano)
    raise QuotaExceeded(
        f"{what} is {format_amount(budget.limit_nano, currency)}, "
        f"{format_amount(left, currency)} of it are left, the job holds "
        f"{format_amount(needed_nano, currency)}",
        code=code,
        hint=hint,
        details={
            "limit_nano": str(budget.limit_nano),
            "used_nano": str(budget.used_nano),
            "needed_nano": str(needed_nano),
        },
    )
