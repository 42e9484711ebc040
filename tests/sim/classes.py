"""Runs with classes of devices: jobs whose bits only cards of one kind come to.

Most devices are of one kind, so that a difference finds its arbiters, and some of another, which
must not be asked. Whoever misbehaves is one of :mod:`tests.sim.class_bots`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import Deposit, DepositTarget
from flopmarket.trust.envelope import seal
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import audits, engine
from tests.sim.arithmetic import named
from tests.sim.bots import BOTS
from tests.sim.class_bots import IN_CLASSES, Framer
from tests.sim.device import Card
from tests.sim.kinds import BOTH, FAST_CARD, FAST_ONLY, OTHER_CARD, class_of_kind
from tests.sim.people import FOREVER_US, START_US, Person
from tests.sim.place import Place
from tests.sim.scenario import PARAMETERS, Run
from tests.sim.schedule import SECOND_US, Dice
from tests.sim.worker import Worker

FUND_NANO = 1_000_000_000
"""What the operator pays in for audits: no fee has come in yet, and the house computes nothing."""
DEADLINE_US = 600 * SECOND_US
"""When class jobs end that nobody of the class is left for, from the start of the run."""
MOST_BOTS = 3


def fund_audits(place: Place, nano: int = FUND_NANO) -> None:
    """The operator's deposit."""
    account = place.raw.execute("SELECT account_id FROM account ORDER BY account_id").fetchone()[0]
    body = Deposit(account, DepositTarget.AUDITS, nano, "USD", "cash", "for audits")
    envelope = seal(
        body,
        place.operator,
        audience=place.key.key_id,
        nonce=named("deposit for audits")[:16],
        issued_at_us=START_US,
        expires_at_us=FOREVER_US,
    )
    with engine.write(place.store, place.now_us()) as tx:
        place.application.deposit(tx, envelope)


def befriend(workers: list[Worker]) -> None:
    """Tell friends who their friends are."""
    friends = [worker for worker in workers if isinstance(worker, Framer)]
    for friend in friends:
        friend.friends = frozenset(other.key.key_id for other in friends)


class ClassRun(Run):
    """A market drawn from a seed, of five to seven devices in one or two classes."""

    def __init__(
        self,
        seed: int,
        parameters: Parameters = PARAMETERS,
        bots: tuple[type[Worker], ...] = BOTS,
    ) -> None:
        super().__init__(seed, parameters, IN_CLASSES if bots == BOTS else bots)

    def _workers(self, devices: Any) -> list[Worker]:
        dice = self.dice
        chosen = dice.sample(range(len(devices)), dice.randint(5, 7))
        if dice.chance(0.4):
            chosen[:2] = [len(devices) - 2, len(devices) - 1]  # two devices of one owner
            chosen = list(dict.fromkeys(chosen))
        kinds = self._kinds_of(len(chosen))
        others = dice.choice((0, 0, 0, 1, 2))
        workers = [
            self._worker(devices[number], number, kind, OTHER_CARD if at < others else FAST_CARD)
            for at, (number, kind) in enumerate(zip(reversed(chosen), kinds, strict=True))
        ]
        befriend(workers)
        return workers

    def _kinds_of(self, count: int) -> list[type[Worker]]:
        """Who is a bot: at most three, now and then two friends."""
        dice = self.dice
        kinds: list[type[Worker]] = [Worker] * count
        bots = [dice.choice(self._bots) for _ in range(dice.randint(0, MOST_BOTS))]
        if len(bots) > 1 and dice.chance(0.4):
            bots[1] = bots[0]
        for at, kind in zip(dice.sample(range(count), len(bots)), bots, strict=True):
            kinds[at] = kind
        return kinds

    def _worker(self, person: Person, number: int, kind: type[Worker], card: str) -> Worker:
        dice, name = self.dice, f"{kind.__name__} {number}"
        return kind(
            self.place,
            self._link(name),
            self.trace,
            Dice(self.seed, name),
            name,
            key=person.key,
            account=person.account,
            card=Card(
                step_us=dice.between_us(0.4, 1.6),
                ask_nano_per_hour=dice.randint(200, 400) * 1_000_000 // (1 if kind.honest else 2),
                dies=dice.choice((0.0, 0.05, 0.2)) * self.rough,
                kind=card,
                modes=FAST_ONLY if dice.chance(0.4) else BOTH,
            ),
        )

    def _arrange(self) -> None:
        place = self.place
        if self.dice.chance(0.9):
            fund_audits(place)
        honest = [worker for worker in self.workers if worker.honest]
        if honest and self.dice.chance(0.2):
            account = self.dice.choice(honest).account
            with engine.write(place.store, place.now_us()) as tx:
                audits.put_house_account(tx, account)
        super()._arrange()

    def _shape(self) -> dict[str, Any]:
        """Mostly a job of the larger class."""
        shape, dice = super()._shape(), self.dice
        if dice.chance(0.2):
            return shape
        kind = FAST_CARD if dice.chance(0.95) else OTHER_CARD
        return shape | {
            "mode": Mode.CLASS,
            "class_digest": class_of_kind(kind),
            "verification": Level.DUAL if dice.chance(0.2) else Level.DETER,
            "deadline_us": START_US + DEADLINE_US,
        }


def in_class(card: Card, kind: str = FAST_CARD) -> Card:
    """The card as one of a kind that takes class jobs alone."""
    return replace(card, kind=kind, modes=FAST_ONLY)
