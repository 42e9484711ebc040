"""Several accounts of one mind: a buyer, a worker that cheats, a friend that goes on from there.

Jobs of the buyer among them are priced so that strangers do not take them. What is counted is what
all its accounts have together, so money that goes from one to another is neither gain nor loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flopmarket_worker.lease_offer import LeaseOffer
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran, named
from tests.sim.bots import Milker
from tests.sim.people import MONEY_NANO
from tests.sim.steady import Kind, Steady
from tests.sim.worker import Worker

ASK_NANO_PER_HOUR = 250_000_000
"""Below every stranger's."""
STEPS = 12
MOST_NANO = 265_000_000 * STEPS // 3_600 * 103 // 100
"""What an own job may cost: too little for strangers, who ask 290,000,000 and more an hour."""


class Cheap(Worker):
    """Works for less than others, honestly."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.card = replace(self.card, ask_nano_per_hour=ASK_NANO_PER_HOUR)


def is_wrong(offer: LeaseOffer, before: bytes, first_step: int) -> bool:
    """Whether this is not the state in which the job is after so many steps."""
    start = offer.spec.state_root
    return start != EMPTY and before != arithmetic.advance(start, 0, first_step)


class HandsOver(Milker):
    """Cheats in its friend's jobs, and gives each back after a wrong segment, so that only another
    friend goes on: it wants to be slashed where the stake comes back."""

    patience = 2
    buyer = ""
    """The friend's account."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.card = replace(self.card, ask_nano_per_hour=ASK_NANO_PER_HOUR)
        self._wrong = False
        self.drops = self._hands_over

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Fewer steps than it says, where it is a friend's."""
        if offer.spec.buyer != self.buyer:
            return arithmetic.run(offer.job_id, before, first_step, steps)
        ran = super().compute(offer, before, first_step, steps)
        self._wrong = is_wrong(offer, ran.root_after, first_step + steps)
        return ran

    def _hands_over(self) -> bool:
        now, self._wrong = self._wrong, False
        return now


class MadeUp(Cheap):
    """A friend that goes on from a wrong state without computing anything, else honest."""

    honest = False

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Nothing, beautifully named."""
        right = super().compute(offer, before, first_step, steps)
        if not is_wrong(offer, before, first_step):
            return right
        self.guilty = True
        name = f"made up {first_step}"
        return Ran(named(name), named(f"{name} outputs"), named(f"{name} inner"))


class OwnJobs(Steady):
    """The last buyer is one of those who are looked at; it keeps two jobs open for its friends."""

    def __init__(self, seed: int, kinds: Sequence[Kind], *, seconds: int, **more: Any) -> None:
        self._own = 0
        super().__init__(seed, kinds, seconds=seconds, **more)

    def _arrange(self) -> None:
        self.friend = self.buyers.pop()
        for worker in self.subjects:
            if isinstance(worker, HandsOver):
                worker.buyer = self.friend.session.account_id
        super()._arrange()

    def _look(self) -> None:
        super()._look()
        if self._open and len(self._own_jobs()) < 2:
            self._own += 1
            self.friend.submit(
                steps=STEPS,
                segment_steps=3,
                checkpoint_segments=1 if self._own % 2 else 2,
                max_price_nano=MOST_NANO,
            )

    def _calm(self) -> None:
        """Nobody would take them once the friends are shut out."""
        super()._calm()
        for job_id in self._own_jobs():
            self.friend.cancel(job_id)

    def _own_jobs(self) -> list[str]:
        """Those that run."""
        return [
            job_id
            for (job_id,) in self.place.raw.execute(
                "SELECT job_id FROM job WHERE buyer = ? AND ended_at_us = 0 ORDER BY number",
                (self.friend.session.account_id,),
            )
        ]

    def gain_nano(self) -> int:
        """What all accounts of the coalition have beyond what they brought."""
        bought = self.money_nano(self.friend.session.account_id) - MONEY_NANO
        return super().gain_nano() + bought

    @property
    def submitted(self) -> bool:
        """Whether every job that was supplied has arrived; own ones are cancelled at the end."""
        supplied = sum(len(buyer.jobs) for buyer in self.buyers) == self._supplied
        return supplied and not self._own_jobs()
