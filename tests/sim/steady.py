"""A market without faults in which there is always work: what somebody earns in it.

One device is looked at (or several of one mind); the rest are honest. Laws are checked as in every
run. Used by :mod:`tests.sim.cheats` and :mod:`tests.sim.flaky`, which compare the books of runs
with equal seeds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from flopmarket_coordinator.parameters import Parameters
from tests.sim.device import Card
from tests.sim.network import Link
from tests.sim.people import BOND_NANO, START_US
from tests.sim.place import Place
from tests.sim.scenario import PARAMETERS, QUIET_US, Run
from tests.sim.schedule import SECOND_US, Dice
from tests.sim.worker import Worker

LOOK_US = 5 * SECOND_US
"""How often the books are read and new jobs are submitted."""

Kind = Callable[..., Worker]


class Steady(Run):
    """``kinds`` are the devices that are looked at, beside ``others`` honest ones."""

    def __init__(
        self,
        seed: int,
        kinds: Sequence[Kind],
        *,
        seconds: int,
        step_us: int = SECOND_US,
        others: int = 2,
        parameters: Parameters = PARAMETERS,
    ) -> None:
        self._kinds = kinds
        self._others = others
        self._step_us = step_us
        self._until_us = START_US + seconds * SECOND_US
        self._supplied = 0
        self._open = True
        self._times: list[int] = []
        self._books: list[int] = []
        super().__init__(seed, parameters)

    def _roughness(self) -> float:
        return 0.0

    def _workers(self, devices: Any) -> list[Worker]:
        dice = self.dice
        found: list[Worker] = []
        for at, person in enumerate(devices[: len(self._kinds) + self._others]):
            kind = self._kinds[at] if at < len(self._kinds) else self.honest
            # A unit of work costs the same, however long it takes.
            ask_nano = dice.randint(290, 310) * 1_000_000 * SECOND_US // self._step_us
            card = Card(step_us=self._step_us, ask_nano_per_hour=ask_nano)
            place: Place = self.place
            link: Link = self._link(f"device {at}")
            name = f"{getattr(kind, '__name__', 'Worker')} {at}"
            own = Dice(self.seed, f"device {at}")
            found.append(
                kind(
                    place,
                    link,
                    self.trace,
                    own,
                    name,
                    key=person.key,
                    account=person.account,
                    card=card,
                )
            )
        return found

    @property
    def subjects(self) -> list[Worker]:
        """Those that are looked at."""
        return self.workers[: len(self._kinds)]

    def _arrange(self) -> None:
        for worker in self.workers:
            self.schedule.after(self.dice.between_us(0, 5), self._join, worker)
        self.schedule.after(0, self._look)

    def _join(self, worker: Worker) -> None:
        worker.start()

    def _look(self) -> None:
        """Read the books, and keep one job more open than there are devices."""
        self._times.append(self.schedule.now_us)
        self._books.append(self.gain_nano())
        if not self._open:
            return
        waiting = self._supplied - self.laws.seen["job succeeded"] - self.laws.seen["job failed"]
        for _ in range(len(self.workers) + 1 - waiting):
            self._supplied += 1
            self.dice.choice(self.buyers).submit(**self._next_job())
        self.schedule.after(LOOK_US, self._look)

    def _next_job(self) -> dict[str, Any]:
        """What the next job is."""
        return {"stateless": self.dice.chance(0.3), "steps": 12, "segment_steps": 3}

    def gain_nano(self) -> int:
        """What the accounts looked at have now, beyond what they brought."""
        accounts = sorted({worker.account for worker in self.subjects})
        return sum(self.money_nano(account) - BOND_NANO for account in accounts)

    def money_nano(self, account: str) -> int:
        """All balances of an account: available, held, bond."""
        (total,) = self.place.raw.execute(
            "SELECT coalesce(sum(balance_nano), 0) FROM ledger_account "
            "WHERE ledger_account_id LIKE ?",
            (f"{account}/%",),
        ).fetchone()
        return int(total)

    def gain_at(self, time_us: int) -> int:
        """What :meth:`gain_nano` was at some time."""
        at = bisect_right(self._times, time_us)
        return self._books[at - 1] if at else 0

    def over(self) -> bool:
        """Whether nobody who is looked at can go on as before."""
        return all(worker.banned for worker in self.subjects)

    def play_delivered(self) -> int:
        """Until the time is over and all jobs have ended: pay for what was delivered in time.

        Segments by when they were committed, audits by when they were drawn.
        """
        over_us, _ = self.play_books()
        (work,) = self.place.raw.execute(
            "SELECT coalesce(sum(price_nano - fee_nano), 0) FROM segment "
            "WHERE state = 'settled' AND committed_at_us < ?",
            (over_us,),
        ).fetchone()
        (audits,) = self.place.raw.execute(
            "SELECT coalesce(sum(paid_nano), 0) FROM audit_pay JOIN audit USING (lease_id) "
            "WHERE created_at_us < ?",
            (over_us,),
        ).fetchone()
        return int(work + audits)

    def play_books(self) -> tuple[int, int]:
        """Until the time is over or everybody looked at is shut out, and all jobs have ended.

        When it was over (microseconds of virtual time), and what was gained in the end. Raises
        :class:`~tests.sim.broken.Broken` when a law does not hold.
        """
        self.schedule.run_until(self._until_us, self.over)
        over_us = self.schedule.now_us
        self._open = False
        self._calm()
        self.schedule.run_until(over_us + QUIET_US, self._all_ended)
        self.laws.at_end()
        return over_us, self.gain_nano()

    @property
    def submitted(self) -> bool:
        """Whether every job that was supplied has arrived."""
        return sum(len(buyer.jobs) for buyer in self.buyers) == self._supplied
